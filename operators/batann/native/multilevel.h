// Own multilevel graph partitioner (multilevel.cpp): blocks of near-equal size with few edges between them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pg {

// Undirected graph as CSR (both directions stored, unit weights); part (n,) gets block numbers. Returns the cut in edges.
size_t multilevel(const int64_t *starts, const int32_t *ends, size_t n, int parts, double eps, uint64_t seed, int trials,
                  int32_t *part);

}  // namespace pg
