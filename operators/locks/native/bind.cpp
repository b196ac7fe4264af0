// Python's view of the core: a thin shell, nothing is decided here.
#include <cstring>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

extern "C" {
#include "drive.h"
}
#include "bind.h"

namespace nb = nanobind;
using Words = std::vector<uint64_t>;

struct Refused {
  int outcome, at;
  bool busy() const { return outcome == LK_BUSY; }
};

struct Bound {
  Core *core;
  uint32_t sec, nargs, nres;
  bool counted = false;
};

static nb::object call(Bound &self, uint64_t tries, nb::tuple given) {
  Core &core = *self.core;
  int64_t args[LK_ARGS] = {0};
  if (!core.opened || core.c.slot == ~0u) throw nb::value_error("the region is closed");
  if (given.size() != self.nargs)
    throw nb::type_error(("expected " + std::to_string(self.nargs) + " arguments, got " +
                          std::to_string(given.size())).c_str());
  for (size_t i = 0; i < self.nargs; i++) {
    PyObject *item = PyTuple_GET_ITEM(given.ptr(), (Py_ssize_t)i);
    int overflow = 0;
    args[i] = PyLong_AsLongLongAndOverflow(item, &overflow);
    if (PyErr_Occurred()) throw nb::python_error();
    if (overflow || args[i] >= (1ll << 62) || args[i] < -(1ll << 62)) return nb::cast(Refused{LK_E_OVERFLOW, 0});
  }
  const word *x = core.c.base + core.c.base[core.c.secs + self.sec];
  const word *checks = x + X_CODE + x[X_NCODE] + 3 * x[X_NHANDLES];
  for (uint64_t i = 0; i < x[X_NCHECKS]; i++) // before any shared step
    if ((uint64_t)args[checks[2 * i]] >= checks[2 * i + 1]) return nb::cast(Refused{LK_E_INDEX, 0});
  lk_result out;
  int outcome = (self.counted ? lks_call : lk_call)(&core.c, self.sec, args, tries, &out);
  if (outcome != LK_OK) return nb::cast(Refused{outcome, out.at});
  if (out.nres == 0) return nb::none();
  if (out.nres == 1) return nb::steal(PyLong_FromLongLong(out.res[0]));
  PyObject *tuple = PyTuple_New(out.nres);
  for (int i = 0; i < out.nres; i++) PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(out.res[i]));
  return nb::steal(tuple);
}

using Rows = nb::ndarray<const int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int64_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;

NB_MODULE(LOCKS_MODULE, m) {
  m.doc() = "Core of operators.locks";
  m.attr("TAG_BITS") = LOCKS_TAG_BITS;
  m.def("create", [](const std::string &path, uint64_t size, uint32_t procs, uint32_t dpp, uint32_t log_len,
                     uint32_t persist) {
    char why[512] = "";
    lk_create(path.c_str(), size, procs, dpp, log_len, persist, why, sizeof why);
    return std::string(why);
  });
  m.def("flush_name", [] { return std::string(lk_flush_name(lk_flush_kind())); });
  m.def("cpu_seconds", &lk_cpu_seconds);
  nb::class_<Refused>(m, "Refused")
      .def_ro("outcome", &Refused::outcome).def_ro("at", &Refused::at).def_prop_ro("busy", &Refused::busy);
  nb::class_<Bound>(m, "Bound").def("__call__", &call).def_prop_ro_static("Refused", [](nb::handle) {
    return nb::type<Refused>();
  });
  nb::class_<Core>(m, "Core")
      .def(nb::init<>())
      .def("open", &Core::open)
      .def("close", &Core::close)
      .def("claim", [](Core &s, int slot) {
        char why[512] = "";
        lk_claim(&s.c, slot, why, sizeof why);
        return std::string(why);
      })
      .def_prop_ro("slot", [](Core &s) { return (int)s.c.slot; })
      .def_prop_ro("max_procs", [](Core &s) { return s.c.procs; })
      .def_prop_ro("persist", [](Core &s) { return s.c.persist; })
      .def_prop_ro("seq", [](Core &s) { return s.c.seq; })
      .def("layout", [](Core &s) {
        s.check(0, H_WORDS);
        return Words(s.c.base, s.c.base + H_LOCKBUMP + 1);
      })
      .def("word", [](Core &s, uint64_t i) { s.check(i); return lk_word(&s.c, i); })
      .def("text", [](Core &s, uint64_t i) { s.check(i, 8); return [](const char *t) { return std::string(t, strnlen(t, LK_NAME)); }((const char *)(s.c.base + i)); })
      .def("read", [](Core &s, uint64_t cell) { s.check(cell); return lk_read(&s.c, cell); })
      .def("read_many", [](Core &s, uint64_t cell, uint64_t n) {
        s.check(cell, n);
        std::vector<int64_t> out(n);
        for (uint64_t i = 0; i < n; i++) out[i] = lk_read(&s.c, cell + i);
        return out;
      })
      .def("lock", [](Core &s, uint64_t i) {
        s.check(0);
        if (i >= s.c.nlocks) throw nb::value_error("no such lock in the region");
        return lk_word(&s.c, s.c.locks + i);
      })
      .def("slot_state", [](Core &s, uint32_t p) { return lk_slot_state(&s.c, p); })
      .def("rebooted", [](Core &s) { return lk_reboot(&s.c) != 0; })
      .def("pretend_reboot", [](Core &s) { s.c.base[H_BOOT0] ^= 1; })
      .def("find", [](Core &s, const std::string &name) -> nb::object {
        word kind, base, n, stride;
        s.check(0);
        if (!lk_find(&s.c, name.c_str(), &kind, &base, &n, &stride)) return nb::none();
        return nb::make_tuple(kind, base, n, stride);
      })
      .def("object", [](Core &s, const std::string &name, int kind, uint64_t n, uint64_t stride, int64_t init) {
        return lk_object(&s.c, name.c_str(), kind, n, stride, init);
      })
      .def("section", [](Core &s, const Words &record) {
        char why[512] = "";
        int id = lk_section(&s.c, record.data(), record.size(), why, sizeof why);
        return std::make_pair(id, std::string(why));
      })
      .def("bound", [](Core &s, uint32_t sec, uint32_t nargs, uint32_t nres) { return Bound{&s, sec, nargs, nres}; },
           nb::keep_alive<0, 1>())
      .def("recover_all", [](Core &s) {
        lk_report r{};
        int busy = lk_recover_dead(&s.c, &r);
        return nb::make_tuple(r.completed, r.rolled_back, r.orphans, busy != 0);
      })
      .def("status", [](Core &s, uint32_t slot) {
        lk_result r;
        lk_status(&s.c, slot, &r);
        return nb::make_tuple(r.done != 0, r.seq, std::vector<int64_t>(r.res, r.res + (r.done ? r.nres : 0)));
      })
      .def("set_mode", [](Core &s, bool nohelp, uint32_t policy, uint64_t fence_ns) {
        s.c.nohelp = nohelp, s.c.policy = policy, s.c.fence_ns = fence_ns;
      })
      .def("set_points", [](Core &s, uint64_t crash_at, uint64_t stop_at) {
        s.c.crash_at = crash_at, s.c.stop_at = stop_at, s.c.stats.steps = 0;
      })
      .def("stats", [](Core &s) {
        nb::dict d;
        const lk_stats &t = s.c.stats;
        d["attempts"] = t.attempts, d["aborts"] = t.aborts, d["helps"] = t.helps;
        d["writebacks"] = t.writebacks, d["fences"] = t.fences, d["steps"] = t.steps;
        return d;
      })
      .def("drive", [](Core &s, uint32_t sec, Rows rows, uint64_t n) {
        double began = lk_cpu_seconds();
        uint64_t done = lk_drive(&s.c, sec, (const lk_row *)rows.data(), rows.shape(0), n, nullptr);
        return nb::make_tuple(done, lk_cpu_seconds() - began);
      })
      .def("bound_counted", [](Core &s, uint32_t sec, uint32_t nargs, uint32_t nres) {
        return Bound{&s, sec, nargs, nres, true};
      }, nb::keep_alive<0, 1>())
      .def("claim_lock_for_test", [](Core &s, uint64_t i) { /* held by a descriptor that never runs */
        s.check(s.c.locks + i);
        word old = s.c.base[s.c.locks + i];
        s.c.base[s.c.locks + i] = ((old >> 16) + 1) << 16 | (s.c.procs * s.c.dpp);
        return old;
      })
      .def("release_lock_for_test", [](Core &s, uint64_t i, uint64_t old) {
        s.c.base[s.c.locks + i] = ((old >> 16) + 2) << 16;
      })
      .def("section_id", [](Core &s, const std::string &name) { return lk_section_id(&s.c, name.c_str()); });
  bind_explore(m);
  bind_structures(m);
}
