// Python door of arena.c and alpha.c: owns nothing, checks what a caller can get wrong, times the reading kernel alone.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <cstdint>
#include <ctime>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "alpha.h"
#include "arena.h"

namespace nb = nanobind;
template <class T> using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

static void demand(bool holds, const std::string &message) {
  if (!holds) throw std::invalid_argument(message);
}

// The state array of one arena, kept alive as long as this object.
class Core {
public:
  explicit Core(Vector<int32_t> state) : state_(state), a_(state.data()) {
    demand(state.shape(0) > HEADER && a_[UNITS] > 0, "state: expected an array made by arena_core.new");
  }
  int32_t reserve(int32_t need) {
    if (need <= 0) throw std::invalid_argument("need (=" + std::to_string(need) + "): must be > 0 units");
    return arena_reserve(a_, need);
  }
  void release(int32_t unit) {
    live(unit);
    arena_release(a_, unit);
  }
  bool extend(int32_t unit, int32_t more) {
    live(unit);
    if (more <= 0) throw std::invalid_argument("more (=" + std::to_string(more) + "): must be > 0 units");
    return arena_extend(a_, unit, more);
  }
  int32_t largest() const { return arena_largest(a_); }

private:
  void live(int32_t unit) const {
    if (unit < 0 || unit >= a_[UNITS] || a_[a_[TAG] + 1 + unit] >= 0)
      throw std::invalid_argument("unit (=" + std::to_string(unit) + "): no live extent starts there");
  }
  Vector<int32_t> state_;
  int32_t *a_;
};

static void replay(Vector<int32_t> state, Vector<const int8_t> op, Vector<const int32_t> slot,
                   Vector<const int32_t> size, Vector<int32_t> held, Vector<int32_t> out,
                   std::optional<Vector<int32_t>> ns) {
  const size_t n = op.shape(0);
  demand(slot.shape(0) == n && size.shape(0) == n && out.shape(0) == n && (!ns || ns->shape(0) == n),
         "op, slot, size, out, ns: expected one length");
  for (size_t i = 0; i < n; i++) {
    // The text is built only when it is wanted: this loop stands beside one of 30 ns a turn.
    if (slot(i) < 0 || size_t(slot(i)) >= held.shape(0))
      throw std::invalid_argument("slot[" + std::to_string(i) + "]: outside held");
    if (op(i) != 1 && size(i) <= 0) throw std::invalid_argument("size[" + std::to_string(i) + "]: must be > 0 units");
  }
  nb::gil_scoped_release released;
  arena_replay(state.data(), op.data(), slot.data(), size.data(), int64_t(n), held.data(), out.data(),
               ns ? ns->data() : nullptr);
}

static std::tuple<int64_t, uint64_t> gather(Vector<const uint8_t> data, int64_t page_bytes,
                                            Vector<const int64_t> order) {
  demand(page_bytes > 0 && page_bytes % 128 == 0, "page_bytes (=" + std::to_string(page_bytes) +
                                                      "): must be a multiple of 128");
  const int64_t pages = int64_t(data.shape(0)) / page_bytes;
  for (size_t i = 0; i < order.shape(0); i++)
    if (order(i) < 0 || order(i) >= pages) throw std::invalid_argument("order[" + std::to_string(i) + "]: no such page");
  nb::gil_scoped_release released;
  timespec t0, t1;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0);
  const uint64_t sum = gather_pages(data.data(), page_bytes, order.data(), int64_t(order.shape(0)));
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
  return {int64_t(t1.tv_sec - t0.tv_sec) * 1000000000 + (t1.tv_nsec - t0.tv_nsec), sum};
}

NB_MODULE(_native, m) {
  nb::class_<Core>(m, "Core")
      .def(nb::init<Vector<int32_t>>(), nb::arg("state"))
      .def("reserve", &Core::reserve, nb::arg("need"))
      .def("release", &Core::release, nb::arg("unit"))
      .def("extend", &Core::extend, nb::arg("unit"), nb::arg("more"))
      .def("largest", &Core::largest);
  m.def("replay", &replay, nb::arg("state"), nb::arg("op"), nb::arg("slot"), nb::arg("size"), nb::arg("held"),
        nb::arg("out"), nb::arg("ns") = nb::none());
  m.def("gather", &gather, nb::arg("data"), nb::arg("page_bytes"), nb::arg("order"),
        "(thread CPU ns, sum) of reading whole pages in this order");
}
