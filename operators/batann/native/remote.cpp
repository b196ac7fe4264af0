// The RPC mode (DistributedANN): the state stays, the owners of the chosen nodes read and score them and answer.
//
// The answer holds, for each record, the exact distance, its degree and the neighbours not above the threshold (the
// orchestrator's worst entry). Neighbours above it could not enter the beam, and all of them are new to it, so the
// count of PQ distances is the same as on one server.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "job.h"

namespace pg {

void Engine::ask_remote(Job& job) {
  State& s = job.s;
  job.remote.resize(job.batch.size());
  for (Remote& remote : job.remote) remote.there = false, remote.near.clear();
  const float threshold =
      s.beam.size() == s.head.L ? s.beam.back().dist : std::numeric_limits<float>::infinity();
  std::vector<int> parts;
  for (const Batch& item : job.batch)
    if (!parts_[item.part] && std::find(parts.begin(), parts.end(), item.part) == parts.end())
      parts.push_back(item.part);
  if (parts.empty()) return;
  job.ticket = ++ticket_;
  asking_[job.ticket] = &job;
  const int64_t now = now_ns();
  const uint64_t left = job.deadline_ns == INT64_MAX ? NO_BUDGET : uint64_t(std::max<int64_t>(0, job.deadline_ns - now)) / 1000;
  for (int part : parts) {
    std::vector<uint32_t> ids;
    for (const Batch& item : job.batch)
      if (item.part == part) ids.push_back(item.id);
    std::string body;
    put(body, RpcRequest{job.ticket, s.head.query_id, left, s.head.attempt, uint8_t(config_.server_id),
                         uint8_t(ids.size()), threshold});
    put_all(body, ids.data(), ids.size());
    s.head.bytes_sent += uint32_t(body.size());
    job.pending_remote++;
    events_.push_back({Kind::rpc_request, uint64_t(part), s.head.query_id, std::move(body)});
  }
}

std::string Engine::submit_rpc(const uint8_t* body, size_t size, std::string&& query) {
  RpcRequest request;
  if (size < sizeof request) return "shorter than a header";
  std::memcpy(&request, body, sizeof request);
  if (size != sizeof request + 4ull * request.count || !request.count || request.count > MAX_W) return "wrong size";
  Job& job = make_job(std::move(query));
  job.serves_rpc = true;
  job.ticket = request.ticket, job.origin = request.origin, job.threshold = request.threshold;
  job.s.head = StateHeader{};
  job.s.head.query_id = request.query_id;
  job.s.beam.clear(), job.s.full.clear();
  for (int i = 0; i < request.count; i++) {
    uint32_t id;
    std::memcpy(&id, body + sizeof request + 4 * i, 4);
    const int part = id < memory_.n ? memory_.part_of[id] : -1;
    const bool twice = std::any_of(job.batch.begin(), job.batch.end(), [&](const Batch& b) { return b.id == id; });
    if (part < 0 || !parts_[part] || twice) {
      release(job);
      return "node is not on this server";
    }
    job.batch.push_back({id, part});
  }
  rpc_jobs_++;
  const int64_t now = now_ns();
  begin(job, now);
  job.issued_ns = job.granted_ns = now;
  job.reads.resize(job.batch.size());
  while (job.pages.size() < job.batch.size() && config_.io != Io::mem) job.pages.push_back(make_page());
  for (const Batch& item : job.batch)
    if (!issue(job, item.id)) job.bad = Reason::corrupt;
  if (!job.pending_local) ready_.push_back(&job);
  return "";
}

void Engine::answer_rpc(Job& job) {
  std::string body;
  put(body, RpcReply{job.ticket, job.s.head.query_id, uint8_t(job.bad), uint8_t(job.bad == Reason::none ? job.batch.size() : 0)});
  const uint8_t* query = reinterpret_cast<const uint8_t*>(job.query.data());
  const size_t vector_bytes = memory_.item_bytes * size_t(memory_.d);
  std::vector<Visited> near;
  for (const Batch& item : job.batch) {
    if (job.bad != Reason::none) break;
    const uint8_t* record = item.sector + item.in_sector;
    uint32_t degree;
    std::memcpy(&degree, record + vector_bytes, 4);
    degree = std::min<uint32_t>(degree, uint32_t(memory_.max_degree));
    near.clear();
    for (uint32_t j = 0; j < degree; j++) {
      uint32_t id;
      std::memcpy(&id, record + vector_bytes + 4 + 4 * j, 4);
      if (id >= memory_.n) continue;
      const float dist = pq_distance(job.lut.data(), memory_.codes + size_t(id) * memory_.chunks, memory_.chunks);
      if (dist <= job.threshold) near.push_back({id, dist});
    }
    put(body, RpcRecord{item.id, memory_.distance(record, query, memory_.d), uint16_t(degree), uint16_t(near.size())});
    put_all(body, near.data(), near.size());
  }
  counters_.rpc_served++;
  events_.push_back({Kind::rpc_reply, uint64_t(job.origin), job.s.head.query_id, std::move(body)});
  rpc_jobs_--;
  release(job);
}

std::string Engine::rpc_reply(const uint8_t* body, size_t size) {
  RpcReply reply;
  if (size < sizeof reply) return "shorter than a header";
  std::memcpy(&reply, body, sizeof reply);
  auto found = asking_.find(reply.ticket);
  if (found == asking_.end() || found->second->s.head.query_id != reply.query_id) return "";  // late: nobody waits
  Job& job = *found->second;
  const uint8_t *at = body + sizeof reply, *end = body + size;
  if (reply.status) job.bad = Reason(reply.status);
  for (int i = 0; i < reply.count; i++) {
    RpcRecord record;
    if (end - at < long(sizeof record)) return "truncated reply";
    std::memcpy(&record, at, sizeof record);
    at += sizeof record;
    if (end - at < long(8 * record.near)) return "truncated reply";
    for (size_t slot = 0; slot < job.batch.size(); slot++) {
      if (job.batch[slot].id != record.id || job.batch[slot].sector) continue;
      Remote& remote = job.remote[slot];
      remote.there = true, remote.exact = record.exact, remote.degree = record.degree;
      remote.near.resize(record.near);
      if (record.near) std::memcpy(remote.near.data(), at, 8ull * record.near);
    }
    at += 8ull * record.near;
  }
  if (--job.pending_remote == 0) {
    asking_.erase(found);
    if (!job.pending_local) arrived(job, now_ns());
  }
  return "";
}

void Engine::score_remote(Job& job, size_t slot, size_t& best) {
  const Remote& remote = job.remote[slot];
  State& s = job.s;
  if (!remote.there) return;
  s.full.push_back({job.batch[slot].id, remote.exact});
  s.head.exact_dists++;
  s.head.pq_dists += remote.degree - uint32_t(remote.near.size());
  for (const Visited& near : remote.near)
    if (near.id < memory_.n) s.head.pq_dists += insert(s, near.id, near.dist, best);
}

}  // namespace pg
