// One search thread of a server: live states, their reads, and what leaves (results, batons, remote reads).
//
// The engine holds at most `live` states; a new one is taken the moment one ends or leaves (refill one), only when all
// have ended (all), or one at a time (single). A state waits for all reads of its batch, then scores, then goes on.
// Nothing here knows a socket: `poll` does what can be done now and leaves events; `fd` becomes readable when there is
// more to do.
#pragma once
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "beam.h"
#include "disk.h"
#include "meter.h"

namespace pg {

enum class Io : int { uring = 0, pread = 1, mem = 2 };
enum class Refill : int { one = 0, all = 1, single = 2 };
enum class Kind : int { result = 0, handoff = 1, rpc_request = 2, rpc_reply = 3, trace = 4, part = 5 };

struct Event {
  Kind kind;
  uint64_t to;  // client address (ip << 16 | port), partition, or server id, by kind
  uint64_t query_id;
  std::string body;
};

struct Config {
  int server_id = 0;
  Io io = Io::uring;
  int live = 8;
  Refill refill = Refill::one;
  double iops_cap = 0, burst = 8;
  int64_t read_latency_us = 0;
  int record_bytes = 0, per_sector = 0;
  bool verify_reads = true;
  int thread = 0;  // of several engines of one server; the top byte of its tickets
};

struct Counters {
  uint64_t submitted = 0, finished = 0, left = 0, failed = 0, reads = 0, cached = 0, rpc_served = 0, bad_sectors = 0, busy_us = 0;
  uint64_t live_max = 0;
};

class Engine {
 public:
  Engine(const Memory& memory, const Config& config);
  ~Engine();
  void add_part(int part, int fd, const uint32_t* ids, size_t count, const uint32_t* crc, const uint8_t* mapped);
  // Sectors of a part that need no read; `bytes` outlive the engine.
  void keep_sectors(int part, const uint64_t* numbers, size_t count, const uint8_t* bytes);
  // The state's bytes were checked by parse_state; `query` holds d elements of the stored type.
  void submit(State&& state, std::string&& query);
  // A remote hop of the RPC mode: the answer leaves as an event for its origin.
  // Both return an empty string, or why the body is refused.
  std::string submit_rpc(const uint8_t* body, size_t size, std::string&& query);
  std::string rpc_reply(const uint8_t* body, size_t size);
  void poll(bool wait);
  std::vector<Event>& events() { return events_; }
  int fd() const { return epoll_; }
  void set_cap(double iops_cap) { bucket_.set_cap(iops_cap); }
  void wake_at(int64_t ns);  // also become readable at this time (CLOCK_MONOTONIC)
  size_t waiting() const { return inbox_.size(); }
  size_t live() const { return live_; }
  bool idle() const { return inbox_.empty() && !live_ && !rpc_jobs_; }
  const Counters& counters() const { return counters_; }
  bool owns(int part) const { return parts_[part] != nullptr; }
  const Memory& memory() const { return memory_; }
  const std::string& last_error() const { return last_error_; }
  std::string validate() const;  // an empty string, or the invariant that is broken

 private:
  struct Part {
    int fd;
    const uint32_t* ids;
    size_t count;
    const uint32_t* crc;
    const uint8_t* mapped;
    std::unordered_map<uint64_t, const uint8_t*> kept;  // by sector number
  };
  struct Job;

  void begin(Job& job, int64_t now);
  void advance(Job& job, int64_t now);
  void process(Job& job, int64_t now);
  bool issue(Job& job, uint32_t id);
  void completed(Read* read, int64_t now);
  void arrived(Job& job, int64_t now);
  bool score(Job& job);
  void score_remote(Job& job, size_t slot, size_t& best);
  void leave(Job& job, int part, int64_t now);
  void finish(Job& job, Status status, Reason reason, int64_t now);
  void ask_remote(Job& job);
  void answer_rpc(Job& job);
  void emit_trace(Job& job);
  void account(Job& job, int64_t now);
  void release(Job& job);
  void end_live(Job& job);
  bool may_refill() const;
  void refill(int64_t now);
  void grant(int64_t now);
  void arm(int64_t now);
  void wait_for_something();
  Job& make_job(std::string&& query);
  Reason over_budget(const Job& job, int64_t now) const;
  void expire(int64_t now);

  Memory memory_;
  Config config_;
  std::array<std::unique_ptr<Part>, 256> parts_;
  std::unique_ptr<Disk> disk_;
  TokenBucket bucket_;
  int epoll_ = -1, timer_ = -1;
  int64_t wake_ns_ = 0, armed_ns_ = -1;
  size_t live_ = 0, rpc_jobs_ = 0;
  std::deque<Job*> inbox_;                                  // states that are not live yet
  std::deque<Job*> ready_;                                  // all their reads have arrived
  std::deque<Read*> tokens_;                                // reads that wait for the meter
  std::multimap<int64_t, Job*> late_;                       // batches that wait for the service latency, by due time
  std::unordered_map<uint64_t, Job*> asking_;               // states that wait for remote reads, by ticket
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<Job*> free_jobs_;
  std::vector<Read*> done_;
  std::vector<Event> events_;
  std::vector<int> chosen_;
  std::vector<float> query_float_;
  size_t in_flight_ = 0;                                    // reads given to the disk
  Counters counters_;
  std::string last_error_;
  uint64_t ticket_ = 0;
};

int64_t now_ns();

}  // namespace pg
