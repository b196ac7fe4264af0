"""Linearizability checker: is there an order of the calls that a sequential object could have made?

The search of Wing and Gong with Lowe's cache of (calls placed, state). A call without a return is optional: it may take
effect at any later time or never. A call whose result is unknown matches whatever the model allows. A search that
reaches its bound is a StateLimit, never an "ok".
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from operators.locks.errors import LocksError, StateLimit

LIMIT = 5_000_000
NEVER = float("inf")


@dataclass(frozen=True)
class Op:
    """One call: times in any unit, `result` None when unknown, `t_return` None when it never returned."""

    process: int
    op: str
    args: tuple[Any, ...]
    result: Any
    t_invoke: float
    t_return: float | None


@dataclass(frozen=True)
class Verdict:
    """`witness`: positions of the calls in a legal order. `bad_prefix`: how many events make the history illegal."""

    ok: bool
    witness: tuple[int, ...] | None
    bad_prefix: int | None
    states: int
    seconds: float


Model = Callable[[Any, Op], Iterable[Any]]


def register(state: Any, op: Op) -> list[Any]:
    """A register that begins as "nil": read, write, cas(old, new) with result True or False."""
    state = "nil" if state is None else state
    if op.op == "read":
        return [state] if op.result in (UNKNOWN, state) else []
    if op.op == "write":
        return [op.args[0]]
    old, new = op.args
    if op.result is True:
        return [new] if state == old else []
    if op.result is False:
        return [state] if state != old else []
    return [new, state] if state == old else [state]


def kv(state: str | None, op: Op) -> list[str]:
    """One key: get, put and append of strings; a missing key is the empty string."""
    state = state or ""
    if op.op == "get":
        return [state] if op.result in (UNKNOWN, state) else []
    return [op.args[0]] if op.op == "put" else [state + op.args[0]]


def counter(state: int | None, op: Op) -> list[int]:
    """A number that begins as 0: add(amount) returns the sum."""
    after = (state or 0) + op.args[0]
    return [after] if op.result in (UNKNOWN, after) else []


def _read_from_nowhere(history: Sequence[Op]) -> bool:
    """Whether some read returned a value that no write or cas begun before its return could have put there."""
    puts = [(op.t_invoke, op.args[-1]) for op in history if op.args]
    return any(
        op.op == "read"
        and op.result not in (UNKNOWN, "nil")
        and not any(began < _end(op) and value == op.result for began, value in puts)
        for op in history
    )


# What refutes a history at sight; without it the search would try every subset of the open calls first.
REFUTED: dict[Model, Callable[[Sequence[Op]], bool]] = {register: _read_from_nowhere}
MODELS: dict[str, Model] = {"register": register, "kv": kv, "counter": counter}
UNKNOWN = None


def linearizable(history: Sequence[Op], model: Model | str, *, limit: int = LIMIT) -> Verdict:
    """Judge one history of one object; LocksError for an unknown model, StateLimit when `limit` is reached."""
    if isinstance(model, str):
        if model not in MODELS:
            raise LocksError(f"model (={model!r}): expected one of {', '.join(MODELS)}")
        model = MODELS[model]
    began = time.process_time()
    witness, states = _search(history, model, limit)
    bad = None if witness is not None else _shortest_bad_prefix(history, model, limit)
    return Verdict(witness is not None, witness, bad, states, time.process_time() - began)


def replay(history: Sequence[Op], model: Model | str, witness: Sequence[int]) -> bool:
    """Whether the calls in this order respect both the model and the order of real time."""
    step = MODELS[model] if isinstance(model, str) else model
    states: set[Any] = {None}
    placed = set(witness)
    if any(op.t_return is not None and i not in placed for i, op in enumerate(history)):
        return False
    for at, i in enumerate(witness):
        if any(_end(history[later]) < history[i].t_invoke for later in witness[at + 1 :]):
            return False
        states = {after for state in states for after in step(state, history[i])}
    return bool(states)


def _end(op: Op) -> float:
    return NEVER if op.t_return is None else op.t_return


def _search(history: Sequence[Op], model: Model, limit: int) -> tuple[tuple[int, ...] | None, int]:
    """A legal order, or None, and how many (set, state) pairs were seen."""
    order = sorted(range(len(history)), key=lambda i: history[i].t_invoke)
    ops = [history[i] for i in order]
    ends = [_end(op) for op in ops]
    must = sum(1 << i for i, end in enumerate(ends) if end != NEVER)
    seen: set[tuple[int, Any]] = set()
    path: list[int] = []
    stack = [iter(_next(ops, ends, model, 0, None))]
    if not must:
        return (), 0
    if model in REFUTED and REFUTED[model](history):
        return None, 0
    while stack:
        for i, placed, state in stack[-1]:
            if (placed, state) in seen:
                continue
            seen.add((placed, state))
            if len(seen) > limit:
                raise StateLimit(f"checker: {limit} states without an end; no verdict")
            path.append(order[i])
            if placed & must == must:
                return tuple(path), len(seen)
            stack.append(iter(_next(ops, ends, model, placed, state)))
            break
        else:
            stack.pop()
            if path:
                path.pop()
    return None, len(seen)


def _next(ops: Sequence[Op], ends: Sequence[float], model: Model, placed: int, state: Any) -> Iterable[tuple]:
    """Calls that may come next: those that began before any call that is not placed yet had ended.

    A call that never returned is placed only where it changes the state, and of several alike the earliest first:
    leaving it out, or exchanging it with its like, gives the same orders.
    """
    first_end, candidates, open_kinds = NEVER, [], set()
    for i, op in enumerate(ops):
        if placed >> i & 1:
            continue
        if op.t_invoke > first_end:
            break
        if ends[i] == NEVER:
            kind = (op.op, op.args)
            if kind in open_kinds:
                continue
            open_kinds.add(kind)
        candidates.append(i)
        first_end = min(first_end, ends[i])
    for i in sorted(candidates, key=ends.__getitem__):
        if ops[i].t_invoke <= first_end:
            for after in model(state, ops[i]):
                if ends[i] != NEVER or after != state:
                    yield i, placed | 1 << i, after


def prefix(history: Sequence[Op], events: int) -> list[Op]:
    """The history as it stood after its first `events` events (calls and returns in order of time)."""
    times = sorted([op.t_invoke for op in history] + [op.t_return for op in history if op.t_return is not None])
    if events >= len(times):
        return list(history)
    if events <= 0:
        return []
    last = times[events - 1]
    seen = [op for op in history if op.t_invoke <= last]
    return [op if _end(op) <= last else replace(op, result=UNKNOWN, t_return=None) for op in seen]


def _shortest_bad_prefix(history: Sequence[Op], model: Model, limit: int) -> int:
    low, high = 0, 2 * len(history)  # good at low, bad at high: every longer prefix of a bad one is bad
    while high - low > 1:
        middle = (low + high) // 2
        if _search(prefix(history, middle), model, limit)[0] is None:
            high = middle
        else:
            low = middle
    return high
