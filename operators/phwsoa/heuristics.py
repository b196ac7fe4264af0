"""Simple schedulers that every comparison carries: LPT, MCT, Min-Min, Max-Min, Sufferage, HEFT, and a greedy front.

All return an assignment `(n,)` of genes. Loads are estimated as sums (for rigid tasks: PEs times seconds over the
machine's PEs), machines a task does not fit on are never chosen. Ties go to the lower number. Without precedence HEFT
ranks by mean seconds, so it is LPT by another key.
"""

from functools import lru_cache

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.phwsoa.instance import SIMULATED, UNRELATED, Instance

SEARCH_HIGH = 6.0  # caps of the greedy front reach from the bound to this many bounds


@inner
def add_time(i, j, kind, length, mips, etc, pes, vm_pes):
    """Seconds task `i` adds to machine `j`; inf where it does not fit."""
    if kind == UNRELATED:
        return etc[i, j]
    if pes[i] > vm_pes[j]:
        return np.inf
    seconds = length[i] / mips[j]
    return seconds * pes[i] / vm_pes[j] if kind == SIMULATED else seconds


@kernel
def earliest_finish(order, arrays, x):
    """Tasks in `order`, each to the machine where it finishes earliest."""
    kind, length, mips, _, etc, pes, vm_pes, release, _ = arrays
    m = mips.shape[0]
    ready = np.zeros(m)
    for i in order:
        best, chosen = np.inf, 0
        for j in range(m):
            end = max(ready[j], release[i]) + add_time(i, j, kind, length, mips, etc, pes, vm_pes)
            if end < best:
                best, chosen = end, j
        ready[chosen] = best
        x[i] = chosen


@kernel
def batch_mode(arrays, mode, x):
    """Min-Min (0), Max-Min (1), Sufferage (2): a task's two best machines are looked up again when one was taken."""
    kind, length, mips, _, etc, pes, vm_pes, _, _ = arrays
    n, m = length.shape[0], mips.shape[0]
    ready, left = np.zeros(m), np.ones(n, np.bool_)
    first, second, where = np.zeros(n), np.zeros(n), np.full(n, -1, np.int64)
    next_best = np.full(n, -1, np.int64)
    taken = -1
    for _ in range(n):
        pick, best = -1, -np.inf
        for i in range(n):
            if not left[i]:
                continue
            if where[i] < 0 or where[i] == taken or next_best[i] == taken:
                a, b, ja, jb = np.inf, np.inf, 0, 0
                for j in range(m):
                    end = ready[j] + add_time(i, j, kind, length, mips, etc, pes, vm_pes)
                    if end < a:
                        a, b, ja, jb = end, a, j, ja
                    elif end < b:
                        b, jb = end, j
                first[i], second[i], where[i], next_best[i] = a, b, ja, jb
            key = -first[i] if mode == 0 else (first[i] if mode == 1 else second[i] - first[i])
            if m == 1 and mode == 2:
                key = -first[i]
            if key > best:
                pick, best = i, key
        taken = where[pick]
        ready[taken] = first[pick]
        x[pick] = taken
        left[pick] = False


@kernel
def greedy_caps(order, preference, caps, arrays, out):
    """For each cap: tasks in `order` to the first machine of `preference` that stays under it, else earliest finish."""
    kind, length, mips, _, etc, pes, vm_pes, _, _ = arrays
    m = mips.shape[0]
    for c in range(caps.shape[0]):
        loads = np.zeros(m)
        for i in order:
            chosen, best = -1, np.inf
            for k in range(m):
                j = preference[i if preference.shape[0] > 1 else 0, k]
                end = loads[j] + add_time(i, j, kind, length, mips, etc, pes, vm_pes)
                if end <= caps[c] and chosen < 0:
                    chosen, best = j, end
                    break
            if chosen < 0:
                for j in range(m):
                    end = loads[j] + add_time(i, j, kind, length, mips, etc, pes, vm_pes)
                    if end < best:
                        chosen, best = j, end
            loads[chosen] = best
            out[c, i] = chosen


def _longest_first(inst: Instance) -> np.ndarray:
    a = inst.arrays
    work = a.length * a.pes if inst.etc is None else inst.etc.mean(1)
    return np.argsort(-work, kind="stable")


def _by(inst: Instance, order: np.ndarray) -> np.ndarray:
    x = np.zeros(inst.n, inst.gene_type)
    earliest_finish(order, tuple(inst.arrays), x)
    return x


def lpt(inst: Instance) -> np.ndarray:
    """Longest task first, each to the machine where it finishes earliest."""
    return _by(inst, _longest_first(inst))


def mct(inst: Instance) -> np.ndarray:
    """In order of arrival, each task to the machine where it finishes earliest."""
    return _by(inst, np.arange(inst.n))


def heft(inst: Instance) -> np.ndarray:
    """Tasks by falling mean seconds over the machines, each to its earliest finish."""
    et = inst.et()
    mean = np.where(np.isfinite(et), et, 0).sum(1) / np.isfinite(et).sum(1)
    return _by(inst, np.argsort(-mean, kind="stable"))


def round_robin(inst: Instance) -> np.ndarray:
    """Task i to machine i mod m, or the next one it fits on."""
    x = np.arange(inst.n) % inst.m
    fits = np.isfinite(inst.et())
    for i in np.flatnonzero(~fits[np.arange(inst.n), x]):
        x[i] = next((x[i] + k) % inst.m for k in range(inst.m) if fits[i, (x[i] + k) % inst.m])
    return x.astype(inst.gene_type)


@lru_cache(maxsize=32)  # several seconds at 5000 tasks, asked for by tables and by every seeded search
def _kept_batch(inst: Instance, mode: int) -> np.ndarray:
    x = np.zeros(inst.n, inst.gene_type)
    batch_mode(tuple(inst.arrays), mode, x)
    return x


def _batch(inst: Instance, mode: int) -> np.ndarray:
    return _kept_batch(inst, mode).copy()


def min_min(inst: Instance) -> np.ndarray:
    """Again and again the task that can finish first."""
    return _batch(inst, 0)


def max_min(inst: Instance) -> np.ndarray:
    """Again and again the task whose earliest finish is latest."""
    return _batch(inst, 1)


def sufferage(inst: Instance) -> np.ndarray:
    """Again and again the task that would suffer most from its second-best machine."""
    return _batch(inst, 2)


HEURISTICS = {"lpt": lpt, "mct": mct, "min_min": min_min, "max_min": max_min, "sufferage": sufferage, "heft": heft,
              "round_robin": round_robin}  # fmt: skip


def eps_greedy_front(inst: Instance, k: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """`k` solutions `(k, n)` and objectives `(k, 3)`: cheapest under a cap on the makespan, caps from the bound up.

    For each cap, tasks longest first go to the cheapest machine (price per work, then number) that stays under the
    cap, else to where they finish earliest. Caps grow geometrically from the lower bound to six of it.
    """
    from operators.phwsoa import bounds, objectives

    if k < 2:
        raise ValueError(f"k (={k}): expected at least 2 caps")
    low = bounds.lower_bound(inst)
    caps = np.geomspace(low, SEARCH_HIGH * low, k)
    cost = inst.price * inst.et() if inst.etc is not None else (inst.price / inst.mips)[None, :]
    x = np.zeros((k, inst.n), inst.gene_type)
    greedy_caps(_longest_first(inst), np.argsort(cost, axis=1, kind="stable"), caps, tuple(inst.arrays), x)
    return x, objectives.evaluate(inst, x)
