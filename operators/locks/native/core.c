/* Recoverable lock-free sections: the one source of every build (real, counting, simulated).
 *
 * A section is bytecode in the region. Its owner fills a descriptor, announces it, and puts it into the lock word; from
 * then on owner, helpers and recovery run the same code (`run`) and agree, position by position, on everything they read.
 * Writes are deferred: the update log is made durable in one batch, the state word goes RUN -> COMMIT (the commit
 * point), the cells are swapped old -> new, the locks are released to the next tag. Nothing here waits: whoever finds a
 * lock taken finishes the section that has it.
 *
 * Each STEP is one shared access and one crash point. In the simulated build STEP leaves the function, so all that lives
 * across it stands in the frames run_t / call_t / recover_t and no C variable does.
 *
 * Departures from the paper's text as known: logs of nested levels are segments of one descriptor's logs (`stacked`
 * commits and applies the segment at the inner release); words derived from agreed ones are not agreed again. */
#include "core.h"
#ifdef LOCKS_SIM
#include "mem_sim.h"
#else
#include "mem_real.h"
#endif

#define TAG_MASK ((1ull << LOCKS_TAG_BITS) - 1)
#define PAYLOAD_BITS 44
#define PAYLOAD_MASK ((1ull << PAYLOAD_BITS) - 1)
#define PAYLOAD_TOP (1ll << (PAYLOAD_BITS - 1))
/* Tags of a cell are taken in segments; at the first tag of a segment all of it is checked against stalled runners. */
#define SEGMENT_BITS (LOCKS_TAG_BITS > 8 ? LOCKS_TAG_BITS - 8 : 0)
#define SEGMENT_MASK ((1ull << SEGMENT_BITS) - 1)
#define EMPTY_BIT (1ull << 63)

static inline word empty_of(uint64_t gen) { return MUTANT(M_NOGEN) ? EMPTY_BIT : EMPTY_BIT | gen; }
static inline word state_of(uint64_t gen, uint64_t k, int s) { return gen << 20 | k << 8 | (word)s; }
static inline uint64_t gen_of(word s) { return s >> 20; }
static inline uint32_t k_of(word s) { return (uint32_t)(s >> 8) & 0xfff; }
static inline int phase_of(word s) { return (int)(s & 0xff); }
static inline word lock_word(uint64_t tag, uint32_t owner) { return tag << 16 | owner; }
static inline word next_tag(word w) { return MUTANT(M_NOTAG) ? w >> 16 : (w >> 16) + 1; }
static inline uint64_t cell_tag(word w) { return w >> PAYLOAD_BITS & TAG_MASK; }
static inline int64_t payload(word w) { return (int64_t)(w << (64 - PAYLOAD_BITS)) >> (64 - PAYLOAD_BITS); }
static inline word cell_word(uint64_t tag, int64_t v) {
  return (tag & TAG_MASK) << PAYLOAD_BITS | ((uint64_t)v & PAYLOAD_MASK);
}
static inline word result_word(int64_t v) { return (uint64_t)v & ~EMPTY_BIT; }
static inline int64_t result_value(word w) { return (int64_t)(w << 1) >> 1; }
static inline uint64_t desc_at(const lk_ctx *c, uint32_t d) { return c->desc + (uint64_t)d * c->dstride; }
static inline uint64_t slot_at(const lk_ctx *c, uint32_t p) { return c->slots + (uint64_t)p * S_WORDS; }
static inline uint64_t ann_at(const lk_ctx *c, uint32_t p, uint64_t seq) {
  return c->ann + ((uint64_t)p * 2 + (seq & 1)) * A_WORDS;
}
static inline const word *section_of(const lk_ctx *c, uint32_t sec) { return c->base + c->base[c->secs + sec]; }

/* The frame of one run. */
typedef struct {
  int32_t pc_run, pc_interpret, pc_apply, pc_release;
  uint32_t d, sec, blocked_lock, ip, outcome, i, hslot;
  int32_t budget;
  uint32_t room, at; /* free words of the log; place in the list of cells */
  uint64_t D, g, mark, cell, seq, tag; /* D: first word of the descriptor */
  word s, w, old, lockrec, blocked; /* state seen, words at hand, first lock, word that was in the way */
  int64_t value;
  uint8_t owner, resumed, pre, interpreted, policy, target, kind, nlocks, nup, flushed, nloads;
  uint16_t rpos, synced;
  uint8_t level[LK_LOCKS]; /* how often each lock is held, 0: freed */
  word lock[LK_LOCKS];
  int64_t r[LK_REGS];
  word up_cell[LOG_UPDATES], up_old[LOG_UPDATES], up_new[LOG_UPDATES];
  word ld_cell[LOG_LOADS], ld_word[LOG_LOADS];
} run_t;

typedef struct {
  int32_t pc;
  uint32_t sec, i;
  uint64_t tries, seq;
  int64_t args[LK_ARGS];
  uint32_t outcome, nres;
  int64_t res[LK_RES];
  word s;
  uint64_t g;
} call_t;

typedef struct {
  int32_t pc;
  uint32_t slot, j, last, i;
  int completed, rolled_back, orphans;
  word s, lockrec;
  uint64_t g, top;
} recover_t;

#ifdef LOCKS_SIM
/* After the interpretation: only locks, updates, result and outcome count. */
static void forget(run_t *F) {
  F->w = F->old = F->s = 0, F->value = 0, F->cell = F->tag = 0, F->target = F->kind = F->nloads = 0;
  F->ip = 0, F->budget = 0, F->rpos = 0, F->room = F->at = 0;
  memset(F->level, 0, sizeof F->level);
  memset(F->r + LK_RES, 0, sizeof F->r - LK_RES * sizeof *F->r);
  memset(F->ld_cell, 0, sizeof F->ld_cell), memset(F->ld_word, 0, sizeof F->ld_word);
}
#endif

static inline void run_init(run_t *F) {
#ifdef LOCKS_SIM
  memset(F, 0, sizeof *F);
#else
  /* field by field: no address of the frame is taken, so its scalars live in registers */
  F->d = F->sec = F->blocked_lock = F->ip = F->outcome = F->i = F->hslot = 0;
  F->g = F->s = F->w = F->lockrec = F->blocked = 0;
  F->owner = F->resumed = F->pre = F->interpreted = F->policy = F->nlocks = F->nup = F->flushed = F->nloads = 0;
  F->rpos = F->synced = 0;
  for (int i = 0; i < LK_LOCKS; i++) F->level[i] = 0;
#endif
}

/* Whether a stalled runner may still hold a tag of the segment of `tag` in the word it expects of `cell`: a helper by its
 * hazard word, an owner by the update log of the descriptor it announced. */
static int tag_in_use(lk_ctx *c, uint64_t self, uint64_t cell, uint64_t tag) {
  for (uint32_t p = 0; p < c->procs; p++) {
    if (ld(c, slot_at(c, p) + S_HAZARD) >> SEGMENT_BITS == (cell << LOCKS_TAG_BITS | tag) >> SEGMENT_BITS) return 1;
    for (int half = 0; half < 2; half++) {
      word dref = ld(c, ann_at(c, p, (uint64_t)half) + A_DREF);
      if (!dref || DAMAGED((dref & 0xffff) >= c->procs * c->dpp)) continue;
      uint64_t d = desc_at(c, dref & 0xffff), top = d + D_LOG + c->log_len;
      if (d == self) continue;
      for (uint32_t u = 1; u * 3 <= c->log_len && u <= LOG_UPDATES; u++) {
        word at = ld(c, top - 3 * u), old = ld(c, top - 3 * u + 1);
        if (at & EMPTY_BIT) break;
        if (at == cell && !(old & EMPTY_BIT) && cell_tag(old) >> SEGMENT_BITS == tag >> SEGMENT_BITS) return 1;
      }
    }
  }
  return 0;
}

/* First tag of the next segment of `cell` that no stalled runner can mistake for its own. */
static uint64_t fresh_tag(lk_ctx *c, uint64_t self, uint64_t cell, uint64_t tag) {
  for (uint64_t i = 0; i <= TAG_MASK >> SEGMENT_BITS; i++, tag += SEGMENT_MASK + 1)
    if (!tag_in_use(c, self, cell, tag & TAG_MASK)) break;
  return tag & TAG_MASK;
}

static inline void writeback_range(lk_ctx *c, uint64_t from, uint64_t to) {
  if (PERSISTENT(c))
    for (uint64_t i = from & ~7ull; i < to; i += 8) writeback(c, i);
}

/* A word all runners of (d, g) compute alike. */
static inline void derive(lk_ctx *c, uint64_t i, uint64_t g, word v, int owner) {
  if (owner) put(c, i, v);
  else cas(c, i, empty_of(g), v);
}

#include "interpret.h"

/* Fill the descriptor for lock word `w` of `lock` and announce it; nobody can see it yet. */
PT_FUNCTION int fill(lk_ctx *c, run_t *F, uint64_t lock, word w) {
  uint64_t D = F->D, A = ann_at(c, c->slot, F->seq);
  const word *x = section_of(c, F->sec);
  uint32_t rneed = (uint32_t)x[X_RNEED], uneed = 3 * (uint32_t)x[X_UNEED], len = c->log_len;
  F->g = gen_of(ld(c, D + D_STATE)) + 1;
  const word mark = F->mark = empty_of(F->g);
  st(c, D + D_STATE, state_of(F->g, 0, LK_FREE));
  /* Ranges are widened to fours of words, which stay inside their areas. */
  empty_words(c, D + D_OUTCOME, x[X_NRES] ? 5 : 1, mark);
  if (x[X_LNEED] > 1) empty_words(c, D + D_LOCKREC, 8, mark);
  else put(c, D + D_LOCKREC, mark);
  if (rneed + uneed + 6 >= len) empty_words(c, D + D_LOG, len, mark);
  else {
    uint32_t top = (uneed + 3 + 3) & ~3u; /* an entry more than needed ends a scan of the update log */
    empty_words(c, D + D_LOG, (rneed + 3) & ~3u, mark);
    empty_words(c, D + D_LOG + len - top, top, mark);
  }
  put(c, D + D_SEC, F->sec | (word)x[X_NARGS] << 16 | (word)F->policy << 24 | (word)c->slot << 32);
  put_args(c, D + D_ARG, F->r);
  F->lockrec = next_tag(w) << 16 | (lock - c->locks);
  put(c, D + D_LOCK0, F->lockrec);
  st(c, D + D_STATE, state_of(F->g, 0, LK_RUN));
  /* P1: the head before it can be seen in a lock word. `flat` never reads what a power cut left of a section in RUN (it
   * is rolled back, and lock words start anew), so there head and announcement are durable with the logs (P2). */
  if (PERSISTENT(c) && F->policy != LK_FLAT && !MUTANT(M_P1)) {
    writeback_range(c, D, D + D_LOG);
    if (rneed + uneed + 6 >= len) writeback_range(c, D + D_LOG, D + D_LOG + len);
    else {
      writeback_range(c, D + D_LOG, D + D_LOG + rneed);
      writeback_range(c, D + D_LOG + len - uneed, D + D_LOG + len);
    }
  }
  /* The announcement: the sequence number last, all in one line. P5: durable before the lock is taken. */
  put(c, A + A_DREF, F->g << 16 | F->d);
  put(c, A + A_OUTCOME, 0);
  settle(c);
  st(c, A + A_SEQ, F->seq);
  if (PERSISTENT(c) && F->policy != LK_FLAT && !MUTANT(M_P5)) writeback(c, A);
  return 1;
}

/* Run descriptor F->d under generation F->g to its end, from wherever it stands. With F->pre this is the owner's start:
 * nothing is shared before its first lock is free. Returns LK_OK (finished; F->outcome, F->r), LK_BUSY, or LK_STOP. */
PT_FUNCTION int run_body(lk_ctx *c, run_t *F, const int owner) {
  int result;
  PT_PC(F->pc_run);
  PT_BEGIN();
  F->D = desc_at(c, F->d);
  if (!F->pre) {
    STEP();
    F->s = ld(c, F->D + D_STATE);
    if (gen_of(F->s) != F->g && !MUTANT(M_NOGEN)) goto stop;
    if (MUTANT(M_NOGEN)) F->g = gen_of(F->s);
  }
  if (F->pre || phase_of(F->s) == LK_RUN) {
    PT_CALL(result, interpret(c, F, owner));
    if (result != LK_OK) goto leave;
    if (F->pre) goto leave; /* an error before anything was shared */
    F->interpreted = 1;
    /* P2: log and result before COMMIT can be seen. The result shares the state's line, whose stores survive in order. In
     * `flat`, which is recovered from the update log alone, that log and (P5) the announcement remain; a helper knows
     * neither which of its two lines it is, nor whether the owner got so far. `eager` has its logs durable already. */
    if (PERSISTENT(c) && (F->outcome & 0xff) != LK_RETRY && F->policy != LK_EAGER) {
      if (!MUTANT(M_P2)) {
        if (F->policy == LK_STACKED) writeback_logs(c, F);
        else writeback_range(c, F->D + D_LOG + c->log_len - 3 * F->nup, F->D + D_LOG + c->log_len);
      }
      if (F->policy == LK_FLAT && !MUTANT(M_P5)) {
        if (owner && !F->resumed) writeback(c, ann_at(c, c->slot, F->seq));
        else writeback(c, ann_at(c, F->hslot, 0)), writeback(c, ann_at(c, F->hslot, 1));
      }
      PRIVATE_STEP();
      fence(c);
    }
    FORGET(F);
    STEP();
    cas(c, F->D + D_STATE, state_of(F->g, F->flushed, LK_RUN), state_of(F->g, F->nup, LK_COMMIT));
  } else if (phase_of(F->s) == LK_COMMIT || phase_of(F->s) == LK_DONE) {
    /* Somebody committed: take updates and locks from the descriptor. */
    if (DAMAGED(k_of(F->s) > LOG_UPDATES || 3 * k_of(F->s) > c->log_len)) goto stop;
    F->nup = phase_of(F->s) == LK_COMMIT ? (uint8_t)k_of(F->s) : 0;
    F->flushed = 0;
    QUIET_STEP();
    F->lock[0] = ld(c, F->D + D_LOCK0);
    F->outcome = (uint32_t)ld(c, F->D + D_OUTCOME);
    for (F->nlocks = 1; F->nlocks < LK_LOCKS; F->nlocks++) {
      F->lock[F->nlocks] = ld(c, F->D + D_LOCKREC + F->nlocks - 1);
      if (F->lock[F->nlocks] & EMPTY_BIT) break;
    }
    for (uint32_t u = 0; u < F->nup; u++) {
      uint64_t at = F->D + D_LOG + c->log_len - 3 * (u + 1);
      F->up_cell[u] = ld(c, at), F->up_old[u] = ld(c, at + 1), F->up_new[u] = ld(c, at + 2);
      /* Emptied for the next use: then all cells were durable (P4), found so only after a power cut. */
      if ((F->up_cell[u] | F->up_old[u] | F->up_new[u]) & EMPTY_BIT) F->nup = 0;
    }
    STOP_IF_REUSED()
    for (uint32_t u = 0; u < F->nup; u++)
      if (DAMAGED(F->up_cell[u] >= c->words || F->up_cell[u] < c->secs + c->nsecs)) goto stop;
    for (uint32_t i = 0; i < F->nlocks; i++)
      if (DAMAGED((F->lock[i] & 0xffff) >= c->nlocks)) goto stop;
  } else goto stop;
  if (F->interpreted || phase_of(F->s) == LK_COMMIT) {
    /* P3: COMMIT before the first cell, also by a runner that only found it. */
    if (PERSISTENT(c) && !MUTANT(M_P3) && (F->outcome & 0xff) != LK_RETRY) {
      writeback(c, F->D);
      if (F->policy != LK_EAGER) {
        PRIVATE_STEP();
        fence(c);
      }
    }
    PT_CALL(result, apply(c, F, F->policy == LK_EAGER ? F->nup : F->flushed, F->nup, F->D + D_STATE, 0, owner));
    if (PERSISTENT(c) && !MUTANT(M_P4) && F->nup > F->flushed) {
      PRIVATE_STEP();
      fence(c);
    }
    STEP();
    if (owner) st(c, F->D + D_STATE, state_of(F->g, F->nup, LK_DONE));
    else cas(c, F->D + D_STATE, state_of(F->g, F->nup, LK_COMMIT), state_of(F->g, F->nup, LK_DONE));
    /* DONE needs no write-back: until the descriptor is used again its announcement keeps its old tags from coming back
     * (tag_in_use), so applying it once more changes nothing. */
  }
  for (F->i = F->nlocks; F->i > 0; F->i--) {
    PT_CALL(result, release(c, F, F->lock[F->i - 1]));
  }
  result = LK_OK;
  goto leave;
stop:
  result = LK_STOP;
leave:
  PT_END();
  return result;
}

#ifdef LOCKS_SIM
static int run(lk_ctx *c, run_t *F) { return run_body(c, F, F->owner); }
static void prepare(run_t *F, uint32_t d, uint64_t g, int owner) {
  run_init(F);
  F->d = d, F->g = g, F->owner = (uint8_t)owner;
}
#define RUN_OWN(c, F) run(c, F)
#define RUN_OTHER(c, F, d, g, owner) do { prepare(F, d, g, owner); int ran_; PT_CALL(ran_, run(c, F)); } while (0)
#else
/* A frame whose address goes to a function that is not inlined cannot live in registers: helping has its own. */
static __attribute__((noinline)) void run_other(lk_ctx *c, uint32_t d, uint64_t g, int owner) {
  run_t F;
  run_init(&F);
  F.d = d, F.g = g;
#ifdef LOCKS_STEPS /* only accesses to a section of our own are counted */
  uint64_t crash_at = c->crash_at, stop_at = c->stop_at;
  c->crash_at = c->stop_at = 0;
#endif
  if (owner) run_body(c, &F, 1);
  else run_body(c, &F, 0);
#ifdef LOCKS_STEPS
  c->crash_at = crash_at, c->stop_at = stop_at;
#endif
}
#define RUN_OWN(c, F) run_body(c, F, 1)
#define RUN_OTHER(c, F, d, g, owner) run_other((c)->origin, d, g, owner)
#endif

#include "recover.h"
