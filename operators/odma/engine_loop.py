"""One simulated device, step by step (numba): grow in order, admit, one token each, release what is finished.

A step: what is finished leaves and the history hears of it; requests whose reservation is full grow (in place, by copy,
or they park, or the newest is preempted); parked ones try again; waiting ones are admitted in order while memory lasts
(not after a preemption in this step); every running request gets a token; time passes by the model of section 2.6.
Between two incidents of a request its steps cost nothing here: incidents stand in a calendar.
"""

import math

import numpy as np

from operators.odma import arena_core as core
from operators.odma import cutting, engine
from operators.odma import engine_memory as mem
from operators.odma import engine_state as es
from operators.odma.compiled import inner, kernel

SAMPLE_EVERY = 100  # steps
SAMPLE_STEP, SAMPLE_T, SAMPLE_LIVE, SAMPLE_RESERVED, SAMPLE_FREE, SAMPLE_LARGEST, SAMPLE_N_FREE = range(7)
SAMPLE_BATCH, SAMPLE_QUEUE = 7, 8
SAMPLE_FIELDS = 9


@inner
def _finish(p, r, x, s, f, a, pages, log, times, i):
    """Request i is complete: it leaves, and its reservation is written down."""
    es.settle(r, s, i)
    r[i, es.STATE] = es.FINISHED
    x[i, es.FINISH] = f[es.TIME]
    r[i, es.LAST] = mem.capacity_of(p, r, i)
    mem.leave(p, r, s, i)
    s[es.N_DONE] += 1
    mem.drop(p, r, s, f, a, pages, log, times, i)
    es.run_remove(r, s, i)


@inner
def _learn(p, r, x, s, f, bounds, hist, reference, words, floats, ints, window, c, log, times, i):
    """The history hears of a finished request: adaptive level, histogram, perhaps new classes."""
    if p[mem.ADAPT] > 0 and s[es.N_DONE] > p[mem.MIN_SAMPLES]:  # the first to finish are the short ones
        _adapt(p, window, c, math.log(r[i, es.OUTPUT] / x[i, es.VALUE]))
    if p[mem.DYNAMIC] > 0:
        length = np.float64(r[i, es.OUTPUT])
        if p[mem.CUT_ON] > 0:
            length = max(1.0, x[i, es.NEED])
        place = np.int64(math.ceil(length) - 1) // np.int64(p[mem.HIST_ALIGN])
        if cutting.observe(hist, reference, words, bounds, place, np.int64(p[mem.HIST_ALIGN]), p[mem.DECAY],
                           p[mem.PERIOD], p[mem.MIN_SAMPLES], p[mem.HYSTERESIS], p[mem.DRIFT], floats,
                           ints):  # fmt: skip
            s[es.RECUTS] += 1
            mem.note(s, f, log, times, mem.RELABEL, np.int64(-1), np.int64(-1), np.int64(len(bounds)))


@inner
def _place(window, n, value):
    """How many of the n sorted residuals are smaller than `value`."""
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if window[1, middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _adapt(p, window, c, residual):
    """Adaptive conformal level: `window` rows are residuals by age and sorted; c = miss, Q, count, oldest."""
    c[0] += p[mem.GAMMA] * (p[mem.TARGET] - (1.0 if residual > c[1] else 0.0))
    c[0] = min(max(c[0], 0.001), 0.5)
    n, size = np.int64(c[2]), window.shape[1]
    oldest = np.int64(c[3])
    at = _place(window, n, residual)
    if n == size:  # one goes, one comes: only what lies between them moves
        gone = _place(window, n, window[0, oldest])
        if gone < at:
            at -= 1
            for j in range(gone, at):
                window[1, j] = window[1, j + 1]
        else:
            for j in range(gone, at, -1):
                window[1, j] = window[1, j - 1]
    else:
        for j in range(n, at, -1):
            window[1, j] = window[1, j - 1]
        c[2] = n + 1
    window[1, at] = residual
    window[0, oldest] = residual
    c[3] = (oldest + 1) % size
    wanted = np.int64(math.ceil((c[2] + 1) * (1 - c[0]) - 1e-9))
    c[1] = window[1, min(wanted, np.int64(c[2])) - 1]


@inner
def _incidents(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, hist, reference, words, floats, ints, window, c,
               some, log, times):  # fmt: skip
    """What the calendar holds for this step: ends first, then growth in order of admission."""
    place, count = s[es.NOW] % len(ring), 0
    i = np.int64(ring[place])
    ring[place] = es.NOBODY
    while i != es.NOBODY:
        after = np.int64(r[i, es.CAL_NEXT])
        if es.done_now(r, s, i) >= r[i, es.OUTPUT]:
            _finish(p, r, x, s, f, a, pages, log, times, i)
            _learn(p, r, x, s, f, bounds, hist, reference, words, floats, ints, window, c, log, times, i)
        else:
            at = count
            while at > 0 and r[some[at - 1], es.SEQ] > r[i, es.SEQ]:
                some[at] = some[at - 1]
                at -= 1
            some[at] = i
            count += 1
        i = after
    for k in range(count):
        i = np.int64(some[k])
        if r[i, es.STATE] != es.RUNNING:
            continue  # preempted a moment ago by one before it
        es.settle(r, s, i)
        if engine.grow(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, log, times, i):
            mem.schedule(p, r, s, ring, i)


@inner
def _pass_time(p, d, r, x, s, f, a):
    """One step of every running request, and what it costs."""
    paged = s[es.PAGED_RUN]
    read = d[mem.WEIGHTS] + d[mem.KV] * ((s[es.USED_RUN] - paged) + paged / d[mem.ALPHA])
    tokens = s[es.N_RUN] + (s[es.PREFILL_NOW] if d[mem.PREFILL] > 0 else 0)
    step_s = max(read / d[mem.STREAM], 2 * d[mem.PARAMS] * tokens / d[mem.FLOPS])
    step_s += 2 * d[mem.KV] * s[es.COPIED_NOW] / d[mem.STREAM]
    f[es.TIME] += step_s
    f[es.BUSY] += step_s
    unit = p[mem.PAGE] if p[mem.KIND] == mem.PAGED else p[mem.ALIGN]
    f[es.LIVE_DT] += step_s * (s[es.USED_RUN] + s[es.USED_PARKED])
    f[es.RESERVED_DT] += step_s * s[es.USED_UNITS] * unit
    f[es.BATCH_DT] += step_s * s[es.N_RUN]
    f[es.PARKED_DT] += step_s * s[es.N_PARKED]
    if p[mem.COUNT] == 0 and p[mem.KIND] != mem.PAGED:
        free = np.float64(a[core.UNITS] - a[core.LIVE])
        if free > 0:
            f[es.EXTERNAL_DT] += step_s * (1.0 - core.largest(a) / free)
    i = s[es.RUN_TAIL]
    for _ in range(s[es.ADMITTED_NOW]):
        if math.isnan(x[i, es.TOKEN]):
            x[i, es.TOKEN] = f[es.TIME]
        i = np.int64(r[i, es.RUN_PREV])
    s[es.USED_RUN] += s[es.N_RUN]
    s[es.PAGED_RUN] += s[es.N_RUN] if p[mem.KIND] == mem.PAGED else s[es.N_TAIL]
    s[es.STEPS] += 1
    return step_s


@inner
def _compact(p, d, r, s, f, a, owner, log, times, step_s):
    """Slide live extents down as far as the budget (share of streaming time) allows; the bytes count as copied."""
    tokens = p[mem.ALIGN]
    f[es.COMPACT_LEFT] = min(f[es.COMPACT_LEFT] + p[mem.COMPACT] * step_s * d[mem.STREAM] / (2 * d[mem.KV]), 1e5)
    start = np.int64(0)
    while f[es.COMPACT_LEFT] > 0:
        unit, old, size = core.slide(a, start)
        if unit < 0:
            break
        i = owner[old]
        owner[unit] = i
        r[i, es.UNIT] = unit
        f[es.COMPACT_LEFT] -= size * tokens
        s[es.COMPACTED] += np.int64(size * tokens)
        s[es.COPIED_NOW] += np.int64(size * tokens)
        s[es.MOVED] += np.int64(size * tokens)
        mem.note(s, f, log, times, mem.MOVE, np.int64(i), unit, size)
        start = unit + size


@inner
def _sample(p, s, f, a, bounds, samples, cuts):
    """A row of what the device looks like now."""
    k = s[es.SAMPLED]
    if k >= samples.shape[0]:
        return
    unit = p[mem.PAGE] if p[mem.KIND] == mem.PAGED else p[mem.ALIGN]
    real = p[mem.COUNT] == 0 and p[mem.KIND] != mem.PAGED
    row = samples[k]
    row[SAMPLE_STEP], row[SAMPLE_T] = s[es.STEPS], f[es.TIME]
    row[SAMPLE_LIVE] = s[es.USED_RUN] + s[es.USED_PARKED]
    row[SAMPLE_RESERVED] = s[es.USED_UNITS] * unit
    row[SAMPLE_FREE] = mem.free_units(p, s, a) * unit
    row[SAMPLE_LARGEST] = core.largest(a) * unit if real else row[SAMPLE_FREE]
    row[SAMPLE_N_FREE] = a[core.N_FREE] if real else 1
    row[SAMPLE_BATCH], row[SAMPLE_QUEUE] = s[es.N_RUN], s[es.N_WAIT]
    for j in range(len(bounds)):
        cuts[k, j] = bounds[j]
    s[es.SAMPLED] = k + 1


@inner
def _arrive(p, r, x, s, f, queues, bounds):
    """Requests whose time has come join their queue."""
    while s[es.ARRIVED] < s[es.N_ALL] and x[s[es.ARRIVED], es.ARRIVAL] <= f[es.TIME]:
        i = s[es.ARRIVED]
        place = np.int64(0)
        if p[mem.KIND] == mem.S3:
            place = np.int64(mem.class_of(p, x, bounds, 0.0, i))
            r[i, es.CLASS] = place
        es.wait_push(r, s, queues, i, place, np.int64(0))
        s[es.ARRIVED] += 1


@inner
def _nothing_runs(r, x, s, f, queues):
    """Nobody could be started: wait for the next arrival, or give up on a request that no empty device can hold."""
    if s[es.N_PARKED] > 0 or s[es.PREEMPTED_NOW] > 0:
        return
    if s[es.N_WAIT] > 0:
        for place in range(queues.shape[1]):
            i = np.int64(queues[0, place])
            if i != es.NOBODY:
                es.wait_remove(r, s, queues, np.int64(es.NOBODY), i, place)
                r[i, es.STATE] = es.FAILED
                s[es.N_FAILED] += 1
    elif s[es.ARRIVED] < s[es.N_ALL]:
        f[es.TIME] = max(f[es.TIME], x[s[es.ARRIVED], es.ARRIVAL])


@kernel
def run(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, hist, reference, words, floats, ints, window, c, some,
        log, times, samples, cuts, until):  # fmt: skip
    """Serve every request, or go on until time `until`; all arrays but p (policy) and d (device) change in place.

    a allocator, owner i32[units], pages i32[2, n] free list of tail pages, ring i32[longest answer + 2], queues
    i32[2, q], bounds i32[K], hist, reference f64[m], words f64[4], floats and ints of cutting.scratch,
    window f64[2, w], c f64[4], some i32[n] scratch, log i32[4, rows], times f64[rows],
    samples f64[rows, SAMPLE_FIELDS], cuts i32[rows, K].
    """
    while s[es.N_DONE] + s[es.N_FAILED] < s[es.N_ALL] and f[es.TIME] < until:
        s[es.COPIED_NOW] = s[es.PREFILL_NOW] = s[es.PREEMPTED_NOW] = s[es.ADMITTED_NOW] = 0
        _incidents(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, hist, reference, words, floats, ints,
                   window, c, some, log, times)  # fmt: skip
        _arrive(p, r, x, s, f, queues, bounds)
        engine.retry_parked(p, d, r, x, s, f, a, owner, pages, ring, queues, bounds, log, times)
        if s[es.PREEMPTED_NOW] == 0 and s[es.N_WAIT] > 0:
            engine.admit(p, r, x, s, f, a, owner, ring, queues, bounds, c[1] if p[mem.ADAPT] > 0 else 0.0, log, times)
        if s[es.N_RUN] > 0:
            if s[es.STEPS] % SAMPLE_EVERY == 0:
                _sample(p, s, f, a, bounds, samples, cuts)
            step_s = _pass_time(p, d, r, x, s, f, a)
            s[es.NOW] += 1
            if p[mem.COMPACT] > 0:
                s[es.COPIED_NOW] = 0
                _compact(p, d, r, s, f, a, owner, log, times, step_s)
                extra = 2 * d[mem.KV] * s[es.COPIED_NOW] / d[mem.STREAM]
                f[es.TIME] += extra
                f[es.BUSY] += extra
        else:
            _nothing_runs(r, x, s, f, queues)
            s[es.NOW] += 1
