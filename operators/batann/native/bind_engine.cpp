// Python's view of the serving half: the engine, the wire check and the token bucket. Built on by engine.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <cstring>
#include <iterator>
#include <optional>

#include "engine.h"
#include "job.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace pg;

namespace {

template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

// Keeps the arrays alive that the engine reads from.
class PyEngine {
 public:
  PyEngine(int n, int d, int type, int max_degree, uint32_t medoid, uint64_t epoch, Array<uint8_t> codes,
           Array<uint8_t> part_of, Array<float> centroids, Array<int32_t> offsets,
           std::optional<std::tuple<Array<uint32_t>, Array<uint32_t>, Array<uint16_t>, nb::bytes, uint32_t>> head,
           const Config& config) {
    const int chunks = int(codes.shape(1));
    memory_.epoch = epoch, memory_.n = uint32_t(n), memory_.d = d, memory_.medoid = medoid;
    memory_.max_degree = max_degree, memory_.chunks = chunks, memory_.type = Type(type);
    memory_.item_bytes = size_t(element_bytes(Type(type))), memory_.distance = distance_fn(Type(type));
    memory_.codes = codes.data(), memory_.part_of = part_of.data();
    offsets_.assign(offsets.data(), offsets.data() + offsets.size());
    transposed_.resize(size_t(d) * 256);
    pq_transpose(centroids.data(), d, transposed_.data());
    memory_.centroids = transposed_.data(), memory_.offsets = offsets_.data();
    keep_ = nb::make_tuple(codes, part_of);
    if (head) {
      auto& [ids, adj, deg, vectors, head_medoid] = *head;
      memory_.heads = uint32_t(ids.size()), memory_.head_ids = ids.data(), memory_.head_adj = adj.data();
      memory_.head_deg = deg.data(), memory_.head_degree = int(adj.shape(1)), memory_.head_medoid = head_medoid;
      memory_.head_vectors = reinterpret_cast<const uint8_t*>(vectors.c_str());
      keep_ = nb::make_tuple(codes, part_of, ids, adj, deg, vectors);
    }
    engine_ = std::make_unique<Engine>(memory_, config);
    query_bytes_ = memory_.item_bytes * size_t(d);
  }

  void add_part(int part, int fd, Array<uint32_t> ids, std::optional<Array<uint32_t>> crc,
                std::optional<Array<uint8_t>> mapped) {
    keep_ = nb::make_tuple(keep_, ids, crc, mapped);
    engine_->add_part(part, fd, ids.data(), ids.size(), crc ? crc->data() : nullptr, mapped ? mapped->data() : nullptr);
  }

  void keep_sectors(int part, Array<uint64_t> numbers, Array<uint8_t> bytes) {
    if (part < 0 || part > 255 || !engine_->owns(part) || bytes.size() != numbers.size() * SECTOR)
      throw nb::value_error("keep_sectors: expected a part of this engine and 4096 bytes a sector");
    keep_ = nb::make_tuple(keep_, numbers, bytes);
    engine_->keep_sectors(part, numbers.data(), numbers.size(), bytes.data());
  }

  std::string submit(nb::bytes state, nb::bytes query) {
    State parsed;
    std::string bad = parse_state(reinterpret_cast<const uint8_t*>(state.c_str()), state.size(), parsed);
    if (!bad.empty()) return bad;
    if (parsed.head.epoch != memory_.epoch) return "stale epoch";
    if (query.size() != query_bytes_) return "wrong vector length";
    for (const Candidate& c : parsed.beam)
      if (c.id >= memory_.n) return "node out of range";
    engine_->submit(std::move(parsed), std::string(query.c_str(), query.size()));
    return "";
  }
  std::string submit_rpc(nb::bytes body, nb::bytes query) {
    if (query.size() != query_bytes_) return "wrong vector length";
    return engine_->submit_rpc(reinterpret_cast<const uint8_t*>(body.c_str()), body.size(),
                               std::string(query.c_str(), query.size()));
  }
  std::string rpc_reply(nb::bytes body) {
    return engine_->rpc_reply(reinterpret_cast<const uint8_t*>(body.c_str()), body.size());
  }
  nb::list poll(bool wait) {
    {
      nb::gil_scoped_release release;
      engine_->poll(wait);
    }
    nb::list out;
    for (const Event& event : engine_->events())
      out.append(nb::make_tuple(int(event.kind), event.to, event.query_id, nb::bytes(event.body.data(), event.body.size())));
    engine_->events().clear();
    return out;
  }
  // Queries of one search, all in flight through this engine; ids and dists (nq, k) and work (nq, WORK) are filled.
  std::string search(Array<uint8_t> queries, int k, int L, int W, int mem_l, int flags,
                     nb::ndarray<uint32_t, nb::c_contig, nb::device::cpu> ids,
                     nb::ndarray<float, nb::c_contig, nb::device::cpu> dists,
                     nb::ndarray<int64_t, nb::c_contig, nb::device::cpu> work) {
    const size_t count = queries.shape(0);
    nb::gil_scoped_release release;
    for (size_t i = 0; i < count; i++) {
      State state;
      state.head.query_id = i, state.head.epoch = memory_.epoch;
      state.head.k = uint16_t(k), state.head.L = uint16_t(L), state.head.W = uint16_t(W);
      state.head.mem_l = uint16_t(mem_l), state.head.flags = uint16_t(flags), state.head.hops_left = ~0u;
      engine_->submit(std::move(state), std::string(reinterpret_cast<const char*>(queries.data()) + i * query_bytes_,
                                                    query_bytes_));
    }
    std::string bad;
    while (!engine_->idle()) {
      engine_->poll(true);
      for (const Event& event : engine_->events()) {
        if (event.kind != Kind::result) continue;
        ResultHeader h;
        std::memcpy(&h, event.body.data(), sizeof h);
        if (h.status == uint8_t(Status::failed)) bad = engine_->last_error();
        const char* at = event.body.data() + sizeof h;
        std::memcpy(ids.data() + h.query_id * k, at, 4ull * h.k);
        std::memcpy(dists.data() + h.query_id * k, at + 4ull * h.k, 4ull * h.k);
        const int64_t all[] = {h.hops, h.reads, h.pq_dists, h.exact_dists, int64_t(h.total_us), int64_t(h.io_us),
                               int64_t(h.queue_us), int64_t(h.cpu_us)};
        std::memcpy(work.data() + h.query_id * std::size(all), all, sizeof all);
      }
      engine_->events().clear();
    }
    return bad;
  }
  // The start of a query's beam (head search), for a client that picks the first server itself.
  nb::bytes start(nb::bytes state, nb::bytes query) {
    State parsed;
    std::string bad = parse_state(reinterpret_cast<const uint8_t*>(state.c_str()), state.size(), parsed);
    if (!bad.empty() || query.size() != query_bytes_) throw nb::value_error(bad.empty() ? "wrong vector length" : bad.c_str());
    std::vector<float> as_floats(size_t(memory_.d)), lut(size_t(memory_.chunks) * 256);
    const uint8_t* q = reinterpret_cast<const uint8_t*>(query.c_str());
    as_float(memory_, q, as_floats.data());
    pq_lut_transposed(memory_.centroids, memory_.offsets, memory_.chunks, as_floats.data(), lut.data());
    start_beam(memory_, q, lut.data(), parsed);
    std::string out;
    write_state(parsed, out);
    return nb::bytes(out.data(), out.size());
  }
  nb::dict counters() const {
    const Counters& c = engine_->counters();
    nb::dict out;
    out["submitted"] = c.submitted, out["finished"] = c.finished, out["left"] = c.left, out["failed"] = c.failed;
    out["reads"] = c.reads, out["cached"] = c.cached, out["rpc_served"] = c.rpc_served, out["bad_sectors"] = c.bad_sectors;
    out["busy_us"] = c.busy_us, out["live_max"] = c.live_max;
    out["waiting"] = engine_->waiting(), out["live"] = engine_->live();
    return out;
  }
  Engine& engine() { return *engine_; }

 private:
  Memory memory_;
  std::vector<float> transposed_;
  std::vector<int> offsets_;
  nb::object keep_;
  std::unique_ptr<Engine> engine_;
  size_t query_bytes_ = 0;
};

Config make_config(int server_id, int io, int live, int refill, double iops_cap, double burst, int64_t read_latency_us,
                   int record_bytes, int per_sector, bool verify_reads, int thread) {
  Config c;
  c.server_id = server_id, c.io = Io(io), c.live = live, c.refill = Refill(refill), c.iops_cap = iops_cap;
  c.burst = burst, c.read_latency_us = read_latency_us, c.record_bytes = record_bytes, c.per_sector = per_sector;
  c.verify_reads = verify_reads, c.thread = thread;
  return c;
}

std::string check_state(nb::bytes state) {
  State parsed;
  return parse_state(reinterpret_cast<const uint8_t*>(state.c_str()), state.size(), parsed);
}

// Parse, check and write again: both ends of a hand-off.
nb::bytes rewrite_state(nb::bytes state) {
  State parsed;
  std::string bad = parse_state(reinterpret_cast<const uint8_t*>(state.c_str()), state.size(), parsed);
  if (!bad.empty()) throw nb::value_error(bad.c_str());
  std::string out;
  write_state(parsed, out);
  return nb::bytes(out.data(), out.size());
}

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<Config>(m, "EngineConfig");
  m.def("engine_config", &make_config, "server_id"_a, "io"_a, "live"_a, "refill"_a, "iops_cap"_a, "burst"_a,
        "read_latency_us"_a, "record_bytes"_a, "per_sector"_a, "verify_reads"_a, "thread"_a = 0);
  m.def("check_state", &check_state, "Why these bytes are no state; empty when they are one.", "state"_a);
  m.def("rewrite_state", &rewrite_state, "state"_a);
  m.def("crc32", [](nb::bytes data) { return crc32(data.c_str(), data.size()); }, "data"_a);
  nb::class_<TokenBucket>(m, "TokenBucket")
      .def(nb::init<double, double>(), "cap"_a, "burst"_a)
      .def("take", &TokenBucket::take, "now_ns"_a)
      .def("next_ns", &TokenBucket::next_ns, "now_ns"_a);
  nb::class_<PyEngine>(m, "Engine")
      .def(nb::init<int, int, int, int, uint32_t, uint64_t, Array<uint8_t>, Array<uint8_t>, Array<float>, Array<int32_t>,
                    std::optional<std::tuple<Array<uint32_t>, Array<uint32_t>, Array<uint16_t>, nb::bytes, uint32_t>>,
                    const Config&>(),
           "n"_a, "d"_a, "type"_a, "max_degree"_a, "medoid"_a, "epoch"_a, "codes"_a, "part_of"_a, "centroids"_a,
           "offsets"_a, "head"_a.none(), "config"_a)
      .def("add_part", &PyEngine::add_part, "part"_a, "fd"_a, "ids"_a, "crc"_a.none(), "mapped"_a.none())
      .def("keep_sectors", &PyEngine::keep_sectors, "part"_a, "numbers"_a, "bytes"_a)
      .def("submit", &PyEngine::submit, "state"_a, "query"_a)
      .def("submit_rpc", &PyEngine::submit_rpc, "body"_a, "query"_a)
      .def("rpc_reply", &PyEngine::rpc_reply, "body"_a)
      .def("poll", &PyEngine::poll, "wait"_a = false)
      .def("search", &PyEngine::search, "queries"_a, "k"_a, "L"_a, "W"_a, "mem_l"_a, "flags"_a, "ids"_a, "dists"_a,
           "work"_a)
      .def("start", &PyEngine::start, "state"_a, "query"_a)
      .def("counters", &PyEngine::counters)
      .def("fileno", [](PyEngine& e) { return e.engine().fd(); })
      .def("wake_at", [](PyEngine& e, int64_t ns) { e.engine().wake_at(ns); }, "monotonic_ns"_a)
      .def("set_cap", [](PyEngine& e, double cap) { e.engine().set_cap(cap); }, "iops_cap"_a)
      .def("idle", [](PyEngine& e) { return e.engine().idle(); })
      .def("waiting", [](PyEngine& e) { return e.engine().waiting(); })
      .def("owns", [](PyEngine& e, int part) { return part >= 0 && part < 256 && e.engine().owns(part); }, "part"_a)
      .def("last_error", [](PyEngine& e) { return e.engine().last_error(); })
      .def("validate", [](PyEngine& e) { return e.engine().validate(); });
}
