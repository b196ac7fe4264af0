"""Who gets which memory in a simulated device: reservations, growth, copies, parking, preemption (numba).

The arena is the real allocator of `arena_core.py`, addresses and all; with COUNT it is a counter, growth in place does
not exist and any free memory fits (the token-count mode that the paper's own kind of accounting amounts to).
"""

import math

import numpy as np

from operators.odma import arena_core as core
from operators.odma import engine_state as es
from operators.odma.compiled import inner

# Policy numbers `p`, f64.
KIND, COUNT, ALIGN, CAPACITY, PAGE, WATERMARK, SAFETY, TAU, ORDER, OVERFLOW, ADAPT, GAMMA, TARGET = range(13)
PERIOD, DECAY, MIN_SAMPLES, HYSTERESIS, DRIFT, DYNAMIC, CUT_ON, COMPACT, HIST_ALIGN, JUMP = range(13, 23)
P_FIELDS = 23
# Device numbers `d`, f64.
WEIGHTS, KV, STREAM, FLOPS, PARAMS, ALPHA, PREFILL = range(7)
D_FIELDS = 7
FIXED, CLASSES, S3, PAGED, HYBRID = range(5)
COST, PARK, RECOMPUTE = range(3)
FCFS, TAG = range(2)
# Operations of the log.
# As typed numbers, and calls below with 64-bit units: every other mix of types would be a function compiled again.
RESERVE, RELEASE, GROW, RELABEL, MOVE = (np.int64(op) for op in range(5))


@inner
def note(s, f, log, times, op, i, unit, size):
    """One row of the allocation log (while there is room): op, request, first unit, units."""
    k = s[es.LOGGED]
    if k < log.shape[1]:
        log[0, k], log[1, k], log[2, k], log[3, k] = op, i, unit, size
        times[k] = f[es.TIME]
        s[es.LOGGED] = k + 1


@inner
def free_units(p, s, a):
    """Units nobody holds."""
    if p[COUNT] > 0 or p[KIND] == PAGED:
        return np.int64(p[CAPACITY]) - s[es.USED_UNITS]
    return np.int64(a[core.UNITS]) - np.int64(a[core.LIVE])


@inner
def take(p, s, f, a, owner, log, times, i, size):
    """The first unit of `size` units for request i, -1 when there are none; a counter has one place, 0."""
    if p[COUNT] > 0 or p[KIND] == PAGED:
        if size > free_units(p, s, a):
            return np.int64(-1)
        s[es.USED_UNITS] += size
        return np.int64(0)
    unit = np.int64(core.reserve(a, size))
    if unit >= 0:
        owner[unit] = i
        s[es.USED_UNITS] += size
        note(s, f, log, times, RESERVE, i, unit, size)
    return unit


@inner
def give(p, s, f, a, log, times, i, unit, size):
    """Release `size` units at `unit`."""
    s[es.USED_UNITS] -= size
    if p[COUNT] == 0 and p[KIND] != PAGED:
        core.release(a, unit)
        note(s, f, log, times, RELEASE, i, unit, size)


@inner
def drop(p, r, s, f, a, pages, log, times, i):
    """Request i gives up everything it holds."""
    give(p, s, f, a, log, times, i, np.int64(r[i, es.UNIT]), np.int64(r[i, es.SIZE]))
    while r[i, es.TAIL] != es.NOBODY:
        page = r[i, es.TAIL]
        give(p, s, f, a, log, times, i, np.int64(pages[0, page]), np.int64(p[PAGE]) // np.int64(p[ALIGN]))
        r[i, es.TAIL] = pages[1, page]
        pages[1, page] = s[es.PAGE_TOP]
        s[es.PAGE_TOP] = page
    s[es.ORDINARY_UNITS] -= r[i, es.ORDINARY]
    r[i, es.ORDINARY] = 0
    r[i, es.UNIT] = es.NOBODY
    r[i, es.SIZE] = 0
    r[i, es.PAGES] = 0


@inner
def class_of(p, x, bounds, q, i):
    """Class of a request: the smallest that covers its bound, the last when it is doubtful."""
    k = len(bounds) - 1
    x[i, es.NEED] = x[i, es.VALUE] * math.exp(q)
    if p[TAU] > 0 and not x[i, es.SPREAD] <= p[TAU]:
        return k
    for j in range(k):
        if bounds[j] >= x[i, es.NEED]:
            return j
    return k


@inner
def answer_tokens(p, r, x, bounds, i, chosen, done):
    """Tokens reserved for the answer of class `chosen` when `done` of them exist already."""
    if p[KIND] == FIXED:
        return max(np.int64(x[i, es.VALUE]), done + 1)
    tokens = np.int64(bounds[chosen])
    return tokens if tokens > done else next_tokens(p, bounds, tokens, done)


@inner
def next_tokens(p, bounds, now, done):
    """The next larger reservation of an answer whose `now` tokens are full with `done` generated."""
    if p[KIND] == S3:
        double = min(2 * now, np.int64(bounds[len(bounds) - 1]))
        if double > done:
            return double
    elif p[KIND] != FIXED:
        for j in range(len(bounds) - 1 if p[JUMP] > 0 else 0, len(bounds)):
            if bounds[j] > done and bounds[j] > now:
                return np.int64(bounds[j])
    return done + np.int64(p[ALIGN])  # beyond the last class (514 > 512): one unit at a time


@inner
def capacity_of(p, r, i):
    """Tokens request i may hold before it must grow."""
    if p[KIND] == PAGED:
        return np.int64(r[i, es.SIZE]) * np.int64(p[PAGE])
    return np.int64(r[i, es.SIZE]) * np.int64(p[ALIGN]) + r[i, es.PAGES]


@inner
def schedule(p, r, s, ring, i):
    """When request i, running and settled, must be looked at next: at its end, or when its reservation is full."""
    left = np.int64(r[i, es.OUTPUT]) - r[i, es.DONE]
    room = capacity_of(p, r, i) - r[i, es.USED]
    cal_steps = min(left, room)
    es.cal_add(r, s, ring, i, cal_steps)


@inner
def leave(p, r, s, i):
    """Running request i, settled, is no longer counted among the running."""
    s[es.USED_RUN] -= r[i, es.USED]
    if p[KIND] == PAGED:
        s[es.PAGED_RUN] -= r[i, es.USED]
    elif r[i, es.PAGES] > 0:
        s[es.PAGED_RUN] -= r[i, es.USED] - np.int64(r[i, es.SIZE]) * np.int64(p[ALIGN])
        s[es.N_TAIL] -= 1
    s[es.N_RUN] -= 1


@inner
def preempt(p, r, s, f, a, pages, ring, queues, log, times, i):
    """Request i loses its memory and waits again, first in its queue; what it has generated will be prefilled."""
    es.settle(r, s, i)
    if r[i, es.STATE] == es.PARKED:
        s[es.N_PARKED] -= 1
        s[es.USED_PARKED] -= r[i, es.USED]
    else:
        if r[i, es.DUE] > s[es.NOW]:
            es.cal_remove(r, ring, i)
        leave(p, r, s, i)
    drop(p, r, s, f, a, pages, log, times, i)
    es.run_remove(r, s, i)
    r[i, es.PREEMPTIONS] += 1
    s[es.PREEMPTED_NOW] += 1
    es.wait_push(r, s, queues, i, np.int64(r[i, es.CLASS]) if p[KIND] == S3 else np.int64(0), np.int64(1))


@inner
def grow_in_place(p, r, s, f, a, log, times, i, want):
    """Extend by what lies free behind, up to `want` units in all; False when not one unit is there."""
    room = core.room_behind(a, r[i, es.UNIT])
    more = min(room, want - r[i, es.SIZE])
    if more < 1:
        return False
    core.extend(a, r[i, es.UNIT], more)
    r[i, es.SIZE] += more
    s[es.USED_UNITS] += more
    r[i, es.GROWN] += 1
    s[es.GROWN_ALL] += 1
    note(s, f, log, times, GROW, i, np.int64(r[i, es.UNIT]), np.int64(r[i, es.SIZE]))
    return True


@inner
def move(p, r, s, f, a, owner, log, times, i, want):
    """Copy request i to a new block of `want` units; False when there is none."""
    if p[COUNT] > 0:
        if want > free_units(p, s, a):
            return False
        unit = np.int64(0)
    else:
        unit = np.int64(core.reserve(a, want))
        if unit < 0:
            return False
        owner[unit] = i
        core.release(a, np.int64(r[i, es.UNIT]))
        note(s, f, log, times, GROW, i, unit, want)
    s[es.USED_UNITS] += want - r[i, es.SIZE]
    r[i, es.UNIT] = unit
    r[i, es.SIZE] = want
    r[i, es.COPIES] += 1
    r[i, es.COPIED] += r[i, es.USED]
    s[es.COPIED_NOW] += r[i, es.USED]
    s[es.MOVED] += r[i, es.USED]
    return True


@inner
def wait_or_recompute(p, d, r, s, f, bounds, i, want):
    """Whether parking request i is cheaper than preempting: the wait for a fitting block against its prefill.

    The wait is until the first running request that holds as much is expected to end (by its class).
    """
    if p[OVERFLOW] == PARK:
        return True
    if p[OVERFLOW] == RECOMPUTE:
        return False
    step_s = (d[WEIGHTS] + d[KV] * s[es.USED_RUN]) / d[STREAM]
    soonest = np.int64(1 << 40)
    j = s[es.RUN_HEAD]
    while j != es.NOBODY:
        if j != i and r[j, es.SIZE] >= want and r[j, es.STATE] == es.RUNNING:
            left = capacity_of(p, r, j) - es.used_now(r, s, j)
            soonest = min(soonest, max(left, 1))
        j = r[j, es.RUN_NEXT]
    prefill_s = 2 * d[PARAMS] * r[i, es.USED] / d[FLOPS] if d[PREFILL] > 0 else 0.0
    # A parked request also holds its memory for that long: its own token per step is what is lost.
    return soonest * step_s < prefill_s * max(1, s[es.N_RUN])
