// Particle images: point-sampled or pixel-integrated Gaussians, added row by row.
//
// A spot covers the pixels within ceil(cut * sigma) of the pixel its centre lies in. Along a row eight pixels are one
// vector; what a row shares is computed once per spot:
// - axis-aligned: column factors times row factors, no exponential per pixel;
// - correlated, point: the row's factors E(X) = exp(-a X^2 + c X Y) go from row to row by one product with exp(c X);
//   where that could leave the range of floats (tiny sigma, |rho| near 1) the exponential is taken per pixel;
// - integrated, axis-aligned: differences of erf along rows and columns;
// - integrated, correlated: 2 x 2 Gauss-Legendre points a pixel, each carried from row to row as above; for spots
//   narrower than 0.65 px erf in closed form along the row and at least 4 Gauss-Legendre points across it.
#include "synthpix.h"

static const int MOST = 32;               // vectors of a row: spots up to 256 pixels wide
static const float IN_RANGE = 80.0f;      // exponents below this are safe in single precision
static const float EXACT_BELOW = 0.65f;   // px of sigma * sqrt(1 - rho^2): below, 2 x 2 points are too few
static const float ROOT_HALF = 0.70710678f;
static const float GAUSS_2 = 0.28867513f; // Gauss-Legendre, 2 points on a unit interval
static const float GAUSS_4[4] = {-0.43056816f, -0.16999052f, 0.16999052f, 0.43056816f};
static const float WEIGHT_4[4] = {0.17392742f, 0.32607258f, 0.32607258f, 0.17392742f};

void Canvas::prepare(int64_t h, int64_t w, int64_t p) {
  height = h, width = w, pad = p;
  stride = (w + 2 * p + 7) / 8 * 8;
  values.assign((size_t)(h * stride + 8), 0.0f);
}

int64_t spot_reach(float cut, float sigma) { return (int64_t)std::ceil(cut * sigma); }

// A spot in the frame of its window: pixel i of the window is X = i - half_x - x away from the centre.
struct Window {
  int64_t top, bottom, left; // rows [top, bottom) and first column on the canvas
  int vectors;
  float shift_y, shift_x; // distance of row 0 of the image, and of the window's first column, from the centre
  int64_t row0;           // image row shift_y belongs to
  float last;             // lanes above are outside
};

INLINE v8f across(const Window &w, int v) { return to_float(lane_index() + 8 * v) + w.shift_x; }

INLINE v8f inside(const Window &w, int v, v8f value) {
  const v8i out = to_float(lane_index() + 8 * v) > splat(w.last);
  return (v8f)((v8i)value & ~out);
}

INLINE float exp1(float x) { return exp8(splat(x))[0]; }

// The axis-aligned cases: row factor times column factor.
INLINE void add_product(Canvas &canvas, const Window &w, const v8f *columns, const float *rows) {
  for (int64_t y = w.top; y < w.bottom; y++) {
    float *line = canvas.row(y) + w.left;
    const v8f factor = splat(rows[y - w.row0]);
    for (int v = 0; v < w.vectors; v++) store8(line + 8 * v, load8(line + 8 * v) + columns[v] * factor);
  }
}

// exp(-a z^2) of rows and columns.
INLINE void point_aligned(Canvas &canvas, const Window &w, float ay, float ax, float peak, int64_t rows) {
  v8f columns[MOST];
  float factors[8 * MOST];
  for (int v = 0; v < w.vectors; v++) {
    const v8f x = across(w, v);
    columns[v] = inside(w, v, exp8(x * x * -ax));
  }
  for (int64_t r = 0; r < rows; r += 8) {
    const v8f y = to_float(lane_index() + (int32_t)r) + w.shift_y;
    store8(factors + r, exp8(y * y * -ay) * peak);
  }
  add_product(canvas, w, columns, factors);
}

// erf differences over pixels of width `fill` at `first + i`.
INLINE v8f cells(v8f z, float half, float scale) { return erf8((z + half) * scale) - erf8((z - half) * scale); }

INLINE void integrated_aligned(Canvas &canvas, const Window &w, const Optics &optics, const Spot &s, int64_t rows) {
  v8f columns[MOST];
  float factors[8 * MOST];
  const float scale_y = ROOT_HALF / s.sy, scale_x = ROOT_HALF / s.sx;
  const float peak = 1.57079633f * s.intensity * s.sy * s.sx;
  for (int v = 0; v < w.vectors; v++)
    columns[v] = inside(w, v, cells(across(w, v), 0.5f * optics.fill_x, scale_x));
  for (int64_t r = 0; r < rows; r += 8) {
    const v8f y = to_float(lane_index() + (int32_t)r) + w.shift_y;
    store8(factors + r, cells(y, 0.5f * optics.fill_y, scale_y) * peak);
  }
  add_product(canvas, w, columns, factors);
}

// Correlated point spot, the exponential taken at every pixel.
INLINE void point_direct(Canvas &canvas, const Window &w, float ay, float ax, float c, float peak) {
  for (int64_t y = w.top; y < w.bottom; y++) {
    float *line = canvas.row(y) + w.left;
    const float dy = w.shift_y + (float)(y - w.row0);
    const float of_row = dy * dy * -ay, tilt = c * dy;
    for (int v = 0; v < w.vectors; v++) {
      const v8f x = across(w, v);
      const v8f value = exp8(x * tilt + x * x * -ax + of_row) * peak;
      store8(line + 8 * v, load8(line + 8 * v) + inside(w, v, value));
    }
  }
}

// Correlated point spot carried from row to row; VECTORS is a constant where it is small (registers), else 0.
template <int VECTORS>
INLINE void point_carried(Canvas &canvas, const Window &w, float ay, float ax, float c, float peak, int64_t rows) {
  const int vectors = VECTORS ? VECTORS : w.vectors;
  v8f row[VECTORS ? VECTORS : MOST], step[VECTORS ? VECTORS : MOST];
  float factors[8 * MOST];
  const float tilt = c * (w.shift_y + (float)(w.top - w.row0));
  for (int v = 0; v < vectors; v++) {
    const v8f x = across(w, v);
    row[v] = inside(w, v, exp8(x * tilt + x * x * -ax));
    step[v] = exp8(x * c);
  }
  for (int64_t r = 0; r < rows; r += 8) {
    const v8f y = to_float(lane_index() + (int32_t)r) + w.shift_y;
    store8(factors + r, exp8(y * y * -ay) * peak);
  }
  for (int64_t y = w.top; y < w.bottom; y++) {
    float *line = canvas.row(y) + w.left;
    const v8f factor = splat(factors[y - w.row0]);
    for (int v = 0; v < vectors; v++) {
      store8(line + 8 * v, load8(line + 8 * v) + row[v] * factor);
      row[v] = row[v] * step[v];
    }
  }
}

// Correlated integrated spot at 2 x 2 points a pixel, each point carried from row to row.
template <int VECTORS>
INLINE void integrated_carried(Canvas &canvas, const Window &w, const Optics &optics, float ay, float ax, float c,
                               float peak, int64_t rows) {
  const int vectors = VECTORS ? VECTORS : w.vectors;
  const float apart_y = GAUSS_2 * optics.fill_y, apart_x = GAUSS_2 * optics.fill_x;
  v8f row[4][VECTORS ? VECTORS : MOST], step[2][VECTORS ? VECTORS : MOST];
  float factors[2][8 * MOST];
  const float weight = 0.25f * peak * optics.fill_y * optics.fill_x;
  const float dy = w.shift_y + (float)(w.top - w.row0);
  const float tilt[2] = {c * (dy - apart_y), c * (dy + apart_y)};
  for (int v = 0; v < vectors; v++)
    for (int a = 0; a < 2; a++) {
      const v8f x = across(w, v) + (a ? apart_x : -apart_x);
      const v8f of_column = x * x * -ax;
      step[a][v] = exp8(x * c);
      for (int b = 0; b < 2; b++) row[2 * b + a][v] = inside(w, v, exp8(x * tilt[b] + of_column));
    }
  for (int64_t r = 0; r < rows; r += 8)
    for (int b = 0; b < 2; b++) {
      const v8f y = to_float(lane_index() + (int32_t)r) + w.shift_y + (b ? apart_y : -apart_y);
      store8(factors[b] + r, exp8(y * y * -ay) * weight);
    }
  for (int64_t y = w.top; y < w.bottom; y++) {
    float *line = canvas.row(y) + w.left;
    const v8f low = splat(factors[0][y - w.row0]), high = splat(factors[1][y - w.row0]);
    for (int v = 0; v < vectors; v++) {
      const v8f value = (row[0][v] + row[1][v]) * low + (row[2][v] + row[3][v]) * high;
      store8(line + 8 * v, load8(line + 8 * v) + value);
      for (int p = 0; p < 4; p++) row[p][v] = row[p][v] * step[p & 1][v];
    }
  }
}

// Correlated integrated spot: erf along the row, Gauss-Legendre across it in pieces of at most ~3 sigma.
INLINE void integrated_exact(Canvas &canvas, const Window &w, const Optics &optics, const Spot &s) {
  const float narrow = std::sqrt(1.0f - s.rho * s.rho);
  const float sc = s.sx * narrow, scale = ROOT_HALF / sc, lean = s.rho * s.sx / s.sy;
  const float slim = (s.sy < sc ? s.sy : sc), pieces_at_least = std::ceil(0.3f * optics.fill_y / slim);
  const int pieces = pieces_at_least < 1.0f ? 1 : (int)pieces_at_least;
  const float piece = optics.fill_y / (float)pieces;
  const float peak = 1.25331414f * s.intensity * sc * piece; // sqrt(pi / 2)
  const float ay = 0.5f / (s.sy * s.sy);
  for (int64_t y = w.top; y < w.bottom; y++) {
    float *line = canvas.row(y) + w.left;
    const float start = w.shift_y + (float)(y - w.row0) - 0.5f * optics.fill_y + 0.5f * piece;
    for (int v = 0; v < w.vectors; v++) {
      v8f sum = splat(0.0f);
      for (int k = 0; k < pieces; k++)
        for (int g = 0; g < 4; g++) {
          const float dy = start + (float)k * piece + GAUSS_4[g] * piece;
          const float weight = WEIGHT_4[g] * exp1(dy * dy * -ay);
          sum = sum + cells(across(w, v) - lean * dy, 0.5f * optics.fill_x, scale) * weight;
        }
      store8(line + 8 * v, load8(line + 8 * v) + inside(w, v, sum * peak));
    }
  }
}

template <int VECTORS>
INLINE void add_correlated(Canvas &canvas, const Window &w, const Optics &optics, const Spot &s, int64_t ry, int64_t rx,
                           int64_t rows) {
  const float inverse = 0.5f / (1.0f - s.rho * s.rho);
  const float ay = inverse / (s.sy * s.sy), ax = inverse / (s.sx * s.sx);
  const float c = 2.0f * s.rho * inverse / (s.sy * s.sx);
  const float far_y = (float)ry + 1.0f, far_x = (float)rx + 1.0f;
  const bool carried = ax * far_x * far_x + std::fabs(c) * far_x * far_y < IN_RANGE;
  if (!optics.integrated && carried) return point_carried<VECTORS>(canvas, w, ay, ax, c, s.intensity, rows);
  if (!optics.integrated) return point_direct(canvas, w, ay, ax, c, s.intensity);
  const float narrow = std::sqrt(1.0f - s.rho * s.rho);
  const bool wide = s.sy * narrow >= EXACT_BELOW && s.sx * narrow >= EXACT_BELOW;
  if (wide && carried) return integrated_carried<VECTORS>(canvas, w, optics, ay, ax, c, s.intensity, rows);
  integrated_exact(canvas, w, optics, s);
}

void add_spot(Canvas &canvas, const Optics &optics, const Spot &s) {
  const int64_t ry = spot_reach(optics.cut, s.sy), rx = spot_reach(optics.cut, s.sx);
  const double fy = std::floor(s.y + 0.5), fx = std::floor(s.x + 0.5);
  if (!(fy >= (double)-ry && fy < (double)(canvas.height + ry) && fx >= (double)-rx && fx < (double)(canvas.width + rx)))
    return;
  const int64_t cy = (int64_t)fy, cx = (int64_t)fx;
  Window w;
  w.row0 = cy - ry;
  w.top = w.row0 < 0 ? 0 : w.row0;
  w.bottom = cy + ry + 1 > canvas.height ? canvas.height : cy + ry + 1;
  w.left = cx - rx;
  w.vectors = (int)((2 * rx + 8) / 8);
  w.shift_y = (float)-ry - (float)(s.y - fy);
  w.shift_x = (float)-rx - (float)(s.x - fx);
  w.last = (float)(2 * rx);
  const int64_t rows = 2 * ry + 1;
  if (s.rho == 0.0f) {
    if (optics.integrated) return integrated_aligned(canvas, w, optics, s, rows);
    return point_aligned(canvas, w, 0.5f / (s.sy * s.sy), 0.5f / (s.sx * s.sx), s.intensity, rows);
  }
  if (w.vectors == 1) return add_correlated<1>(canvas, w, optics, s, ry, rx, rows);
  if (w.vectors == 2) return add_correlated<2>(canvas, w, optics, s, ry, rx, rows);
  add_correlated<0>(canvas, w, optics, s, ry, rx, rows);
}
