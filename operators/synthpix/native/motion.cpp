// displacement(flow, y, x): the one function that moves particles and writes labels, so that they cannot disagree.
//
// Bilinear in the nodes, clamped beyond the last, in double precision; one Euler step or Runge-Kutta 4 in `substeps`
// steps through the frozen field. Labels at the middle or end of the path solve x0 + part * d(x0) = x by fixed-point
// iteration to 1e-6 px.
#include "synthpix.h"

static const double CLOSE = 1e-6; // px
static const int ROUNDS = 50;

INLINE int64_t cell(double &position, int64_t nodes) {
  const double last = (double)(nodes - 1);
  position = position < 0.0 ? 0.0 : position;
  position = position > last ? last : position;
  int64_t index = (int64_t)position;
  if (index > nodes - 2) index = nodes - 2;
  if (index < 0) index = 0;
  position -= (double)index;
  return index;
}

INLINE double between(const float *corner, int64_t right, int64_t down, double ty, double tx) {
  const double a = corner[0], b = corner[right], c = corner[down], d = corner[down + right];
  const double top = a + (b - a) * tx, low = c + (d - c) * tx;
  return top + (low - top) * ty;
}

INLINE Motion velocity(const Flow &flow, double y, double x) {
  double ty = y * flow.step_y + flow.start_y, tx = x * flow.step_x + flow.start_x;
  const int64_t row = cell(ty, flow.height), column = cell(tx, flow.width);
  const int64_t right = flow.width > 1 ? flow.components : 0;
  const int64_t down = flow.height > 1 ? flow.width * flow.components : 0;
  const float *corner = flow.values + (row * flow.width + column) * flow.components;
  Motion m;
  m.x = between(corner, right, down, ty, tx) * flow.scale;
  m.y = between(corner + 1, right, down, ty, tx) * flow.scale;
  m.z = flow.components > 2 ? between(corner + 2, right, down, ty, tx) * flow.scale : 0.0;
  return m;
}

void will_need(const Flow &flow, double y, double x) {
  double ty = y * flow.step_y + flow.start_y, tx = x * flow.step_x + flow.start_x;
  const int64_t row = cell(ty, flow.height), column = cell(tx, flow.width);
  const float *corner = flow.values + (row * flow.width + column) * flow.components;
  __builtin_prefetch(corner);
  if (row + 1 < flow.height) __builtin_prefetch(corner + flow.width * flow.components);
}

Motion displacement(const Flow &flow, double y, double x) {
  if (flow.substeps == 0) return velocity(flow, y, x);
  const double h = 1.0 / flow.substeps;
  Motion sum = {0.0, 0.0, 0.0};
  for (int step = 0; step < flow.substeps; step++) {
    const double py = y + sum.y, px = x + sum.x;
    const Motion a = velocity(flow, py, px);
    const Motion b = velocity(flow, py + a.y * (0.5 * h), px + a.x * (0.5 * h));
    const Motion c = velocity(flow, py + b.y * (0.5 * h), px + b.x * (0.5 * h));
    const Motion d = velocity(flow, py + c.y * h, px + c.x * h);
    sum.y += (a.y + 2.0 * b.y + 2.0 * c.y + d.y) * (h / 6.0);
    sum.x += (a.x + 2.0 * b.x + 2.0 * c.x + d.x) * (h / 6.0);
    sum.z += (a.z + 2.0 * b.z + 2.0 * c.z + d.z) * (h / 6.0);
  }
  return sum;
}

// Writes (dx, dy) * scale into out `(height, width, 2)`; label k sits at pixel k / per_pixel. mode: 0 start, 1 middle,
// 2 end. Returns how many points did not converge (NaN).
int64_t label(const Flow &flow, int64_t height, int64_t width, double per_pixel, int mode, double scale, float *out) {
  const double part = mode == 1 ? 0.5 : 1.0;
  int64_t failed = 0;
  for (int64_t r = 0; r < height; r++) {
    const double y = (double)r / per_pixel;
    for (int64_t c = 0; c < width; c++, out += 2) {
      const double x = (double)c / per_pixel;
      Motion m = displacement(flow, y, x);
      bool found = mode == 0;
      for (int round = 0; !found && round < ROUNDS; round++) {
        const Motion next = displacement(flow, y - part * m.y, x - part * m.x);
        found = std::fabs(next.y - m.y) <= CLOSE && std::fabs(next.x - m.x) <= CLOSE;
        m = next;
      }
      out[0] = found ? (float)(m.x * scale) : NAN;
      out[1] = found ? (float)(m.y * scale) : NAN;
      failed += !found;
    }
  }
  return failed;
}
