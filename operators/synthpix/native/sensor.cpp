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

static const int SIDE = 4; // vectors worked on together: one alone waits for its own sums

// Fewer than RARE photons expected: the number of terms whose sum stays below the uniform; SIDE vectors in place.
INLINE void poisson_few(float *means, const uint32_t *words) {
  v8f u[SIDE], mean[SIDE], p[SIDE], sum[SIDE], count[SIDE];
  v8i on[SIDE], some = {0};
  for (int s = 0; s < SIDE; s++) {
    v8u word;
    std::memcpy(&word, words + 8 * s, 32);
    u[s] = to_float((v8i)(word >> 8)) * 5.9604644775390625e-8f + 2.98023223876953125e-8f;
    mean[s] = load8(means + 8 * s);
    sum[s] = p[s] = exp8(mean[s] * -1.0f);
    count[s] = splat(0.0f);
    on[s] = (u[s] > sum[s]) & (p[s] >= splat(TAIL));
    some = some | on[s];
  }
  for (int k = 1; k < STEPS && any(some); k++) {
    some = (v8i){0};
    for (int s = 0; s < SIDE; s++) {
      count[s] = count[s] - to_float(on[s]);
      p[s] = p[s] * mean[s] * INVERSE.of[k];
      sum[s] = sum[s] + p[s];
      on[s] = (u[s] > sum[s]) & (p[s] >= splat(TAIL));
      some = some | on[s];
    }
  }
  for (int s = 0; s < SIDE; s++) store8(means + 8 * s, count[s]);
}

INLINE v8f poisson_many(v8f mean, v8u word) {
  const v8f z = quantile8(word), width = root(mean), zz = z * z;
  v8f k = mean + width * z;
  k = k + (zz * 0.16666667f + 0.33333333f);
  k = k - (zz + 2.0f) * z * 0.013888889f / width;
  k = k + (zz * zz * 0.0037037037f + zz * 0.0086419753f - 0.019753086f) / mean;
  return most(rounded(k - 0.5f), splat(0.0f));
}

// A row's pixels with like expectations are packed into vectors of their own, so that a dark vector does not wait for a
// bright pixel. Up to NONE even the largest uniform gives no photon.
static const float NONE = 2.9e-8f, FAINT = 0.7f;

struct Packed {
  std::vector<float> mean;
  std::vector<uint32_t> word;
  std::vector<int32_t> where;
  int64_t many = 0;
  void room(int64_t count) {
    mean.resize((size_t)count + 8 * SIDE), word.resize((size_t)count + 8 * SIDE), where.resize((size_t)count + 8 * SIDE);
    many = 0;
  }
};

// Where the lanes of each of the 256 masks go when the chosen ones move to the front.
struct Fronts {
  v8i of[256];
  Fronts() {
    for (int mask = 0; mask < 256; mask++) {
      int to = 0;
      for (int i = 0; i < 8; i++) of[mask][i] = 0;
      for (int i = 0; i < 8; i++)
        if (mask >> i & 1) of[mask][to++] = i;
    }
  }
};
static const Fronts FRONTS;

// Appends the lanes chosen by `mask`.
INLINE void append(Packed &p, v8i mask, v8f mean, v8u word, v8i where) {
#if defined(__AVX2__)
  const int bits = _mm256_movemask_ps((__m256)mask);
  const __m256i front = (__m256i)FRONTS.of[bits];
  _mm256_storeu_ps(p.mean.data() + p.many, _mm256_permutevar8x32_ps((__m256)mean, front));
  _mm256_storeu_si256((__m256i *)(p.word.data() + p.many), _mm256_permutevar8x32_epi32((__m256i)word, front));
  _mm256_storeu_si256((__m256i *)(p.where.data() + p.many), _mm256_permutevar8x32_epi32((__m256i)where, front));
  p.many += __builtin_popcount((unsigned)bits);
#else
  for (int i = 0; i < 8; i++) {
    p.mean[p.many] = mean[i], p.word[p.many] = word[i], p.where[p.many] = where[i];
    p.many -= mask[i];
  }
#endif
}

struct Electrons { // scratch of one row
  std::vector<float> row;
  std::vector<uint32_t> word;
  Packed kind[3];
};

// Electrons of one row of light, padded to whole groups of 64, into `e.row`.
static void shot_row(Electrons &e, const Key &key, int image, int64_t first_group, int64_t groups, const float *light,
                     int64_t width, float qe) {
  e.row.assign((size_t)(64 * groups), 0.0f);
  e.word.resize((size_t)(64 * groups));
  for (int64_t g = 0; g < 2 * groups; g++) {
    const Words w = words8(key, SHOT + (uint32_t)image, (uint32_t)(first_group * 16 + g * 8));
    for (int k = 0; k < 4; k++) std::memcpy(e.word.data() + 32 * g + 8 * k, &w.w[k], 32);
  }
  for (Packed &p : e.kind) p.room(64 * groups);
  for (int64_t x = 0; x < width; x += 8) {
    v8f mean = load8(light + x) * qe;
    v8u word;
    std::memcpy(&word, e.word.data() + x, 32);
    const v8i where = lane_index() + (int32_t)x;
    if (width - x < 8) mean = (v8f)((v8i)mean & (where < (int32_t)width));
    const v8i faint = mean < splat(FAINT), many = mean >= splat(RARE);
    append(e.kind[0], faint & (mean > splat(NONE)), mean, word, where);
    append(e.kind[1], ~faint & ~many, mean, word, where);
    append(e.kind[2], many, mean, word, where);
  }
  for (int kind = 0; kind < 3; kind++) {
    Packed &p = e.kind[kind];
    const int64_t step = kind == 2 ? 8 : 8 * SIDE;
    for (int64_t i = p.many; i % step; i++) p.mean[i] = kind == 2 ? RARE : NONE, p.word[i] = 0;
    for (int64_t first = 0; first < p.many; first += step) {
      if (kind < 2) {
        poisson_few(p.mean.data() + first, p.word.data() + first);
        continue;
      }
      v8u word;
      std::memcpy(&word, p.word.data() + first, 32);
      store8(p.mean.data() + first, poisson_many(load8(p.mean.data() + first), word));
    }
    for (int64_t i = 0; i < p.many; i++) e.row[p.where[i]] = p.mean[i];
  }
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
    for (int k = 0; k < 4; k++) {
      v[k] = load8(light + 32 * half + 8 * k);
      if (!n.shot) v[k] = v[k] * n.qe; // with shot noise these are electrons already
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

// Rounds and clips `many` counts in place; how many were above the largest.
template <bool FULL> INLINE int64_t limit(const Noise &n, int64_t many, float *counts) {
  v8i above = {0};
  for (int64_t k = 0; k < (FULL ? 64 : many); k += 8) {
    v8f v = load8(counts + k);
    if (n.whole) v = rounded(most(least(v, splat(n.highest + 4.0f)), splat(-4.0f)));
    v8i over = v > splat(n.highest);
    if (!FULL && many - k < 8) over = over & (lane_index() < (int32_t)(many - k));
    above = above - over;
    store8(counts + k, most(least(v, splat(n.highest)), splat(0.0f)));
  }
  int64_t total = 0;
  for (int i = 0; i < 8; i++) total += above[i];
  return total;
}

// Masked pixels are black and do not count as saturated.
static void cover(const uint8_t *lit, int64_t many, float *counts) {
  for (int64_t k = 0; k < many; k++) counts[k] = lit[k] ? counts[k] : 0.0f;
}

template <class T>
Seen expose(Canvas &canvas, const double *par, const Key &key, int image, const uint8_t *mask, T *out) {
  const Noise n = read(par);
  const int64_t width = canvas.width, groups = (width + 63) / 64;
  alignas(32) float light[64] = {0}, counts[64];
  Electrons electrons;
  Seen seen = {0, 0.0};
  double grey[8] = {0};
  for (int64_t y = 0; y < canvas.height; y++) {
    const float *line = canvas.row(y);
    if (n.shot) {
      shot_row(electrons, key, image, y * groups, groups, line, width, n.qe);
      line = electrons.row.data();
    }
    for (int64_t g = 0; g < groups; g++) {
      const int64_t from = 64 * g, many = std::min<int64_t>(64, width - from);
      const float *source = line + from;
      if (many < 64) {
        std::copy(line + from, line + from + many, light);
        source = light;
      }
      expose_group(n, key, image, (uint32_t)(y * groups + g), source, counts);
      if (mask) cover(mask + y * width + from, many, counts);
      const int64_t over = many == 64 ? limit<true>(n, 64, counts) : limit<false>(n, many, counts);
      seen.saturated += over;
      T *to = out + y * width + from;
      if (many == 64) {
        for (int k = 0; k < 64; k++) to[k] = (T)counts[k];
        for (int k = 0; k < 64; k += 8)
          for (int i = 0; i < 8; i++) grey[i] += (double)counts[k + i];
      } else {
        for (int64_t k = 0; k < many; k++) to[k] = (T)counts[k];
        for (int64_t k = 0; k < many; k++) grey[k & 7] += (double)counts[k];
      }
    }
  }
  for (int i = 0; i < 8; i++) seen.grey_sum += grey[i];
  return seen;
}

template Seen expose<uint8_t>(Canvas &, const double *, const Key &, int, const uint8_t *, uint8_t *);
template Seen expose<uint16_t>(Canvas &, const double *, const Key &, int, const uint8_t *, uint16_t *);
template Seen expose<float>(Canvas &, const double *, const Key &, int, const uint8_t *, float *);
