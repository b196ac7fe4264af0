// The contiguous allocator of operators/odma/arena_core.py on the same array of int32: the text there is the design.
#ifndef ODMA_ARENA_H
#define ODMA_ARENA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { UNITS, LIVE, N_FREE, N_LIVE, TAG, GEN, NEXT, PREV, HEAD, BITS0, BITS1, BITS2, WORDS2, HEADER = 16 };
enum { NOTHING = -1 };

int32_t arena_reserve(int32_t *a, int32_t need);          // first unit, or -1
void arena_release(int32_t *a, int32_t unit);             // the caller has checked that it is live
int arena_extend(int32_t *a, int32_t unit, int32_t more); // in place, or 0
int32_t arena_grow_to(int32_t *a, int32_t unit, int32_t need);
int32_t arena_largest(const int32_t *a);

// ops: 0 reserve, 1 release, 2 grow, on handles held[slot]. With `ns`, nanoseconds of each operation (clock included).
void arena_replay(int32_t *a, const int8_t *op, const int32_t *slot, const int32_t *size, int64_t n, int32_t *held,
                  int32_t *out, int32_t *ns);

#ifdef __cplusplus
}
#endif
#endif
