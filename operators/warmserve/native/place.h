// Evict-aware placement; placement.py says what is computed and is the stand-in with the same results.
#pragma once
#include <cstdint>
#include <vector>

namespace warmserve {

struct Lying {
  uint64_t mask;
  int32_t model, size;
  double score;
};

struct Newcomer {
  int32_t model, tp;
  int64_t need;
  double score;
  int32_t node = -1;
  uint64_t mask = 0;
  bool master = false;
};

// Places newcomers in order; `nodes` and `free` (bytes, nodes x gpus) change as they are placed.
void place(std::vector<std::vector<Lying>> &nodes, std::vector<int64_t> &free, int gpus, std::vector<Newcomer> &news);

}  // namespace warmserve
