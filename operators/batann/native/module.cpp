// The extension operators/batann/_native: the index half (bind_index.cpp) and the serving half (bind_engine.cpp).
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_index(nb::module_ &m);
void bind_engine(nb::module_ &m);

NB_MODULE(_native, m) {
  m.doc() = "Native core of BatANN: distances, graph build and search, product quantisation, partition, serving.";
  bind_index(m);
  bind_engine(m);
}
