// A state that is on this server, or a remote read it serves, with the buffers it needs.
#pragma once
#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"

namespace pg {

struct AlignedFree {
  void operator()(uint8_t* p) const { std::free(p); }
};
using Page = std::unique_ptr<uint8_t, AlignedFree>;

inline Page make_page() {
  void* p = std::aligned_alloc(SECTOR, SECTOR);
  if (!p) throw std::bad_alloc();
  return Page(static_cast<uint8_t*>(p));
}

// A record of another server's, scored there: its neighbours below the threshold.
struct Remote {
  bool there = false;
  float exact = 0;
  uint16_t degree = 0;
  std::vector<Visited> near;
};

struct Batch {
  uint32_t id;
  int part;
  const uint8_t* sector = nullptr;  // where the sector lies once it has arrived; null: another server's
  uint32_t in_sector = 0;           // bytes from the start of the sector to the record
  uint64_t number = 0;              // of the sector
};

struct Engine::Job {
  State s;
  std::string query;       // d elements of the stored type
  std::vector<float> lut;  // (chunks, 256)
  std::vector<Batch> batch;
  std::vector<Read> reads;
  std::vector<Page> pages;
  std::vector<Remote> remote;
  std::vector<std::pair<uint32_t, uint32_t>> trace;  // (node, us since it came here)
  int pending_local = 0, pending_remote = 0;
  int64_t came_ns = 0, began_ns = 0, issued_ns = 0, granted_ns = 0, deadline_ns = 0, spent_ns = 0;
  bool fresh = true, serves_rpc = false;
  Reason bad = Reason::none;
  uint64_t ticket = 0;  // of the remote reads it waits for, or that it serves
  int origin = 0;
  float threshold = 0;
};

#pragma pack(push, 1)
struct RpcRequest {
  uint64_t ticket, query_id, budget_us;
  uint16_t attempt;
  uint8_t origin, count;
  float threshold;
};
struct RpcReply {
  uint64_t ticket, query_id;
  uint8_t status, count;
};
struct RpcRecord {
  uint32_t id;
  float exact;
  uint16_t degree, near;
};
struct ResultHeader {
  uint64_t query_id;
  uint16_t attempt;
  uint8_t status, reason;
  uint16_t k, n_history;
  uint8_t server, flags;
  uint32_t hops, reads, pq_dists, exact_dists, bytes_sent, n_full;
  uint64_t total_us, io_us, queue_us, cpu_us;
  uint32_t head_us;
};
struct TraceHeader {
  uint64_t query_id;
  uint16_t attempt, visit;
  uint8_t server;
  uint32_t count;
};
struct PartHeader {
  uint64_t query_id;
  uint16_t attempt, visit;
  uint32_t count;
};
#pragma pack(pop)

template <class T>
void put(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
void put_all(std::string& out, const T* items, size_t count) {
  if (count) out.append(reinterpret_cast<const char*>(items), count * sizeof(T));
}

}  // namespace pg
