// Boundary tags, exact segregated lists, a bitmap of three levels: see arena.h and operators/odma/arena_core.py.
#include "arena.h"

#include <time.h>

static int32_t *tags(int32_t *a) { return a + a[TAG] + 1; }

static void set_bit(int32_t *word, int32_t bit) { *word = (int32_t)((uint32_t)*word | (UINT32_C(1) << bit)); }

static int clear_bit(int32_t *word, int32_t bit) {
  *word = (int32_t)((uint32_t)*word & ~(UINT32_C(1) << bit));
  return *word == 0;
}

static void put(int32_t *a, int32_t unit, int32_t size) {
  int32_t *tag = tags(a), *head = a + a[HEAD];
  tag[unit] = tag[unit + size - 1] = size;
  const int32_t old = head[size];
  a[a[NEXT] + unit] = old;
  a[a[PREV] + unit] = NOTHING;
  if (old != NOTHING) {
    a[a[PREV] + old] = unit;
  } else {
    set_bit(&a[a[BITS0] + (size >> 5)], size & 31);
    set_bit(&a[a[BITS1] + (size >> 10)], (size >> 5) & 31);
    set_bit(&a[a[BITS2] + (size >> 15)], (size >> 10) & 31);
  }
  head[size] = unit;
  a[N_FREE]++;
}

static void take(int32_t *a, int32_t unit, int32_t size) {
  const int32_t after = a[a[NEXT] + unit], before = a[a[PREV] + unit];
  if (before != NOTHING)
    a[a[NEXT] + before] = after;
  else
    a[a[HEAD] + size] = after;
  if (after != NOTHING)
    a[a[PREV] + after] = before;
  else if (before == NOTHING && clear_bit(&a[a[BITS0] + (size >> 5)], size & 31) &&
           clear_bit(&a[a[BITS1] + (size >> 10)], (size >> 5) & 31))
    clear_bit(&a[a[BITS2] + (size >> 15)], (size >> 10) & 31);
  a[N_FREE]--;
}

static int32_t first_set(int32_t word, int32_t start) {
  const uint32_t left = start < 32 ? (uint32_t)word >> start : 0;
  return left ? start + __builtin_ctz(left) : 32;
}

static int32_t last_set(int32_t word) { return 31 - __builtin_clz((uint32_t)word); }

static int32_t best_size(const int32_t *a, int32_t need) {
  if (need > a[UNITS]) return 0;
  int32_t word = need >> 5, bit = first_set(a[a[BITS0] + word], need & 31);
  if (bit < 32) return (word << 5) + bit;
  int32_t word1 = word >> 5;
  bit = first_set(a[a[BITS1] + word1], (word & 31) + 1);
  if (bit == 32) {
    int32_t word2 = word1 >> 5;
    bit = first_set(a[a[BITS2] + word2], (word1 & 31) + 1);
    while (bit == 32) {
      if (++word2 >= a[WORDS2]) return 0;
      bit = first_set(a[a[BITS2] + word2], 0);
    }
    word1 = (word2 << 5) + bit;
    bit = first_set(a[a[BITS1] + word1], 0);
  }
  word = (word1 << 5) + bit;
  return (word << 5) + first_set(a[a[BITS0] + word], 0);
}

int32_t arena_largest(const int32_t *a) {
  for (int32_t word2 = a[WORDS2] - 1; word2 >= 0; word2--) {
    if (a[a[BITS2] + word2]) {
      const int32_t word1 = (word2 << 5) + last_set(a[a[BITS2] + word2]);
      const int32_t word = (word1 << 5) + last_set(a[a[BITS1] + word1]);
      return (word << 5) + last_set(a[a[BITS0] + word]);
    }
  }
  return 0;
}

static void mark(int32_t *a, int32_t unit, int32_t size) {
  int32_t *tag = tags(a);
  tag[unit] = tag[unit + size - 1] = -size;
  a[a[GEN] + unit]++;
}

int32_t arena_reserve(int32_t *a, int32_t need) {
  const int32_t size = best_size(a, need);
  if (!size) return NOTHING;
  const int32_t unit = a[a[HEAD] + size];
  take(a, unit, size);
  if (size > need) put(a, unit + need, size - need);
  mark(a, unit, need);
  a[LIVE] += need;
  a[N_LIVE]++;
  return unit;
}

void arena_release(int32_t *a, int32_t unit) {
  int32_t *tag = tags(a), size = -tag[unit];
  a[LIVE] -= size;
  a[N_LIVE]--;
  a[a[GEN] + unit]++;
  tag[unit] = tag[unit + size - 1] = 0;
  const int32_t before = tag[unit - 1];
  if (before > 0) {
    take(a, unit - before, before);
    tag[unit - 1] = 0;
    unit -= before;
    size += before;
  }
  const int32_t after = tag[unit + size];
  if (after > 0) {
    take(a, unit + size, after);
    tag[unit + size] = 0;
    size += after;
  }
  put(a, unit, size);
}

int arena_extend(int32_t *a, int32_t unit, int32_t more) {
  int32_t *tag = tags(a);
  const int32_t size = -tag[unit], room = tag[unit + size];
  if (room <= 0 || room < more) return 0;
  take(a, unit + size, room);
  tag[unit + size] = tag[unit + size - 1] = 0;
  if (room > more) put(a, unit + size + more, room - more);
  mark(a, unit, size + more);
  a[LIVE] += more;
  return 1;
}

int32_t arena_grow_to(int32_t *a, int32_t unit, int32_t need) {
  const int32_t more = need + tags(a)[unit];
  if (more <= 0 || arena_extend(a, unit, more)) return unit;
  const int32_t found = arena_reserve(a, need);
  if (found != NOTHING) arena_release(a, unit);
  return found;
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void arena_replay(int32_t *a, const int8_t *op, const int32_t *slot, const int32_t *size, int64_t n, int32_t *held,
                  int32_t *out, int32_t *ns) {
  for (int64_t i = 0; i < n; i++) {
    const int64_t began = ns ? now() : 0;
    int32_t *mine = &held[slot[i]];
    if (op[i] == 0) {
      out[i] = *mine = arena_reserve(a, size[i]);
    } else if (*mine == NOTHING) {
      out[i] = NOTHING;
    } else if (op[i] == 1) {
      out[i] = *mine;
      arena_release(a, *mine);
      *mine = NOTHING;
    } else {
      out[i] = arena_grow_to(a, *mine, size[i]);
      if (out[i] != NOTHING) *mine = out[i];
    }
    if (ns) ns[i] = (int32_t)(now() - began);
  }
}
