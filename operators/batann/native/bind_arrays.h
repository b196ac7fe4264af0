// How arrays cross from Python: contiguous, on the CPU, dtype checked here with an error that names argument and dtype.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "graph.h"

namespace pg {
namespace nb = nanobind;

using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T, int N> using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N> using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

inline void demand(bool holds, const std::string &message) {
  if (!holds) throw std::invalid_argument(message);
}

inline Type type_of(const AnyMatrix &a, const char *name) {
  if (a.dtype() == nb::dtype<uint8_t>()) return Type::u8;
  if (a.dtype() == nb::dtype<int8_t>()) return Type::i8;
  demand(a.dtype() == nb::dtype<float>(), std::string(name) + ": expected uint8, int8 or float32");
  return Type::f32;
}

inline Vectors vectors_of(const AnyMatrix &x, const char *name) {
  const Type type = type_of(x, name);
  return {static_cast<const char *>(x.data()), x.shape(0), int(x.shape(1)), int(x.shape(1)) * element_bytes(type),
          distance_fn(type)};
}

inline void demand_below(const In<uint32_t, 1> &ids, size_t limit, const char *name) {
  for (size_t i = 0; i < ids.size(); i++)
    if (ids.data()[i] >= limit)
      demand(false, std::string(name) + ": id " + std::to_string(ids.data()[i]) + " at " + std::to_string(i) +
                        "; expected ids below " + std::to_string(limit));
}

}  // namespace pg
