// Squared Euclidean distance of two vectors of d elements, the one measure everything here uses.
//
// u8 and i8 are exact in int32 (d <= 32,768) and then rounded to float once. f32 adds in one fixed order (16 lanes, see
// distance.cpp), so the AVX2 code, the scalar code and the numba stand-in give the same bits. AVX2 is chosen at run
// time: a portable build uses it where the processor has it.
#pragma once

namespace pg {

enum class Type : int { u8 = 0, i8 = 1, f32 = 2 };

using DistanceFn = float (*)(const void *a, const void *b, int d);

DistanceFn distance_fn(Type type);
DistanceFn distance_fn_scalar(Type type);  // the fallback, for tests

inline int element_bytes(Type type) { return type == Type::f32 ? 4 : 1; }

inline void prefetch_vector(const void *p, int bytes) {
  const char *c = static_cast<const char *>(p);
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(c + i);
  __builtin_prefetch(c + bytes - 1);  // rows need not begin at a cache line
}

}  // namespace pg
