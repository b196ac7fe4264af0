// Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3), eight counters at a time.
//
// A word is a pure function of (key, counter). Counter = (index of particle or pixel group, stream, pair low, pair
// high); the key comes from (seed, epoch). There is no state, so order, batches and workers cannot change a number.
#pragma once
#include "lanes.h"

enum Stream : uint32_t {
  PAIR = 0,    // density, picks of the diameter, intensity and correlation range
  PLACE = 1,   // y, x, diameter in x, in y
  LIGHT = 2,   // correlation, intensity, hidden in 1, hidden in 2
  CHANGE = 3,  // two pairs of normal numbers: diameter x, y, correlation, intensity of image 2
  DEPTH = 4,   // z
  UNIFORM = 5, // + image - 1: additive uniform noise, two pixels a word
  NORMAL = 7,  // + image - 1: additive normal noise
  SHOT = 9,    // + image - 1: photon noise
};

struct Key {
  uint32_t k0, k1;
  uint64_t pair;
};

struct Words {
  v8u w[4];
};

INLINE void multiply8(uint32_t factor, v8u x, v8u &high, v8u &low) {
#if defined(__AVX2__)
  const __m256i f = _mm256_set1_epi32((int)factor), v = (__m256i)x;
  const __m256i even = _mm256_mul_epu32(v, f), odd = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), f);
  high = (v8u)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  low = (v8u)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
#else
  for (int i = 0; i < 8; i++) {
    const uint64_t product = (uint64_t)factor * x[i];
    high[i] = (uint32_t)(product >> 32);
    low[i] = (uint32_t)product;
  }
#endif
}

INLINE Words philox8(v8u c0, v8u c1, v8u c2, v8u c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++) {
    v8u high0, low0, high1, low1;
    multiply8(0xD2511F53u, c0, high0, low0);
    multiply8(0xCD9E8D57u, c2, high1, low1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}

// The words of counters first .. first + 7 of a stream.
INLINE Words words8(const Key &key, uint32_t stream, uint32_t first) {
  const v8u zero = {0};
  return philox8((v8u)lane_index() + first, zero + stream, zero + (uint32_t)key.pair,
                 zero + (uint32_t)(key.pair >> 32), key.k0, key.k1);
}
