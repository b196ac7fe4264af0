"""How requests of a simulated device grow, park and are admitted (numba); the loop round it is `engine_loop.py`."""

import math

import numpy as np

from operators.odma import engine_memory as mem
from operators.odma import engine_state as es
from operators.odma.compiled import inner

LOOK_AHEAD = 64  # waiting requests that order `tag` looks at


@inner
def grow(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, log, times, i):
    """Request i, settled and off the calendar, needs room for its next token; True when it may go on."""
    if p[mem.KIND] == mem.PAGED or p[mem.KIND] == mem.HYBRID:
        return _grow_page(p, r, s, f, a, owner, pages, ring, queues, log, times, i)
    align = np.int64(p[mem.ALIGN])
    answer = np.int64(r[i, es.SIZE]) * align - r[i, es.INPUT]
    tokens = np.int64(r[i, es.INPUT]) + mem.next_tokens(p, bounds, answer, np.int64(r[i, es.DONE]))
    want = max(-(-tokens // align), np.int64(r[i, es.SIZE]) + 1)
    s[es.ORDINARY_UNITS] -= r[i, es.ORDINARY]  # from here on it lives in the safety pool
    r[i, es.ORDINARY] = 0
    if p[mem.COUNT] == 0 and mem.grow_in_place(p, r, s, f, a, log, times, i, want):
        return True
    if mem.move(p, r, s, f, a, owner, log, times, i, want):
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
            if mem.take(p, s, f, a, owner, log, times, i, np.int64(1)) >= 0:
                r[i, es.SIZE] += 1
                return True
        else:
            unit = mem.take(p, s, f, a, owner, log, times, i, np.int64(p[mem.PAGE]) // np.int64(p[mem.ALIGN]))
            if unit >= 0:
                page = s[es.PAGE_TOP]
                s[es.PAGE_TOP] = pages[1, page]
                pages[0, page] = unit
                pages[1, page] = r[i, es.TAIL]
                r[i, es.TAIL] = page
                if r[i, es.PAGES] == 0:
                    s[es.N_TAIL] += 1
                r[i, es.PAGES] += np.int32(p[mem.PAGE])
                return True
        victim = s[es.RUN_TAIL]
        mem.preempt(p, r, s, f, a, pages, ring, queues, log, times, victim)
        if victim == i:
            return False


@inner
def _park(p, r, x, s, f, i):
    """Request i keeps its memory and generates nothing until there is room."""
    r[i, es.STATE] = es.PARKED
    x[i, es.SINCE] = f[es.TIME]
    s[es.N_RUN] -= 1
    s[es.N_PARKED] += 1
    s[es.USED_RUN] -= r[i, es.USED]
    s[es.USED_PARKED] += r[i, es.USED]


@inner
def retry_parked(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, log, times):
    """Parked requests, oldest first, try to grow; when nothing else runs the newest of them gives way."""
    if s[es.N_PARKED] == 0:
        return
    align = np.int64(p[mem.ALIGN])
    i = s[es.RUN_HEAD]
    while i != es.NOBODY:
        if r[i, es.STATE] == es.PARKED:
            answer = np.int64(r[i, es.SIZE]) * align - r[i, es.INPUT]
            tokens = np.int64(r[i, es.INPUT]) + mem.next_tokens(p, bounds, answer, np.int64(r[i, es.DONE]))
            want = max(-(-tokens // align), np.int64(r[i, es.SIZE]) + 1)
            grown = p[mem.COUNT] == 0 and mem.grow_in_place(p, r, s, f, a, log, times, i, want)
            if grown or mem.move(p, r, s, f, a, owner, log, times, i, want):
                r[i, es.STATE] = es.RUNNING
                r[i, es.STEP] = s[es.NOW]
                x[i, es.PARKED_S] += f[es.TIME] - x[i, es.SINCE]
                s[es.N_RUN] += 1
                s[es.N_PARKED] -= 1
                s[es.USED_RUN] += r[i, es.USED]
                s[es.USED_PARKED] -= r[i, es.USED]
                mem.schedule(p, r, s, ring, i)
        i = r[i, es.RUN_NEXT]
    if s[es.N_RUN] == 0:
        mem.preempt(p, r, s, f, a, pages, ring, queues, log, times, s[es.RUN_TAIL])


@inner
def _admit_one(p, r, x, s, f, a, owner, ring, bounds, q, log, times, i):
    """Reserve for request i and start it; False when it does not fit."""
    align = np.int64(p[mem.ALIGN])
    done = np.int64(r[i, es.DONE])
    held = np.int64(r[i, es.INPUT]) + done
    ordinary = False
    if p[mem.KIND] == mem.PAGED:
        page = np.int64(p[mem.PAGE])
        size = (held + page) // page
        if size > mem.free_units(p, s, a) - np.int64(p[mem.WATERMARK]) and s[es.N_RUN] > 0:
            return False
        r[i, es.CLASS] = 0
    else:
        if p[mem.KIND] != mem.FIXED:
            r[i, es.CLASS] = mem.class_of(p, x, bounds, q, i)
        tokens = mem.answer_tokens(p, r, x, bounds, i, r[i, es.CLASS], done)
        size = -(-(np.int64(r[i, es.INPUT]) + tokens) // align)
        large = p[mem.KIND] != mem.FIXED and (len(bounds) == 1 or r[i, es.CLASS] == len(bounds) - 1)
        ordinary = not large and r[i, es.PREEMPTIONS] == 0
        limit = p[mem.CAPACITY] - p[mem.SAFETY]
        if ordinary and s[es.ORDINARY_UNITS] + size > limit and s[es.N_RUN] > 0:
            return False
    unit = mem.take(p, s, f, a, owner, log, times, i, size)
    if unit < 0:
        return False
    r[i, es.UNIT], r[i, es.SIZE] = unit, size
    if ordinary:
        r[i, es.ORDINARY] = size
        s[es.ORDINARY_UNITS] += size
    r[i, es.STATE] = es.RUNNING
    r[i, es.USED], r[i, es.STEP] = held, s[es.NOW]
    if math.isnan(x[i, es.START]):
        x[i, es.START] = f[es.TIME]
        r[i, es.FIRST] = mem.capacity_of(p, r, i)
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
            after = np.int64(r[i, es.WAIT_NEXT])
            if _admit_one(p, r, x, s, f, a, owner, ring, bounds, q, log, times, i):
                es.wait_remove(r, s, queues, before, i, place)
            else:
                before = i
                looked += 1
            i = after
