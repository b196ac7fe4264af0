/* Model explorer: depth-first search over every interleaving of the core's shared accesses, with process crashes (sc) or
 * power cuts (px86), on the very source the real build compiles (core.c over mem_sim.h). States are told apart by a
 * 64-bit hash of all their bytes.
 *
 * A process runs its calls in order. After a crash it comes back as a new process does: it recovers its slot, asks for
 * its last call, and repeats that call only when the answer is `not_started`. When all have finished, no lock may be
 * held, and final cells and results must be those of some sequential order (judged by the caller). From sampled states
 * each live process must be able to finish alone. */
#define LOCKS_SIM
#include "explore.h"
#include "core.c"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { START, CALL, RECOVER, POWER, HALT, WAIT_POWER };
enum { SOLO_STEPS = 6000 };

typedef struct {
  int32_t phase, op, private_step, pad;
  call_t A;
  run_t F;
  recover_t R;
  int64_t results[EX_OPS][LK_RES];
} proc_t;

/* A state is: this head, then words of memory, then (px86) durable words and pending stores. */
typedef struct { int32_t crashes, pad; proc_t p[EX_PROCS]; } head_t;
typedef struct { int32_t next, choice; uint64_t variant; } frame_t;

typedef struct {
  const ex_config *cf;
  ex_report *out;
  lk_ctx ctx[EX_PROCS];
  simulation s;
  uint16_t *dense;
  uint8_t *line_class;
  uint32_t nwords, nlines, lock_from, lock_to;
  size_t size, mem_at, dur_at, pend_at;
  uint64_t *seen, mask, used;
  char *stack;
  frame_t *frames;
  int depth, room;
} search;

static word cas_cell(lk_ctx *c, uint64_t i, word old, word new) { return cas(c, i, old, new); }

static uint64_t hash_bytes(const void *data, size_t n) {
  const uint64_t *w = data;
  uint64_t a = 0x9e3779b97f4a7c15ull, b = 0xbf58476d1ce4e5b9ull;
  for (size_t i = 0; i < n / 8; i++) {
    a = (a ^ w[i]) * 0xff51afd7ed558ccdull;
    a ^= a >> 32;
    b = (b + w[i] + (b << 6)) ^ (a >> 3);
  }
  a ^= b * 0xc4ceb9fe1a85ec53ull;
  a ^= a >> 29;
  return a ? a : 1;
}

static int insert(search *x, uint64_t h) {
  if (x->used * 10 > x->mask * 7) {
    uint64_t n = (x->mask + 1) * 2, *old = x->seen, m = x->mask;
    x->seen = calloc(n, 8);
    x->mask = n - 1;
    for (uint64_t i = 0; i <= m; i++)
      if (old[i]) {
        uint64_t j = old[i] & x->mask;
        while (x->seen[j]) j = (j + 1) & x->mask;
        x->seen[j] = old[i];
      }
    free(old);
  }
  uint64_t j = h & x->mask;
  for (; x->seen[j]; j = (j + 1) & x->mask)
    if (x->seen[j] == h) return 0;
  x->seen[j] = h;
  x->used++;
  return 1;
}

static void aim(search *x, char *state, int proc) {
  x->s.mem = (word *)(state + x->mem_at);
  x->s.durable = (word *)(state + x->dur_at);
  x->s.pending = x->cf->px86 ? (struct pending *)(state + x->pend_at) : NULL;
  x->s.proc = proc;
  sim = &x->s;
}

static void violate(search *x, const char *text) {
  if (x->out->verdict == EX_VIOLATION) return;
  x->out->verdict = EX_VIOLATION;
  snprintf(x->out->text, sizeof x->out->text, "%s", text);
}

/* After a recovery: was the call that was under way done? */
static void ask(search *x, proc_t *p, int who) {
  lk_result last;
  status_of(&x->ctx[who], (uint32_t)who, &last);
  memset(&p->A, 0, sizeof p->A);
  memset(&p->F, 0, sizeof p->F);
  memset(&p->R, 0, sizeof p->R);
  if (!(x->cf->mutants & M_NOREC)) {
    if ((int64_t)last.seq < p->op) violate(x, "a finished call is forgotten");
    if ((int64_t)last.seq == p->op && p->op > 0 && !last.done) violate(x, "a finished call is said not to have happened");
  }
  if ((int64_t)last.seq == p->op + 1 && last.done) {
    for (int i = 0; i < last.nres; i++) p->results[p->op][i] = last.res[i];
    p->op++;
  }
  p->phase = p->op == x->cf->ops[who] ? HALT : START;
}

/* One transition of process `who`. */
static void move(search *x, char *state, int who) {
  proc_t *p = ((head_t *)state)->p + who;
  lk_ctx *c = &x->ctx[who];
  int result;
  aim(x, state, who);
  if (p->phase == START) {
    const ex_call *call = &x->cf->calls[who][p->op];
    memset(&p->A, 0, sizeof p->A);
    memset(&p->F, 0, sizeof p->F);
    p->A.sec = call->sec, p->A.tries = 1000000, p->A.seq = (uint64_t)p->op + 1;
    memcpy(p->A.args, call->args, sizeof call->args);
    p->phase = CALL;
  }
  if (p->phase == CALL) {
    result = call_body(c, &p->A, &p->F);
    p->A.i = 0; /* the number of refusals is no part of the state */
    if (result == PT_YIELD) return;
    if (p->A.outcome != LK_BUSY && (p->A.outcome & 0xff) != LK_OK) violate(x, "a call ended in an error");
    for (uint32_t i = 0; i < p->A.nres; i++) p->results[p->op][i] = p->A.res[i];
    p->op++;
    memset(&p->A, 0, sizeof p->A);
    memset(&p->F, 0, sizeof p->F);
    p->phase = p->op == x->cf->ops[who] ? HALT : START;
  } else if (p->phase == RECOVER) {
    p->R.slot = (uint32_t)who;
    result = recover_body(c, &p->R, &p->F);
    p->R.completed = p->R.rolled_back = 0;
    if (result != PT_YIELD) ask(x, p, who);
  } else if (p->phase == POWER) {
    result = recover_power_body(c, &p->R, &p->F);
    p->R.completed = p->R.rolled_back = p->R.orphans = 0;
    if (result == PT_YIELD) return;
    for (int i = 0; i < x->cf->procs; i++) ask(x, ((head_t *)state)->p + i, i);
  }
}

static void advance(search *x, char *state, int who) {
  x->s.private_step = 0;
  move(x, state, who);
  if (x->s.wild) violate(x, "an access outside the state");
  ((head_t *)state)->p[who].private_step = x->s.private_step;
}

/* Its next access is one that nobody else can tell from no access. */
static int is_private(const proc_t *p) { return p->private_step && p->phase == CALL; }

static int can_move(const proc_t *p) { return p->phase != HALT && p->phase != WAIT_POWER; }

static void crash_process(char *state, int who) {
  head_t *h = (head_t *)state;
  proc_t *p = h->p + who;
  h->crashes++;
  memset(&p->A, 0, sizeof p->A);
  memset(&p->F, 0, sizeof p->F);
  memset(&p->R, 0, sizeof p->R);
  p->private_step = 0;
  p->phase = RECOVER;
}

/* Does recovery read more of descriptor `d` than its first line, given the state word that survived? */
static int logs_matter(word s) { return phase_of(s) == LK_COMMIT || (phase_of(s) == LK_RUN && k_of(s) > 0); }

/* Power cut number `variant`: a prefix of pending stores for every line, mixed-radix. 0 when there is no such number.
 * Lines of a descriptor whose surviving state word makes recovery ignore them are not varied. */
static int crash_power(search *x, char *state, uint64_t variant) {
  head_t *h = (head_t *)state;
  aim(x, state, 0);
  struct pending *pend = x->s.pending;
  const lk_ctx *c = &x->ctx[0];
  int volatile_kept = (int)(variant & 1);
  variant >>= 1;
  word *mem = x->s.mem, *dur = x->s.durable;
  /* first pass: every line that is not a descriptor's log; second: logs that matter */
  for (int pass = 0; pass < 2; pass++)
    for (uint32_t line = 0; line < x->nlines; line++) {
      uint32_t cls = x->line_class[line];
      if (cls == LINE_VOLATILE || (cls >= 2) != pass) continue;
      struct pending *p = pend + line;
      uint32_t keep = p->n;
      if (pass) {
        uint32_t d = cls - 2;
        if (!logs_matter(dur[x->dense[desc_at(c, d) + D_STATE]])) keep = p->n;
        else keep = (uint32_t)(variant % (p->n + 1u)), variant /= p->n + 1u;
      } else keep = (uint32_t)(variant % (p->n + 1u)), variant /= p->n + 1u;
      for (uint32_t k = 0; k < keep; k++) dur[line * 8 + p->at[k]] = p->v[k];
    }
  if (variant) return 0;
  for (uint32_t line = 0; line < x->nlines; line++)
    if (x->line_class[line] == LINE_VOLATILE)
      memcpy(mem + line * 8, volatile_kept ? mem + line * 8 : dur + line * 8, 64);
    else memcpy(mem + line * 8, dur + line * 8, 64);
  memset(pend, 0, x->nlines * sizeof *pend);
  h->crashes++;
  for (int i = 0; i < x->cf->procs; i++) {
    memset(&h->p[i].A, 0, sizeof h->p[i].A);
    memset(&h->p[i].F, 0, sizeof h->p[i].F);
    memset(&h->p[i].R, 0, sizeof h->p[i].R);
    h->p[i].private_step = 0;
    h->p[i].phase = i ? WAIT_POWER : POWER;
  }
  return 1;
}

static void terminal(search *x, char *state) {
  int64_t row[EX_WATCH + EX_PROCS * EX_OPS * LK_RES] = {0};
  head_t *h = (head_t *)state;
  x->out->terminals++;
  aim(x, state, 0);
  for (uint32_t i = x->lock_from; i < x->lock_to; i++)
    if (x->s.mem[i] & 0xffff) violate(x, "all calls are finished and a lock is held");
  for (int i = 0; i < x->cf->nwatch; i++) row[i] = payload(ld(&x->ctx[0], x->cf->watch[i]));
  for (int p = 0; p < x->cf->procs; p++)
    memcpy(row + EX_WATCH + p * EX_OPS * LK_RES, h->p[p].results, sizeof h->p[p].results);
  for (int i = 0; i < x->out->noutcomes; i++)
    if (!memcmp(x->out->outcomes[i], row, sizeof row)) return;
  if (x->out->noutcomes == EX_OUTCOMES) {
    violate(x, "more final outcomes than the report holds");
    return;
  }
  memcpy(x->out->outcomes[x->out->noutcomes++], row, sizeof row);
}

static void solo(search *x, const char *state, char *scratch) {
  const head_t *h = (const head_t *)state;
  for (int who = 0; who < x->cf->procs; who++) {
    if (!can_move(h->p + who)) continue;
    memcpy(scratch, state, x->size);
    x->out->solo_runs++;
    int steps = 0;
    for (; steps < SOLO_STEPS && ((head_t *)scratch)->p[who].phase != HALT; steps++) advance(x, scratch, who);
    if (steps == SOLO_STEPS) {
      x->out->unbounded++;
      violate(x, "a live process cannot finish alone");
    }
  }
}

static void trace(search *x) {
  char *p = x->out->trace;
  size_t left = sizeof x->out->trace, n = 0;
  for (int i = 1; i <= x->depth && n + 16 < left; i++) {
    int choice = x->frames[i].choice;
    n += (size_t)snprintf(p + n, left - n, choice >= 200 ? "power " : choice >= 100 ? "kill%d " : "p%d ", choice % 100);
  }
}

/* Let the stack's top state be followed by its next successor; 0 when there is none left. */
static int successor(search *x, char *from, char *to, frame_t *f, int *choice) {
  const head_t *h = (const head_t *)from;
  for (;;) {
    int n = f->next, procs = x->cf->procs;
    if (n == 0) /* one process whose next access is private goes first, alone */
      for (int i = 0; i < procs; i++)
        if (is_private(h->p + i)) {
          f->next = procs;
          memcpy(to, from, x->size);
          advance(x, to, i);
          *choice = i;
          return 1;
        }
    if (n < procs) {
      f->next++;
      if (!can_move(h->p + n)) continue;
      memcpy(to, from, x->size);
      advance(x, to, n);
      *choice = n;
      return 1;
    }
    if (h->crashes >= x->cf->crashes) return 0;
    if (!x->cf->px86) {
      if (n >= 2 * procs) return 0;
      f->next++;
      if (h->p[n - procs].phase == HALT) continue;
      memcpy(to, from, x->size);
      crash_process(to, n - procs);
      *choice = 100 + n - procs;
      return 1;
    }
    int over = 1;
    for (int i = 0; i < procs; i++) over &= h->p[i].phase == HALT;
    if (over) return 0;
    memcpy(to, from, x->size);
    if (!crash_power(x, to, f->variant++)) return 0;
    x->out->power_cuts++;
    *choice = 200;
    return 1;
  }
}

static int grow(search *x) {
  if (x->depth + 2 < x->room) return 1;
  x->room *= 2;
  x->stack = realloc(x->stack, x->size * (size_t)(x->room + 1));
  x->frames = realloc(x->frames, sizeof(frame_t) * (size_t)(x->room + 1));
  return x->stack && x->frames;
}

static void dfs(search *x, char *scratch) {
  insert(x, hash_bytes(x->stack, x->size));
  x->out->states = 1;
  while (x->depth >= 0 && x->out->verdict == EX_OK) {
    if (!grow(x)) { snprintf(x->out->text, sizeof x->out->text, "out of memory"); x->out->verdict = EX_LIMIT; return; }
    frame_t *f = x->frames + x->depth;
    char *top = x->stack + (size_t)x->depth * x->size, *to = top + x->size;
    int choice = 0;
    if (!successor(x, top, to, f, &choice)) { x->depth--; continue; }
    x->out->transitions++;
    uint64_t hash = hash_bytes(to, x->size);
    x->frames[x->depth + 1] = (frame_t){.choice = choice};
    if (x->out->verdict == EX_OK && !insert(x, hash)) continue;
    x->depth++;
    if (++x->out->states >= x->cf->limit) { x->out->verdict = EX_LIMIT; return; }
    int over = 1;
    for (int i = 0; i < x->cf->procs; i++) over &= ((head_t *)to)->p[i].phase == HALT;
    if (over) terminal(x, to);
    else if (x->cf->solo && (hash >> 40) % (uint64_t)x->cf->solo == 0) solo(x, to, scratch);
    if (x->out->verdict == EX_VIOLATION) trace(x);
  }
}

static uint32_t add_range(search *x, uint64_t from, uint64_t n, uint32_t cls) {
  uint32_t begin = x->nwords;
  for (uint64_t i = 0; i < (n + 7) / 8 * 8; i++) {
    if (x->nwords == 0xfff0) return begin;
    if (x->nwords % 8 == 0) x->line_class[x->nlines++] = (uint8_t)cls;
    x->dense[from + i] = (uint16_t)x->nwords++;
  }
  return begin;
}

static int set_up(search *x, lk_ctx *r, char *why, int nwhy) {
  const ex_config *cf = x->cf;
  uint64_t ndesc = (uint64_t)cf->procs * r->dpp;
  if ((uint32_t)cf->procs > r->procs || cf->procs > EX_PROCS || r->dpp != 2 || ndesc > 200 || r->log_len > 64) {
    snprintf(why, (size_t)nwhy, "value: explore: expected a region with max_procs >= %d, descriptors_per_proc = 2 and "
             "log_len <= 64", cf->procs);
    return -1;
  }
  x->dense = malloc(r->words * 2);
  x->line_class = calloc(1, 8192);
  memset(x->dense, 0xff, r->words * 2);
  for (int p = 0; p < cf->procs; p++) add_range(x, r->slots + (uint64_t)p * S_WORDS, S_WORDS, LINE_VOLATILE);
  add_range(x, r->ann, (uint64_t)cf->procs * 2 * A_WORDS, LINE_PLAIN);
  for (uint32_t d = 0; d < ndesc; d++) {
    add_range(x, r->desc + (uint64_t)d * r->dstride, 8, LINE_PLAIN);
    add_range(x, r->desc + (uint64_t)d * r->dstride + 8, r->dstride - 8, 2 + d);
  }
  uint64_t nlocks = r->base[H_LOCKBUMP];
  x->lock_from = add_range(x, r->locks, nlocks, LINE_VOLATILE);
  x->lock_to = x->lock_from + (uint32_t)nlocks;
  for (uint32_t i = 0; i < r->base[H_NDIR]; i++) {
    word at = r->base[r->base[H_DIR] + i];
    if (!at) break;
    const word *rec = r->base + at;
    if (rec[8] != LK_LOCKSET) add_range(x, rec[11], rec[9] * rec[10], LINE_PLAIN);
  }
  if (x->nwords > 4096) {
    snprintf(why, (size_t)nwhy, "value: explore: %u words of state; expected at most 4096 (use a smaller region)", x->nwords);
    return -1;
  }
  x->mem_at = (sizeof(head_t) + 7) / 8 * 8;
  x->dur_at = x->mem_at + x->nwords * 8;
  x->pend_at = x->dur_at + (cf->px86 ? x->nwords * 8 : 0);
  x->size = (x->pend_at + (cf->px86 ? x->nlines * sizeof(struct pending) : 0) + 7) / 8 * 8;
  x->s = (simulation){.dense = x->dense, .words = r->words, .por = cf->por, .hazards = cf->hazards, .mutants = cf->mutants,
                      .lines = x->nlines, .line_class = x->line_class};
  for (int p = 0; p < cf->procs; p++) {
    x->ctx[p] = *r;
    x->ctx[p].origin = &x->ctx[p];
    x->ctx[p].slot = (uint32_t)p, x->ctx[p].procs = (uint32_t)cf->procs;
    x->ctx[p].persist = cf->px86 ? LK_CLWB : LK_PROCESS;
    x->ctx[p].nlocks = (uint32_t)nlocks, x->ctx[p].nohelp = 0, x->ctx[p].policy = 0;
  }
  x->room = 1024;
  x->stack = calloc((size_t)x->room + 1, x->size);
  x->frames = calloc((size_t)x->room + 1, sizeof(frame_t));
  x->mask = (1u << 16) - 1;
  x->seen = calloc(x->mask + 1, 8);
  word *mem = (word *)(x->stack + x->mem_at);
  for (uint64_t i = 0; i < r->words; i++)
    if (x->dense[i] != 0xffff) mem[x->dense[i]] = r->base[i];
  for (int p = 0; p < cf->procs; p++) mem[x->dense[r->slots + (uint64_t)p * S_WORDS]] = 0;
  if (cf->px86) memcpy(x->stack + x->dur_at, mem, x->nwords * 8);
  return 0;
}

int ex_explore(lk_ctx *region, const ex_config *cf, ex_report *out, char *why, int nwhy) {
  search x = {.cf = cf, .out = out};
  struct timespec began, ended;
  memset(out, 0, offsetof(ex_report, outcomes));
  if (set_up(&x, region, why, nwhy)) return -1;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
  for (int p = 0; p < cf->procs; p++)
    if (!cf->ops[p]) ((head_t *)x.stack)->p[p].phase = HALT;
  char *scratch = malloc(x.size);
  dfs(&x, scratch);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
  out->seconds = (double)(ended.tv_sec - began.tv_sec) + 1e-9 * (double)(ended.tv_nsec - began.tv_nsec);
  out->overflow = x.s.overflow;
  free(scratch), free(x.seen), free(x.stack), free(x.frames), free(x.dense), free(x.line_class);
  return 0;
}
