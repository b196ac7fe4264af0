/* A detectable call, helping, and recovery: included by core.c. */

/* One detectable call: attempts until one is not refused; after each refusal the section in the way is finished first.
 * Returns the outcome (LK_OK, an error, or LK_BUSY when `tries` attempts were refused). */
PT_FUNCTION int call_body(lk_ctx *c, call_t *A, run_t *F) {
  int result;
  PT_PC(A->pc);
  PT_BEGIN();
  for (A->i = 0; A->i < A->tries; A->i++) {
    c->origin->stats.attempts++;
    COUNT_FROM_HERE(c);
    run_init(F);
    F->owner = F->pre = 1;
    F->sec = A->sec;
    F->seq = A->seq;
    F->policy = c->policy == LK_EAGER ? LK_EAGER : (uint8_t)section_of(c, A->sec)[X_NEST];
    F->d = c->slot * c->dpp + (uint32_t)(A->seq & 1);
    for (uint32_t a = 0; a < LK_ARGS; a++) F->r[a] = A->args[a];
    PT_CALL(result, RUN_OWN(c, F));
    A->outcome = result == LK_BUSY ? LK_BUSY : F->outcome;
    if ((A->outcome & 0xff) != LK_BUSY && (A->outcome & 0xff) != LK_RETRY) {
      A->nres = A->outcome >> 24;
      for (uint32_t i = 0; i < A->nres; i++) A->res[i] = F->r[i];
      if (F->pre) goto leave;
      /* The result moves to the announcement before the descriptor can be used again. */
      PRIVATE_STEP();
      for (uint32_t i = 0; i < A->nres; i++)
        put(c, ann_at(c, c->slot, A->seq) + A_RES + i, result_word(A->res[i]));
      st(c, ann_at(c, c->slot, A->seq) + A_OUTCOME, A->outcome);
      /* No write-back: until the descriptor is used again, two calls later, the result stands in it, durable (P2). */
      goto leave;
    }
    c->origin->stats.aborts++;
    if (F->blocked && !c->nohelp && !DAMAGED((F->blocked & 0xffff) > c->procs * c->dpp)) {
      /* The lock word again after the generation, or a reused descriptor would be run. */
      STEP();
      A->s = ld(c, desc_at(c, (uint32_t)(F->blocked & 0xffff) - 1) + D_STATE);
      STEP();
      if (ld(c, F->blocked_lock) == F->blocked || MUTANT(M_NORECHECK)) {
        c->origin->stats.helps++;
        A->g = gen_of(A->s), A->s = 0;
        RUN_OTHER(c, F, (uint32_t)(F->blocked & 0xffff) - 1, A->g, 0);
      }
    }
  }
  A->outcome = LK_BUSY;
leave:
  PT_END();
  return (int)(A->outcome & 0xff);
}

/* Finish every descriptor of a slot whose process is gone (the caller has claimed the slot): a section on its lock or
 * committed is run to its end, one that never got its lock is rolled back. */
PT_FUNCTION int recover_body(lk_ctx *c, recover_t *R, run_t *F) {
  PT_PC(R->pc);
  PT_BEGIN();
  (void)F;
  if (HAZARDS(c)) {
    STEP();
    st(c, slot_at(c, R->slot) + S_HAZARD, 0);
  }
  for (R->j = 0; R->j < c->dpp; R->j++) {
    if (MUTANT(M_REUSE)) continue;
    STEP();
    R->s = ld(c, desc_at(c, R->slot * c->dpp + R->j) + D_STATE);
    if (phase_of(R->s) == LK_RUN) {
      STEP();
      R->lockrec = ld(c, desc_at(c, R->slot * c->dpp + R->j) + D_LOCK0);
      STEP();
      if (DAMAGED((R->lockrec & 0xffff) >= c->nlocks) ||
          ld(c, c->locks + (R->lockrec & 0xffff)) != lock_word(R->lockrec >> 16, R->slot * c->dpp + R->j + 1)) {
        STEP();
        if (cas(c, desc_at(c, R->slot * c->dpp + R->j) + D_STATE, R->s, (R->s & ~0xffull) | LK_ABORT) == R->s)
          R->rolled_back++;
        else R->j--; /* a helper finished it meanwhile: look again */
        continue;
      }
    } else if (phase_of(R->s) != LK_COMMIT && phase_of(R->s) != LK_DONE) continue;
    R->completed += phase_of(R->s) != LK_DONE;
    R->g = gen_of(R->s), R->s = R->lockrec = 0;
    RUN_OTHER(c, F, R->slot * c->dpp + R->j, R->g, 1);
  }
  PT_END();
  return LK_OK;
}

/* Recovery after a power cut, alone on the region. Committed sections are applied again; a RUN section that showed
 * nothing is rolled back; one with a committed inner segment holds its locks again and is run on. Lock words were not
 * durable: they go to a tag above every recorded one. */
PT_FUNCTION int recover_power_body(lk_ctx *c, recover_t *R, run_t *F) {
  (void)F;
  PT_PC(R->pc);
  PT_BEGIN();
  R->last = c->procs * c->dpp;
  for (R->j = 0; R->j < R->last; R->j++) {
    STEP();
    R->s = ld(c, desc_at(c, R->j) + D_STATE);
    if (phase_of(R->s) == LK_COMMIT) {
      RUN_OTHER(c, F, R->j, gen_of(R->s), 1);
      R->completed++;
    } else if (phase_of(R->s) == LK_RUN && k_of(R->s) == 0) {
      STEP();
      st(c, desc_at(c, R->j) + D_STATE, (R->s & ~0xffull) | LK_ABORT);
      writeback(c, desc_at(c, R->j));
      R->rolled_back++;
    }
  }
  for (uint32_t p = 0; p < c->procs; p++) st(c, slot_at(c, p) + S_HAZARD, 0);
  R->top = 0;
  for (uint32_t j = 0; j < R->last; j++)
    for (int i = -1; i < LK_LOCKS - 1; i++) {
      word rec = ld(c, desc_at(c, j) + (i < 0 ? (uint64_t)D_LOCK0 : (uint64_t)(D_LOCKREC + i)));
      if (!(rec & EMPTY_BIT) && rec >> 16 > R->top) R->top = rec >> 16;
    }
  for (R->i = 0; R->i < c->nlocks; R->i++) {
    word w = ld(c, c->locks + R->i);
    if (!w && !R->top) continue;
    if (w & 0xffff) R->orphans++;
    uint64_t tag = (w >> 16 > R->top ? w >> 16 : R->top) + 2;
    if (w || R->i < c->base[H_LOCKBUMP]) st(c, c->locks + R->i, lock_word(tag & ~1ull, 0));
  }
  for (R->j = 0; R->j < R->last; R->j++) {
    word s = ld(c, desc_at(c, R->j) + D_STATE);
    if (phase_of(s) != LK_RUN) continue;
    for (int i = -1; i < LK_LOCKS - 1; i++) {
      word rec = ld(c, desc_at(c, R->j) + (i < 0 ? (uint64_t)D_LOCK0 : (uint64_t)(D_LOCKREC + i)));
      if (rec & EMPTY_BIT || DAMAGED((rec & 0xffff) >= c->nlocks)) break;
      word w = ld(c, c->locks + (rec & 0xffff));
      if (!(w & 0xffff) || rec >> 16 > w >> 16) st(c, c->locks + (rec & 0xffff), lock_word(rec >> 16, R->j + 1));
    }
  }
  for (R->j = 0; R->j < R->last; R->j++) {
    STEP();
    R->s = ld(c, desc_at(c, R->j) + D_STATE);
    if (phase_of(R->s) != LK_RUN) continue;
    RUN_OTHER(c, F, R->j, gen_of(R->s), 1);
    R->completed++;
  }
  STEP();
  fence(c);
  PT_END();
  return LK_OK;
}

#ifndef LOCKS_STEPS
/* What became of the slot's last call, after its recovery. */
static void status_of(lk_ctx *c, uint32_t slot, lk_result *out) {
  word s0 = ld(c, ann_at(c, slot, 0) + A_SEQ), s1 = ld(c, ann_at(c, slot, 1) + A_SEQ);
  uint64_t A = ann_at(c, slot, s1 > s0), D;
  memset(out, 0, sizeof *out);
  out->seq = s1 > s0 ? s1 : s0;
  if (!out->seq || MUTANT(M_NOREC)) return;
  word outcome = ld(c, A + A_OUTCOME), dref = ld(c, A + A_DREF);
  uint64_t from = A + A_RES;
  if (!outcome) {
    if (DAMAGED((dref & 0xffff) >= c->procs * c->dpp)) return;
    D = desc_at(c, dref & 0xffff);
    word s = ld(c, D + D_STATE);
    if (gen_of(s) != dref >> 16 || (phase_of(s) != LK_DONE && phase_of(s) != LK_COMMIT)) return;
    outcome = ld(c, D + D_OUTCOME);
    from = D + D_RES;
  }
  out->outcome = (int)(outcome & 0xff);
  out->at = (int)(outcome >> 8 & 0xffff);
  out->nres = (int)(outcome >> 24 & 0xff);
  if (DAMAGED(out->nres > LK_RES)) out->nres = LK_RES;
  out->done = out->outcome == LK_OK;
  for (int i = 0; i < out->nres && out->done; i++) out->res[i] = result_value(ld(c, from + (uint64_t)i));
}

#endif

#ifndef LOCKS_SIM
/* The call works on a copy of the context's constant part: no store to shared memory can change that, so it stays in
 * registers; and without persistence all of it falls away at compile time. */
static inline __attribute__((always_inline)) int call_on_copy(lk_ctx *c, uint32_t sec, const int64_t *args, uint64_t tries,
                                                              lk_result *out, const int durable) {
  lk_ctx k = {.base = c->base, .slot = c->slot, .procs = c->procs, .dpp = c->dpp, .log_len = c->log_len,
              .dstride = c->dstride, .slots = c->slots, .ann = c->ann, .desc = c->desc, .locks = c->locks,
              .secs = c->secs, .nohelp = c->nohelp, .policy = c->policy, .origin = c};
  k.persist = durable ? c->persist : 0;
  call_t A;
  run_t F;
  A.sec = sec, A.tries = tries, A.seq = c->seq + 1, A.nres = 0;
  for (int i = 0; i < LK_ARGS; i++) A.args[i] = args[i];
  int outcome = call_body(&k, &A, &F);
  out->outcome = outcome;
  out->at = (int)(A.outcome >> 8 & 0xffff);
  out->nres = (int)A.nres;
  out->done = outcome == LK_OK;
  out->seq = A.seq;
  if (outcome == LK_OK)
    for (uint32_t i = 0; i < A.nres; i++) out->res[i] = A.res[i];
  if (outcome != LK_BUSY && !F.pre) c->seq = A.seq;
  return outcome;
}

static __attribute__((noinline)) int call_durable(lk_ctx *c, uint32_t sec, const int64_t *args, uint64_t tries,
                                                  lk_result *out) {
  return call_on_copy(c, sec, args, tries, out, 1);
}

int FN(call)(lk_ctx *c, uint32_t sec, const int64_t args[LK_ARGS], uint64_t tries, lk_result *out) {
  if (c->persist) return call_durable(c, sec, args, tries, out);
  return call_on_copy(c, sec, args, tries, out, 0);
}

int FN(recover_slot)(lk_ctx *c, uint32_t slot, lk_report *out) {
  recover_t R = {.slot = slot};
  recover_body(c, &R, NULL);
  out->completed += R.completed;
  out->rolled_back += R.rolled_back;
  return 0;
}

#ifndef LOCKS_STEPS
int lk_recover_power(lk_ctx *c, lk_report *out) {
  recover_t R = {0};
  recover_power_body(c, &R, NULL);
  out->completed += R.completed;
  out->rolled_back += R.rolled_back;
  out->orphans += R.orphans;
  return 0;
}
void lk_status(lk_ctx *c, uint32_t slot, lk_result *out) { status_of(c, slot, out); }
int64_t lk_read(lk_ctx *c, uint64_t cell) { return payload(ld(c, cell)); }
word lk_word(lk_ctx *c, uint64_t index) { return ld(c, index); }
#endif
#endif
