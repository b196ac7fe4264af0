// From a canvas of light to the sensor's counts: shot noise, gain, additive noise, rounding, clipping, mask.
//
// Pixels are numbered along rows padded to a multiple of 64, so that every row starts a group of counters of its own.
// A group of 32 pixels takes the four words of eight counters (uniform noise: half words, 64 pixels). Photon noise is
// the Poisson quantile of one word: by summing probabilities below RARE expected photons, by the normal quantile with
// its Cornish-Fisher terms above (largest distance of the distributions below 2e-3 of a count's probability, tested).
#include <algorithm>

#include "synthpix.h"

static const float RARE = 10.0f;    // photons
static const int STEPS = 64;        // terms of the sum; more photons than that have probability 1e-25
static const float TAIL = 3.0e-8f;  // terms below are beyond the word's 24 bits

struct Inverse {
  float of[STEPS + 1];
  Inverse() {
    of[0] = 0.0f;
    for (int k = 1; k <= STEPS; k++) of[k] = 1.0f / (float)k;
  }
};
static const Inverse INVERSE;

INLINE v8f rounded(v8f v) { return (v + MAGIC) - MAGIC; } // half to even, |v| < 2**22

INLINE v8f poisson8(v8f mean, v8u word) {
  const v8i many = mean >= splat(RARE);
  v8f count = splat(0.0f);
  if (any(~many)) {
    const v8f u = to_float((v8i)(word >> 8)) * 5.9604644775390625e-8f + 2.98023223876953125e-8f;
    const v8f few = most(many ? splat(0.0f) : mean, splat(0.0f));
    v8f p = exp8(few * -1.0f), sum = p;
    v8i on = (u > sum) & (p >= splat(TAIL));
    for (int k = 1; k < STEPS && any(on); k++) {
      count = count - to_float(on);
      p = p * few * INVERSE.of[k];
      sum = sum + p;
      on = (u > sum) & (p >= splat(TAIL));
    }
  }
  if (any(many)) {
    const v8f l = most(mean, splat(RARE)), z = quantile8(word), width = root(l);
    const v8f zz = z * z;
    v8f k = l + width * z;
    k = k + (zz * 0.16666667f + 0.33333333f);
    k = k - (zz + 2.0f) * z * 0.013888889f / width;
    k = k + (zz * zz * 0.0037037037f + zz * 0.0086419753f - 0.019753086f) / l;
    k = rounded(k - 0.5f);
    count = many ? most(k, splat(0.0f)) : count;
  }
  return count;
}

struct Noise {
  bool shot, uniform, normal;
  float qe, gain, baseline, uniform_step, mean, sigma, highest;
  bool whole;
};

static Noise read(const double *par) {
  Noise n;
  n.shot = par[SHOT_NOISE] > 0.0, n.uniform = par[NOISE_UNIFORM] > 0.0, n.normal = par[NOISE_SIGMA] > 0.0;
  n.qe = (float)par[QE], n.gain = (float)par[GAIN], n.baseline = (float)par[BASELINE];
  n.uniform_step = (float)(par[NOISE_UNIFORM] / 65536.0);
  n.mean = (float)par[NOISE_MEAN], n.sigma = (float)par[NOISE_SIGMA];
  n.whole = par[BITS] > 0.0;
  n.highest = n.whole ? (float)((1 << (int)par[BITS]) - 1) : 255.0f;
  return n;
}

// 64 pixels of one row: light in, counts before rounding out.
INLINE void expose_group(const Noise &n, const Key &key, int image, uint32_t group, const float *light, float *counts) {
  for (int half = 0; half < 2; half++) {
    v8f v[4], normal[4];
    for (int k = 0; k < 4; k++) v[k] = load8(light + 32 * half + 8 * k) * n.qe;
    if (n.shot) {
      const Words w = words8(key, SHOT + image, group * 16 + half * 8);
      for (int k = 0; k < 4; k++) v[k] = poisson8(v[k], w.w[k]);
    }
    if (n.normal) {
      const Words w = words8(key, NORMAL + image, group * 16 + half * 8);
      normals8(w.w[0], w.w[1], normal[0], normal[1]);
      normals8(w.w[2], w.w[3], normal[2], normal[3]);
    }
    for (int k = 0; k < 4; k++) {
      v[k] = v[k] * n.gain + n.baseline + n.mean;
      if (n.normal) v[k] = v[k] + normal[k] * n.sigma;
      store8(counts + 32 * half + 8 * k, v[k]);
    }
  }
  if (!n.uniform) return;
  const Words w = words8(key, UNIFORM + image, group * 8);
  for (int k = 0; k < 4; k++) {
    const v8f low = to_float((v8i)(w.w[k] & 65535u)), high = to_float((v8i)(w.w[k] >> 16));
    store8(counts + 8 * k, load8(counts + 8 * k) + (low + 0.5f) * n.uniform_step);
    store8(counts + 32 + 8 * k, load8(counts + 32 + 8 * k) + (high + 0.5f) * n.uniform_step);
  }
}

template <class T>
Seen expose(Canvas &canvas, const double *par, const Key &key, int image, const uint8_t *mask, T *out) {
  const Noise n = read(par);
  const int64_t width = canvas.width, groups = (width + 63) / 64;
  alignas(32) float light[64] = {0}, counts[64];
  Seen seen = {0, 0.0};
  double grey[8] = {0};
  for (int64_t y = 0; y < canvas.height; y++) {
    const float *line = canvas.row(y);
    for (int64_t g = 0; g < groups; g++) {
      const int64_t from = 64 * g, many = std::min<int64_t>(64, width - from);
      const float *source = line + from;
      if (many < 64) {
        std::copy(line + from, line + from + many, light);
        source = light;
      }
      expose_group(n, key, image, (uint32_t)(y * groups + g), source, counts);
      v8i above = {0};
      for (int64_t k = 0; k < many; k += 8) {
        v8f v = load8(counts + k);
        if (n.whole) v = rounded(most(least(v, splat(n.highest + 4.0f)), splat(-4.0f)));
        v8i over = v > splat(n.highest);
        if (many - k < 8) over = over & (lane_index() < (int32_t)(many - k));
        above = above - over;
        store8(counts + k, most(least(v, splat(n.highest)), splat(0.0f)));
      }
      for (int i = 0; i < 8; i++) seen.saturated += above[i];
      T *to = out + y * width + from;
      if (mask) {
        const uint8_t *lit = mask + y * width + from;
        for (int64_t k = 0; k < many; k++) counts[k] = lit[k] ? counts[k] : 0.0f;
      }
      for (int64_t k = 0; k < many; k++) to[k] = (T)counts[k];
      for (int64_t k = 0; k < many; k++) grey[k & 7] += (double)counts[k];
    }
  }
  for (int i = 0; i < 8; i++) seen.grey_sum += grey[i];
  return seen;
}

template Seen expose<uint8_t>(Canvas &, const double *, const Key &, int, const uint8_t *, uint8_t *);
template Seen expose<uint16_t>(Canvas &, const double *, const Key &, int, const uint8_t *, uint16_t *);
template Seen expose<float>(Canvas &, const double *, const Key &, int, const uint8_t *, float *);
