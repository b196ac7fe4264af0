/* Memory of the real build: C11 atomics on the mapped region. With LOCKS_STEPS every shared access is counted first, and
 * the process can kill or stop itself at a chosen one of an attempt (a crash sweep at every shared access, a SIGSTOP inside
 * a section). */
#include <signal.h>
#include <stddef.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#ifdef LOCKS_STEPS
#define FN(name) lks_##name
static void tick(lk_ctx *c) {
  uint64_t at = ++c->stats.steps;
  if (at == c->crash_at) kill(getpid(), SIGKILL);
  if (at == c->stop_at) {
    c->stop_at = 0; /* once */
    raise(SIGSTOP);
  }
}
#define STEP() tick(c->origin)
#define COUNT_FROM_HERE(c) ((c)->origin->stats.steps = 0)
#else
#define FN(name) lk_##name
#define STEP() ((void)0)
#define COUNT_FROM_HERE(c) ((void)0)
#endif
#define QUIET_STEP() STEP()
#define PRIVATE_STEP() STEP()
#define FORGET(F) ((void)0)
#define SCRUB(values) ((void)0)
#define PT_FUNCTION static inline __attribute__((always_inline))
#define PT_PC(field) ((void)0)
#define PT_BEGIN() ((void)0)
#define PT_END() ((void)0)
#define PT_CALL(result, call) result = (call)
#define MUTANT(m) 0
/* Words another process left that lead nowhere; the explorer has no damaged memory. */
#define DAMAGED(condition) __builtin_expect(condition, 0)
#define LOG_UPDATES LK_UPDATES
#define LOG_LOADS 64

#define AT(i) ((_Atomic word *)(c->base + (i)))
static inline word ld(lk_ctx *c, uint64_t i) { return atomic_load_explicit(AT(i), memory_order_acquire); }
static inline void st(lk_ctx *c, uint64_t i, word v) { atomic_store_explicit(AT(i), v, memory_order_release); }
/* Store of a word that nobody reads before a later release or CAS of ours. */
static inline void put(lk_ctx *c, uint64_t i, word v) { atomic_store_explicit(AT(i), v, memory_order_relaxed); }
/* Announcements must be seen before the next load of ours is done. */
static inline void announce(lk_ctx *c, uint64_t i, word v) { atomic_store_explicit(AT(i), v, memory_order_seq_cst); }
/* The word found; equal to `old` when the swap was done. */
static inline word cas(lk_ctx *c, uint64_t i, word old, word new) {
  atomic_compare_exchange_strong_explicit(AT(i), &old, new, memory_order_acq_rel, memory_order_acquire);
  return old;
}
static inline word cas_cell(lk_ctx *c, uint64_t i, word old, word new) { return cas(c, i, old, new); }
#if defined(__AVX2__) /* every aligned 8 bytes of a wide store are written at once on x86-64 */
typedef word wide __attribute__((vector_size(32), aligned(8), may_alias));
#endif
static inline void empty_words(lk_ctx *c, uint64_t from, uint64_t n, word mark) {
  uint64_t i = 0;
#if defined(__AVX2__)
  const wide four = {mark, mark, mark, mark};
  volatile wide *to = (volatile wide *)(c->base + from);
  for (; i + 4 <= n; i += 4) *to++ = four;
#endif
  for (; i < n; i++) put(c, from + i, mark);
}
/* All LK_ARGS arguments, bit 63 cleared. */
static inline void put_args(lk_ctx *c, uint64_t to, const int64_t *r) {
#if defined(__AVX2__)
  const wide clear = {~(1ull << 63), ~(1ull << 63), ~(1ull << 63), ~(1ull << 63)};
  for (int i = 0; i < LK_ARGS; i += 4) *(volatile wide *)(c->base + to + i) = *(const wide *)(r + i) & clear;
#else
  for (int i = 0; i < LK_ARGS; i++) put(c, to + i, (word)r[i] & ~(1ull << 63));
#endif
}
static inline void settle(lk_ctx *c) { (void)c, atomic_thread_fence(memory_order_release); }
static inline void writeback(lk_ctx *c, uint64_t i) {
  if (c->persist) lk_writeback(c->origin, i);
}
static inline void fence(lk_ctx *c) {
  if (c->persist) lk_fence(c->origin);
}
#define PERSISTENT(c) ((c)->persist)
#define HAZARDS(c) 1
