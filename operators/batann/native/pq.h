// Product quantisation: look-up table of one query, distance of one code, codebook training and encoding (pq.cpp).
//
// Every sum has one fixed order and nothing is fused, so numpy's stand-in (pq.py) gives the same bits:
// table entries add dimension by dimension; a distance adds chunk c into accumulator c % 4, then (0 + 1) + (2 + 3).
#pragma once

#include <cstddef>
#include <cstdint>

namespace pg {

constexpr int kCentroids = 256;

// centroids (256, d) row-major; columns offsets[c]..offsets[c + 1] are chunk c; lut (chunks, 256).
void pq_lut(const float *centroids, const int *offsets, int chunks, int d, const float *query, float *lut);

// The same from centroids stored as (d, 256): several times faster; transpose once with pq_transpose.
void pq_lut_transposed(const float *centroids_t, const int *offsets, int chunks, const float *query, float *lut);
void pq_transpose(const float *centroids, int d, float *centroids_t);

inline float pq_distance(const float *lut, const uint8_t *code, int chunks) {
  float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  int c = 0;
  for (; c + 4 <= chunks; c += 4, lut += 4 * kCentroids) {
    s0 += lut[code[c]];
    s1 += lut[kCentroids + code[c + 1]];
    s2 += lut[2 * kCentroids + code[c + 2]];
    s3 += lut[3 * kCentroids + code[c + 3]];
  }
  if (c < chunks) s0 += lut[code[c]];
  if (c + 1 < chunks) s1 += lut[kCentroids + code[c + 1]];
  if (c + 2 < chunks) s2 += lut[2 * kCentroids + code[c + 2]];
  return (s0 + s1) + (s2 + s3);
}

// Lloyd's k-means of one chunk: x (n, width), centroids (256, width) given as the start and overwritten.
void kmeans_chunk(const float *x, size_t n, int width, int iters, float *centroids);

// Nearest centroid of every chunk; ties to the smaller number. x (n, d), codes (n, chunks).
void pq_encode(const float *centroids, const int *offsets, int chunks, int d, const float *x, size_t n, uint8_t *codes);

}  // namespace pg
