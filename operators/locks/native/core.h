/* Words of the region, and the calls of the core (arXiv 2512.09710, reconstruction of section 2.3 of the design).
 *
 * Every reference is a word index from the start of the region, so the file can be mapped anywhere, by any process, in
 * any language. Words are 64 bits. Bit 63 set marks an EMPTY log word together with the generation it was emptied for:
 * a log word is committed by one CAS from EMPTY(gen), and a late runner of an older generation cannot hit it.
 *
 *   state    gen(43) | committed updates(12) | state(8)
 *   lock     tag(47) | owner descriptor + 1 (16)        tag: +1 on every acquire and on every release, never reset
 *   cell     tag(LOCKS_TAG_BITS) | payload(44, signed)  tag: another one on every applied update
 *   log      EMPTY(gen), or an agreed word
 *
 * Words that all runners of a section derive from agreed ones (update log, lock records, result) are stored plainly by
 * the owner, who alone can begin the next generation, and by CAS from EMPTY by everybody else.
 */
#ifndef LOCKS_CORE_H
#define LOCKS_CORE_H
#include <stdint.h>

#ifndef LOCKS_TAG_BITS
#define LOCKS_TAG_BITS 19
#endif

typedef uint64_t word;

enum { LK_MAGIC_LOW = 0x4b434f4c, LK_VERSION = 1 };
#define LK_MAGIC 0x315241444b434f4cull /* "LOCKDAR1" */
enum { LK_FREE = 0, LK_RUN = 1, LK_COMMIT = 2, LK_DONE = 3, LK_ABORT = 4 };
enum { LK_FLAT = 0, LK_STACKED = 1, LK_EAGER = 2 };
enum { LK_PROCESS = 0, LK_CLWB = 1, LK_MSYNC = 2 };
enum { LK_ARGS = 8, LK_RES = 4, LK_LOCKS = 8, LK_REGS = 32 };

/* header words */
enum {
  H_MAGIC, H_VERSION, H_CHECK, H_SIZE, H_PROCS, H_DPP, H_LOG, H_PERSIST, H_UUID0, H_UUID1, H_BOOT0, H_BOOT1, H_CLEAN,
  H_TAGBITS, H_SLOTS, H_ANN, H_DESC, H_LOCKS, H_NLOCKS, H_DIR, H_NDIR, H_SECS, H_NSECS, H_HEAP, H_WORDS,
  H_BUMP = 64, H_LOCKBUMP = 72
};

/* one line per slot: who has it, and the (cell, tag) a helper is about to swap */
enum { S_OWNER, S_HAZARD, S_WORDS = 8 };
/* two announcement lines per slot, alternated by parity of the sequence number */
enum { A_DREF, A_OUTCOME, A_RES, A_SEQ = 6, A_WORDS = 8 };
/* descriptor */
enum { D_STATE, D_SEC, D_LOCK0, D_OUTCOME, D_RES, D_ARG = 8, D_LOCKREC = 16, D_LOG = 24 };

/* section record in the region, words */
enum {
  X_NAME = 0, X_HASH = 8, X_NCODE, X_NHANDLES, X_NARGS, X_RNEED, X_UNEED, X_LNEED, X_MAXOPS, X_NEST, X_STRICT, X_NRES,
  X_NCHECKS, X_SIZE, X_CODE = 24
}; /* code, then handles (base, n, stride) of 3 words, then checks (argument, limit) of 2 words */

typedef struct { uint8_t op, a, b, c; int32_t imm; } lk_ins;

enum lk_op {
  OP_CONST, OP_CONST64, OP_MOV, OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_MOD, OP_NEG, OP_AND, OP_OR, OP_XOR, OP_SHL, OP_SHR,
  OP_LT, OP_LE, OP_EQ, OP_NE, OP_NOT, OP_JMP, OP_JZ, OP_JNZ, OP_LOADC, OP_STOREC, OP_LOADN, OP_STOREN, OP_LOCK,
  OP_UNLOCK, OP_SLOT, OP_ERR, OP_RET, OP_ADDI, OP_MIN, OP_MAX, OP_ADDC, OP_SUBC, OP_ADDI_C, OP_LAST
};
/* what is agreed as the end of a run */
enum lk_outcome {
  LK_OK = 1, LK_RETRY, LK_E_INDEX, LK_E_OVERFLOW, LK_E_DIVISION, LK_E_MAXOPS, LK_E_LOGFULL, LK_E_LOCKS, LK_E_ORDER,
  LK_E_POOL, LK_E_NODE, LK_BUSY = 64, LK_STOP
};

typedef struct {
  uint64_t attempts, aborts, helps, writebacks, fences, steps;
} lk_stats;

typedef struct lk_ctx {
  word *base;
  uint64_t words;
  uint32_t slot, procs, dpp, log_len, dstride, persist;
  uint32_t slots, ann, desc, locks, nlocks, secs, nsecs;
  uint32_t nohelp, policy, flush_kind;
  uint64_t seq, fence_ns;
  uint64_t crash_at, stop_at; /* of the counting build: SIGKILL / SIGSTOP itself at this shared access of an attempt */
  uint64_t page_low, page_high;
  lk_stats stats;
  int fd;
  struct lk_ctx *origin; /* itself; of the copy a call works on: the context it was copied from */
} lk_ctx;

typedef struct { int outcome, at, done, nres; int64_t res[LK_RES]; uint64_t seq; } lk_result;
typedef struct { int completed, rolled_back, orphans; } lk_report;

/* core.c; lks_ is the same source compiled to count its shared accesses */
int lk_call(lk_ctx *c, uint32_t sec, const int64_t args[LK_ARGS], uint64_t tries, lk_result *out);
int lks_call(lk_ctx *c, uint32_t sec, const int64_t args[LK_ARGS], uint64_t tries, lk_result *out);
int lk_recover_slot(lk_ctx *c, uint32_t slot, lk_report *out);
int lks_recover_slot(lk_ctx *c, uint32_t slot, lk_report *out);
int lk_recover_power(lk_ctx *c, lk_report *out);
void lk_status(lk_ctx *c, uint32_t slot, lk_result *out);
int64_t lk_read(lk_ctx *c, uint64_t cell);
word lk_word(lk_ctx *c, uint64_t index);

/* region.c */
int lk_create(const char *path, uint64_t size, uint32_t procs, uint32_t dpp, uint32_t log_len, uint32_t persist,
              char *why, int nwhy);
int lk_open(lk_ctx *c, const char *path, char *why, int nwhy);
void lk_close(lk_ctx *c);
int lk_claim(lk_ctx *c, int slot, char *why, int nwhy);
void lk_leave(lk_ctx *c);
int lk_slot_state(lk_ctx *c, uint32_t slot); /* 0 free, 1 alive, 2 dead, 3 alive but stopped */
int lk_reboot(lk_ctx *c);                    /* 1 when the region was last used under another boot of the machine */
void lk_mark_boot(lk_ctx *c);
int64_t lk_object(lk_ctx *c, const char *name, int kind, uint64_t n, uint64_t stride, int64_t init);
int lk_find(lk_ctx *c, const char *name, word *kind, word *base, word *n, word *stride);
int lk_section_id(lk_ctx *c, const char *name); /* the newest of that name, -1 when there is none */
/* Slots of dead processes; everything after a reboot. 1: another process is at the latter. */
int lk_recover_dead(lk_ctx *c, lk_report *out);
int lk_section(lk_ctx *c, const word *record, uint64_t words, char *why, int nwhy);
enum { LK_CELLS = 1, LK_LOCKSET = 2, LK_POOL = 3 };

/* object record in the region, words */
enum { LK_NAME = 64, R_KIND = 8, R_N, R_STRIDE, R_BASE, R_INIT, R_WORDS };
enum { LK_UPDATES = 32 }; /* most updates of a section */

/* verify.c */
int lk_verify(const lk_ctx *c, const word *record, uint64_t words, char *why, int nwhy);
int lk_sound(lk_ctx *c, char *why, int nwhy);
/* Words of read log and update log a section can need; without a bound (a loop) all of the log. */
void lk_needs(word *record);

/* persist.c */
int lk_flush_kind(void);
const char *lk_flush_name(int kind);
void lk_writeback(lk_ctx *c, uint64_t index);
void lk_fence(lk_ctx *c);
#endif
