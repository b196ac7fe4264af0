// The state of a query as it travels between servers, and the bytes it travels as (the layout is described in state.py).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pg {

constexpr uint32_t STATE_MAGIC = 0x4E544142;  // "BATN"
constexpr uint16_t STATE_VERSION = 1;
constexpr uint64_t NO_BUDGET = ~0ull;
constexpr int MAX_L = 2048, MAX_W = 64;

enum Flag : uint16_t { TRACE = 1, ADAPTIVE = 2, GATHER = 4, RPC = 8 };
enum class Status : uint8_t { ok = 0, partial = 1, failed = 2 };
enum class Reason : uint8_t {
  none = 0, deadline = 1, hops = 2, handoffs = 3, corrupt = 4, io_error = 5, partition_down = 6, no_vector = 7,
  stale_epoch = 8, busy = 9, malformed = 10,
};

#pragma pack(push, 1)
struct StateHeader {
  uint32_t magic = STATE_MAGIC;
  uint16_t version = STATE_VERSION, flags = 0;
  uint64_t query_id = 0;
  uint16_t attempt = 0, k = 0, L = 0, W = 0, w_now = 0, mem_l = 0, handoffs_left = 0, n_history = 0;
  uint64_t epoch = 0, budget_us = NO_BUDGET;
  uint32_t hops_left = 0, hops = 0, reads = 0, pq_dists = 0, exact_dists = 0, bytes_sent = 0;
  uint64_t total_us = 0, io_us = 0, queue_us = 0, cpu_us = 0;
  uint32_t client_ip = 0;
  uint16_t client_port = 0, n_beam = 0;
  uint32_t n_full = 0, head_us = 0;
};
struct Candidate {
  uint32_t id;
  float dist;
  uint8_t explored;
};
struct Visited {
  uint32_t id;
  float dist;
};
#pragma pack(pop)
static_assert(sizeof(StateHeader) == 120 && sizeof(Candidate) == 9 && sizeof(Visited) == 8, "wire layout");

struct State {
  StateHeader head;
  std::vector<uint8_t> history;
  std::vector<Candidate> beam;  // sorted by (dist, id), at most L
  std::vector<Visited> full;    // explored nodes, exact distances, in the order of exploration
};

uint32_t crc32(const void* data, size_t size, uint32_t crc = 0);  // zlib's
size_t state_size(const State&);
void write_state(State&, std::string& out);  // sets the counts in the header
// An empty string, or why these bytes are no state.
std::string parse_state(const uint8_t* data, size_t size, State& out);

}  // namespace pg
