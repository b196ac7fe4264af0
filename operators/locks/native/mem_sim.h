/* Memory of the explorer: every STEP leaves the function (its place is kept in the frame), so one shared access is one
 * transition. `sc`: one memory. `px86`: a memory and, per line, the ordered stores not yet known to be durable; a
 * write-back marks them, a fence of the same process makes the marked ones durable; a power cut keeps any prefix.
 *
 * With por, accesses that commute with everything other processes can do are joined to the one before them: filling a
 * descriptor nobody can see yet, words derived from agreed ones, and the generation check right after the access it
 * guards. */
#include <stddef.h>
#include <string.h>

#define PT_YIELD (-1)
#define PT_FUNCTION static __attribute__((noinline))
#define PT_PC(field) int32_t *const pc_ = &(field)
#define PT_CAT_(a, b) a##b
#define PT_CAT(a, b) PT_CAT_(a, b)
#define PT_HERE(label) *pc_ = (int32_t)((char *)&&label - (char *)&&pt_base)
#define PT_BEGIN() do { if (*pc_) goto *(void *)((char *)&&pt_base + *pc_); pt_base:; } while (0)
#define PT_END() (*pc_ = 0)
#define PT_STEP(label) do { PT_HERE(label); return PT_YIELD; label:; } while (0)
#define STEP() PT_STEP(PT_CAT(pt_, __COUNTER__))
#define PT_QUIET(label) do { if (!sim->por) { PT_HERE(label); return PT_YIELD; } label:; } while (0)
/* An access that only this process and its recovery ever look at: explored at once, with crashes around it. */
#define PRIVATE_STEP() do { sim->private_step = sim->por; STEP(); } while (0)
#define QUIET_STEP() PT_QUIET(PT_CAT(pt_, __COUNTER__))
#define PT_CALL_(result, call, label) \
  do { PT_HERE(label); label: result = (call); if (result == PT_YIELD) return PT_YIELD; } while (0)
#define PT_CALL(result, call) PT_CALL_(result, call, PT_CAT(pt_, __COUNTER__))

enum {
  M_NOLOG = 1, M_BLIND = 2, M_NOREC = 4, M_NOTAG = 8, M_NORECHECK = 16, M_NOGEN = 32, M_BADRELEASE = 64, M_REUSE = 128,
  M_P1 = 256, M_P2 = 512, M_P3 = 1024, M_P4 = 2048, M_P5 = 4096
};
#define MUTANT(m) (sim->mutants & (m))
#define PERSISTENT(c) ((c)->persist)
#define HAZARDS(c) ((void)(c), sim->hazards)
#define DAMAGED(condition) 0
#define LOG_UPDATES 10
#define LOG_LOADS 14
/* Values that are not read again would only tell equal states apart. */
#define COUNT_FROM_HERE(c) ((void)0)
#define FORGET(F) forget(F)
#define SCRUB(values) (values)

typedef struct {
  const uint16_t *dense; /* word of the region -> word of the state, 0xffff for words that never change */
  word *mem;
  struct pending *pending; /* px86 only */
  word *durable;
  int por, hazards, proc, private_step, wild; /* wild: a broken core left the state */
  uint32_t mutants, overflow;
  uint64_t words, lines;
  const uint8_t *line_class;
} simulation;
static __thread simulation *sim;

enum { LINE_PLAIN, LINE_VOLATILE };
enum { PENDING = 40, SIM_PROCS = 4 };
struct pending { uint8_t n, mark[SIM_PROCS], at[PENDING]; word v[PENDING]; };

static void note_store(uint32_t d, word v) {
  struct pending *p = sim->pending + d / 8;
  if (sim->line_class[d / 8] == LINE_VOLATILE) return;
  if (p->n == PENDING) { /* keep the run going with one crash point less */
    sim->durable[(d & ~7u) + p->at[0]] = p->v[0];
    memmove(p->at, p->at + 1, PENDING - 1);
    memmove(p->v, p->v + 1, (PENDING - 1) * sizeof(word));
    for (int i = 0; i < SIM_PROCS; i++) p->mark[i] -= p->mark[i] > 0;
    p->n--;
    sim->overflow++;
  }
  p->at[p->n] = d & 7;
  p->v[p->n++] = v;
}

static word ld(lk_ctx *c, uint64_t i) {
  if (i >= sim->words) return sim->wild = 1, 0;
  return sim->dense[i] == 0xffff ? c->base[i] : sim->mem[sim->dense[i]];
}
static void st(lk_ctx *c, uint64_t i, word v) {
  (void)c;
  if (i >= sim->words || sim->dense[i] == 0xffff) { sim->wild = 1; return; }
  sim->mem[sim->dense[i]] = v;
  if (sim->pending) note_store(sim->dense[i], v);
}
#define put st
#define announce st
static word cas(lk_ctx *c, uint64_t i, word old, word new) {
  word found = ld(c, i);
  if (found == old) st(c, i, new);
  return found;
}
static word cas_cell(lk_ctx *c, uint64_t i, word old, word new);
static void empty_words(lk_ctx *c, uint64_t from, uint64_t n, word mark) {
  for (uint64_t i = 0; i < n; i++) st(c, from + i, mark);
}
static void put_args(lk_ctx *c, uint64_t to, const int64_t *r) {
  for (int i = 0; i < LK_ARGS; i++) st(c, to + (uint64_t)i, (word)r[i] & ~(1ull << 63));
}
static void settle(lk_ctx *c) { (void)c; }
static void writeback(lk_ctx *c, uint64_t i) {
  (void)c;
  if (!sim->pending || i >= sim->words || sim->dense[i] == 0xffff) return;
  struct pending *p = sim->pending + sim->dense[i] / 8;
  p->mark[sim->proc] = p->n;
}
static void fence(lk_ctx *c) {
  (void)c;
  if (!sim->pending) return;
  for (uint64_t line = 0; line < sim->lines; line++) {
    struct pending *p = sim->pending + line;
    uint8_t done = p->mark[sim->proc];
    if (!done) continue;
    for (int k = 0; k < done; k++) sim->durable[line * 8 + p->at[k]] = p->v[k];
    memmove(p->at, p->at + done, (size_t)(p->n - done));
    memmove(p->v, p->v + done, (size_t)(p->n - done) * sizeof(word));
    p->n -= done;
    for (int i = 0; i < SIM_PROCS; i++) p->mark[i] = p->mark[i] > done ? p->mark[i] - done : 0;
    memset(p->at + p->n, 0, (size_t)(PENDING - p->n)); /* equal states, equal bytes */
    memset(p->v + p->n, 0, (size_t)(PENDING - p->n) * sizeof(word));
  }
}
