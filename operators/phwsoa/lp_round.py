"""Unrelated machines: round the preemptive LP, then anneal moves and swaps (our recipe; no part of the paper).

Every task goes to the machine with its largest share in the LP (at most m - 1 tasks are split), then: half of the steps
start from a task of the fullest machine, half from any; half move it to a random machine, half swap it with a random
task; a step is taken when the larger of the two machines' times falls, else with probability exp(-increase / heat).
Heat falls geometrically between two shares of the LP bound; the best solution is kept. Both shares were chosen on
matrices of the same method from another seed (`twins.etc_twin(key, seed=1)`), never on those the bench judges; a slow
test repeats the comparison.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from operators.lab.compiled import inner
from operators.phwsoa import bounds
from operators.phwsoa.instance import UNRELATED, Instance
from operators.phwsoa.objectives import free_kernel
from operators.phwsoa.rng import below, start, uniform

HOT, COLD = 1e-3, 1e-6  # of the LP bound
CHUNK = 250_000
DEFAULT_STEPS = 8_000_000


@inner
def rehome(task, target, x, members, counts, places):
    """Keep the lists of each machine's tasks when `task` moves to `target`."""
    old = x[task]
    last = members[old, counts[old] - 1]
    members[old, places[task]] = last
    places[last] = places[task]
    counts[old] -= 1
    members[target, counts[target]] = task
    places[task] = counts[target]
    counts[target] += 1
    x[task] = target


@free_kernel
def anneal(x, best_x, etc, steps, hot, cold, seed, chunk):
    """`steps` steps on `x` in place from heat `hot` to `cold`; the best seen is kept in `best_x`; its makespan."""
    n, m = etc.shape
    state = np.zeros(1, np.uint64)
    start(state, seed, chunk, 7)
    loads, best_loads, counts = np.zeros(m), np.zeros(m), np.zeros(m, np.int64)
    members, places = np.zeros((m, n), np.int64), np.zeros(n, np.int64)
    for i in range(n):
        loads[x[i]] += etc[i, x[i]]
        best_loads[best_x[i]] += etc[i, best_x[i]]
        members[x[i], counts[x[i]]] = i
        places[i] = counts[x[i]]
        counts[x[i]] += 1
    best, full, heat = best_loads.max(), np.argmax(loads), hot
    cooling = (cold / hot) ** (1.0 / steps)
    for _ in range(steps):
        heat *= cooling
        task = members[full, below(state, counts[full])] if uniform(state) < 0.5 else below(state, n)
        source, swap = x[task], -1
        if uniform(state) < 0.5:
            target = below(state, m)
        else:
            swap = below(state, n)
            target = x[swap]
        if target == source:
            continue
        a, b = loads[source] - etc[task, source], loads[target] + etc[task, target]
        if swap >= 0:
            a, b = a + etc[swap, source], b - etc[swap, target]
        rise = max(a, b) - max(loads[source], loads[target])
        if rise > 0.0 and uniform(state) >= np.exp(-rise / heat):
            continue
        loads[source], loads[target] = a, b
        rehome(task, target, x, members, counts, places)
        if swap >= 0:
            rehome(swap, source, x, members, counts, places)
        full = np.argmax(loads)
        if loads[full] < best:
            best = loads[full]
            for i in range(n):
                best_x[i] = x[i]
    return best


def rounded(inst: Instance) -> np.ndarray:
    """Each task on the machine with its largest share of the LP `(n,)`."""
    return bounds.unrelated_lp(inst)[1].argmax(1).astype(np.int64)


def lp_round_ls(
    inst: Instance, *, seconds: float | None = None, steps: int | None = None, seed: int = 0, threads: int = 1
) -> np.ndarray:
    """Assignment `(n,)` by LP rounding and annealing; ends after `seconds` (LP included) or `steps` (default 8 M).

    `threads` searches with different streams run side by side and the best counts. Raises ValueError unless `inst` has
    an ETC matrix.
    """
    if inst.kind != UNRELATED:
        raise ValueError("lp_round_ls: expected an instance with etc (unrelated machines)")
    began = time.perf_counter()
    first, low = rounded(inst), bounds.lower_bound(inst)
    if inst.m == 1:
        return first.astype(inst.gene_type)

    def search(stream: int) -> tuple[float, np.ndarray]:
        x, best_x = first.copy(), first.copy()
        total = DEFAULT_STEPS if steps is None else steps
        done, chunk, spent, value = 0, 0, 0.0, np.inf
        while spent < 1.0:
            size = CHUNK if seconds is not None else min(CHUNK, total - done)
            now = spent
            measured = seconds is not None and chunk > 0  # how much of the time a chunk takes
            expected = spent / chunk if measured else size / total
            heats = [HOT * (COLD / HOT) ** min(1.0, share) * low for share in (now, now + expected)]
            value = anneal(x, best_x, inst.etc, size, *heats, seed * 1000 + stream, chunk)
            done, chunk = done + size, chunk + 1
            spent = done / total if seconds is None else (time.perf_counter() - began) / seconds
        return value, best_x

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(search, range(threads)))
    return min(found, key=lambda pair: pair[0])[1].astype(inst.gene_type)
