#include "distance.h"

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#define PG_AVX2 __attribute__((target("avx2")))
#endif

namespace pg {
namespace {

template <class T> float scalar_int(const void *a, const void *b, int d) {
  const T *x = static_cast<const T *>(a), *y = static_cast<const T *>(b);
  int32_t sum = 0;
  for (int i = 0; i < d; i++) {
    const int32_t diff = int32_t(x[i]) - int32_t(y[i]);
    sum += diff * diff;
  }
  return float(sum);
}

// Lane l adds the squares of elements l, l + 16, l + 32, ...; then lanes are added by halves: 16 -> 8 -> 4 -> 2 -> 1.
float fold(float *lane) {
  for (int width = 8; width; width /= 2)
    for (int l = 0; l < width; l++) lane[l] += lane[l + width];
  return lane[0];
}

float scalar_f32(const void *a, const void *b, int d) {
  const float *x = static_cast<const float *>(a), *y = static_cast<const float *>(b);
  float lane[16] = {};
  for (int i = 0; i < d; i++) {
    const float diff = x[i] - y[i];
    lane[i & 15] += diff * diff;
  }
  return fold(lane);
}

#if defined(PG_AVX2)

PG_AVX2 inline int32_t sum_lanes(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

PG_AVX2 float avx2_u8(const void *a, const void *b, int d) {
  const uint8_t *x = static_cast<const uint8_t *>(a), *y = static_cast<const uint8_t *>(b);
  const __m256i zero = _mm256_setzero_si256();
  __m256i low = zero, high = zero;
  int i = 0;
  for (; i + 32 <= d; i += 32) {
    const __m256i p = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x + i));
    const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(y + i));
    const __m256i diff = _mm256_or_si256(_mm256_subs_epu8(p, q), _mm256_subs_epu8(q, p));
    const __m256i l = _mm256_unpacklo_epi8(diff, zero), h = _mm256_unpackhi_epi8(diff, zero);
    low = _mm256_add_epi32(low, _mm256_madd_epi16(l, l));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(h, h));
  }
  int32_t sum = sum_lanes(_mm256_add_epi32(low, high));
  for (; i < d; i++) {
    const int32_t diff = int32_t(x[i]) - int32_t(y[i]);
    sum += diff * diff;
  }
  return float(sum);
}

PG_AVX2 float avx2_i8(const void *a, const void *b, int d) {
  const int8_t *x = static_cast<const int8_t *>(a), *y = static_cast<const int8_t *>(b);
  __m256i acc = _mm256_setzero_si256();
  int i = 0;
  for (; i + 16 <= d; i += 16) {
    const __m256i p = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x + i)));
    const __m256i q = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(y + i)));
    const __m256i diff = _mm256_sub_epi16(p, q);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(diff, diff));
  }
  int32_t sum = sum_lanes(acc);
  for (; i < d; i++) {
    const int32_t diff = int32_t(x[i]) - int32_t(y[i]);
    sum += diff * diff;
  }
  return float(sum);
}

PG_AVX2 float avx2_f32(const void *a, const void *b, int d) {
  const float *x = static_cast<const float *>(a), *y = static_cast<const float *>(b);
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  int i = 0;
  for (; i + 16 <= d; i += 16) {
    const __m256 p = _mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i));
    const __m256 q = _mm256_sub_ps(_mm256_loadu_ps(x + i + 8), _mm256_loadu_ps(y + i + 8));
    low = _mm256_add_ps(low, _mm256_mul_ps(p, p));
    high = _mm256_add_ps(high, _mm256_mul_ps(q, q));
  }
  alignas(32) float lane[16];
  _mm256_store_ps(lane, low);
  _mm256_store_ps(lane + 8, high);
  for (; i < d; i++) {
    const float diff = x[i] - y[i];
    lane[i & 15] += diff * diff;
  }
  return fold(lane);
}

#endif

}  // namespace

DistanceFn distance_fn_scalar(Type type) {
  switch (type) {
    case Type::u8: return scalar_int<uint8_t>;
    case Type::i8: return scalar_int<int8_t>;
    default: return scalar_f32;
  }
}

DistanceFn distance_fn(Type type) {
#if defined(PG_AVX2)
  if (__builtin_cpu_supports("avx2")) {
    switch (type) {
      case Type::u8: return avx2_u8;
      case Type::i8: return avx2_i8;
      default: return avx2_f32;
    }
  }
#endif
  return distance_fn_scalar(type);
}

}  // namespace pg
