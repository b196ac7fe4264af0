/* The interpreter of section bytecode: included by core.c, which defines the macros. Everything that is read from shared
 * memory is agreed in the read log; everything that follows from agreed words is computed by each runner for itself. */

PT_FUNCTION int fill(lk_ctx *c, run_t *F, uint64_t lock, word w);

/* Swap the updates [from, to) into their cells; a helper says first which (cell, tag) it is about to expect, and looks
 * again whether the update can still be wanted: `guard` still holds `held`, or (held = 0) its state is COMMIT. */
PT_FUNCTION int apply(lk_ctx *c, run_t *F, uint32_t from, uint32_t to, uint64_t guard, word held, const int owner) {
  PT_PC(F->pc_apply);
  PT_BEGIN();
  for (F->i = from; F->i < to; F->i++) {
    if (!owner && HAZARDS(c)) {
      STEP();
      announce(c, slot_at(c, c->slot) + S_HAZARD, F->up_cell[F->i] << LOCKS_TAG_BITS | cell_tag(F->up_old[F->i]));
      STEP();
      word now = ld(c, guard);
      if (held ? now != held : (gen_of(now) != F->g || phase_of(now) != LK_COMMIT)) break;
    }
    STEP();
    if (MUTANT(M_BLIND)) st(c, F->up_cell[F->i], F->up_new[F->i]);
    else cas_cell(c, F->up_cell[F->i], F->up_old[F->i], F->up_new[F->i]);
  }
  /* All swaps before all write-backs: a locked instruction waits for every write-back before it, as a fence does. */
  if (PERSISTENT(c) && !MUTANT(M_P4))
    for (uint32_t i = from; i < to; i++) writeback(c, F->up_cell[i]);
  if (!owner && HAZARDS(c)) st(c, slot_at(c, c->slot) + S_HAZARD, 0);
  PT_END();
  return LK_OK;
}

/* Free a lock to the tag after the one recorded when it was taken, never to one read afresh. */
PT_FUNCTION int release(lk_ctx *c, run_t *F, word record) {
  PT_PC(F->pc_release);
  PT_BEGIN();
  STEP();
  if (MUTANT(M_BADRELEASE))
    cas(c, c->locks + (record & 0xffff), lock_word(record >> 16, F->d + 1), lock_word((record >> 16) - 1, 0));
  else
    cas(c, c->locks + (record & 0xffff), lock_word(record >> 16, F->d + 1), lock_word(next_tag(record), 0));
  PT_END();
  return LK_OK;
}

/* Logs durable: the inner commit of `stacked`, each lock and store of `eager`. */
static inline void writeback_logs(lk_ctx *c, run_t *F) {
  uint64_t D = F->D, top = D + D_LOG + c->log_len;
  if (F->nlocks > 1) writeback_range(c, D + D_LOCKREC, D + D_LOCKREC + 8);
  writeback_range(c, D + D_LOG, D + D_LOG + F->rpos);
  writeback_range(c, top - 3 * F->nup, top);
}

/* The place in the program: in a register where it can be, in the frame where every step leaves the function. */
#ifdef LOCKS_SIM
#define IP F->ip
#define X section_of(c, F->sec)
#define HANDLES (X + X_CODE + X[X_NCODE])
#else
#define IP ip
#define X x
#define HANDLES handles
#endif
#define FAIL(kind) do { F->outcome = (kind) | IP << 8; goto error; } while (0)
#define STOP_IF_REUSED()                                                                      \
  if (!owner && !MUTANT(M_NOGEN)) {                                                           \
    QUIET_STEP();                                                                             \
    if (gen_of(ld(c, F->D + D_STATE)) != F->g) goto stop;                         \
  }
/* Agree on F->w as the word of the next log position: the first committer wins, the others take its word. */
#define AGREE()                                                                               \
  do {                                                                                        \
    if (F->room == 0) FAIL(LK_E_LOGFULL);                                                     \
    F->room--;                                                                                \
    if (!MUTANT(M_NOLOG)) {                                                                   \
      STEP();                                                                                 \
      word found_ = cas(c, F->D + D_LOG + F->rpos, F->mark, F->w);                \
      if (found_ != F->mark) {                                                                \
        if (found_ & EMPTY_BIT) goto stop;                                                    \
        F->w = found_;                                                                        \
        STOP_IF_REUSED()                                                                      \
      }                                                                                       \
    }                                                                                         \
    F->rpos++;                                                                                \
  } while (0)
#define ARITH(builtin) if (builtin(F->r[in.b], F->r[in.c], &F->r[in.a])) FAIL(LK_E_OVERFLOW); break
#define JUMP()                                                                                \
  do {                                                                                        \
    if (in.imm < 0 && (F->budget += in.imm) < 0) FAIL(LK_E_MAXOPS);                           \
    IP = (uint32_t)((int32_t)IP + in.imm);                                              \
  } while (0)

static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

PT_FUNCTION int interpret(lk_ctx *c, run_t *F, const int owner) {
  int result = LK_OK;
  PT_PC(F->pc_interpret);
  PT_BEGIN();
  if (!F->pre) {
    QUIET_STEP();
    F->w = ld(c, F->D + D_SEC);
    F->lockrec = ld(c, F->D + D_LOCK0);
    for (uint32_t i = 0; i < LK_ARGS; i++) F->r[i] = result_value(ld(c, F->D + D_ARG + i));
    STOP_IF_REUSED()
    F->sec = (uint32_t)(F->w & 0xffff);
    F->policy = (uint8_t)(F->w >> 24);
    F->hslot = (uint32_t)(F->w >> 32);
    if (DAMAGED(F->sec >= c->nsecs || !c->base[c->secs + F->sec] || F->hslot >= c->procs ||
                (F->lockrec & 0xffff) >= c->nlocks))
      goto stop;
    F->resumed = 1;
  } else F->hslot = c->slot;
#ifndef LOCKS_SIM
  const word *const x = section_of(c, F->sec), *const handles = x + X_CODE + x[X_NCODE];
  uint32_t ip = 0;
#endif
  F->budget = (int32_t)X[X_MAXOPS];
  F->outcome = LK_OK;
  F->room = c->log_len;
  F->mark = empty_of(F->g);
  for (;;) {
    lk_ins in;
    memcpy(&in, X + X_CODE + IP, sizeof in);
    IP++;
    switch (in.op) {
    case OP_CONST: F->r[in.a] = in.imm; break;
    case OP_CONST64: F->r[in.a] = (int64_t)X[X_CODE + IP++]; break;
    case OP_MOV: F->r[in.a] = F->r[in.b]; break;
    case OP_ADDI: if (__builtin_add_overflow(F->r[in.b], (int64_t)in.imm, &F->r[in.a])) FAIL(LK_E_OVERFLOW); break;
    case OP_ADD: ARITH(__builtin_add_overflow);
    case OP_SUB: ARITH(__builtin_sub_overflow);
    case OP_MUL: ARITH(__builtin_mul_overflow);
    case OP_DIV: case OP_MOD: {
      int64_t x = F->r[in.b], y = F->r[in.c];
      if (y == 0) FAIL(LK_E_DIVISION);
      if (y == -1 && x == INT64_MIN) FAIL(LK_E_OVERFLOW);
      F->r[in.a] = in.op == OP_DIV ? floor_div(x, y) : x - floor_div(x, y) * y;
      break;
    }
    case OP_NEG: if (__builtin_sub_overflow((int64_t)0, F->r[in.b], &F->r[in.a])) FAIL(LK_E_OVERFLOW); break;
    case OP_AND: F->r[in.a] = F->r[in.b] & F->r[in.c]; break;
    case OP_OR: F->r[in.a] = F->r[in.b] | F->r[in.c]; break;
    case OP_XOR: F->r[in.a] = F->r[in.b] ^ F->r[in.c]; break;
    case OP_SHL:
      if (F->r[in.c] < 0 || F->r[in.c] > 62) FAIL(LK_E_OVERFLOW);
      if (__builtin_mul_overflow(F->r[in.b], (int64_t)1 << F->r[in.c], &F->r[in.a])) FAIL(LK_E_OVERFLOW);
      break;
    case OP_SHR:
      if (F->r[in.c] < 0) FAIL(LK_E_OVERFLOW);
      F->r[in.a] = F->r[in.b] >> (F->r[in.c] > 63 ? 63 : F->r[in.c]);
      break;
    case OP_LT: F->r[in.a] = F->r[in.b] < F->r[in.c]; break;
    case OP_LE: F->r[in.a] = F->r[in.b] <= F->r[in.c]; break;
    case OP_EQ: F->r[in.a] = F->r[in.b] == F->r[in.c]; break;
    case OP_NE: F->r[in.a] = F->r[in.b] != F->r[in.c]; break;
    case OP_MIN: F->r[in.a] = F->r[in.b] < F->r[in.c] ? F->r[in.b] : F->r[in.c]; break;
    case OP_MAX: F->r[in.a] = F->r[in.b] > F->r[in.c] ? F->r[in.b] : F->r[in.c]; break;
    case OP_NOT: F->r[in.a] = !F->r[in.b]; break;
    case OP_JMP: JUMP(); break;
    case OP_JZ: if (!F->r[in.a]) JUMP(); break;
    case OP_JNZ: if (F->r[in.a]) JUMP(); break;
    case OP_SLOT: F->r[in.a] = F->hslot; break;
    case OP_ERR: FAIL((uint32_t)in.imm);
    /* cells[i]: base + i; nodes (numbered from 1): base + (i - 1) * stride + field */
    case OP_ADDI_C: case OP_LOADC: case OP_STOREC: case OP_ADDC: case OP_SUBC: {
      const word *h = HANDLES + 3 * in.c;
      uint64_t at = (uint64_t)F->r[in.b];
      if (at >= h[1]) FAIL(LK_E_INDEX);
      F->cell = h[0] + at;
      F->kind = in.op == OP_ADDI_C ? OP_ADDC : in.op;
      F->target = in.a;
      F->value = in.op == OP_ADDI_C ? in.imm : F->r[in.a];
      goto access;
    }
    case OP_LOADN: case OP_STOREN: {
      const word *h = HANDLES + 3 * in.c;
      uint64_t at = (uint64_t)F->r[in.b] - 1;
      if (at >= h[1]) FAIL(LK_E_NODE);
      F->cell = h[0] + at * h[2] + (uint32_t)in.imm;
      F->kind = in.op == OP_LOADN ? OP_LOADC : OP_STOREC;
      F->target = in.a;
      F->value = F->r[in.a];
      goto access;
    }
    case OP_LOCK: goto lock;
    case OP_UNLOCK: goto unlock;
    case OP_RET:
      for (uint32_t i = 0; i < (uint32_t)in.imm; i++) {
        F->value = F->r[in.a + i];
        if (result_value(result_word(F->value)) != F->value) FAIL(LK_E_OVERFLOW);
      }
      for (uint32_t i = 0; i < (uint32_t)in.imm; i++) {
        F->r[i] = F->r[in.a + i];
        derive(c, F->D + D_RES + i, F->g, result_word(F->r[i]), owner);
      }
      F->outcome = LK_OK | (uint32_t)in.imm << 24; /* results counted here */
      goto finish;
    default: __builtin_unreachable(); /* lk_verify has seen to it */
    }
    continue;

  access:
    /* Every cell this section has touched since its last commit, with its newest word. */
    for (F->at = 0; F->at < F->nloads; F->at++)
      if (F->ld_cell[F->at] == F->cell) { F->w = F->ld_word[F->at]; goto have; }
    STEP();
    F->w = ld(c, F->cell);
    AGREE();
    if (F->nloads == LOG_LOADS) FAIL(LK_E_LOGFULL);
    F->ld_cell[F->nloads] = F->cell;
    F->ld_word[F->nloads++] = F->w;
  have:
    if (F->kind == OP_LOADC) {
      F->r[F->target] = payload(F->w);
      SCRUB(F->w = 0);
      continue;
    }
    if (F->kind != OP_STOREC) { /* cells[i] += r, cells[i] -= r */
      if (F->kind == OP_ADDC ? __builtin_add_overflow(payload(F->w), F->value, &F->value)
                             : __builtin_sub_overflow(payload(F->w), F->value, &F->value))
        FAIL(LK_E_OVERFLOW);
    }
    if (F->value >= PAYLOAD_TOP || F->value < -PAYLOAD_TOP) FAIL(LK_E_OVERFLOW);
    F->old = F->w;
    F->tag = cell_tag(F->old) + !MUTANT(M_NOTAG);
    if ((F->tag & SEGMENT_MASK) == 0 && HAZARDS(c)) {
      QUIET_STEP();
      F->w = fresh_tag(c->origin, F->D, F->cell, F->tag);
      AGREE();
      F->tag = F->w;
    }
    if (F->nup == LOG_UPDATES || F->room < 3) FAIL(LK_E_LOGFULL);
    F->room -= 3;
    {
      uint64_t at = F->D + D_LOG + c->log_len - 3 * (F->nup + 1u);
      word new = cell_word(F->tag, F->value);
      derive(c, at, F->g, F->cell, owner);
      derive(c, at + 1, F->g, F->old, owner);
      derive(c, at + 2, F->g, new, owner);
      F->up_cell[F->nup] = F->cell, F->up_old[F->nup] = F->old, F->up_new[F->nup] = new;
      F->ld_word[F->at] = new;
      F->nup++;
      SCRUB(F->w = F->old = F->tag = 0);
    }
    if (F->policy == LK_EAGER) { /* the ablation: logged, fenced, applied at once; only lines that are new */
      uint64_t at = F->D + D_LOG + c->log_len - 3 * F->nup;
      writeback_range(c, at, at + 3);
      writeback_range(c, F->D + D_LOG + F->synced, F->D + D_LOG + F->rpos);
      F->synced = F->rpos;
      fence(c);
      PT_CALL(result, apply(c, F, F->nup - 1u, F->nup, c->locks + (F->lockrec & 0xffff),
                            lock_word(F->lockrec >> 16, F->d + 1), owner));
    }
    continue;

  lock: /* a: ok register, b: index register, c: handle, imm: 1 = refuse the section when taken, 2 = ascending order */
    {
      lk_ins now;
      memcpy(&now, X + X_CODE + IP - 1, sizeof now);
      const word *h = HANDLES + 3 * now.c;
      if ((uint64_t)F->r[now.b] >= h[1]) FAIL(LK_E_INDEX);
      F->cell = h[0] + (uint64_t)F->r[now.b];
      F->target = now.a;
      F->kind = (uint8_t)now.imm;
    }
    if (F->pre) {
      STEP();
      F->w = ld(c, c->locks + F->cell);
      if (F->w & 0xffff) goto busy;
      QUIET_STEP(); /* nobody can see the descriptor before the swap */
      fill(c, F, c->locks + F->cell, F->w);
      if (PERSISTENT(c) && F->policy != LK_FLAT) {
        PRIVATE_STEP();
        fence(c);
      }
      STEP();
      F->old = cas(c, c->locks + F->cell, F->w, lock_word(F->lockrec >> 16, F->d + 1));
      if (F->old != F->w) {
        F->w = F->old;
        QUIET_STEP();
        st(c, F->D + D_STATE, state_of(F->g, 0, LK_ABORT));
        goto busy;
      }
      F->pre = 0;
    }
    if (F->nlocks == 0) {
      F->lock[0] = F->lockrec;
      F->level[0] = 1;
      F->nlocks = 1;
      F->r[F->target] = 1;
      continue;
    }
    F->r[F->target] = 1;
    for (uint32_t i = 0; i < F->nlocks; i++)
      if (F->level[i] && (F->lock[i] & 0xffff) == F->cell) { /* held by this section: nothing to take, nothing to free */
        F->level[i]++;
        goto taken;
      }
    if (F->kind & 2)
      for (uint32_t i = 0; i < F->nlocks; i++)
        if (F->level[i] && (F->lock[i] & 0xffff) > F->cell) FAIL(LK_E_ORDER);
    if (F->nlocks == LK_LOCKS) FAIL(LK_E_LOCKS);
    STEP();
    F->w = ld(c, c->locks + F->cell);
    AGREE();
    if (F->w & 0xffff) {
      F->blocked = F->w;
      F->blocked_lock = (uint32_t)(c->locks + F->cell);
      F->w = 0;
    } else {
      F->old = F->w;
      STEP();
      F->w = cas(c, c->locks + F->cell, F->old, lock_word(next_tag(F->old), F->d + 1));
      if (F->w != F->old && F->w != lock_word(next_tag(F->old), F->d + 1)) {
        F->blocked = F->w & 0xffff ? F->w : 0;
        F->blocked_lock = (uint32_t)(c->locks + F->cell);
        F->w = 0;
      } else F->w = 1;
      AGREE();
    }
    if (!F->w) {
      F->r[F->target] = 0;
      if (F->kind & 1) { F->outcome = LK_RETRY; goto error; }
      continue;
    }
    F->lock[F->nlocks] = next_tag(F->old) << 16 | F->cell;
    F->level[F->nlocks] = 1;
    derive(c, F->D + D_LOCKREC + F->nlocks - 1, F->g, F->lock[F->nlocks], owner);
    F->nlocks++;
    SCRUB(F->w = F->old = 0);
    if (F->policy == LK_EAGER) {
      writeback_range(c, F->D + D_LOCKREC, F->D + D_LOCKREC + 1);
      writeback_range(c, F->D + D_LOG + F->synced, F->D + D_LOG + F->rpos);
      F->synced = F->rpos;
      fence(c);
    }
  taken:
    continue;

  unlock: /* a: ok register, b: index register, c: handle. flat: kept to the end; stacked: commit the segment, free it */
    {
      lk_ins now;
      memcpy(&now, X + X_CODE + IP - 1, sizeof now);
      if (!F->r[now.a]) continue; /* was not taken */
      const word *h = HANDLES + 3 * now.c;
      F->cell = h[0] + (uint64_t)F->r[now.b];
      for (F->target = F->nlocks; F->target-- > 0;)
        if (F->level[F->target] && (F->lock[F->target] & 0xffff) == F->cell) break;
    }
    if (F->target >= F->nlocks || F->policy != LK_STACKED || F->target == 0) continue;
    if (F->level[F->target] > 1) { F->level[F->target]--; continue; }
    if (F->nup > F->flushed) {
      if (PERSISTENT(c)) {
        if (!MUTANT(M_P2)) writeback_logs(c, F);
        PRIVATE_STEP();
        fence(c);
      }
      STEP();
      cas(c, F->D + D_STATE, state_of(F->g, F->flushed, LK_RUN), state_of(F->g, F->nup, LK_RUN));
      if (PERSISTENT(c) && !MUTANT(M_P3)) {
        writeback(c, F->D);
        PRIVATE_STEP();
        fence(c);
      }
      PT_CALL(result, apply(c, F, F->flushed, F->nup, c->locks + (F->lock[F->target] & 0xffff),
                            lock_word(F->lock[F->target] >> 16, F->d + 1), owner));
      if (PERSISTENT(c) && !MUTANT(M_P4)) {
        PRIVATE_STEP();
        fence(c);
      }
      F->flushed = F->nup;
      F->nloads = 0; /* cells are read afresh: their newest word is in place now */
    }
    F->level[F->target] = 0;
    PT_CALL(result, release(c, F, F->lock[F->target]));
    continue;
  }
error: /* agreed like a result; updates that were not committed are dropped */
  if (F->policy != LK_EAGER) F->nup = F->flushed;
finish:
  if (!F->pre) derive(c, F->D + D_OUTCOME, F->g, F->outcome, owner);
  result = LK_OK;
  goto leave;
busy:
  F->blocked = F->w & 0xffff ? F->w : 0;
  F->blocked_lock = (uint32_t)(c->locks + F->cell);
  result = LK_BUSY;
  goto leave;
stop:
  result = LK_STOP;
leave:
  PT_END();
  return result;
}
