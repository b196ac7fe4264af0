"""Redistribution of load inside the search (inferred): move tasks off the fullest machine while it stands out.

While the largest finish time exceeds (1 + theta) times the mean and moves are left, the task and the machine are taken
for which the larger of the two finish times becomes smallest; it stops when no move lowers it. Every (task, machine)
pair looked at counts as one delta evaluation, reported apart from full ones. This operator does nearly all the work of
the hybrid; the ablation shows it.

Scope `class` is ours: it evens out the machines of one price per work among themselves, which lowers imbalance (and
never raises the makespan) at exactly the same cost. A greedy front leaves the last class it touches uneven, so here is
what a search can add to it in three objectives. `mixed` draws a scope and a number of moves for each offspring.
"""

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.phwsoa.heuristics import add_time
from operators.phwsoa.instance import Instance

SCOPES = ("full", "class", "both", "mixed")
FULL, CLASS, BOTH, MIXED = range(4)


@inner
def sum_loads(x, arrays, loads):
    """Loads as sums (rigid tasks: PEs times seconds over the machine's PEs)."""
    kind, length, mips, _, etc, pes, vm_pes, _, _ = arrays
    for j in range(loads.shape[0]):
        loads[j] = 0.0
    for i in range(x.shape[0]):
        loads[x[i]] += add_time(i, x[i], kind, length, mips, etc, pes, vm_pes)


@inner
def best_move(x, full, group, arrays, loads):
    """The task and machine that relieve `full` most: (larger finish time of the two, task, machine, pairs looked at).

    Only machines of one price class when `group` >= 0; task -1 when nothing lowers the finish time of `full`.
    """
    kind, length, mips, _, etc, pes, vm_pes, _, groups = arrays
    m, looked = mips.shape[0], 0
    best, task, target = loads[full], -1, -1
    for i in range(x.shape[0]):
        if x[i] != full:
            continue
        left = loads[full] - add_time(i, full, kind, length, mips, etc, pes, vm_pes)
        if left >= best:
            continue
        looked += m - 1
        for j in range(m):
            if j != full and (group < 0 or groups[j] == group):
                worse = max(left, loads[j] + add_time(i, j, kind, length, mips, etc, pes, vm_pes))
                if worse < best:
                    best, task, target = worse, i, j
    return task, target, looked


@inner
def spread_out(x, position, arrays, theta, moves, group, loads):
    """Redistribute `x` (n,) and `position` in place, inside one price class when `group` >= 0; delta evaluations."""
    kind, length, mips, _, etc, pes, vm_pes, _, groups = arrays
    m = mips.shape[0]
    looked = 0
    for _ in range(moves):
        full, total, count = -1, 0.0, 0
        for j in range(m):
            if group < 0 or groups[j] == group:
                total += loads[j]
                count += 1
                if full < 0 or loads[j] > loads[full]:
                    full = j
        if count < 2 or loads[full] <= (1.0 + theta) * total / count:
            break
        task, target, pairs = best_move(x, full, group, arrays, loads)
        looked += pairs
        if task < 0:
            break
        loads[full] -= add_time(task, full, kind, length, mips, etc, pes, vm_pes)
        loads[target] += add_time(task, target, kind, length, mips, etc, pes, vm_pes)
        x[task] = target
        position[task] = target + 0.5
    return looked


@inner
def redistribute_into(x, position, arrays, theta, moves, scope, loads):
    """One of the scopes FULL, CLASS (inside price classes, at equal cost), BOTH; delta evaluations done."""
    sum_loads(x, arrays, loads)
    looked, first, last = 0, -1, 0
    if scope == CLASS:
        first = 0
    if scope != FULL:
        last = arrays[8].max() + 1
    for group in range(first, last):
        looked += spread_out(x, position, arrays, theta if group < 0 else 0.0, moves, group, loads)
    return looked


@kernel
def redistribute_one(x, position, arrays, theta, moves, scope):
    """`redistribute_into` for callers in Python."""
    return redistribute_into(x, position, arrays, theta, moves, scope, np.zeros(arrays[2].shape[0]))


def redistribute(
    inst: Instance, x, *, theta: float = 0.1, moves: int = 50, scope: str = "full"
) -> tuple[np.ndarray, int]:
    """The assignment `(n,)` after at most `moves` moves (per price class), and how many delta evaluations it took."""
    if scope not in SCOPES[:3]:
        raise ValueError(f"scope (={scope!r}): expected one of {', '.join(SCOPES[:3])}")
    genes = inst.check_assignment(x).copy()
    code = SCOPES.index(scope)
    looked = redistribute_one(genes, np.zeros(inst.n), tuple(inst.arrays), float(theta), int(moves), code)
    return genes, int(looked)
