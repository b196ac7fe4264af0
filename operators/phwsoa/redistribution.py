"""Redistribution of load inside the search (inferred): move tasks off the fullest machine while it stands out.

While the largest finish time exceeds (1 + theta) times the mean and moves are left, the task and the machine are taken
for which the larger of the two finish times becomes smallest; it stops when no move lowers it. Every (task, machine)
pair looked at counts as one delta evaluation, reported apart from full ones. This operator does nearly all the work of
the hybrid; the ablation shows it.
"""

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.phwsoa.heuristics import add_time
from operators.phwsoa.instance import Instance


@inner
def sum_loads(x, arrays, loads):
    """Loads as sums (rigid tasks: PEs times seconds over the machine's PEs)."""
    kind, length, mips, _, etc, pes, vm_pes, _ = arrays
    for j in range(loads.shape[0]):
        loads[j] = 0.0
    for i in range(x.shape[0]):
        loads[x[i]] += add_time(i, x[i], kind, length, mips, etc, pes, vm_pes)


@inner
def spread_out(x, position, arrays, theta, moves, loads):
    """Redistribute `x` (n,) and `position` in place; delta evaluations done."""
    kind, length, mips, _, etc, pes, vm_pes, _ = arrays
    n, m = x.shape[0], mips.shape[0]
    sum_loads(x, arrays, loads)
    looked = 0
    for _ in range(moves):
        full, total = 0, 0.0
        for j in range(m):
            total += loads[j]
            if loads[j] > loads[full]:
                full = j
        if loads[full] <= (1.0 + theta) * total / m:
            break
        best, task, target = loads[full], -1, -1
        for i in range(n):
            if x[i] != full:
                continue
            left = loads[full] - add_time(i, full, kind, length, mips, etc, pes, vm_pes)
            looked += m - 1
            if left >= best:
                continue
            for j in range(m):
                if j != full:
                    worse = max(left, loads[j] + add_time(i, j, kind, length, mips, etc, pes, vm_pes))
                    if worse < best:
                        best, task, target = worse, i, j
        if task < 0:
            break
        loads[full] -= add_time(task, full, kind, length, mips, etc, pes, vm_pes)
        loads[target] += add_time(task, target, kind, length, mips, etc, pes, vm_pes)
        x[task] = target
        position[task] = target + 0.5
    return looked


@kernel
def redistribute_one(x, position, arrays, theta, moves):
    """`spread_out` for callers in Python."""
    return spread_out(x, position, arrays, theta, moves, np.zeros(arrays[2].shape[0]))


def redistribute(inst: Instance, x, *, theta: float = 0.1, moves: int = 50) -> tuple[np.ndarray, int]:
    """The assignment `(n,)` after at most `moves` moves, and how many delta evaluations it took."""
    genes = inst.check_assignment(x).copy()
    looked = redistribute_one(genes, np.zeros(inst.n), tuple(inst.arrays), float(theta), int(moves))
    return genes, int(looked)
