// Python door of swiglu.c: checks every index, drops the interpreter lock, times the kernel alone.
//
// Times are (thread CPU ns, wall ns) taken right round the C call: a rank's time without Python, queues or messages.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <cstdint>
#include <ctime>
#include <stdexcept>
#include <string>
#include <tuple>

#include "swiglu.h"

namespace nb = nanobind;
using Slab = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Target = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Times = std::tuple<int64_t, int64_t>;

static int64_t now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return int64_t(t.tv_sec) * 1000000000 + t.tv_nsec;
}

template <class Work> static Times timed(Work &&work) {
  nb::gil_scoped_release released;
  const int64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
  work();
  const int64_t cpu_end = now(CLOCK_THREAD_CPUTIME_ID), wall_end = now(CLOCK_MONOTONIC);
  return {cpu_end - cpu, wall_end - wall};
}

static void demand(bool holds, const std::string &message) {
  if (!holds) throw std::invalid_argument(message);
}

static void demand_below(const Ids &ids, size_t limit, const char *name) {
  for (size_t i = 0; i < ids.shape(0); i++)
    demand(ids(i) >= 0 && size_t(ids(i)) < limit, std::string(name) + "[" + std::to_string(i) + "] (=" +
                                                      std::to_string(ids(i)) + "): must be in [0, " +
                                                      std::to_string(limit) + ")");
}

static Times forward(Slab slab, Ids slots, Ids start, Ids rows, Floats gates, Matrix x, Output y) {
  const size_t hidden = slab.shape(3), items = rows.shape(0), experts = slots.shape(0);
  demand(slab.shape(2) == 3, "slab: expected shape (slots, width, 3, hidden)");
  demand(hidden % 16 == 0, "hidden (=" + std::to_string(hidden) + "): must be a multiple of 16");
  demand(x.shape(1) == hidden && y.shape(1) == hidden && x.shape(0) == y.shape(0),
         "x and y: expected the same shape (tokens, " + std::to_string(hidden) + ")");
  demand(start.shape(0) == experts + 1 && gates.shape(0) == items,
         "start and gates: expected experts + 1 entries and a gate a row");
  demand(start(0) == 0 && size_t(start(experts)) == items, "start: expected to run from 0 to the number of rows");
  for (size_t e = 0; e < experts; e++) demand(start(e) <= start(e + 1), "start: expected to ascend");
  demand_below(slots, slab.shape(0), "slots");
  demand_below(rows, x.shape(0), "rows");
  const swiglu_batch batch{slots.data(), start.data(), rows.data(), gates.data(), int64_t(experts)};
  const int64_t width = int64_t(slab.shape(1));
  return timed([&] { swiglu_forward(slab.data(), width, int64_t(hidden), &batch, x.data(), y.data()); });
}

static Times stream(Floats data, int streams) {
  demand(streams == 1 || streams == 2 || streams == 4 || streams == 8,
         "streams (=" + std::to_string(streams) + "): expected 1, 2, 4 or 8");
  demand(data.shape(0) > 0 && data.shape(0) % (8 * 65536) == 0, "data: expected a multiple of 2 MiB");
  volatile float sink; // the sum must be wanted, or the reads may be left out
  return timed([&] { sink = stream_read(data.data(), data.shape(0), streams); });
}

static void fill(Target out, uint32_t key0, uint32_t key1, float scale) {
  demand(out.size() <= UINT32_MAX, "out: more than 2**32 - 1 values");
  timed([&] { fill_weights(out.data(), out.size(), key0, key1, scale); });
}

NB_MODULE(_native, m) {
  m.doc() = "Memory-bound SwiGLU experts in fp32; see operators/metro/kernel.py for the documented interface.";
  m.def("forward", &forward, nb::arg("slab"), nb::arg("slots"), nb::arg("start"), nb::arg("rows"), nb::arg("gates"),
        nb::arg("x"), nb::arg("y"));
  m.def("stream_read", &stream, nb::arg("data"), nb::arg("streams"));
  m.def("fill_weights", &fill, nb::arg("out"), nb::arg("key0"), nb::arg("key1"), nb::arg("scale"));
}
