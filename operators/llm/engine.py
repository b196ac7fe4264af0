"""One serving instance, or several equal ones, over a list of requests: when does each get its first and last token.

Two schedulers. `prefill_first` (vLLM 0.6, DistServe): whole prompts before any decoding, a prefill step for all that
fit, else one decode step of the whole batch. `chunked` (vLLM 0.19): one step holds a token of every decoding request
and chunks of prompts up to a token budget; a shortage of cache blocks preempts the newest running request (its blocks
are freed, its tokens kept and recomputed as prompt, it goes to the front of the queue), a step with a preemption admits
nobody, and a request is admitted when the free blocks cover its whole remaining prompt.

`method="step"` does one step at a time, `"jump"` does all decode steps between two events at once, in closed form; they
agree within 1e-9 s. Not modelled: prefix caching, swapping, tokenising, the HTTP front.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from operators.lab.compiled import inner, kernel
from operators.llm import engine_core as core
from operators.llm.engine_core import advance, alike, busy, commit, decoders, plan, push
from operators.llm.stepmodels import StepModel, step_time

SCHEDULERS = {"prefill_first": core.PREFILL_FIRST, "chunked": core.CHUNKED}
METHODS = ("step", "jump")
ASSIGN = {"round_robin": 0, "least_loaded": 1}

Requests = pl.DataFrame | tuple[np.ndarray, np.ndarray, np.ndarray]


class Served(NamedTuple):
    """Times in seconds f64[n], preemptions i32[n], and the number of steps taken."""

    first_token_s: np.ndarray
    last_token_s: np.ndarray
    preemptions: np.ndarray
    steps: int


class ServedMany(NamedTuple):
    """The same with the instance i32[n] that served each request."""

    first_token_s: np.ndarray
    last_token_s: np.ndarray
    preemptions: np.ndarray
    steps: int
    replica: np.ndarray


def serve(
    requests: Requests,
    step: StepModel,
    *,
    scheduler: str = "chunked",
    max_seqs: int = 256,
    token_budget: int = 2048,
    kv_tokens: int | None = None,
    block: int = 16,
    method: str = "jump",
) -> Served:
    """Serve `requests` (a table of `workloads`, or arrays of arrival_s, input_tokens, output_tokens) on one instance.

    `kv_tokens` is the cache's size (None: no limit), handed out in blocks of `block` tokens. ValueError naming a
    setting out of range, the first request that the cache can never hold, or a step whose time is not above 0.
    """
    made = serve_many(
        requests,
        step,
        replicas=1,
        scheduler=scheduler,
        max_seqs=max_seqs,
        token_budget=token_budget,
        kv_tokens=kv_tokens,
        block=block,
        method=method,
    )
    return Served(*made[:4])


def serve_many(
    requests: Requests,
    step: StepModel,
    *,
    replicas: int,
    assign: str = "least_loaded",
    lockstep: bool = False,
    stats_s: float = 0.0,
    scheduler: str = "chunked",
    max_seqs: int = 256,
    token_budget: int = 2048,
    kv_tokens: int | None = None,
    block: int = 16,
    method: str = "jump",
) -> ServedMany:
    """The same on `replicas` equal instances, each request sent to one when it comes.

    `least_loaded`: to the one with the least 4 * waiting + running (the first among equals), `round_robin`: in turn.
    The counts are those of the last report, one every `stats_s` seconds (0: always fresh), plus the requests sent since
    as waiting. With `lockstep` all instances step together and a step takes as long as the slowest one's.
    """
    arrival, inputs, outputs = _arrays(requests)
    _check(replicas, assign, stats_s, scheduler, max_seqs, token_budget, kv_tokens, block, method)
    if kv_tokens is not None:
        most = -(-(inputs + outputs - 1) // block)
        if (most > kv_tokens // block).any():
            row = int(np.flatnonzero(most > kv_tokens // block)[0])
            size = int(inputs[row] + outputs[row] - 1)
            raise ValueError(f"requests row {row}: needs {size} cache tokens; kv_tokens (={kv_tokens}) holds fewer")
    reqi, reqf = core.request_tables(arrival, inputs, outputs)
    most_out = int(outputs.max(initial=1))
    state = core.instance_tables(replicas, SCHEDULERS[scheduler], max_seqs, token_budget, kv_tokens, block, most_out)
    insi = state[0]
    run = _run_lockstep if lockstep and replicas > 1 else _run
    run(reqi, reqf, *state, step.coeffs(), *step.grid(), ASSIGN[assign], float(stats_s), method == "jump")
    if insi[:, core.FAILED].any():
        raise ValueError(f"{type(step).__name__}: a step of this run takes no time or less; {step}")
    first, last = reqf[:, core.FIRST].copy(), reqf[:, core.LAST].copy()
    preempted, owner = (reqi[:, column].astype(np.int32) for column in (core.PREEMPTED, core.OWNER))
    return ServedMany(first, last, preempted, int(insi[:, core.STEPS].sum()), owner)


def _arrays(requests: Requests) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = ("arrival_s", "input_tokens", "output_tokens")
    if isinstance(requests, pl.DataFrame):
        requests = tuple(requests[name].to_numpy() for name in names)
    arrival, inputs, outputs = (np.asarray(part) for part in requests)
    if not arrival.shape == inputs.shape == outputs.shape:
        raise ValueError(f"requests: shapes {arrival.shape}, {inputs.shape}, {outputs.shape}; must be equal")
    rules = (
        (arrival, ~np.isfinite(arrival) | (arrival < 0), "a finite time >= 0"),
        (arrival, np.diff(arrival, prepend=0.0) < 0, "not before the one above"),
        (inputs, ~(inputs > 0), "> 0"),
        (outputs, ~(outputs > 0), "> 0"),
    )
    for (values, bad, expected), name in zip(rules, (names[0], *names), strict=True):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(f"requests row {row}: {name} is {values[row]}; must be {expected}")
    return arrival.astype(float), inputs.astype(np.int64), outputs.astype(np.int64)


def _check(replicas, assign, stats_s, scheduler, max_seqs, token_budget, kv_tokens, block, method) -> None:
    choices = {"scheduler": (scheduler, SCHEDULERS), "method": (method, METHODS), "assign": (assign, ASSIGN)}
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} (={value!r}): expected one of {', '.join(known)}")
    least = {"replicas": replicas, "max_seqs": max_seqs, "token_budget": token_budget, "block": block}
    for name, value in least.items():
        if value < 1:
            raise ValueError(f"{name} (={value}): must be >= 1")
    if not stats_s >= 0:
        raise ValueError(f"stats_s (={stats_s}): must be >= 0")
    if scheduler == "chunked" and token_budget < max_seqs:
        raise ValueError(f"token_budget (={token_budget}): must be >= max_seqs (={max_seqs})")
    if kv_tokens is not None and kv_tokens < block:
        raise ValueError(f"kv_tokens (={kv_tokens}): must be >= block (={block}), or None for no limit")


@kernel
def _run(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, assign, stats_s, jump):
    n, i, told = len(reqi), 0, -1.0
    seen = np.zeros((len(insi), 2), np.int64)
    while i <= n:
        at = reqf[i, 0] if i < n else np.inf
        report = stats_s * np.floor(at / stats_s) if stats_s > 0 and i < n else at
        until = report if report > told else at
        for r in range(len(insi)):  # one call of `advance` in all: it is large, and compiled where it is called
            if not advance(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, r, until, jump):
                return
        if report > told:
            _look(insi, insf, seen, report)
            told = report
            if report < at:
                continue
        if i < n:
            push(reqi, reqf, insi, insf, _choose(seen, i, assign), i)
        i += 1


@inner
def _look(insi, insf, seen, at):
    """Put what every instance has waiting and running at time `at` into `seen`."""
    for r in range(len(insi)):
        running = insi[r, core.RUNS] + (1 if insi[r, core.PART] >= 0 else 0)
        if insf[r, core.NOW] > at:  # the step under way still holds those it will end
            running += insi[r, core.ENDED]
        seen[r, 0], seen[r, 1] = insi[r, core.WAITS_N], running


@inner
def _choose(seen, i, assign):
    """The instance for the `i`-th request by the counts `seen`, to which it is added as one that waits."""
    if assign == 0:
        return i % len(seen)
    best, least = 0, 1 << 60
    for r in range(len(seen)):
        load = 4 * seen[r, 0] + seen[r, 1]
        if load < least:
            best, least = r, load
    seen[best, 0] += 1
    return best


@kernel
def _run_lockstep(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, assign, stats_s, jump):
    """All instances begin every step together, one step at a time; `jump` is without effect."""
    seen, tick = np.zeros((len(insi), 2), np.int64), -1.0
    i, n, now = 0, len(reqi), 0.0
    while True:
        work = False
        for r in range(len(insi)):
            work |= busy(insi, r)
        if not work:
            if i == n:
                return
            now = max(now, reqf[i, 0])
        while i < n and reqf[i, 0] <= now + core.EPS_S:
            report = stats_s * np.floor(reqf[i, 0] / stats_s) if stats_s > 0 else reqf[i, 0]
            if report > tick:
                _look(insi, insf, seen, report)
                tick = report
            push(reqi, reqf, insi, insf, _choose(seen, i, assign), i)
            i += 1
        most = _plan_all(reqi, insi, insf, ring, classes)
        until = reqf[i, 0] - core.EPS_S if i < n else np.inf
        steps, seconds = _march_all(insi, insf, c, xs, ys, z, most, until - now)
        if not seconds > 0.0:
            insi[0, core.FAILED] = 1
            return
        now += seconds
        for r in range(len(insi)):
            if busy(insi, r) or insi[r, core.P_TOKENS] > 0:
                commit(reqi, reqf, insi[r], insf[r], ring[r], classes[r], steps, now - insf[r, core.NOW])


@inner
def _plan_all(reqi, insi, insf, ring, classes):
    """Plan a step of every busy instance: how many steps hold the same requests on all of them."""
    most = 1 << 40
    for r in range(len(insi)):
        if busy(insi, r):
            plan(reqi, insi[r], insf[r], ring[r], classes[r])
            if insi[r, core.P_TOKENS] > 0 or insi[r, core.P_HALT] > 0:
                most = 1
    for r in range(len(insi)):
        if most > 1 and insi[r, core.RUNS] > 0:
            most = min(most, alike(insi[r], ring[r], classes[r]))
    return most


@inner
def _march_all(insi, insf, c, xs, ys, z, most, left):
    """`most` planned steps, or those until `left` seconds are over: their number and the seconds of the slowest."""
    total, steps = 0.0, 0
    while steps < most and total < left:
        slowest = 0.0
        for r in range(len(insi)):
            n, p = decoders(insi[r]), insi[r, core.P_TOKENS]
            if n > 0 or p > 0:
                k = insi[r, core.CONTEXT] + steps * n if n > 0 else 0
                seconds = step_time(c, xs, ys, z, p, n, k, insf[r, core.P_SQUARES], insi[r, core.P_PROMPTS])
                if not seconds > 0.0:
                    return steps, 0.0
                slowest = max(slowest, seconds)
        total += slowest
        steps += 1
        if slowest == 0.0:
            return steps, 0.0
    return steps, total
