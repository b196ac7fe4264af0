// What the parts of the core share; the documented interface is operators/synthpix/kernel.py.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "philox.h"

// Order of the parameter vector; names and meanings: kernel.py (PARAMETERS), which must list the same names.
enum Parameter {
  SEED_Y, SEED_X, EXTENT_Y, EXTENT_X, AREA, DENSITY_LO, DENSITY_HI, SIGMA_PER_DIAMETER,
  DIAMETER_STD, INTENSITY_STD, RHO_STD, HIDE_1, HIDE_2,
  INTEGRATED, FILL_Y, FILL_X, CUT,
  SHEET, SHEET_WIDTH, SHEET_SHAPE, SHEET_PROFILE, DZ, DZ_FROM_FLOW, SLAB,
  BITS, QE, GAIN, BASELINE, SHOT_NOISE, NOISE_UNIFORM, NOISE_MEAN, NOISE_SIGMA,
  PARAMETERS
};

enum Statistic {
  S_DENSITY, S_DIAMETER, S_INTENSITY, S_RHO, S_PARTICLES, S_VISIBLE_1, S_VISIBLE_2, S_LOST,
  S_SATURATED_1, S_SATURATED_2, S_GREY_1, S_GREY_2, S_PEAK, S_SIGNAL, STATISTICS
};

enum Place { STEP_Y, START_Y, STEP_X, START_X, SCALE, SUBSTEPS, PLACES };

// A flow `(height, width, components)` f32, component 0 along x, and where its nodes lie:
// node index = pixel coordinate * step + start; value * scale = pixels per frame.
struct Flow {
  const float *values;
  int64_t height, width, components;
  double step_y, start_y, step_x, start_x, scale;
  int substeps; // 0: one Euler step
};

struct Motion {
  double y, x, z;
};

Motion displacement(const Flow &flow, double y, double x);
void will_need(const Flow &flow, double y, double x); // asks for the corners displacement() will read
int64_t label(const Flow &flow, int64_t height, int64_t width, double per_pixel, int mode, double scale, float *out);

// A float image with room round it, so that spots near the border need no tests.
struct Canvas {
  int64_t height, width, pad, stride;
  std::vector<float> values;
  void prepare(int64_t height, int64_t width, int64_t pad);
  float *row(int64_t y) { return values.data() + y * stride + pad; }
};

struct Optics {
  bool integrated;
  float fill_y, fill_x, cut;
};

struct Spot {
  double y, x;
  float sy, sx, rho, intensity;
};

int64_t spot_reach(float cut, float sigma); // pixels from the centre's pixel
void add_spot(Canvas &canvas, const Optics &optics, const Spot &spot);

struct Seen { // what one sensor pass reports
  int64_t saturated;
  double grey_sum;
};

template <class T>
Seen expose(Canvas &canvas, const double *par, const Key &key, int image, const uint8_t *mask, T *out);

struct Images {
  Canvas canvas[2];
};

// Draws the particles of a pair and adds them to both canvases.
void populate(const Flow &flow, const double *par, const double *const *ranges, const int64_t *counts, const Key &key,
              int64_t height, int64_t width, Images &images, double *stats);
