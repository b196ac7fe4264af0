"""The arrays the event loop works on: requests, engines (slots), models and the queue of waiting requests.

One flat NumPy array per field, so that compiled code and the Python control plane see the same memory and nothing is
copied between them. What the fields mean stands here; what happens to them in `simulate_core`.
"""

from typing import NamedTuple

import numpy as np

FREE, CREATING, RUNNING, STOPPING = 0, 1, 2, 3  # s_state
IDLE, PREFILL, DECODE = 0, 1, 2  # s_phase
KIND_RUNNING, KIND_HIT, KIND_LOADING, KIND_ONDEMAND = 0, 1, 2, 3
KINDS = ("running", "hit", "loading", "ondemand")
# counters in `n`
NEXT, RING_HEAD, RING_COUNT, DONE, STEPS = 0, 1, 2, 3, 4
REACHED, CREATE, ENDED, TAKEBACK, FINISHED = 0, 1, 2, 3, 4  # why `advance` returned
NO_LIMIT = 2**40
COEFFICIENTS = 11  # see Step in steps.py


class Plane(NamedTuple):
    """All state of the event loop. `r_` per request, `s_` per slot, `m_` per model, `q_` waiting requests."""

    now: np.ndarray  # f8[1] s
    n: np.ndarray  # i8[5] counters
    option: np.ndarray  # f8[4]: poll_s, 1 for the step engine, sequences of an engine, token budget
    r_arrival: np.ndarray  # f8 s
    r_model: np.ndarray  # i4
    r_in: np.ndarray  # i4 tokens
    r_out: np.ndarray  # i4 tokens
    r_gen: np.ndarray  # i4 tokens made so far
    r_sent: np.ndarray  # f8 s, handed to an engine
    r_first: np.ndarray  # f8 s, NaN until the first token
    r_finish: np.ndarray  # f8 s
    r_engine: np.ndarray  # i4 engine id
    r_kind: np.ndarray  # i1 index of KINDS
    r_preempted: np.ndarray  # i2
    r_next: np.ndarray  # i4 next in the list this request waits in
    s_state: np.ndarray  # i1
    s_model: np.ndarray  # i4
    s_engine: np.ndarray  # i4 engine id
    s_kind: np.ndarray  # i1 how it was started
    s_ready: np.ndarray  # f8 s
    s_count: np.ndarray  # i4 requests it has, waiting ones included
    s_running: np.ndarray  # i4 requests in the batch
    s_batch: np.ndarray  # i4[slots, sequences] the batch, oldest first
    s_new: np.ndarray  # i4 requests of the prefill step under way
    s_head: np.ndarray  # i4 first waiting for prefill, -1 none
    s_tail: np.ndarray  # i4
    s_phase: np.ndarray  # i1
    s_since: np.ndarray  # f8 s, start of the step or jump under way
    s_steps: np.ndarray  # i8 steps of the jump under way
    s_first_s: np.ndarray  # f8 s of its first step
    s_more_s: np.ndarray  # f8 s each further step takes longer
    s_used: np.ndarray  # i8 KV blocks in use
    s_limit: np.ndarray  # i8 KV blocks it may use now
    s_cap: np.ndarray  # i8 KV blocks it has when nothing is prewarmed beside it
    s_context: np.ndarray  # i8 tokens in its KV blocks
    s_block: np.ndarray  # i4 tokens of a KV block
    s_coef: np.ndarray  # f8[slots, COEFFICIENTS] step times
    s_near: np.ndarray  # i4[slots, near] slots that share GPUs with it, -1 behind the last
    s_near_busy: np.ndarray  # i4 how many of those have work
    m_slots: np.ndarray  # i4[models, slots] slots of the model by engine id
    m_slot_count: np.ndarray  # i4
    m_batch: np.ndarray  # i8 requests an engine takes
    m_inflight: np.ndarray  # i4
    m_integral: np.ndarray  # f8 request-seconds since the start
    m_since: np.ndarray  # f8 s, time of `m_integral`
    m_peak: np.ndarray  # i4 since it was last reset
    m_may_create: np.ndarray  # i1 0: creating failed and no GPU was given back since
    m_creating: np.ndarray  # i4 engines being created
    q_request: np.ndarray  # i4 ring of requests that poll
    q_time: np.ndarray  # f8 s of their next try
    w_head: np.ndarray  # i4 per model: waiting requests woken by event (poll_s = 0)
    w_tail: np.ndarray  # i4
    tree: np.ndarray  # i4 tournament of slots by time of the next event
    due: np.ndarray  # f8 per slot


def plane(
    arrival_s: np.ndarray,
    model: np.ndarray,
    input_tokens: np.ndarray,
    output_tokens: np.ndarray,
    *,
    slots: int,
    models: int,
    near: int = 1,
    batch: int,
    poll_s: float,
    step_engine: bool,
    max_seqs: int,
    token_budget: int,
) -> Plane:
    """Fresh arrays for requests sorted by `arrival_s` (n,), with room for `slots` engines alive at once."""
    n, leaves = len(arrival_s), 1
    while leaves < slots:
        leaves *= 2
    integer, real = (lambda *shape: np.zeros(shape, np.int32)), (lambda *shape: np.zeros(shape))
    nothing, unknown = (lambda *shape: np.full(shape, -1, np.int32)), (lambda *shape: np.full(shape, np.nan))
    tree = np.zeros(2 * leaves, np.int32)
    tree[leaves:] = np.arange(leaves)
    made = {
        "now": real(1),
        "n": np.zeros(5, np.int64),
        "option": np.array([poll_s, float(step_engine), max_seqs, token_budget], float),
        "r_arrival": np.array(arrival_s, float),
        "r_model": np.array(model, np.int32),
        "r_in": np.array(input_tokens, np.int32),
        "r_out": np.array(output_tokens, np.int32),
        **{"r_gen": integer(n), "r_sent": unknown(n), "r_first": unknown(n), "r_finish": unknown(n)},
        **{"r_engine": nothing(n), "r_kind": np.zeros(n, np.int8), "r_preempted": np.zeros(n, np.int16)},
        "r_next": nothing(n),
        "s_batch": nothing(slots, max_seqs),
        **{name: np.zeros(slots, np.int8) for name in ("s_state", "s_kind", "s_phase")},
        **{name: integer(slots) for name in ("s_model", "s_count", "s_running", "s_new", "s_block", "s_near_busy")},
        **{name: nothing(slots) for name in ("s_engine", "s_head", "s_tail")},
        **{name: np.zeros(slots, np.int64) for name in ("s_steps", "s_used", "s_limit", "s_cap", "s_context")},
        **{name: real(slots) for name in ("s_ready", "s_since", "s_first_s", "s_more_s")},
        "s_coef": real(slots, COEFFICIENTS),
        "s_near": nothing(slots, near),
        "m_slots": nothing(models, slots),
        **{name: integer(models) for name in ("m_slot_count", "m_inflight", "m_peak", "m_creating")},
        "m_batch": np.full(models, batch, np.int64),
        **{"m_integral": real(models), "m_since": real(models), "m_may_create": np.ones(models, np.int8)},
        **{"q_request": nothing(n + 1), "q_time": real(n + 1), "w_head": nothing(models), "w_tail": nothing(models)},
        **{"tree": _tournament(tree, leaves), "due": np.full(leaves, np.inf)},
    }
    return Plane(**made)


def _tournament(tree: np.ndarray, leaves: int) -> np.ndarray:
    for node in range(leaves - 1, 0, -1):
        tree[node] = min(tree[2 * node], tree[2 * node + 1])
    return tree
