"""The kernels of a serving instance with continuous batching: plan a step, do it, jump over steps that are alike.

State lies in flat tables, one row per request (`reqi`, `reqf`) and per instance (`insi`, `insf`), so that a cluster of
thousands of instances is three arrays and a simulator in numba can drive them: `push` a request, `advance` an instance
to a time. What makes a step cheap is that all decoding requests of an instance make one token in every decode step, so
they share a clock `D` (decode steps done) and nothing is kept per token:

- a request that joins at D with r tokens to make ends when the clock reads D + r: it waits in slot (D + r) of a ring;
- it needs a new cache block whenever D is in its residue class modulo the block size: a counter per class;
- the context of the batch is one sum, which grows by the batch size each step.

At most one prompt is partly prefilled, and it is the newest running request: chunks are cut from the end of the budget.
The running list is ordered by admission, its tail is what a shortage of blocks preempts.
"""

import numpy as np

from operators.lab.compiled import inner
from operators.llm.stepmodels import decode_line, step_time

PREFILL_FIRST, CHUNKED = 0, 1
EPS_S = 1e-9  # a request that comes this much after a step's start is still seen by it: sums of steps round differently

# request columns, integers
INPUT, OUTPUT, KNOWN, BASE, STATE, ENDS, PREV, NEXT, WAITS, SLOT_PREV, SLOT_NEXT, DONE, PREEMPTED, OWNER = range(14)
REQ_INTS = 14
# request columns, floats
ARRIVAL, FIRST, LAST = range(3)
REQ_FLOATS = 3
# states of a request
WAITING, DECODING, JOINING, PARTIAL, FINISHED = range(5)
# instance columns, integers
(RUNS, CONTEXT, CLOCK, FREE, WAITS_N, HEAD, TAIL, LAST_RUN, PART, ENDED, STEPS, SEQS, BUDGET, BLOCK, SCHEDULER) = range(
    15
)
P_TOKENS, P_PROMPTS, P_HALT, FAILED, BLOCKS = range(15, 20)
INS_INTS = 20
# instance columns, floats
NOW, P_SQUARES = range(2)
INS_FLOATS = 2


def request_tables(arrival_s: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows for requests: i64[n, REQ_INTS] and f64[n, REQ_FLOATS]."""
    ints = np.zeros((len(arrival_s), REQ_INTS), np.int64)
    ints[:, INPUT], ints[:, OUTPUT], ints[:, KNOWN] = inputs, outputs, inputs
    ints[:, [PREV, NEXT, WAITS, SLOT_PREV, SLOT_NEXT, OWNER]] = -1
    floats = np.full((len(arrival_s), REQ_FLOATS), np.nan)
    floats[:, ARRIVAL] = arrival_s
    return ints, floats


def instance_tables(
    instances: int, scheduler: int, max_seqs: int, token_budget: int, kv_tokens: int | None, block: int, most_out: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows for equal instances: ints, floats, the ring of ends i64[instances, most_out + 2], block classes."""
    ints = np.zeros((instances, INS_INTS), np.int64)
    ints[:, [HEAD, TAIL, LAST_RUN, PART]] = -1
    ints[:, SEQS], ints[:, BUDGET], ints[:, SCHEDULER], ints[:, BLOCK] = max_seqs, token_budget, scheduler, block
    ints[:, BLOCKS] = -1 if kv_tokens is None else kv_tokens // block
    ints[:, FREE] = ints[:, BLOCKS]
    ring = np.full((instances, most_out + 2), -1, np.int64)
    return ints, np.zeros((instances, INS_FLOATS)), ring, np.zeros((instances, block), np.int64)


@inner
def push(reqi, reqf, insi, insf, r, i):
    """Request `i` comes to instance `r` at its arrival time."""
    if insi[r, RUNS] == 0 and insi[r, PART] < 0 and insi[r, WAITS_N] == 0:
        insf[r, NOW] = max(insf[r, NOW], reqf[i, ARRIVAL])
    reqi[i, OWNER] = r
    reqi[i, WAITS] = -1
    if insi[r, TAIL] >= 0:
        reqi[insi[r, TAIL], WAITS] = i
    else:
        insi[r, HEAD] = i
    insi[r, TAIL] = i
    insi[r, WAITS_N] += 1


@inner
def busy(insi, r):
    """Whether an instance has anything to do."""
    return insi[r, RUNS] > 0 or insi[r, PART] >= 0 or insi[r, WAITS_N] > 0


@inner
def advance(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, r, until, jump):
    """Begin every step of instance `r` that begins before `until`; False when a step's time is not above 0.

    A request that comes at `until` is seen by no step begun here. The last step may end after `until`; the requests it
    ends are counted in ENDED until another step begins.
    """
    ins, flo, slots, groups = insi[r], insf[r], ring[r], classes[r]
    while busy(insi, r) and flo[NOW] < until - EPS_S:
        plan(reqi, ins, flo, slots, groups)
        p, k = ins[P_TOKENS], ins[CONTEXT]
        if p == 0 and ins[P_HALT] == 0:
            most, left = alike(ins, slots, groups), until - EPS_S - flo[NOW]
            if jump:
                steps, seconds = leap(c, xs, ys, z, ins[RUNS], k, most, left)
            else:
                steps, seconds = march(c, xs, ys, z, ins[RUNS], k, most, left)
        else:
            n, q, m = decoders(ins), flo[P_SQUARES], ins[P_PROMPTS]
            steps, seconds = 1, step_time(c, xs, ys, z, p, n, k if n > 0 else 0, q, m)
        if not seconds > 0.0:
            ins[FAILED] = 1
            return False
        commit(reqi, reqf, ins, flo, slots, groups, steps, seconds)
    return True


@inner
def decoders(ins):
    """Requests that decode in the planned step: all, or none in a prefill step of the older engines."""
    return 0 if ins[SCHEDULER] == 0 and ins[P_TOKENS] > 0 else ins[RUNS]


@inner
def plan(reqi, ins, flo, ring, classes):
    """Choose what the next step holds: blocks for the decoding, preemptions, the chunks to prefill."""
    ins[P_TOKENS], ins[P_PROMPTS], ins[P_HALT], flo[P_SQUARES] = 0, 0, 0, 0.0
    if ins[SCHEDULER] == 0:
        admit(reqi, ins, flo, ins[BUDGET])
        if ins[P_TOKENS] == 0:
            take_blocks(reqi, ins, ring, classes)
        return
    take_blocks(reqi, ins, ring, classes)
    budget = ins[BUDGET] - ins[RUNS]
    part = ins[PART]
    if part >= 0 and budget > 0:
        chunk = min(reqi[part, KNOWN] - reqi[part, DONE], budget)
        if add_chunk(reqi, ins, flo, part, chunk):
            budget -= chunk
        else:
            preempt(reqi, ins, ring, classes)
    if ins[P_HALT] == 0:
        admit(reqi, ins, flo, budget)


@inner
def blocks_of(tokens, block):
    return (tokens + block - 1) // block


@inner
def add_chunk(reqi, ins, flo, i, chunk):
    """Put a chunk of request `i` into the step, with blocks for it; False when there are not enough."""
    done, block = reqi[i, DONE], ins[BLOCK]
    if ins[BLOCKS] >= 0:
        more = blocks_of(done + chunk, block) - blocks_of(done, block)
        if more > ins[FREE]:
            return False
        ins[FREE] -= more
    reqi[i, DONE] = done + chunk
    ins[P_TOKENS] += chunk
    ins[P_PROMPTS] += 1
    flo[P_SQUARES] += chunk * (done + 0.5 * chunk)
    whole = reqi[i, DONE] == reqi[i, KNOWN]
    reqi[i, STATE] = JOINING if whole else PARTIAL
    ins[PART] = -1 if whole else i
    return True


@inner
def admit(reqi, ins, flo, budget):
    """Admit waiting requests in order while there is budget, a place, and blocks for the whole of the next prompt."""
    running = ins[RUNS] + (1 if ins[PART] >= 0 else 0)
    if ins[SCHEDULER] == 1 and ins[P_TOKENS] > 0 and ins[PART] < 0:
        running += 1  # the prompt that was finished in this step
    chunked = ins[SCHEDULER] == 1
    while ins[WAITS_N] > 0 and running < ins[SEQS] and budget > 0:
        i = ins[HEAD]
        known = reqi[i, KNOWN]
        if ins[BLOCKS] >= 0 and blocks_of(known, ins[BLOCK]) > ins[FREE]:
            break
        if not chunked and known > budget and ins[P_TOKENS] > 0:
            break  # whole prompts only; one that is larger than the budget goes alone
        chunk = min(known, budget) if chunked else known
        ins[HEAD] = reqi[i, WAITS]
        if ins[HEAD] < 0:
            ins[TAIL] = -1
        ins[WAITS_N] -= 1
        add_chunk(reqi, ins, flo, i, chunk)
        reqi[i, PREV], reqi[i, NEXT] = ins[LAST_RUN], -1
        if ins[LAST_RUN] >= 0:
            reqi[ins[LAST_RUN], NEXT] = i
        ins[LAST_RUN] = i
        running += 1
        budget -= chunk


@inner
def take_blocks(reqi, ins, ring, classes):
    """Give a block to every decoding request that needs one now, preempting the newest while there are too few."""
    if ins[BLOCKS] < 0:
        return
    at = ins[CLOCK] % ins[BLOCK]
    while classes[at] > ins[FREE] and ins[LAST_RUN] >= 0:  # FREE may be below 0: a caller took blocks away
        preempt(reqi, ins, ring, classes)
    ins[FREE] -= classes[at]


@inner
def preempt(reqi, ins, ring, classes):
    """Send the newest running request back to the front of the queue: its blocks are free, its tokens to recompute."""
    i = ins[LAST_RUN]
    block = ins[BLOCK]
    if reqi[i, STATE] == PARTIAL:
        ins[FREE] += blocks_of(reqi[i, DONE], block)
        ins[PART] = -1
    else:
        known = reqi[i, BASE] + ins[CLOCK]
        reqi[i, KNOWN] = known
        ins[FREE] += blocks_of(known - 1, block)
        ins[CONTEXT] -= known
        ins[RUNS] -= 1
        classes[(1 - reqi[i, BASE]) % block] -= 1
        before, after = reqi[i, SLOT_PREV], reqi[i, SLOT_NEXT]
        if before >= 0:
            reqi[before, SLOT_NEXT] = after
        else:
            ring[reqi[i, ENDS] % len(ring)] = after
        if after >= 0:
            reqi[after, SLOT_PREV] = before
    reqi[i, DONE], reqi[i, STATE] = 0, WAITING
    reqi[i, PREEMPTED] += 1
    unlink(reqi, ins, i)
    reqi[i, WAITS] = ins[HEAD]
    ins[HEAD] = i
    if ins[TAIL] < 0:
        ins[TAIL] = i
    ins[WAITS_N] += 1
    ins[P_HALT] = 1


@inner
def unlink(reqi, ins, i):
    """Take a request out of the running list."""
    before, after = reqi[i, PREV], reqi[i, NEXT]
    if before >= 0:
        reqi[before, NEXT] = after
    if after >= 0:
        reqi[after, PREV] = before
    else:
        ins[LAST_RUN] = before


@inner
def alike(ins, ring, classes):
    """How many decode steps from here hold the same requests: up to the next end or a lack of blocks."""
    clock, slots, steps = ins[CLOCK], len(ring), 1
    while ring[(clock + steps) % slots] < 0:
        steps += 1
    return steps if ins[BLOCKS] < 0 else with_blocks(ins, classes, steps)


@inner
def march(c, xs, ys, z, n, k, most, left):
    """Decode steps one by one, `most` of them or until `left` seconds are over: their number and time."""
    seconds, steps = 0.0, 0
    while steps < most and seconds < left:
        t = step_time(c, xs, ys, z, 0, n, k, 0.0, 0)
        if not t > 0.0:
            return steps, t
        seconds += t
        steps += 1
        k += n
    return steps, seconds


@inner
def leap(c, xs, ys, z, n, k, most, left):
    """The same in closed form: along one line at a time, of which a step model has one or a few."""
    seconds, steps = 0.0, 0
    while steps < most and seconds < left:
        t, slope, far = decode_line(c, xs, ys, z, n, k)
        here, rise = most - steps, slope * n
        if (far - k) / n + 1 < here:
            here = max(1, int((far - k) / n) + 1)
        if seconds + span(t, rise, here) >= left:
            low = 1  # find the first step after which the time is over
            while low < here:
                middle = (low + here) // 2
                if seconds + span(t, rise, middle) >= left:
                    here = middle
                else:
                    low = middle + 1
        if not (t > 0.0 and t + rise * (here - 1) > 0.0):
            return steps, min(t, t + rise * (here - 1))
        seconds += span(t, rise, here)
        steps += here
        k += n * here
    return steps, seconds


@inner
def span(t, rise, steps):
    """Seconds of `steps` steps that begin with `t` and take `rise` more each time."""
    return steps * t + rise * (0.5 * steps * (steps - 1))


@inner
def with_blocks(ins, classes, steps):
    """The largest number of steps up to `steps` that finds its blocks free, which are taken; the first has its own."""
    block, n, free, clock = ins[BLOCK], ins[RUNS], ins[FREE], ins[CLOCK]
    done = 1
    rounds = min((steps - 1) // block, free // n)  # every request takes one block in `block` steps
    done += rounds * block
    free -= rounds * n
    while done < steps:
        need = classes[(clock + done) % block]
        if need > free:
            break
        free -= need
        done += 1
    return done


@inner
def commit(reqi, reqf, ins, flo, ring, classes, steps, seconds):
    """Let the planned step (or `steps` equal decode steps) happen: time, tokens, ends, new decoding requests."""
    flo[NOW] += seconds
    ins[STEPS] += steps
    ins[ENDED] = 0
    if decoders(ins) > 0:
        if steps > 1 and ins[BLOCKS] >= 0:
            clock, block = ins[CLOCK], ins[BLOCK]
            ins[FREE] -= (steps - 1) // block * ins[RUNS]
            for s in range((steps - 1) % block):
                ins[FREE] -= classes[(clock + 1 + s) % block]
        ins[CLOCK] += steps
        ins[CONTEXT] += steps * ins[RUNS]
        end_all(reqi, reqf, ins, flo, ring, classes)
    if ins[P_TOKENS] > 0:
        i = ins[LAST_RUN]
        while i >= 0 and (reqi[i, STATE] == JOINING or reqi[i, STATE] == PARTIAL):
            before = reqi[i, PREV]
            if reqi[i, STATE] == JOINING:
                join(reqi, reqf, ins, flo, ring, classes, i)
            i = before
        ins[P_TOKENS] = 0


@inner
def end_all(reqi, reqf, ins, flo, ring, classes):
    """End the requests whose last token came with the clock's present reading."""
    at = ins[CLOCK] % len(ring)
    i = ring[at]
    ring[at] = -1
    while i >= 0:
        after = reqi[i, SLOT_NEXT]
        reqi[i, KNOWN] = reqi[i, BASE] + ins[CLOCK]
        ins[CONTEXT] -= reqi[i, KNOWN]
        ins[RUNS] -= 1
        if ins[BLOCKS] >= 0:
            classes[(1 - reqi[i, BASE]) % ins[BLOCK]] -= 1
        finish(reqi, reqf, ins, flo, i)
        i = after


@inner
def finish(reqi, reqf, ins, flo, i):
    reqf[i, LAST] = flo[NOW]
    reqi[i, STATE] = FINISHED
    ins[ENDED] += 1
    if ins[BLOCKS] >= 0:
        ins[FREE] += blocks_of(reqi[i, KNOWN] - 1, ins[BLOCK])
    unlink(reqi, ins, i)


@inner
def join(reqi, reqf, ins, flo, ring, classes, i):
    """A prompt is in the cache: its next token is out, and it decodes from the next step on unless it has ended."""
    if np.isnan(reqf[i, FIRST]):
        reqf[i, FIRST] = flo[NOW]
    reqi[i, KNOWN] += 1
    left = reqi[i, INPUT] + reqi[i, OUTPUT] - reqi[i, KNOWN]
    if left == 0:
        finish(reqi, reqf, ins, flo, i)
        return
    clock = ins[CLOCK]
    reqi[i, STATE], reqi[i, BASE], reqi[i, ENDS] = DECODING, reqi[i, KNOWN] - clock, clock + left
    ins[RUNS] += 1
    ins[CONTEXT] += reqi[i, KNOWN]
    if ins[BLOCKS] >= 0:
        classes[(1 - reqi[i, BASE]) % ins[BLOCK]] += 1
    at = reqi[i, ENDS] % len(ring)
    first = ring[at]
    reqi[i, SLOT_PREV], reqi[i, SLOT_NEXT] = -1, first
    if first >= 0:
        reqi[first, SLOT_PREV] = i
    ring[at] = i
