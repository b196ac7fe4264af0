// Python's view of the sets.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

extern "C" {
#include "baselines.h"
#include "structures.h"
}
#include "bind.h"

namespace nb = nanobind;
using Keys = nb::ndarray<const int32_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using Ops = nb::ndarray<const uint8_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

struct Set {
  Core *core;
  ds_set s;
};

static void need(const Set &self) {
  if (!self.core->opened || self.core->c.slot == ~0u) throw nb::value_error("the region is closed");
}

struct Peer {
  bl_ctx b{};
  bool opened = false;
  Peer(const std::string &path) {
    if (bl_open(&b, path.c_str())) throw nb::value_error(("cannot open " + path).c_str());
    opened = true;
  }
  ~Peer() {
    if (opened) bl_close(&b);
  }
};

void bind_structures(nb::module_ &m) {
  nb::class_<Set>(m, "Set")
      .def("op", [](Set &self, int op, int64_t key, int64_t value) {
        need(self);
        int result = ds_op(&self.core->c, &self.s, op, key, &value);
        return std::make_pair(result, value);
      })
      .def("drive", [](Set &self, Keys keys, Ops ops) {
        need(self);
        double began = lk_cpu_seconds();
        if (ops.shape(0) != keys.shape(0)) throw nb::value_error("keys and ops: expected one length");
        int64_t done = ds_drive(&self.core->c, &self.s, keys.data(), ops.data(), keys.shape(0));
        return std::make_pair(done, lk_cpu_seconds() - began);
      })
      .def("keys", [](Set &self) {
        need(self);
        std::vector<int64_t> keys(self.s.nodes), values(self.s.nodes);
        int64_t n = ds_keys(&self.core->c, &self.s, keys.data(), values.data(), (int64_t)self.s.nodes);
        if (n < 0) throw nb::value_error("the structure does not hold together");
        keys.resize((size_t)n), values.resize((size_t)n);
        return std::make_pair(keys, values);
      });
  m.def("make_set", [](Core &core, int kind, uint64_t base, uint64_t nodes, uint64_t stride, uint64_t heads,
                       uint64_t versions, uint64_t buckets, uint32_t insert, uint32_t remove, uint32_t refill) {
    return Set{&core, {kind, base, nodes, stride, heads, versions, buckets, insert, remove, refill}};
  }, nb::keep_alive<0, 1>());
  m.def("create_peer", [](const std::string &path, const std::string &kind, int n, int slots, int64_t init) {
    int number = bl_kind_of(kind.c_str());
    return number >= 0 && bl_create(path.c_str(), number, n, slots, init) == 0;
  });
  nb::class_<Peer>(m, "Peer")
      .def(nb::init<const std::string &>())
      .def("drive", [](Peer &p, Rows rows, uint64_t n, int slot) {
        double began = lk_cpu_seconds();
        uint64_t done = bl_drive(&p.b, (const lk_row *)rows.data(), rows.shape(0), 0, n, slot, nullptr);
        return std::make_pair(done, lk_cpu_seconds() - began);
      })
      .def("balances", [](Peer &p) {
        std::vector<int64_t> out;
        for (int i = 0; i < p.b.n; i++) out.push_back(bl_balance(&p.b, i));
        return out;
      })
      .def("count", [](Peer &p, int slot) { return bl_count(&p.b, slot); });
}
