// Own multilevel graph partitioner: blocks of near-equal weight with few edges between them.
//
// Coarsening by size-constrained label propagation (multilevel.cpp), recursive bisection of the coarsest graph by greedy
// growing (bisect.cpp), label propagation and k-way FM on the way up (refine.cpp). One thread and one random stream, so
// a seed gives one partition.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pg {

// Undirected graph as CSR (both directions stored, unit weights); part (n,) gets block numbers. Returns the cut in edges.
size_t multilevel(const int64_t *starts, const int32_t *ends, size_t n, int parts, double eps, uint64_t seed, int trials,
                  int32_t *part);

namespace gp {

struct Random {  // splitmix64
  uint64_t state;
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t bound) { return uint32_t((next() >> 32) * bound >> 32); }
};

std::vector<int32_t> shuffled(size_t n, Random &random);

struct Level {
  std::vector<int64_t> starts;
  std::vector<int32_t> ends, edge_weight, node_weight;
  std::vector<int32_t> coarse;  // node of the next coarser level
  size_t n() const { return node_weight.size(); }
};

// Sums of edge weights from a node to each label, with the labels met; cleared by the caller's next use.
struct Tally {
  std::vector<int64_t> weight;
  std::vector<int32_t> met;
  explicit Tally(size_t labels) : weight(labels, 0) {}
  void clear() {
    for (const int32_t label : met) weight[label] = 0;
    met.clear();
  }
  void add(int32_t label, int64_t w) {
    if (!weight[label]) met.push_back(label);
    weight[label] += w;
  }
  void count(const Level &g, int32_t node, const std::vector<int32_t> &label) {
    clear();
    for (int64_t e = g.starts[node]; e < g.starts[node + 1]; e++) add(label[g.ends[e]], g.edge_weight[e]);
  }
};

// Blocks 0 .. parts - 1 by recursive bisection, the best of `trials` growings at every split.
void bisect(const Level &g, int parts, double eps, int trials, Random &random, std::vector<int32_t> &part);

// Move nodes from blocks above `cap` to others, at the least cost, until none is above or nothing fits.
void rebalance(const Level &g, int parts, const std::vector<int64_t> &cap, std::vector<int32_t> &part);

// k-way FM passes until one gains nothing; never makes a block exceed its cap. Returns the gain.
int64_t refine(const Level &g, int parts, const std::vector<int64_t> &cap, int passes, Random &random,
               std::vector<int32_t> &part);

int64_t cut_of(const Level &g, const std::vector<int32_t> &part);
std::vector<int64_t> block_weights(const Level &g, int parts, const std::vector<int32_t> &part);

}  // namespace gp
}  // namespace pg
