// Particles of a pair: where they are, how they look in each image, whether the light sheet and chance let them show.
//
// Every number comes from a counter (philox.h), so a particle is the same whatever is drawn beside it. Both lists are
// made first and rendered after, image by image and band by band of rows: one canvas band stays in the first-level
// cache. Within a band the particles keep their order, which fixes the order of additions and with it the bytes.
#include <algorithm>

#include "synthpix.h"

static const double UNIT = 1.0 / 4294967296.0; // of a 32-bit word
static const int BAND = 16;                    // rows

struct Draws { // of eight particles
  double y[8], x[8], z[8];
  float sy[2][8], sx[2][8], rho[2][8], intensity[2][8];
  bool hidden[2][8];
};

INLINE v8f unit8(v8u word) { return to_float((v8i)(word >> 8)) * 5.9604644775390625e-8f; }
INLINE v8f between8(v8f v, float low, float high) { return least(most(v, splat(low)), splat(high)); }

struct Ranges {
  float diameter[2], intensity[2], rho[2];
};

static void draw(const double *par, const Ranges &r, const Key &key, uint32_t first, Draws &d) {
  const Words place = words8(key, PLACE, first), light = words8(key, LIGHT, first);
  for (int i = 0; i < 8; i++) {
    d.y[i] = par[SEED_Y] + ((double)place.w[0][i] + 0.5) * UNIT * par[EXTENT_Y];
    d.x[i] = par[SEED_X] + ((double)place.w[1][i] + 0.5) * UNIT * par[EXTENT_X];
    d.hidden[0][i] = (double)light.w[2][i] < par[HIDE_1] * 4294967296.0;
    d.hidden[1][i] = (double)light.w[3][i] < par[HIDE_2] * 4294967296.0;
  }
  const float lo = r.diameter[0], hi = r.diameter[1], factor = (float)par[SIGMA_PER_DIAMETER];
  v8f dx = unit8(place.w[2]) * (hi - lo) + lo;
  v8f dy = between8(dx + (unit8(place.w[3]) * 2.0f - 1.0f), lo, hi);
  v8f rho = unit8(light.w[0]) * (r.rho[1] - r.rho[0]) + r.rho[0];
  v8f peak = unit8(light.w[1]) * (r.intensity[1] - r.intensity[0]) + r.intensity[0];
  const bool changes = par[DIAMETER_STD] > 0.0 || par[INTENSITY_STD] > 0.0 || par[RHO_STD] > 0.0;
  for (int image = 0; image < 2; image++) {
    if (image == 1 && changes) {
      const Words w = words8(key, CHANGE, first);
      v8f n[4];
      normals8(w.w[0], w.w[1], n[0], n[1]);
      normals8(w.w[2], w.w[3], n[2], n[3]);
      dx = between8(dx + n[0] * (float)par[DIAMETER_STD], lo, hi);
      dy = between8(dy + n[1] * (float)par[DIAMETER_STD], lo, hi);
      rho = between8(rho + n[2] * (float)par[RHO_STD], r.rho[0], r.rho[1]);
      peak = between8(peak + n[3] * (float)par[INTENSITY_STD], r.intensity[0], r.intensity[1]);
    }
    store8(d.sx[image], dx * factor);
    store8(d.sy[image], dy * factor);
    store8(d.rho[image], rho);
    store8(d.intensity[image], peak);
  }
  if (par[SHEET] > 0.0) {
    const Words depth = words8(key, DEPTH, first);
    for (int i = 0; i < 8; i++) d.z[i] = (((double)depth.w[0][i] + 0.5) * UNIT - 0.5) * par[SLAB];
  }
}

// How much light a particle at depth z gets: 0 outside the sheet, else the profile.
static float lit(const double *par, double z) {
  if (!(par[SHEET] > 0.0)) return 1.0f;
  const double reach = 2.0 * z / par[SHEET_WIDTH];
  if (std::fabs(reach) > 1.0) return 0.0f;
  const int shape = (int)par[SHEET_SHAPE];
  if (shape == 0 || shape > 100) return 1.0f;
  const float square = (float)(reach * reach);
  float power = square;
  for (int i = 1; i < shape; i++) power = power * square;
  const float falloff = par[SHEET_PROFILE] > 0.0 ? -0.39894228f : -2.0f;
  return exp8(splat(power * falloff))[0];
}

static void render(std::vector<Spot> &spots, const Optics &optics, Canvas &canvas) {
  const int64_t bands = (canvas.height + BAND - 1) / BAND;
  static thread_local std::vector<int32_t> start, order;
  start.assign((size_t)bands + 1, 0);
  order.resize(spots.size());
  auto band = [&](const Spot &s) {
    const double row = s.y < 0.0 ? 0.0 : s.y > (double)(canvas.height - 1) ? (double)(canvas.height - 1) : s.y;
    return (int64_t)row / BAND;
  };
  for (const Spot &s : spots) start[band(s) + 1]++;
  for (int64_t b = 0; b < bands; b++) start[b + 1] += start[b];
  for (size_t i = 0; i < spots.size(); i++) order[start[band(spots[i])]++] = (int32_t)i;
  for (int32_t i : order) add_spot(canvas, optics, spots[i]);
}

static int64_t pick(uint32_t word, int64_t count) { return (int64_t)((double)word * UNIT * (double)count); }

void populate(const Flow &flow, const double *par, const double *const *ranges, const int64_t *counts, const Key &key,
              int64_t height, int64_t width, Images &images, double *stats) {
  const Words w = words8(key, PAIR, 0);
  const double density = par[DENSITY_LO] + ((double)w.w[0][0] + 0.5) * UNIT * (par[DENSITY_HI] - par[DENSITY_LO]);
  Ranges r;
  float *chosen[3] = {r.diameter, r.intensity, r.rho};
  stats[S_DENSITY] = density;
  float widest = 0.0f;
  for (int64_t i = 0; i < counts[0]; i++) widest = std::max(widest, (float)ranges[0][2 * i + 1]);
  for (int k = 0; k < 3; k++) {
    const int64_t index = pick(w.w[k + 1][0], counts[k]);
    stats[S_DIAMETER + k] = (double)index;
    for (int end = 0; end < 2; end++) chosen[k][end] = (float)ranges[k][2 * index + end];
  }
  const double depth = par[SHEET] > 0.0 ? par[SLAB] / par[SHEET_WIDTH] : 1.0;
  const int64_t particles = (int64_t)(par[AREA] * density * depth);
  const Optics optics = {par[INTEGRATED] > 0.0, (float)par[FILL_Y], (float)par[FILL_X], (float)par[CUT]};
  static thread_local std::vector<Spot> spots[2];
  const int64_t pad = 2 * spot_reach(optics.cut, widest * (float)par[SIGMA_PER_DIAMETER]) + 16;
  for (int image = 0; image < 2; image++) {
    spots[image].clear();
    images.canvas[image].prepare(height, width, pad);
  }
  int64_t visible[2] = {0, 0}, lost = 0;
  double peak = 0.0;
  auto shows = [&](double y, double x) {
    return y >= -0.5 && y < (double)height - 0.5 && x >= -0.5 && x < (double)width - 0.5;
  };
  // Eight particles ahead are drawn and their corners of the flow asked for: a field rarely fits the second-level cache.
  Draws drawn[2];
  for (int64_t first = -8; first < particles; first += 8) {
    if (first + 8 < particles) {
      Draws &ahead = drawn[((first + 8) >> 3) & 1];
      draw(par, r, key, (uint32_t)(first + 8), ahead);
      for (int i = 0; i < 8; i++) will_need(flow, ahead.y[i], ahead.x[i]);
    }
    if (first < 0) continue;
    const Draws &d = drawn[(first >> 3) & 1];
    for (int64_t i = 0; i < std::min<int64_t>(8, particles - first); i++) {
      const Motion m = displacement(flow, d.y[i], d.x[i]);
      const double y[2] = {d.y[i], d.y[i] + m.y}, x[2] = {d.x[i], d.x[i] + m.x};
      const double z[2] = {d.z[i], d.z[i] + (par[DZ_FROM_FLOW] > 0.0 ? m.z : par[DZ])};
      bool seen[2];
      for (int image = 0; image < 2; image++) {
        const float amplitude = d.hidden[image][i] ? 0.0f : lit(par, z[image]);
        seen[image] = amplitude > 0.0f;
        if (!seen[image]) continue;
        const float intensity = d.intensity[image][i] * amplitude;
        spots[image].push_back({y[image], x[image], d.sy[image][i], d.sx[image][i], d.rho[image][i], intensity});
        if (!shows(y[image], x[image])) continue;
        visible[image]++;
        if (image == 0) peak += (double)intensity;
      }
      if (seen[0] && !seen[1] && shows(y[0], x[0])) lost++;
    }
  }
  for (int image = 0; image < 2; image++) render(spots[image], optics, images.canvas[image]);
  stats[S_PARTICLES] = (double)particles;
  stats[S_VISIBLE_1] = (double)visible[0], stats[S_VISIBLE_2] = (double)visible[1], stats[S_LOST] = (double)lost;
  stats[S_PEAK] = visible[0] ? peak / (double)visible[0] : 0.0;
}
