#include "pq.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace pg {

void pq_transpose(const float *centroids, int d, float *out) {
  for (int j = 0; j < kCentroids; j++)
    for (int t = 0; t < d; t++) out[size_t(t) * kCentroids + j] = centroids[size_t(j) * d + t];
}

void pq_lut_transposed(const float *centroids_t, const int *offsets, int chunks, const float *query, float *lut) {
  for (int c = 0; c < chunks; c++) {
    float *row = lut + size_t(c) * kCentroids;
    for (int j = 0; j < kCentroids; j++) row[j] = 0;
    for (int t = offsets[c]; t < offsets[c + 1]; t++) {
      const float *column = centroids_t + size_t(t) * kCentroids;
      const float q = query[t];
      for (int j = 0; j < kCentroids; j++) {
        const float diff = column[j] - q;
        row[j] += diff * diff;
      }
    }
  }
}

void pq_lut(const float *centroids, const int *offsets, int chunks, int d, const float *query, float *lut) {
  for (int j = 0; j < kCentroids; j++) {
    const float *row = centroids + size_t(j) * d;
    for (int c = 0; c < chunks; c++) {
      float sum = 0;
      for (int t = offsets[c]; t < offsets[c + 1]; t++) {
        const float diff = row[t] - query[t];
        sum += diff * diff;
      }
      lut[size_t(c) * kCentroids + j] = sum;
    }
  }
}

namespace {

// Nearest of 256 centroids stored as (width, 256); ties to the smaller number. Vectors of eight centroids, each lane
// keeping its first best; written with the compiler's vector types because loops did not become this.
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
constexpr int kLanes = 8;

inline Floats load(const float *p) {
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <int kWidth> int nearest_of(const float *centroids_t, int given, const float *point) {
  const int width = kWidth ? kWidth : given;
  Floats best = {};
  best += __builtin_inff();
  Ints at = {};
  for (int j = 0; j < kCentroids; j += 2 * kLanes) {
    Floats low = {}, high = {};
    for (int t = 0; t < width; t++) {
      const float *column = centroids_t + size_t(t) * kCentroids + j;
      const Floats a = load(column) - point[t], b = load(column + kLanes) - point[t];
      low += a * a;
      high += b * b;
    }
    const Ints here = Ints{} + j, there = Ints{} + (j + kLanes);
    at = low < best ? here : at;
    best = low < best ? low : best;
    at = high < best ? there : at;
    best = high < best ? high : best;
  }
  int lane = 0;
  for (int l = 1; l < kLanes; l++)
    if (best[l] < best[lane] || (best[l] == best[lane] && at[l] + l < at[lane] + lane)) lane = l;
  return at[lane] + lane;
}

int nearest(const float *centroids_t, int width, const float *point) {
  switch (width) {
    case 1: return nearest_of<1>(centroids_t, 1, point);
    case 2: return nearest_of<2>(centroids_t, 2, point);
    case 3: return nearest_of<3>(centroids_t, 3, point);
    case 4: return nearest_of<4>(centroids_t, 4, point);
    case 8: return nearest_of<8>(centroids_t, 8, point);
    default: return nearest_of<0>(centroids_t, width, point);
  }
}

void transpose_chunk(const float *centroids, int width, float *out) {
  for (int j = 0; j < kCentroids; j++)
    for (int t = 0; t < width; t++) out[size_t(t) * kCentroids + j] = centroids[size_t(j) * width + t];
}

}  // namespace

void kmeans_chunk(const float *x, size_t n, int width, int iters, float *centroids) {
  std::vector<float> transposed(size_t(width) * kCentroids);
  std::vector<double> sums(size_t(width) * kCentroids);
  std::vector<int64_t> sizes(kCentroids);
  for (int iter = 0; iter < iters; iter++) {
    transpose_chunk(centroids, width, transposed.data());
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(sizes.begin(), sizes.end(), 0);
    for (size_t i = 0; i < n; i++) {
      const int j = nearest(transposed.data(), width, x + i * width);
      sizes[j]++;
      for (int t = 0; t < width; t++) sums[size_t(j) * width + t] += double(x[i * width + t]);
    }
    for (int j = 0; j < kCentroids; j++)
      if (sizes[j])
        for (int t = 0; t < width; t++)
          centroids[size_t(j) * width + t] = float(sums[size_t(j) * width + t] / double(sizes[j]));
    // An empty cluster takes half of the largest: both become its centre, moved apart by a thousandth.
    for (int j = 0; j < kCentroids; j++) {
      if (sizes[j]) continue;
      const int from = int(std::max_element(sizes.begin(), sizes.end()) - sizes.begin());
      if (sizes[from] < 2) break;
      for (int t = 0; t < width; t++) {
        float &theirs = centroids[size_t(from) * width + t], &mine = centroids[size_t(j) * width + t];
        const float shift = t % 2 ? -1.0f / 1024 : 1.0f / 1024;
        mine = theirs * (1 + shift);
        theirs = theirs * (1 - shift);
      }
      sizes[j] = sizes[from] / 2;
      sizes[from] -= sizes[j];
    }
  }
}

void pq_encode(const float *centroids, const int *offsets, int chunks, int d, const float *x, size_t n, uint8_t *codes) {
  std::vector<float> transposed(size_t(d) * kCentroids);
  pq_transpose(centroids, d, transposed.data());
  for (size_t i = 0; i < n; i++)
    for (int c = 0; c < chunks; c++)
      codes[i * chunks + c] = uint8_t(nearest(&transposed[size_t(offsets[c]) * kCentroids], offsets[c + 1] - offsets[c],
                                              x + i * d + offsets[c]));
}

}  // namespace pg
