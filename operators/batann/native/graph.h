// In-memory graph and beam search on it (search.cpp), pruning (prune.cpp) and building (vamana.cpp).
//
// Beam entries and candidates are one 64-bit key: distance bits | id << 1 | explored. Distances are never negative, so
// float bits order as integers do, and ties fall to the smaller id; sorting and comparing a beam is integer work.
// Ids are below 2^31.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "distance.h"

namespace pg {

struct Vectors {
  const char *data;
  size_t n;
  int d;
  int bytes;  // of one vector
  DistanceFn fn;

  const void *at(size_t i) const { return data + i * size_t(bytes); }
  float between(size_t i, size_t j) const { return fn(at(i), at(j), d); }
};

struct Graph {
  uint32_t *adj;  // (n, capacity)
  uint16_t *deg;  // (n,)
  size_t n;
  int capacity;

  uint32_t *of(size_t i) const { return adj + i * size_t(capacity); }
};

using Key = uint64_t;

inline Key key_of(float dist, uint32_t id) {
  uint32_t bits;
  std::memcpy(&bits, &dist, 4);
  return Key(bits) << 32 | Key(id) << 1;
}
inline uint32_t id_of(Key key) { return uint32_t(key) >> 1; }
inline float dist_of(Key key) {
  const uint32_t bits = uint32_t(key >> 32);
  float dist;
  std::memcpy(&dist, &bits, 4);
  return dist;
}

// What one thread needs for searches: the beam, which nodes were met (undone after each search), fresh neighbours.
struct Scratch {
  std::vector<Key> beam;
  std::vector<Key> explored;  // in order of exploration, when asked for
  std::vector<uint64_t> met;
  std::vector<uint32_t> touched, fresh;
  uint32_t hops = 0, distances = 0;

  explicit Scratch(size_t n) : met((n + 63) / 64) {}

  bool meet(uint32_t id) {
    uint64_t &word = met[id >> 6];
    const uint64_t bit = uint64_t(1) << (id & 63);
    if (word & bit) return false;
    word |= bit;
    touched.push_back(id);
    return true;
  }
  void forget() {
    for (const uint32_t id : touched) met[id >> 6] = 0;
    touched.clear();
  }
};

// Best-first search with a beam of L from `starts`. Leaves the beam (sorted, at most L keys) and, with keep_explored,
// every explored node in `s`; counts hops (explored nodes) and distances.
void beam_search(const Vectors &x, const Graph &g, const void *query, const uint32_t *starts, size_t n_starts, int L,
                 bool keep_explored, Scratch &s);

struct PruneScratch {
  std::vector<Key> pool;
  std::vector<char> near;  // candidates' vectors, side by side
  std::vector<float> closest;
  std::vector<uint8_t> chosen;
};

// Robust prune of s.pool (any order; p itself and doubles are left out) to at most R ids in `out`; returns how many.
int robust_prune(const Vectors &x, uint32_t p, int R, float alpha, PruneScratch &s, uint32_t *out);

// Insert `batch` (ids not yet in the graph) searched on the graph as it is, then the reverse edges. Lists may grow to
// the graph's capacity (> R) before they are pruned.
void insert_batch(const Vectors &x, const Graph &g, uint32_t medoid, const uint32_t *batch, size_t count, int R, int L,
                  float alpha, int threads);

// Prune every list that is longer than R.
void trim(const Vectors &x, const Graph &g, int R, float alpha, int threads);

// Make every node reachable from the medoid; returns how many nodes got an edge for it.
size_t connect(const Vectors &x, const Graph &g, uint32_t medoid, int R, int L);

}  // namespace pg
