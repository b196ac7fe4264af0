// The two inner loops of the neighbour sketches (knn.py): nearest leaders of points, all pairs inside a bucket.
#pragma once

#include "graph.h"

namespace pg {

// nearest (count, fanout): positions in `leaders`, by (distance, position).
void nearest_leaders(const Vectors &x, const uint32_t *points, size_t count, const uint32_t *leaders, size_t n_leaders,
                     int fanout, int threads, uint32_t *nearest);

// best (n, k): keys (graph.h) of the k nearest seen so far, ascending, filled up with ~0; each id once.
void bucket_neighbours(const Vectors &x, const uint32_t *bucket, size_t count, int k, Key *best);

}  // namespace pg
