// Beam search on one query's state, without I/O: what is scored, inserted and chosen (search.py is the same in Python).
#pragma once
#include <cstdint>
#include <vector>

#include "distance.h"
#include "pq.h"
#include "state.h"

namespace pg {

// What every server holds in memory: PQ codes of all nodes, the map to partitions and the head index.
struct Memory {
  uint64_t epoch = 0;
  uint32_t n = 0, medoid = 0;
  int d = 0, max_degree = 0, chunks = 0;
  Type type = Type::u8;
  size_t item_bytes = 1;
  DistanceFn distance = nullptr;
  const uint8_t* codes = nullptr;       // (n, chunks)
  const uint8_t* part_of = nullptr;     // (n)
  const float* centroids = nullptr;     // (d, 256), transposed
  const int* offsets = nullptr;         // (chunks + 1)
  uint32_t heads = 0, head_medoid = 0;  // nodes of the head index; 0: no head
  int head_degree = 0;
  const uint32_t* head_ids = nullptr;   // (heads) node ids
  const uint32_t* head_adj = nullptr;   // (heads, head_degree), positions in head_ids
  const uint16_t* head_deg = nullptr;   // (heads)
  const uint8_t* head_vectors = nullptr;
};

void as_float(const Memory& memory, const uint8_t* query, float* out);

// Start the beam of a fresh state: the head index's hits re-scored with PQ, or the medoid.
void start_beam(const Memory& memory, const uint8_t* query, const float* lut, State& state);

// Score the record of one explored node: its exact distance into `full`, its new neighbours into the beam.
// False when the record cannot be one of this index. `best` is the smallest position that was filled.
bool score_record(const Memory& memory, const uint8_t* record, uint32_t id, const uint8_t* query, const float* lut,
                  State& state, size_t& best);

// True when the neighbour was new. A node that was in the beam has the same distance, so its place is where it would go.
bool insert(State& state, uint32_t id, float dist, size_t& best);

// Positions in the beam of the first `width` unexplored entries.
void choose(const State& state, int width, std::vector<int>& out);

}  // namespace pg
