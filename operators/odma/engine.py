"""How requests of a simulated device grow, park and are admitted (numba); the loop round it is `engine_loop.py`."""

import math

import numpy as np

from operators.lab.compiled import inner
from operators.odma import engine_memory as mem
from operators.odma import engine_state as es

LOOK_AHEAD = 64  # waiting requests that order `tag` looks at


@inner
def grow(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, log, times, i):
    """Request i, settled and off the calendar, needs room for its next token; True when it may go on."""
    if p[mem.KIND] == mem.PAGED or p[mem.KIND] == mem.HYBRID:
        return _grow_page(p, r, s, f, a, owner, pages, ring, queues, log, times, i)
    align = np.int64(p[mem.ALIGN])
    answer = np.int64(r[es.SIZE, i]) * align - r[es.INPUT, i]
    tokens = np.int64(r[es.INPUT, i]) + mem.next_tokens(p, bounds, answer, np.int64(r[es.DONE, i]))
    want = max(-(-tokens // align), np.int64(r[es.SIZE, i]) + 1)
    s[es.ORDINARY_UNITS] -= r[es.ORDINARY, i]  # from here on it lives in the safety pool
    r[es.ORDINARY, i] = 0
    if p[mem.COUNT] == 0 and mem.grow_in_place(p, r, s, f, a, log, times, i, want):
        return True
    if p[mem.OVERFLOW] != mem.RECOMPUTE and mem.move(p, r, s, f, a, owner, log, times, i, want):
        return True
    if s[es.N_RUN] > 1 and mem.wait_or_recompute(p, d, r, s, f, bounds, i, want):
        _park(p, r, x, s, f, i)
        return False
    while True:
        victim = s[es.RUN_TAIL]
        mem.preempt(p, r, s, f, a, pages, ring, queues, log, times, victim)
        if victim == i:
            return False
        if p[mem.COUNT] == 0 and mem.grow_in_place(p, r, s, f, a, log, times, i, want):
            return True
        if mem.move(p, r, s, f, a, owner, log, times, i, want):
            return True


@inner
def _grow_page(p, r, s, f, a, owner, pages, ring, queues, log, times, i):
    """One more page for request i, preempting the newest while there is none."""
    while True:
        if p[mem.KIND] == mem.PAGED:
            if mem.take(p, s, f, a, owner, log, times, i, 1) >= 0:
                r[es.SIZE, i] += 1
                return True
        else:
            unit = mem.take(p, s, f, a, owner, log, times, i, np.int64(p[mem.PAGE]) // np.int64(p[mem.ALIGN]))
            if unit >= 0:
                page = s[es.PAGE_TOP]
                s[es.PAGE_TOP] = pages[1, page]
                pages[0, page] = unit
                pages[1, page] = r[es.TAIL, i]
                r[es.TAIL, i] = page
                if r[es.PAGES, i] == 0:
                    s[es.N_TAIL] += 1
                r[es.PAGES, i] += np.int32(p[mem.PAGE])
                return True
        victim = s[es.RUN_TAIL]
        mem.preempt(p, r, s, f, a, pages, ring, queues, log, times, victim)
        if victim == i:
            return False


@inner
def _park(p, r, x, s, f, i):
    """Request i keeps its memory and generates nothing until there is room."""
    r[es.STATE, i] = es.PARKED
    x[es.SINCE, i] = f[es.TIME]
    s[es.N_RUN] -= 1
    s[es.N_PARKED] += 1
    s[es.USED_RUN] -= r[es.USED, i]
    s[es.USED_PARKED] += r[es.USED, i]


@inner
def retry_parked(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, log, times):
    """Parked requests, oldest first, try to grow; when nothing else runs the newest of them gives way."""
    if s[es.N_PARKED] == 0:
        return
    align = np.int64(p[mem.ALIGN])
    i = s[es.RUN_HEAD]
    while i != es.NOBODY:
        if r[es.STATE, i] == es.PARKED:
            answer = np.int64(r[es.SIZE, i]) * align - r[es.INPUT, i]
            tokens = np.int64(r[es.INPUT, i]) + mem.next_tokens(p, bounds, answer, np.int64(r[es.DONE, i]))
            want = max(-(-tokens // align), np.int64(r[es.SIZE, i]) + 1)
            grown = p[mem.COUNT] == 0 and mem.grow_in_place(p, r, s, f, a, log, times, i, want)
            if grown or mem.move(p, r, s, f, a, owner, log, times, i, want):
                r[es.STATE, i] = es.RUNNING
                r[es.STEP, i] = s[es.NOW]
                x[es.PARKED_S, i] += f[es.TIME] - x[es.SINCE, i]
                s[es.N_RUN] += 1
                s[es.N_PARKED] -= 1
                s[es.USED_RUN] += r[es.USED, i]
                s[es.USED_PARKED] -= r[es.USED, i]
                mem.schedule(p, r, s, ring, i)
        i = r[es.RUN_NEXT, i]
    if s[es.N_RUN] == 0:
        mem.preempt(p, r, s, f, a, pages, ring, queues, log, times, s[es.RUN_TAIL])


@inner
def _admit_one(p, r, x, s, f, a, owner, ring, bounds, q, log, times, i):
    """Reserve for request i and start it; False when it does not fit."""
    align = np.int64(p[mem.ALIGN])
    done = np.int64(r[es.DONE, i])
    held = np.int64(r[es.INPUT, i]) + done
    ordinary = False
    if p[mem.KIND] == mem.PAGED:
        page = np.int64(p[mem.PAGE])
        size = (held + page) // page
        if size > mem.free_units(p, s, a) - np.int64(p[mem.WATERMARK]) and s[es.N_RUN] > 0:
            return False
        r[es.CLASS, i] = 0
    else:
        if p[mem.KIND] != mem.FIXED:
            r[es.CLASS, i] = mem.class_of(p, x, bounds, q, i)
        tokens = mem.answer_tokens(p, r, x, bounds, i, r[es.CLASS, i], done)
        size = -(-(np.int64(r[es.INPUT, i]) + tokens) // align)
        large = p[mem.KIND] != mem.FIXED and (len(bounds) == 1 or r[es.CLASS, i] == len(bounds) - 1)
        ordinary = not large and r[es.PREEMPTIONS, i] == 0
        limit = p[mem.CAPACITY] - p[mem.SAFETY]
        if ordinary and s[es.ORDINARY_UNITS] + size > limit and s[es.N_RUN] > 0:
            return False
    unit = mem.take(p, s, f, a, owner, log, times, i, size)
    if unit < 0:
        return False
    r[es.UNIT, i], r[es.SIZE, i] = unit, size
    if ordinary:
        r[es.ORDINARY, i] = size
        s[es.ORDINARY_UNITS] += size
    r[es.STATE, i] = es.RUNNING
    r[es.USED, i], r[es.STEP, i] = held, s[es.NOW]
    if math.isnan(x[es.START, i]):
        x[es.START, i] = f[es.TIME]
        r[es.FIRST, i] = mem.capacity_of(p, r, i)
    es.run_append(r, s, i)
    s[es.N_RUN] += 1
    s[es.USED_RUN] += held
    if p[mem.KIND] == mem.PAGED:
        s[es.PAGED_RUN] += held
    s[es.PREFILL_NOW] += held
    s[es.ADMITTED_NOW] += 1
    mem.schedule(p, r, s, ring, i)
    return True


@inner
def admit(p, r, x, s, f, a, owner, ring, queues, bounds, q, log, times):
    """Admit from every queue, the last one first (S3: largest class first; others have one queue)."""
    ahead = LOOK_AHEAD if p[mem.ORDER] == mem.TAG else 1
    for place in range(queues.shape[1] - 1, -1, -1):
        before, i, looked = np.int64(es.NOBODY), np.int64(queues[0, place]), 0
        while i != es.NOBODY and looked < ahead:
            after = np.int64(r[es.WAIT_NEXT, i])
            if _admit_one(p, r, x, s, f, a, owner, ring, bounds, q, log, times, i):
                es.wait_remove(r, s, queues, before, i, place)
            else:
                before = i
                looked += 1
            i = after
