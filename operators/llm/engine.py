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

from operators.lab.compiled import kernel
from operators.llm import engine_core as core
from operators.llm.engine_core import advance, busy, commit, decoders, plan, push
from operators.llm.stepmodels import StepModel, step_time

SCHEDULERS = {"prefill_first": core.PREFILL_FIRST, "chunked": core.CHUNKED}
METHODS = ("step", "jump")
ASSIGN = {"round_robin": 0, "least_loaded": 1}
ENDLESS = np.inf

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
    scheduler: str = "chunked",
    max_seqs: int = 256,
    token_budget: int = 2048,
    kv_tokens: int | None = None,
    block: int = 16,
    method: str = "jump",
) -> ServedMany:
    """The same on `replicas` equal instances, each request sent to one when it comes.

    `least_loaded`: to the one with the least 4 * waiting + running (the first among equals), `round_robin`: in turn.
    With `lockstep` all instances step together and a step takes as long as the slowest one's.
    """
    arrival, inputs, outputs = _arrays(requests)
    _check(replicas, assign, scheduler, max_seqs, token_budget, kv_tokens, block, method)
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
    run(reqi, reqf, *state, step.coeffs(), *step.grid(), ASSIGN[assign], method == "jump")
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


def _check(replicas, assign, scheduler, max_seqs, token_budget, kv_tokens, block, method) -> None:
    choices = {"scheduler": (scheduler, SCHEDULERS), "method": (method, METHODS), "assign": (assign, ASSIGN)}
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} (={value!r}): expected one of {', '.join(known)}")
    least = {"replicas": replicas, "max_seqs": max_seqs, "token_budget": token_budget, "block": block}
    for name, value in least.items():
        if value < 1:
            raise ValueError(f"{name} (={value}): must be >= 1")
    if scheduler == "chunked" and token_budget < max_seqs:
        raise ValueError(f"token_budget (={token_budget}): must be >= max_seqs (={max_seqs})")
    if kv_tokens is not None and kv_tokens < block:
        raise ValueError(f"kv_tokens (={kv_tokens}): must be >= block (={block}), or None for no limit")


@kernel
def _run(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, assign, jump):
    replicas = len(insi)
    for i in range(len(reqi)):
        at = reqf[i, 0]
        for r in range(replicas):
            if not advance(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, r, at, jump):
                return
        push(reqi, reqf, insi, insf, _choose(insi, insf, i, at, assign), i)
    for r in range(replicas):
        if not advance(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, r, np.inf, jump):
            return


@kernel
def _choose(insi, insf, i, at, assign):
    """The instance for the `i`-th request, which comes at `at`."""
    replicas = len(insi)
    if assign == 0:
        return i % replicas
    best, least = 0, 1 << 60
    for r in range(replicas):
        running = insi[r, core.RUNS] + (1 if insi[r, core.PART] >= 0 else 0)
        if insf[r, core.NOW] > at:  # the step under way still holds those it will end
            running += insi[r, core.ENDED]
        load = 4 * insi[r, core.WAITS_N] + running
        if load < least:
            best, least = r, load
    return best


@kernel
def _run_lockstep(reqi, reqf, insi, insf, ring, classes, c, xs, ys, z, assign, jump):
    """All instances begin every step together; `jump` is without effect."""
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
            push(reqi, reqf, insi, insf, _choose(insi, insf, i, now, assign), i)
            i += 1
        slowest = 0.0
        for r in range(len(insi)):
            if busy(insi, r):
                plan(reqi, insi, insf, ring, classes, r)
                k = insi[r, core.CONTEXT] if decoders(insi, r) > 0 else 0
                p, m, q = insi[r, core.P_TOKENS], insi[r, core.P_PROMPTS], insf[r, core.P_SQUARES]
                seconds = step_time(c, xs, ys, z, p, decoders(insi, r), k, q, m)
                if not seconds > 0.0:
                    insi[r, core.FAILED] = 1
                    return
                slowest = max(slowest, seconds)
        now += slowest
        for r in range(len(insi)):
            if busy(insi, r) or insi[r, core.P_TOKENS] > 0:
                commit(reqi, reqf, insi, insf, ring, classes, r, 1, now - insf[r, core.NOW])
