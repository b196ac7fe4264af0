// Python's view of the event loop, the placement and the pool. Arrays stay Python's; nothing is copied but masks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "loop.h"
#include "place.h"
#include "remap.h"

namespace nb = nanobind;
using namespace warmserve;

namespace {

template <typename T>
T *field(nb::object plane, const char *name) {
  auto array = nb::cast<nb::ndarray<T, nb::c_contig, nb::device::cpu>>(plane.attr(name));
  return array.data();
}

int64_t extent(nb::object plane, const char *name, int axis) {
  return nb::cast<int64_t>(plane.attr(name).attr("shape")[nb::int_(axis)]);
}

struct BoundLoop : Loop {
  nb::object plane;  // keeps the arrays alive

  explicit BoundLoop(nb::object given) : Loop{}, plane(given) {
    requests = extent(given, "r_arrival", 0);
    slots = extent(given, "s_state", 0);
    models = extent(given, "m_inflight", 0);
    sequences = extent(given, "s_batch", 1);
    near = extent(given, "s_near", 1);
    leaves = extent(given, "due", 0);
    ring = extent(given, "q_request", 0);
#define F(type, name) name = field<type>(given, #name);
    F(double, now) F(double, option) F(double, r_arrival) F(double, r_sent) F(double, r_first) F(double, r_finish)
    F(double, s_ready) F(double, s_since) F(double, s_first_s) F(double, s_more_s) F(double, s_coef)
    F(double, m_integral) F(double, m_since) F(double, q_time) F(double, due)
    F(int64_t, n) F(int64_t, s_steps) F(int64_t, s_used) F(int64_t, s_limit) F(int64_t, s_cap) F(int64_t, s_context)
    F(int64_t, m_batch)
    F(int32_t, r_model) F(int32_t, r_in) F(int32_t, r_out) F(int32_t, r_gen) F(int32_t, r_engine) F(int32_t, r_next)
    F(int32_t, s_model) F(int32_t, s_engine) F(int32_t, s_count) F(int32_t, s_running) F(int32_t, s_batch)
    F(int32_t, s_new) F(int32_t, s_head) F(int32_t, s_tail) F(int32_t, s_block) F(int32_t, s_near)
    F(int32_t, s_near_busy) F(int32_t, m_slots) F(int32_t, m_slot_count) F(int32_t, m_inflight) F(int32_t, m_peak)
    F(int32_t, m_creating) F(int32_t, q_request) F(int32_t, w_head) F(int32_t, w_tail) F(int32_t, tree)
    F(int16_t, r_preempted)
    F(int8_t, r_kind) F(int8_t, s_state) F(int8_t, s_kind) F(int8_t, s_phase) F(int8_t, m_may_create)
#undef F
  }
};

using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Masks = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Reals = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::tuple place_all(Ints node, Masks mask, Ints model, Ints tp, Reals score, Bytes free, Ints new_model, Ints new_tp,
                    Longs new_need, Reals new_score) {
  const size_t nodes = free.shape(0), gpus = free.shape(1), lying = node.shape(0), wanted = new_model.shape(0);
  if (gpus < 1 || gpus > 64) throw std::invalid_argument("free: expected 1 to 64 GPUs a node");
  if (mask.shape(0) != lying || model.shape(0) != lying || tp.shape(0) != lying || score.shape(0) != lying ||
      new_tp.shape(0) != wanted || new_need.shape(0) != wanted || new_score.shape(0) != wanted)
    throw std::invalid_argument("columns: expected one length for what lies there, one for what is new");
  std::vector<std::vector<Lying>> here(nodes);
  for (size_t i = 0; i < node.shape(0); i++)
    here.at(node.data()[i]).push_back({mask.data()[i], model.data()[i], tp.data()[i], score.data()[i]});
  std::vector<int64_t> left(free.data(), free.data() + nodes * gpus);
  std::vector<Newcomer> news;
  for (size_t i = 0; i < new_model.shape(0); i++)
    news.push_back({new_model.data()[i], new_tp.data()[i], new_need.data()[i], new_score.data()[i]});
  place(here, left, (int)gpus, news);
  nb::list where, sets, top;
  for (const Newcomer &one : news) {
    where.append(one.node);
    sets.append(one.mask);
    top.append(one.master);
  }
  return nb::make_tuple(where, sets, top);
}

[[noreturn]] void fail(const char *what, int code) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(code < 0 ? -code : code));
}

void check(const char *what, int64_t code) {
  if (code < 0) fail(what, (int)-code);
}

struct Pool {
  remap_pool pool{};

  Pool(int64_t blocks, bool huge) { check("memfd", remap_open(&pool, blocks, huge)); }
  ~Pool() { remap_close(&pool); }
  Pool(const Pool &) = delete;
};

struct Range {
  char *address;
  int64_t blocks;

  explicit Range(int64_t count) : address((char *)remap_reserve(count)), blocks(count) {
    if (!address) fail("reserve", errno);
  }
  ~Range() { remap_release(address, blocks); }
  Range(const Range &) = delete;

  char *at(int64_t offset, int64_t count) {
    if (offset < 0 || count < 0 || count > blocks || offset > blocks - count) throw nb::index_error("range: outside the reserved blocks");
    return address + offset * (int64_t)REMAP_BLOCK;
  }
};

// Any number of threads may ask, cancel and join: one of them joins the thread, the others wait for it.
struct Job {
  remap_job *job;
  std::mutex joining;
  bool joined = false;

  Job(const Pool &pool, Range &range, int64_t offset, const std::vector<int64_t> &order, bool touch, int64_t every, int64_t us)
      : job(remap_start(&pool.pool, range.at(offset, (int64_t)order.size()), order.data(), (int64_t)order.size(), touch,
                        every, us)) {
    if (!job) fail("thread", errno);
  }
  ~Job() {
    cancel();
    finish();
    remap_free(job);
  }
  Job(const Job &) = delete;

  int64_t progress() const { return remap_progress(job); }
  void cancel() { remap_cancel(job); }
  int64_t finish() {
    const std::lock_guard<std::mutex> alone(joining);
    if (!joined) remap_join(job);
    joined = true;
    return remap_progress(job);
  }
};

}  // namespace

NB_MODULE(_native, m) {
  nb::class_<BoundLoop>(m, "Loop")
      .def(nb::init<nb::object>())
      .def("advance", &BoundLoop::advance)
      .def("attach", &BoundLoop::attach)
      .def("put_off", &BoundLoop::put_off)
      .def("resume", &BoundLoop::resume)
      .def("set_limit", &BoundLoop::set_limit)
      .def("sample_load", [](BoundLoop &loop, double time, nb::ndarray<double, nb::ndim<1>, nb::c_contig> out) {
        loop.sample_load(time, out.data());
      });
  m.def("place", &place_all);
  m.attr("BLOCK_BYTES") = (int64_t)REMAP_BLOCK;
  nb::class_<Pool>(m, "Pool")
      .def(nb::init<int64_t, bool>(), nb::arg("blocks"), nb::arg("huge") = false)
      .def_prop_ro("blocks", [](const Pool &pool) { return pool.pool.blocks; })
      .def_prop_ro("huge", [](const Pool &pool) { return pool.pool.huge != 0; })
      .def_prop_ro("fd", [](const Pool &pool) { return pool.pool.fd; });
  nb::class_<Range>(m, "Range")
      .def(nb::init<int64_t>(), nb::arg("blocks"))
      .def_prop_ro("blocks", [](const Range &range) { return range.blocks; })
      .def("map", [](Range &range, const Pool &pool, int64_t offset, const std::vector<int64_t> &order, bool touch) {
        nb::gil_scoped_release free;
        check("mmap", remap_now(&pool.pool, range.at(offset, (int64_t)order.size()), order.data(), (int64_t)order.size(), touch));
      }, nb::arg("pool"), nb::arg("offset"), nb::arg("order"), nb::arg("touch") = false)
      .def("map_in_background", [](Range &range, const Pool &pool, int64_t offset, const std::vector<int64_t> &order,
                                   bool touch, int64_t every, int64_t us) {
        return new Job(pool, range, offset, order, touch, every, us);
      }, nb::arg("pool"), nb::arg("offset"), nb::arg("order"), nb::arg("touch") = false, nb::arg("pause_every") = 0,
           nb::arg("pause_us") = 10000, nb::keep_alive<0, 1>(), nb::keep_alive<0, 2>(), nb::rv_policy::take_ownership)
      .def("unmap", [](Range &range, int64_t offset, int64_t count) {
        check("mmap", remap_unmap(range.at(offset, count), count));
      })
      // A view of mapped blocks; the caller must not touch it once they are unmapped.
      .def("view", [](Range &range, int64_t offset, int64_t count) {
        return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(
            range.at(offset, count), {(size_t)(count * (int64_t)REMAP_BLOCK)}, nb::find(&range));
      });
  nb::class_<Job>(m, "Job")
      .def_prop_ro("progress", &Job::progress)
      .def("cancel", &Job::cancel)
      .def("join", [](Job &job) {
        nb::gil_scoped_release free;
        const int64_t found = job.finish();
        check("mmap", found);
        return found;
      });
}
