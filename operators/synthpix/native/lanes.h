// Eight float lanes, and the elementary functions the renderer needs on them.
//
// Everything is plain IEEE single precision without fused multiply-add, in a fixed order of operations: the numba
// stand-in (standin_math.py) does the same operations one lane at a time and gives the same bits. Vectors are GCC/Clang
// vector types, so SSE, AVX2, AVX-512 and NEON come from the compiler's flags and do not change a result.
//
// Accuracy (tested): exp 2e-7 relative, log 2e-7, erf 3e-7, normal quantile 2e-6 absolute up to 5 sigma.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef uint32_t v8u __attribute__((vector_size(32)));
typedef float v8f_any __attribute__((vector_size(32), aligned(4), may_alias));

static const float MAGIC = 12582912.0f; // 1.5 * 2**23: adding it rounds to the nearest integer, half to even

INLINE v8f splat(float x) { return (v8f){x, x, x, x, x, x, x, x}; }
INLINE v8f load8(const float *p) { return *(const v8f_any *)p; }
INLINE void store8(float *p, v8f v) { *(v8f_any *)p = v; }
INLINE v8f least(v8f a, v8f b) { return a < b ? a : b; }
INLINE v8f most(v8f a, v8f b) { return a > b ? a : b; }
INLINE v8f to_float(v8i v) { return __builtin_convertvector(v, v8f); }
INLINE v8f root(v8f v) {
#if defined(__AVX__)
  return (v8f)_mm256_sqrt_ps((__m256)v);
#else
  for (int i = 0; i < 8; i++) v[i] = std::sqrt(v[i]);
  return v;
#endif
}
INLINE bool any(v8i mask) {
#if defined(__AVX__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  int found = 0;
  for (int i = 0; i < 8; i++) found |= mask[i];
  return found != 0;
#endif
}
INLINE v8i lane_index() { return (v8i){0, 1, 2, 3, 4, 5, 6, 7}; }

// exp(x); 0 below -87 (no denormal numbers), argument limited to 88.
INLINE v8f exp8(v8f x) {
  const v8i gone = x < splat(-87.0f);
  x = least(most(x, splat(-87.0f)), splat(88.0f));
  const v8f t = x * 1.44269504f + MAGIC;
  const v8i n = (v8i)t - 0x4B400000;
  const v8f f = t - MAGIC;
  v8f r = x - f * 0.693359375f;
  r = r - f * -2.12194440e-4f;
  v8f p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const v8f y = p * (v8f)((n + 127) << 23);
  return (v8f)((v8i)y & ~gone);
}

// log(x) of positive normal numbers.
INLINE v8f log8(v8f x) {
  const v8i bits = (v8i)x;
  v8i e = ((bits >> 23) & 255) - 126;
  v8f m = (v8f)((bits & 0x007FFFFF) | 0x3F000000); // 0.5 <= m < 1
  const v8i low = m < splat(0.70710678f);
  e = e + low; // low is -1 where true
  m = low ? m + m - 1.0f : m - 1.0f;
  const v8f z = m * m;
  v8f p = m * 7.0376836292e-2f + -1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m + -1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m + -1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m + -2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const v8f f = to_float(e);
  v8f y = p * m * z;
  y = y + f * -2.12194440e-4f;
  y = y - z * 0.5f;
  return m + y + f * 0.693359375f;
}

// erf(x), a rational function of odd degree.
INLINE v8f erf8(v8f x) {
  x = least(most(x, splat(-4.0f)), splat(4.0f));
  const v8f z = x * x;
  v8f p = z * -2.72614225801306e-10f + 2.77068142495902e-08f;
  p = p * z + -2.10102402082508e-06f;
  p = p * z + -5.69250639462346e-05f;
  p = p * z + -7.34990630326855e-04f;
  p = p * z + -2.95459980854025e-03f;
  p = p * z + -1.60960333262415e-02f;
  v8f q = z * -1.45660718464996e-05f + -2.13374055278905e-04f;
  q = q * z + -1.68282697438203e-03f;
  q = q * z + -7.37332916720468e-03f;
  q = q * z + -1.42647390514189e-02f;
  return x * p / q;
}

// Two independent normal numbers from two words (Box and Muller, 24 bits each; |n| <= 5.77).
INLINE void normals8(v8u a, v8u b, v8f &first, v8f &second) {
  const v8f u = to_float((v8i)((a >> 8) + 1)) * 5.9604644775390625e-8f; // (0, 1]
  const v8f radius = root(log8(u) * -2.0f);
  const v8f t = to_float((v8i)(b >> 8)) * 2.384185791015625e-7f; // quarter turns, [0, 4)
  const v8f near = t + MAGIC;
  const v8i q = (v8i)near;
  const v8f r = (t - (near - MAGIC)) * 1.57079633f;
  const v8f z = r * r;
  v8f s = z * -1.9515295891e-4f + 8.3321608736e-3f;
  s = s * z + -1.6666654611e-1f;
  s = s * z * r + r;
  v8f c = z * 2.443315711809948e-5f + -1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  c = c * z * z - z * 0.5f + 1.0f;
  const v8i odd = (q & 1) != 0;
  const v8f cosine = odd ? s : c, sine = odd ? c : s;
  first = radius * (v8f)((v8i)cosine ^ (((q + 1) & 2) << 30));
  second = radius * (v8f)((v8i)sine ^ ((q & 2) << 30));
}

// The normal quantile of the centre of a word's cell (24 bits; Giles, single precision).
INLINE v8f quantile8(v8u word) {
  const v8f x = to_float((v8i)(word >> 8) * 2 - 16777215) * 5.9604644775390625e-8f; // (-1, 1), exact
  v8f w = log8((1.0f - x) * (1.0f + x)) * -1.0f;
  const v8i central = w < splat(5.0f);
  const v8f c = w - 2.5f;
  v8f p = c * 2.81022636e-08f + 3.43273939e-07f;
  p = p * c + -3.5233877e-06f;
  p = p * c + -4.39150654e-06f;
  p = p * c + 0.00021858087f;
  p = p * c + -0.00125372503f;
  p = p * c + -0.00417768164f;
  p = p * c + 0.246640727f;
  p = p * c + 1.50140941f;
  if (any(~central)) {
    const v8f d = root(w) - 3.0f;
    v8f t = d * -0.000200214257f + 0.000100950558f;
    t = t * d + 0.00134934322f;
    t = t * d + -0.00367342844f;
    t = t * d + 0.00573950773f;
    t = t * d + -0.0076224613f;
    t = t * d + 0.00943887047f;
    t = t * d + 1.00167406f;
    t = t * d + 2.83297682f;
    p = central ? p : t;
  }
  return p * x * 1.41421356f;
}
