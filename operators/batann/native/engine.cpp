#include "engine.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <system_error>

#include "job.h"

namespace pg {

namespace {

int64_t clock_ns(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return int64_t(t.tv_sec) * 1000000000 + t.tv_nsec;
}

// What the thread has worked, whatever else the machine did meanwhile.
int64_t cpu_ns() { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }

}  // namespace

int64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }

Engine::Engine(const Memory& memory, const Config& config)
    : memory_(memory), config_(config), bucket_(config.iops_cap, config.burst), query_float_(memory.d) {
  ticket_ = uint64_t(config.thread) << 56;
  if (config.io == Io::uring) disk_ = make_uring(256);
  if (config.io == Io::pread) disk_ = make_threads(16);
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (epoll_ < 0 || timer_ < 0) throw std::system_error(errno, std::generic_category(), "epoll, timerfd");
  for (int fd : {timer_, disk_ ? disk_->fd() : -1}) {
    epoll_event event{};
    event.events = EPOLLIN;
    if (fd >= 0 && epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0)
      throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  }
}

Engine::~Engine() {
  disk_.reset();  // waits for reads in flight before their buffers go
  for (auto& part : parts_)
    if (part && part->fd >= 0) close(part->fd);
  close(timer_);
  close(epoll_);
}

void Engine::add_part(int part, int fd, const uint32_t* ids, size_t count, const uint32_t* crc, const uint8_t* mapped) {
  parts_[part] = std::make_unique<Part>(Part{fd, ids, count, crc, mapped, {}});
}

void Engine::keep_sectors(int part, const uint64_t* numbers, size_t count, const uint8_t* bytes) {
  for (size_t i = 0; i < count; i++) parts_[part]->kept[numbers[i]] = bytes + i * SECTOR;
}

Engine::Job& Engine::make_job(std::string&& query) {
  if (free_jobs_.empty()) {
    jobs_.push_back(std::make_unique<Job>());
    jobs_.back()->lut.resize(size_t(memory_.chunks) * 256);
    free_jobs_.push_back(jobs_.back().get());
  }
  Job& job = *free_jobs_.back();
  free_jobs_.pop_back();
  job.query = std::move(query);
  job.trace.clear(), job.batch.clear();
  job.pending_local = job.pending_remote = 0;
  job.spent_ns = 0, job.bad = Reason::none, job.ticket = 0, job.fresh = true, job.serves_rpc = false;
  job.came_ns = now_ns();
  return job;
}

void Engine::submit(State&& state, std::string&& query) {
  Job& job = make_job(std::move(query));
  job.s = std::move(state);
  const uint64_t budget = job.s.head.budget_us;
  job.deadline_ns = budget > uint64_t(INT64_MAX) / 2000 ? INT64_MAX : job.came_ns + int64_t(budget) * 1000;
  job.s.history.push_back(uint8_t(config_.server_id));
  counters_.submitted++;
  inbox_.push_back(&job);
}

void Engine::release(Job& job) { free_jobs_.push_back(&job); }

// A state has gone from here, one way or another.
void Engine::end_live(Job& job) {
  live_--;
  release(job);
}

void Engine::account(Job& job, int64_t now) {
  StateHeader& h = job.s.head;
  h.total_us += uint64_t(now - job.came_ns) / 1000;
  const uint64_t cpu_us = uint64_t(job.spent_ns + cpu_ns() - job.began_ns) / 1000;
  h.cpu_us += cpu_us;
  counters_.busy_us += cpu_us;
  if (h.budget_us != NO_BUDGET) {
    const uint64_t used = uint64_t(now - job.came_ns) / 1000;
    h.budget_us = used < h.budget_us ? h.budget_us - used : 0;
  }
}

Reason Engine::over_budget(const Job& job, int64_t now) const {
  if (now >= job.deadline_ns) return Reason::deadline;
  if (!job.s.head.hops_left) return Reason::hops;
  return Reason::none;
}

void Engine::begin(Job& job, int64_t now) {
  StateHeader& h = job.s.head;
  h.queue_us += uint64_t(now - job.came_ns) / 1000;
  job.fresh = false;
  const uint8_t* query = reinterpret_cast<const uint8_t*>(job.query.data());
  as_float(memory_, query, query_float_.data());
  pq_lut_transposed(memory_.centroids, memory_.offsets, memory_.chunks, query_float_.data(), job.lut.data());
  if (job.serves_rpc) return;
  if (job.s.beam.empty()) {
    start_beam(memory_, query, job.lut.data(), job.s);
    h.head_us += uint32_t((cpu_ns() - job.began_ns) / 1000);
  }
  if (!h.w_now) h.w_now = h.flags & ADAPTIVE ? 1 : h.W;
}

// Go on until the state waits for reads, has left or has ended.
void Engine::advance(Job& job, int64_t now) {
  State& s = job.s;
  if (Reason reason = over_budget(job, now); reason != Reason::none) return finish(job, Status::partial, reason, now);
  choose(s, s.head.w_now, chosen_);
  if (chosen_.empty()) return finish(job, Status::ok, Reason::none, now);
  job.batch.clear();
  const bool rpc = s.head.flags & RPC;
  for (int at : chosen_) {
    Candidate& c = s.beam[at];
    const int part = memory_.part_of[c.id];
    if (!rpc && !parts_[part]) continue;
    c.explored = 1;
    job.batch.push_back({c.id, part});
  }
  if (job.batch.empty()) return leave(job, memory_.part_of[s.beam[chosen_[0]].id], now);
  job.issued_ns = job.granted_ns = now;
  job.pending_local = job.pending_remote = 0;
  job.reads.resize(job.batch.size());
  while (job.pages.size() < job.batch.size() && config_.io != Io::mem) job.pages.push_back(make_page());
  for (const Batch& item : job.batch)
    if (parts_[item.part] && !issue(job, item.id)) job.bad = Reason::corrupt;
  if (rpc) ask_remote(job);
  if (!job.pending_local && !job.pending_remote) ready_.push_back(&job);
}

// Ask for the sector of one node of this server; false when the node is not in the partition the map names.
bool Engine::issue(Job& job, uint32_t id) {
  size_t slot = 0;
  while (job.batch[slot].id != id) slot++;
  Batch& item = job.batch[slot];
  const Part& part = *parts_[item.part];
  const uint32_t* found = std::lower_bound(part.ids, part.ids + part.count, id);
  if (found == part.ids + part.count || *found != id) {
    last_error_ = "node " + std::to_string(id) + " is not in partition " + std::to_string(item.part);
    return false;
  }
  const uint64_t place = uint64_t(found - part.ids);
  item.number = place / uint64_t(config_.per_sector);
  item.in_sector = uint32_t(place % uint64_t(config_.per_sector)) * uint32_t(config_.record_bytes);
  if (auto kept = part.kept.find(item.number); kept != part.kept.end()) {
    item.sector = kept->second;
    counters_.cached++;
    return true;
  }
  Read& read = job.reads[slot];
  read.fd = part.fd, read.offset = item.number * SECTOR, read.owner = &job, read.index = int(slot);
  item.sector = part.mapped ? part.mapped + read.offset : job.pages[slot].get();
  read.buffer = const_cast<uint8_t*>(item.sector);
  job.pending_local++;
  tokens_.push_back(&read);
  return true;
}

// Reads that the meter lets through go to the disk.
void Engine::grant(int64_t now) {
  while (!tokens_.empty() && bucket_.take(now)) {
    Read* read = tokens_.front();
    tokens_.pop_front();
    static_cast<Job*>(read->owner)->granted_ns = now;
    counters_.reads++;
    in_flight_++;
    if (disk_) {
      disk_->queue(read);
    } else {
      read->result = int(SECTOR);
      done_.push_back(read);
    }
  }
  if (disk_) disk_->submit();
}

void Engine::completed(Read* read, int64_t now) {
  Job& job = *static_cast<Job*>(read->owner);
  const Batch& item = job.batch[size_t(read->index)];
  in_flight_--;
  job.pending_local--;
  const uint32_t* crc = parts_[item.part]->crc;
  const bool whole = read->result == int(SECTOR);
  if (!whole || (config_.verify_reads && crc && crc32(item.sector, SECTOR) != crc[item.number])) {
    job.bad = whole || read->result >= 0 ? Reason::corrupt : Reason::io_error;
    counters_.bad_sectors++;
    last_error_ = "partition " + std::to_string(item.part) + ", sector " + std::to_string(item.number) + ": " +
                  (whole ? "wrong checksum" : read->result < 0 ? std::strerror(-read->result) : "file too short");
  }
  if (!job.pending_local && !job.pending_remote) arrived(job, now);
}

void Engine::arrived(Job& job, int64_t now) {
  const int64_t due = job.granted_ns + config_.read_latency_us * 1000;
  if (config_.read_latency_us && now < due) late_.emplace(due, &job);
  else ready_.push_back(&job);
}

// Everything a batch brought is scored in the order the nodes were chosen.
bool Engine::score(Job& job) {
  State& s = job.s;
  const uint8_t* query = reinterpret_cast<const uint8_t*>(job.query.data());
  size_t best = s.head.L;
  for (size_t slot = 0; slot < job.batch.size(); slot++) {
    const Batch& item = job.batch[slot];
    s.head.reads++;
    if (!item.sector) {
      score_remote(job, slot, best);
    } else if (!score_record(memory_, item.sector + item.in_sector, item.id, query, job.lut.data(), s, best)) {
      return false;
    }
    if (s.head.flags & TRACE) job.trace.emplace_back(item.id, uint32_t((job.issued_ns - job.came_ns) / 1000));
  }
  s.head.hops++, s.head.hops_left--;
  // Adaptive width: once a hop no longer finds anything among the best k, look wider.
  if ((s.head.flags & ADAPTIVE) && best >= s.head.k) s.head.w_now = std::min<uint16_t>(s.head.W, s.head.w_now * 2);
  return true;
}

void Engine::process(Job& job, int64_t now) {
  job.began_ns = cpu_ns();
  job.s.head.io_us += uint64_t(now - job.issued_ns) / 1000;
  if (job.serves_rpc) return answer_rpc(job);
  if (job.bad == Reason::deadline) return finish(job, Status::partial, job.bad, now);
  if (job.bad != Reason::none) return finish(job, Status::failed, job.bad, now);
  if (!job.batch.empty() && !score(job)) {
    last_error_ = "a record of this query is no record of this index";
    return finish(job, Status::failed, Reason::corrupt, now);
  }
  advance(job, now);
  job.spent_ns += cpu_ns() - job.began_ns;
}

// The baton: nothing that is left to explore first lies here, so the state goes to the owner of the best of it.
void Engine::leave(Job& job, int part, int64_t now) {
  StateHeader& h = job.s.head;
  if (!h.handoffs_left) return finish(job, Status::partial, Reason::handoffs, now);
  h.handoffs_left--;
  emit_trace(job);
  const uint64_t client = uint64_t(h.client_ip) << 16 | h.client_port;
  if (h.flags & GATHER) {
    std::string body;
    put(body, PartHeader{h.query_id, h.attempt, uint16_t(job.s.history.size() - 1), uint32_t(job.s.full.size())});
    put_all(body, job.s.full.data(), job.s.full.size());
    h.bytes_sent += uint32_t(body.size());
    job.s.full.clear();
    events_.push_back({Kind::part, client, h.query_id, std::move(body)});
  }
  account(job, now);
  h.bytes_sent += uint32_t(state_size(job.s));
  std::string body;
  write_state(job.s, body);
  counters_.left++;
  events_.push_back({Kind::handoff, uint64_t(part), h.query_id, std::move(body)});
  end_live(job);
}

void Engine::emit_trace(Job& job) {
  const StateHeader& h = job.s.head;
  if (!(h.flags & TRACE)) return;
  std::string body;
  put(body, TraceHeader{h.query_id, h.attempt, uint16_t(job.s.history.size() - 1), uint8_t(config_.server_id),
                        uint32_t(job.trace.size())});
  put_all(body, job.trace.data(), job.trace.size());
  events_.push_back({Kind::trace, uint64_t(h.client_ip) << 16 | h.client_port, h.query_id, std::move(body)});
}

void Engine::finish(Job& job, Status status, Reason reason, int64_t now) {
  StateHeader& h = job.s.head;
  emit_trace(job);
  account(job, now);
  auto& full = job.s.full;
  const bool gather = h.flags & GATHER;
  std::sort(full.begin(), full.end(), [](const Visited& a, const Visited& b) {
    return a.dist < b.dist || (a.dist == b.dist && a.id < b.id);
  });
  const size_t found = std::min<size_t>(h.k, full.size());
  std::string body;
  const uint32_t n_full = gather ? uint32_t(full.size()) : 0;
  h.bytes_sent += uint32_t(sizeof(ResultHeader) + 8 * found + job.s.history.size() + 8 * n_full);
  put(body, ResultHeader{h.query_id, h.attempt, uint8_t(status), uint8_t(reason), uint16_t(found),
                         uint16_t(job.s.history.size()), uint8_t(config_.server_id), uint8_t(gather), h.hops, h.reads,
                         h.pq_dists, h.exact_dists, h.bytes_sent, n_full, h.total_us, h.io_us, h.queue_us, h.cpu_us,
                         h.head_us});
  for (size_t i = 0; i < found; i++) put(body, full[i].id);
  for (size_t i = 0; i < found; i++) put(body, full[i].dist);
  put_all(body, job.s.history.data(), job.s.history.size());
  if (gather) put_all(body, full.data(), full.size());
  (status == Status::failed ? counters_.failed : counters_.finished)++;
  events_.push_back({Kind::result, uint64_t(h.client_ip) << 16 | h.client_port, h.query_id, std::move(body)});
  end_live(job);
}

bool Engine::may_refill() const {
  if (config_.refill == Refill::one) return live_ < size_t(config_.live);
  return !live_;
}

void Engine::refill(int64_t now) {
  if (!may_refill()) return;
  const size_t room = config_.refill == Refill::single ? 1 : size_t(config_.live);
  while (!inbox_.empty() && live_ < room) {
    Job& job = *inbox_.front();
    inbox_.pop_front();
    counters_.live_max = std::max<uint64_t>(counters_.live_max, ++live_);
    job.began_ns = cpu_ns();
    begin(job, now);
    advance(job, now);
    job.spent_ns += cpu_ns() - job.began_ns;
  }
}

void Engine::expire(int64_t now) {
  for (auto at = asking_.begin(); at != asking_.end();) {
    Job& job = *at->second;
    if (now < job.deadline_ns) {
      ++at;
      continue;
    }
    at = asking_.erase(at);
    job.pending_remote = 0;
    job.bad = Reason::deadline;
    if (!job.pending_local) ready_.push_back(&job);
  }
}

void Engine::poll(bool wait) {
  if (wait) wait_for_something();
  uint64_t expirations;
  if (armed_ns_ >= 0 && read(timer_, &expirations, sizeof expirations) > 0) armed_ns_ = -1;
  while (true) {
    const int64_t now = now_ns();
    grant(now);
    if (disk_) disk_->reap(done_, false);
    for (size_t i = 0; i < done_.size(); i++) completed(done_[i], now);
    done_.clear();
    while (!late_.empty() && late_.begin()->first <= now) {
      ready_.push_back(late_.begin()->second);
      late_.erase(late_.begin());
    }
    if (!asking_.empty()) expire(now);
    while (!ready_.empty()) {
      Job& job = *ready_.front();
      ready_.pop_front();
      process(job, now);
    }
    refill(now);
    const bool granting = !tokens_.empty() && bucket_.next_ns(now) <= now;
    if (ready_.empty() && done_.empty() && !granting) break;
  }
  arm(now_ns());
}

// For a caller without sockets: block until a read has come back or the meter lets the next one through.
void Engine::wait_for_something() {
  if (!ready_.empty() || !done_.empty() || (!inbox_.empty() && may_refill())) return;
  if (!tokens_.empty() || !late_.empty() || !in_flight_ || !disk_) {
    epoll_event event;
    epoll_wait(epoll_, &event, 1, tokens_.empty() && late_.empty() ? 0 : 100);
  } else {
    disk_->reap(done_, true);
  }
}

void Engine::wake_at(int64_t ns) {
  if (ns == wake_ns_) return;
  wake_ns_ = ns;
  arm(now_ns());
}

void Engine::arm(int64_t now) {
  int64_t next = wake_ns_ > 0 ? wake_ns_ : INT64_MAX;
  if (!tokens_.empty()) next = std::min(next, bucket_.next_ns(now));
  if (!late_.empty()) next = std::min(next, late_.begin()->first);
  for (const auto& [ticket, job] : asking_) next = std::min(next, job->deadline_ns);
  if (!ready_.empty()) next = now;
  if (next == INT64_MAX || next == armed_ns_) return;
  armed_ns_ = next;
  const int64_t due = std::max(next, now + 1);
  itimerspec when{};
  when.it_value.tv_sec = due / 1000000000, when.it_value.tv_nsec = due % 1000000000;
  timerfd_settime(timer_, TFD_TIMER_ABSTIME, &when, nullptr);
}

std::string Engine::validate() const {
  if (live_ > size_t(config_.live)) return "more live states than allowed";
  if (counters_.submitted != counters_.finished + counters_.failed + counters_.left + inbox_.size() + live_)
    return "submitted != finished + failed + left + waiting + live";
  if (jobs_.size() != free_jobs_.size() + inbox_.size() + live_ + rpc_jobs_) return "a job is lost";
  return "";
}

}  // namespace pg
