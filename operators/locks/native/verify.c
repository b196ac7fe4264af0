/* What is looked at before it is trusted: bytecode of a section before it is stored, and everything behind the header
 * that leads somewhere before a region is used. The header itself has a checksum (region.c). */
#include "core.h"
#include <stdio.h>
#include <string.h>

static int bad(char *why, int n, uint64_t at, const char *text) {
  snprintf(why, (size_t)n, "value: section bytecode, instruction %llu: %s", (unsigned long long)at, text);
  return -1;
}

static lk_ins instruction(const word *x, uint64_t i) {
  lk_ins in;
  memcpy(&in, x + X_CODE + i, sizeof in);
  return in;
}

/* Whether `n` times `stride` words from `base` lie in the heap. */
static int in_heap(const lk_ctx *c, word base, word n, word stride) {
  word all, heap = c->base[H_HEAP];
  return !__builtin_mul_overflow(n, stride, &all) && base >= heap && base <= c->words && all <= c->words - base;
}
static int in_locks(const lk_ctx *c, word base, word n) { return base <= c->nlocks && n <= c->nlocks - base; }

/* The handle of an instruction leads to locks, or to cells or nodes, of this region. */
static int verify_handle(const lk_ctx *c, const word *x, uint64_t i, lk_ins in, char *why, int nwhy) {
  if (in.c >= x[X_NHANDLES]) return bad(why, nwhy, i, "handle out of range");
  const word *h = x + X_CODE + x[X_NCODE] + 3 * in.c;
  int lock = in.op == OP_LOCK || in.op == OP_UNLOCK, node = in.op == OP_LOADN || in.op == OP_STOREN;
  if (node && (in.imm < 0 || (uint64_t)in.imm >= h[2])) return bad(why, nwhy, i, "field out of range");
  if (lock ? !in_locks(c, h[0], h[1]) : !in_heap(c, h[0], h[1], node ? h[2] : 1))
    return bad(why, nwhy, i, "handle leads out of the region");
  return 0;
}

static int verify_one(const lk_ctx *c, const word *x, uint64_t i, lk_ins in, char *why, int nwhy) {
  if (in.op >= OP_LAST) return bad(why, nwhy, i, "unknown operation");
  if (in.op == OP_ERR)
    return in.imm > LK_RETRY && in.imm <= LK_E_NODE ? 0 : bad(why, nwhy, i, "unknown error");
  if (in.a >= LK_REGS || in.b >= LK_REGS) return bad(why, nwhy, i, "register out of range");
  if (in.op == OP_RET && (in.imm < 0 || in.imm > (int)x[X_NRES] || in.a + in.imm > LK_REGS))
    return bad(why, nwhy, i, "too many results");
  if ((in.op >= OP_LOADC && in.op <= OP_UNLOCK) || in.op >= OP_ADDC) return verify_handle(c, x, i, in, why, nwhy);
  if (in.op != OP_RET && in.c >= LK_REGS) return bad(why, nwhy, i, "register out of range");
  if (in.op == OP_CONST64 && i + 1 >= x[X_NCODE]) return bad(why, nwhy, i, "constant is missing");
  return 0;
}

/* Refuse bytecode that could leave its registers, its code, its arguments or the region. */
int lk_verify(const lk_ctx *c, const word *x, uint64_t words, char *why, int nwhy) {
  uint8_t data[4096] = {0}; /* the second word of a CONST64 is no instruction */
  if (words < X_CODE) return bad(why, nwhy, 0, "sizes do not fit");
  uint64_t n = x[X_NCODE], nh = x[X_NHANDLES];
  if (n > sizeof data || nh > 64 || x[X_NCHECKS] > 64 || x[X_NARGS] > LK_ARGS || x[X_NRES] > LK_RES ||
      x[X_MAXOPS] > INT32_MAX || X_CODE + n + 3 * nh + 2 * x[X_NCHECKS] != words || x[X_SIZE] != words)
    return bad(why, nwhy, 0, "sizes do not fit");
  lk_ins last = {0};
  for (uint64_t i = 0; i < n; i++) {
    last = instruction(x, i);
    if (verify_one(c, x, i, last, why, nwhy)) return -1;
    if (last.op == OP_CONST64) data[++i] = 1;
  }
  if (!n || (last.op != OP_RET && last.op != OP_JMP && last.op != OP_ERR)) return bad(why, nwhy, n, "runs off its end");
  for (uint64_t i = 0; i < n; i++) {
    lk_ins in = instruction(x, i);
    int64_t to = (int64_t)i + 1 + in.imm;
    if (data[i] || in.op < OP_JMP || in.op > OP_JNZ) continue;
    if (to < 0 || to >= (int64_t)n || data[to]) return bad(why, nwhy, i, "jump out of range");
  }
  for (uint64_t i = 0; i < x[X_NCHECKS]; i++)
    if (x[X_CODE + n + 3 * nh + 2 * i] >= x[X_NARGS]) return bad(why, nwhy, n, "check of an argument out of range");
  return 0;
}

/* Words of read log and update log a section can need; without a bound (a loop) all of the log. */
void lk_needs(word *x) {
  uint64_t reads = 0, updates = 0, locks = 0;
  int loop = 0;
  for (uint64_t i = 0; i < x[X_NCODE]; i++) {
    lk_ins in;
    memcpy(&in, x + X_CODE + i, sizeof in);
    if (in.op >= OP_JMP && in.op <= OP_JNZ && in.imm < 0) loop = 1;
    if (in.op == OP_LOADC || in.op == OP_LOADN) reads++;
    if (in.op == OP_STOREC || in.op == OP_STOREN || in.op >= OP_ADDC) reads += 2, updates++;
    if (in.op == OP_LOCK) reads += 2, locks++;
    if (in.op == OP_CONST64) i++;
  }
  x[X_RNEED] = loop || reads > 0xffff ? 0xffff : reads;
  x[X_UNEED] = loop || updates > 0xffff ? 0xffff : updates;
  x[X_LNEED] = locks;
}

static int damaged(char *why, int n, const char *what, uint64_t which, const char *field, word found, word limit) {
  snprintf(why, (size_t)n, "%s %llu: %s is %llu (0x%llx); expected at most %llu", what, (unsigned long long)which, field,
           (unsigned long long)found, (unsigned long long)found, (unsigned long long)limit);
  return -1;
}

static int sound_object(const lk_ctx *c, uint64_t i, word at, char *why, int nwhy) {
  if (!in_heap(c, at, R_WORDS, 1)) return damaged(why, nwhy, "directory entry", i, "place", at, c->words - R_WORDS);
  const word *r = c->base + at;
  if (memchr(r, 0, LK_NAME) == NULL) return damaged(why, nwhy, "object", i, "name length", LK_NAME, LK_NAME - 1);
  if (r[R_KIND] < LK_CELLS || r[R_KIND] > LK_POOL) return damaged(why, nwhy, "object", i, "kind", r[R_KIND], LK_POOL);
  if (r[R_KIND] == LK_LOCKSET) {
    if (!in_locks(c, r[R_BASE], 0)) return damaged(why, nwhy, "object", i, "base", r[R_BASE], c->nlocks);
    if (!in_locks(c, r[R_BASE], r[R_N])) return damaged(why, nwhy, "object", i, "n", r[R_N], c->nlocks - r[R_BASE]);
    return 0;
  }
  if (!in_heap(c, r[R_BASE], 0, 1)) return damaged(why, nwhy, "object", i, "base", r[R_BASE], c->words);
  if (!r[R_STRIDE] || r[R_STRIDE] > c->words)
    return damaged(why, nwhy, "object", i, "fields of a node", r[R_STRIDE], c->words);
  if (!in_heap(c, r[R_BASE], r[R_N], r[R_STRIDE]))
    return damaged(why, nwhy, "object", i, "n", r[R_N], (c->words - r[R_BASE]) / r[R_STRIDE]);
  return 0;
}

static int sound_section(const lk_ctx *c, uint64_t i, word at, char *why, int nwhy) {
  if (!in_heap(c, at, X_CODE, 1)) return damaged(why, nwhy, "section entry", i, "place", at, c->words - X_CODE);
  const word *x = c->base + at;
  if (x[X_SIZE] > c->words - at) return damaged(why, nwhy, "section", i, "length", x[X_SIZE], c->words - at);
  if (memchr(x, 0, LK_NAME) == NULL) return damaged(why, nwhy, "section", i, "name length", LK_NAME, LK_NAME - 1);
  for (int f = X_RNEED; f <= X_LNEED; f++)
    if (x[f] > 0xffff) return damaged(why, nwhy, "section", i, "need of log words", x[f], 0xffff);
  if (x[X_NEST] > LK_EAGER) return damaged(why, nwhy, "section", i, "nesting", x[X_NEST], LK_EAGER);
  int n = snprintf(why, (size_t)nwhy, "section %llu: ", (unsigned long long)i);
  return lk_verify(c, x, x[X_SIZE], why + n, nwhy - n);
}

/* A descriptor in COMMIT does not change until its state word does: what is wrong in it and still there is damage. */
static int sound_descriptor(lk_ctx *c, uint64_t d, char *why, int nwhy) {
  uint64_t D = c->desc + d * c->dstride, top = D + D_LOG + c->log_len;
  word s = lk_word(c, D + D_STATE), k = s >> 8 & 0xfff;
  if ((s & 0xff) > LK_ABORT) return damaged(why, nwhy, "descriptor", d, "state", s & 0xff, LK_ABORT);
  if ((s & 0xff) != LK_COMMIT) return 0;
  word most = c->log_len / 3 < LK_UPDATES ? c->log_len / 3 : LK_UPDATES;
  if (k > most) return damaged(why, nwhy, "descriptor", d, "committed updates", k, most);
  for (uint64_t u = 1; u <= k; u++) {
    word cell = lk_word(c, top - 3 * u);
    if (!(cell >> 63) && !in_heap(c, cell, 1, 1) && lk_word(c, D + D_STATE) == s)
      return damaged(why, nwhy, "descriptor", d, "cell of an update", cell, c->words - 1);
  }
  for (int i = 0; i < LK_LOCKS; i++) {
    word held = lk_word(c, D + (i ? (uint64_t)D_LOCKREC + (uint64_t)i - 1 : (uint64_t)D_LOCK0));
    if (held >> 63) break;
    if ((held & 0xffff) >= c->nlocks && lk_word(c, D + D_STATE) == s)
      return damaged(why, nwhy, "descriptor", d, "lock", held & 0xffff, c->nlocks - 1);
  }
  return 0;
}

/* 0, or -1 and what leads nowhere. Processes may be at work: only words are judged that cannot be half-way. */
int lk_sound(lk_ctx *c, char *why, int nwhy) {
  for (uint64_t i = 0; i < c->base[H_NDIR]; i++) {
    word at = lk_word(c, c->base[H_DIR] + i);
    if (at && sound_object(c, i, at, why, nwhy)) return -1;
  }
  for (uint64_t i = 0; i < c->nsecs; i++) {
    word at = lk_word(c, c->secs + i);
    if (at && sound_section(c, i, at, why, nwhy)) return -1;
  }
  uint64_t last = (uint64_t)c->procs * c->dpp, used = lk_word(c, H_LOCKBUMP);
  if (used > c->nlocks) return damaged(why, nwhy, "header word", H_LOCKBUMP, "locks in use", used, c->nlocks);
  for (uint64_t i = 0; i < c->nlocks; i++) {
    word owner = lk_word(c, c->locks + i) & 0xffff;
    if (owner > last) return damaged(why, nwhy, "lock", i, "owner", owner, last);
  }
  for (uint64_t d = 0; d < last; d++)
    if (sound_descriptor(c, d, why, nwhy)) return -1;
  return 0;
}
