"""Stand-in for native/loop.cpp, compiled by numba where there is no C++ compiler: the same steps, the same results.

See simulate_core.py for what the loop does.
"""

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.warmserve.plane import (
    CREATE,
    DECODE,
    DONE,
    ENDED,
    FINISHED,
    IDLE,
    KIND_RUNNING,
    NEXT,
    PREFILL,
    REACHED,
    RING_COUNT,
    RING_HEAD,
    RUNNING,
    STEPS,
    STOPPING,
    TAKEBACK,
)

OK, SHORT, EMPTY = 0, 1, 2  # what `begin` found


@inner
def set_due(p, slot, time):
    """The slot's next event is at `time`; plays its matches in the tournament again."""
    p.due[slot] = time
    node = (len(p.due) + slot) >> 1
    while node > 0:
        left, right = p.tree[2 * node], p.tree[2 * node + 1]
        p.tree[node] = left if p.due[left] <= p.due[right] else right
        node >>= 1


@inner
def span(p, slot, steps):
    """Seconds of the first `steps` steps of the jump under way."""
    return p.s_first_s[slot] * steps + p.s_more_s[slot] * (steps * (steps - 1) * 0.5)


@inner
def cut(p, slot, time):
    """End a jump with the step that is under way at `time`."""
    if p.s_phase[slot] != DECODE or p.s_steps[slot] <= 1:
        return
    passed, first, more = time - p.s_since[slot], p.s_first_s[slot], p.s_more_s[slot]
    if more == 0.0:
        steps = np.int64(passed / first) + 1
    else:
        half = first - 0.5 * more
        steps = np.int64((-half + np.sqrt(half * half + 2.0 * more * max(passed, 0.0))) / more) + 1
    steps = max(steps, 1)
    while steps > 1 and p.s_since[slot] + span(p, slot, steps - 1) > time:
        steps -= 1
    while steps < p.s_steps[slot] and p.s_since[slot] + span(p, slot, steps) <= time:
        steps += 1
    if steps < p.s_steps[slot]:
        p.s_steps[slot] = steps
        set_due(p, slot, p.s_since[slot] + span(p, slot, steps))


@inner
def count_load(p, model, time, change):
    """Requests in flight change by `change` at `time`."""
    p.m_integral[model] += p.m_inflight[model] * (time - p.m_since[model])
    p.m_since[model] = time
    p.m_inflight[model] += change


@inner
def blocks(tokens, size):
    return (tokens + size - 1) // size


@inner
def share_changed(p, slot, time, change):
    """The slot gets or loses work on GPUs it shares: its neighbours' next steps take another time."""
    for i in range(p.s_near.shape[1]):
        other = p.s_near[slot, i]
        if other < 0:
            return
        p.s_near_busy[other] += change
        cut(p, other, time)


@inner
def complete(p, slot, request, time):
    """The request has all its tokens."""
    p.r_finish[request] = time
    p.s_count[slot] -= 1
    count_load(p, p.r_model[request], time, -1)
    p.n[DONE] += 1


@inner
def end_step(p, slot, time):
    """Account for the step or jump that ends now: tokens, first tokens, finished requests."""
    total, size, kept, made = p.s_running[slot], p.s_block[slot], 0, p.s_steps[slot]
    fresh = total - p.s_new[slot] if p.s_phase[slot] == PREFILL else 0
    for i in range(total):
        request = p.s_batch[slot, i]
        if i >= fresh:
            tokens = p.r_in[request] + p.r_gen[request]
            if p.s_phase[slot] == DECODE:  # of a prefill, blocks and context were taken when it began
                p.s_used[slot] += blocks(tokens + made, size) - blocks(tokens, size)
                p.s_context[slot] += made
            p.r_gen[request] += made
            if np.isnan(p.r_first[request]):
                p.r_first[request] = time
            if p.r_gen[request] >= p.r_out[request]:
                p.s_used[slot] -= blocks(tokens + made, size)
                p.s_context[slot] -= tokens + made
                complete(p, slot, request, time)
                continue
        p.s_batch[slot, kept] = request
        kept += 1
    p.s_running[slot] = kept
    p.s_new[slot] = 0
    p.n[STEPS] += made


@inner
def admit(p, slot, time):
    """Begin a prefill step for the waiting requests that fit. OK when it began, SHORT when the KV kept is too small,
    EMPTY when nothing can be prefilled now."""
    size, tokens, squares, taken, found = p.s_block[slot], 0, 0.0, 0, EMPTY
    while p.s_head[slot] >= 0 and p.s_running[slot] < p.option[2]:
        request = p.s_head[slot]
        length = p.r_in[request] + p.r_gen[request]
        need = blocks(length + 1, size)
        if taken > 0 and tokens + length > p.option[3]:
            break
        if p.s_used[slot] + need > p.s_limit[slot]:
            if p.s_used[slot] + need <= p.s_cap[slot] and taken == 0:
                found = SHORT
            break
        p.s_head[slot] = p.r_next[request]
        p.r_next[request] = -1
        if p.s_head[slot] < 0:
            p.s_tail[slot] = -1
        p.s_batch[slot, p.s_running[slot]] = request
        p.s_running[slot] += 1
        p.s_used[slot] += need
        p.s_context[slot] += length + 1
        tokens, squares, taken = tokens + length, squares + np.float64(length) * length, taken + 1
    if taken == 0:
        return found
    c = p.s_coef[slot]
    seconds = (c[0] + c[1] * taken + c[2] * tokens + c[3] * squares) * (1 + p.s_near_busy[slot])
    p.s_phase[slot], p.s_new[slot], p.s_steps[slot], p.s_since[slot] = PREFILL, taken, 1, time
    set_due(p, slot, time + seconds)
    return OK


@inner
def blocks_after(p, slot, steps):
    """KV blocks in use after `steps` more decode steps."""
    total, size = 0, p.s_block[slot]
    for i in range(p.s_running[slot]):
        request = p.s_batch[slot, i]
        total += blocks(p.r_in[request] + p.r_gen[request] + steps, size)
    return total


@inner
def preempt_newest(p, slot):
    """Give back the KV of the newest request; it is computed again, first in the queue."""
    p.s_running[slot] -= 1
    request = p.s_batch[slot, p.s_running[slot]]
    tokens = p.r_in[request] + p.r_gen[request]
    p.s_used[slot] -= blocks(tokens, p.s_block[slot])
    p.s_context[slot] -= tokens
    p.r_preempted[request] += 1
    p.r_next[request] = p.s_head[slot]
    p.s_head[slot] = request
    if p.s_tail[slot] < 0:
        p.s_tail[slot] = request


@inner
def decode(p, slot, time):
    """Begin the decode steps that surely follow each other; SHORT when the KV kept is too small for one."""
    steps = np.int64(2**31)
    for i in range(p.s_running[slot]):
        request = p.s_batch[slot, i]
        steps = min(steps, np.int64(p.r_out[request] - p.r_gen[request]))
    if p.option[1] > 0.0:
        steps = min(steps, 1)
    while blocks_after(p, slot, steps) > p.s_limit[slot]:
        low, high = 0, steps  # the most steps that fit lie in [low, high)
        while high - low > 1:
            middle = (low + high) // 2
            if blocks_after(p, slot, middle) <= p.s_limit[slot]:
                low = middle
            else:
                high = middle
        if low > 0:
            steps = low
            break
        if p.s_limit[slot] < p.s_cap[slot]:
            return SHORT
        preempt_newest(p, slot)
    n, c = p.s_running[slot], p.s_coef[slot]
    scale = 1 + p.s_near_busy[slot]
    base = 4 if n < c[7] or c[7] <= 0.0 else 8
    slope = c[6] if base == 4 else c[10]
    p.s_first_s[slot] = (c[base] + c[base + 1] * n + slope * p.s_context[slot]) * scale
    p.s_more_s[slot] = slope * n * scale
    p.s_phase[slot], p.s_steps[slot], p.s_since[slot] = DECODE, steps, time
    set_due(p, slot, time + span(p, slot, steps))
    return OK


@inner
def begin(p, slot, time):
    """Begin the slot's next step. OK, SHORT (KV to take back first) or EMPTY (a stopping engine has ended)."""
    was_idle = p.s_phase[slot] == IDLE
    if was_idle and (p.s_head[slot] >= 0 or p.s_running[slot] > 0):
        share_changed(p, slot, time, 1)
        p.s_phase[slot] = DECODE  # busy; set again below
    if p.s_head[slot] >= 0:
        found = admit(p, slot, time)
        if found != EMPTY:
            return found
    if p.s_running[slot] > 0:
        return decode(p, slot, time)
    if not was_idle:
        share_changed(p, slot, time, -1)
    p.s_phase[slot] = IDLE
    set_due(p, slot, np.inf)
    return EMPTY if p.s_state[slot] == STOPPING and p.s_count[slot] == 0 else OK


@inner
def route(p, model):
    """The model's running engine with fewest requests and room, lowest id first; -1 when there is none."""
    best, fewest = -1, p.m_batch[model]
    for i in range(p.m_slot_count[model]):
        slot = p.m_slots[model, i]
        if p.s_state[slot] == RUNNING and p.s_count[slot] < fewest:
            best, fewest = slot, np.int64(p.s_count[slot])
    return best


@inner
def hand_over(p, slot, request, time):
    """Give the request to an engine. The result of `begin` when the engine had nothing to do."""
    p.r_engine[request], p.r_sent[request] = p.s_engine[slot], time
    late = time > p.r_arrival[request] and p.s_ready[slot] > p.r_arrival[request]
    p.r_kind[request] = p.s_kind[slot] if late or p.s_state[slot] != RUNNING else KIND_RUNNING
    p.s_count[slot] += 1
    p.r_next[request] = -1
    if p.s_tail[slot] >= 0:
        p.r_next[p.s_tail[slot]] = request
    else:
        p.s_head[slot] = request
    p.s_tail[slot] = request
    if p.s_state[slot] != RUNNING:
        return OK
    if p.s_phase[slot] == IDLE:
        return begin(p, slot, time)
    cut(p, slot, time)
    return OK


@inner
def wait(p, request, time):
    """The request tries again after poll_s, or is woken when its model has room."""
    if p.option[0] > 0.0:
        place = (p.n[RING_HEAD] + p.n[RING_COUNT]) % len(p.q_request)
        p.q_request[place], p.q_time[place] = request, time + p.option[0]
        p.n[RING_COUNT] += 1
        return
    model = p.r_model[request]
    p.r_next[request] = -1
    if p.w_tail[model] >= 0:
        p.r_next[p.w_tail[model]] = request
    else:
        p.w_head[model] = request
    p.w_tail[model] = request


@inner
def attempt(p, request, time):
    """Route, or wait, or ask for an instance. (reason, a, b) as `advance` returns it; REACHED when settled."""
    model = p.r_model[request]
    slot = route(p, model)
    if slot >= 0:
        if hand_over(p, slot, request, time) == SHORT:
            return TAKEBACK, np.int64(slot), np.int64(0)
        return REACHED, np.int64(0), np.int64(0)
    if p.m_creating[model] > 0 or p.m_may_create[model] == 0:
        wait(p, request, time)
        return REACHED, np.int64(0), np.int64(0)
    return CREATE, np.int64(model), np.int64(request)


@inner
def wake(p, model, time):
    """Hand waiting requests (poll_s = 0) to engines with room; the slot that is short of KV, or -1."""
    while p.w_head[model] >= 0:
        slot = route(p, model)
        if slot < 0:
            return -1
        request = p.w_head[model]
        p.w_head[model] = p.r_next[request]
        if p.w_head[model] < 0:
            p.w_tail[model] = -1
        if hand_over(p, slot, request, time) == SHORT:
            return slot
    return -1


@inner
def settle(p, slot, time, found):
    """What `begin` found, as `advance` returns it; wakes waiting requests where there is room now."""
    if found == SHORT:
        return TAKEBACK, np.int64(slot), np.int64(0)
    if found == EMPTY:
        return ENDED, np.int64(slot), np.int64(0)
    short = wake(p, p.s_model[slot], time)
    if short >= 0:
        return TAKEBACK, np.int64(short), np.int64(0)
    return REACHED, np.int64(0), np.int64(0)


@kernel
def advance(p, until):
    """Run events up to and including time `until`: (reason, a, b).

    CREATE: model a needs an instance for request b, which waits for an answer (`attach` or `put_off`). ENDED: slot a is
    empty and stopping. TAKEBACK: slot a needs KV that prewarmed weights hold; raise its limit and call `resume`.
    FINISHED: no request is left.
    """
    while True:
        step_at = p.due[p.tree[1]]
        poll_at = p.q_time[p.n[RING_HEAD]] if p.n[RING_COUNT] > 0 else np.inf
        arrival_at = p.r_arrival[p.n[NEXT]] if p.n[NEXT] < len(p.r_arrival) else np.inf
        time = min(step_at, min(poll_at, arrival_at))
        if time > until or time == np.inf:
            p.now[0] = max(p.now[0], until) if until < np.inf else p.now[0]
            done = p.n[DONE] == len(p.r_arrival)
            return (FINISHED if done else REACHED), np.int64(0), np.int64(0)
        p.now[0] = time
        if step_at <= time:
            slot = p.tree[1]
            end_step(p, slot, time)
            found = settle(p, slot, time, begin(p, slot, time))
        elif poll_at <= time:
            request = p.q_request[p.n[RING_HEAD]]
            p.n[RING_HEAD] = (p.n[RING_HEAD] + 1) % len(p.q_request)
            p.n[RING_COUNT] -= 1
            found = attempt(p, request, time)
        else:
            request = p.n[NEXT]
            p.n[NEXT] += 1
            model = p.r_model[request]
            count_load(p, model, time, 1)
            p.m_peak[model] = max(p.m_peak[model], p.m_inflight[model])
            found = attempt(p, request, time)
        if found[0] != REACHED:
            return found


@kernel
def attach(p, slot, request):
    """The request waits in the engine that is being created for it."""
    hand_over(p, slot, request, p.now[0])


@kernel
def put_off(p, request):
    """No instance could be created: the request waits."""
    wait(p, request, p.now[0])


@kernel
def resume(p, slot):
    """Begin the slot's next step (it became ready, or its KV limit was raised): reason as `advance`, and its slot."""
    return settle(p, slot, p.now[0], begin(p, slot, p.now[0]))


@kernel
def set_limit(p, slot, limit):
    """KV blocks the slot may use from its next step on."""
    p.s_limit[slot] = limit
    cut(p, slot, p.now[0])


@kernel
def sample_load(p, time, out):
    """Request-seconds of every model up to `time` (models,), into `out`."""
    for model in range(len(out)):
        count_load(p, model, time, 0)
        out[model] = p.m_integral[model]


class StandIn:
    """The methods of the native `Loop`."""

    def __init__(self, plane):
        self._plane = plane

    def advance(self, until):
        return tuple(map(int, advance(self._plane, until)))

    def attach(self, slot, request):
        attach(self._plane, slot, request)

    def put_off(self, request):
        put_off(self._plane, request)

    def resume(self, slot):
        return tuple(map(int, resume(self._plane, slot)))

    def set_limit(self, slot, limit):
        set_limit(self._plane, slot, limit)

    def sample_load(self, time, out):
        sample_load(self._plane, time, out)
