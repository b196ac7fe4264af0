"""What no schedule can beat: lower bounds of the makespan, the least cost under a makespan, and gaps to both.

Related machines: the preemptive bound. Unrelated: the preemptive LP. Rigid tasks: work over capacity, and the longest
task on the fastest machine that can hold it (our choice). The (makespan, cost) front of the LP relaxation bounds every
front; it is solved by HiGHS on classes (machines by speed and price, tasks by the slowest speed they may use), with
all coefficients scaled to about 1: coefficients of 1e-9 beside 1e8 MI lie below the solver's tolerances and give a
wrong optimum without a warning.
"""

from functools import lru_cache

import numpy as np

from operators.phwsoa.instance import RELATED, SIMULATED, UNRELATED, Instance

REFERENCE_F1 = 6.0  # hypervolume reference: this many bounds of makespan
REFERENCE_F3 = 1.05  # and this many times the dearest cost
FINE_POINTS = 400


def lower_bound(inst: Instance) -> float:
    """Seconds no schedule of `inst` can beat."""
    return lower_bound_kind(inst)[0]


def lower_bound_kind(inst: Instance) -> tuple[float, str]:
    """The bound and what sets it: `load`, `one job` (or a few of the longest), `lp`, `release`."""
    if inst.kind == UNRELATED:
        return unrelated_lp(inst)[0], "lp"
    if inst.kind == SIMULATED:
        return _rigid_bound(inst)
    count = min(inst.n, inst.m - 1)
    longest = -np.partition(-inst.length, count - 1)[:count] if 0 < count < inst.n else inst.length[:count]
    longest, fastest = np.sort(longest)[::-1], np.sort(inst.mips)[::-1]
    load = inst.length.sum() / inst.mips.sum()
    if not count:
        return float(load), "load"
    prefix = np.cumsum(longest) / np.cumsum(fastest[:count])
    k = int(np.argmax(prefix))
    if prefix[k] <= load:
        return float(load), "load"
    return float(prefix[k]), "one job" if k == 0 else f"{k + 1} jobs"


def _rigid_bound(inst: Instance) -> tuple[float, str]:
    a = inst.arrays
    load = (a.length * a.pes).sum() / (a.mips * a.vm_pes).sum()
    fits = a.pes[:, None] <= a.vm_pes[None, :]
    alone = a.length / np.where(fits, a.mips[None, :], 0).max(1)
    released = float((a.release + alone).max())
    if load + a.release.min() >= released:
        return float(load + a.release.min()), "load"
    return released, "release" if a.release.any() else "one job"


@lru_cache(maxsize=64)
def unrelated_lp(inst: Instance) -> tuple[float, np.ndarray]:
    """Preemptive LP of an ETC instance: bound (s) and shares `(n, m)`; solved by HiGHS on scaled times."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    n, m, et = inst.n, inst.m, inst.et()
    scale = et.min(1).sum() / m
    tasks, vms = np.divmod(np.arange(n * m), m)
    variables = np.arange(n * m)
    equal = coo_array((np.ones(n * m), (tasks, variables)), shape=(n, n * m + 1)).tocsr()
    # Rows of machines, and of tasks: preemptive schedules may not run a task on two machines at once.
    rows = np.concatenate([vms, m + tasks, np.arange(m + n)])
    columns = np.concatenate([variables, variables, np.full(m + n, n * m)])
    values = np.concatenate([et.ravel() / scale, et.ravel() / scale, -np.ones(m + n)])
    at_most = coo_array((values, (rows, columns)), shape=(m + n, n * m + 1)).tocsr()
    goal = np.zeros(n * m + 1)
    goal[-1] = 1.0
    found = linprog(goal, A_ub=at_most, b_ub=np.zeros(m + n), A_eq=equal, b_eq=np.ones(n), method="highs")
    if found.status != 0:
        raise ValueError(f"unrelated_lp: HiGHS ended with status {found.status}: {found.message}")
    return float(found.fun * scale), found.x[:-1].reshape(n, m)


def cost_range(inst: Instance) -> tuple[float, float]:
    """Least and largest cost of all work, each task at its cheapest and dearest (related: at the least and highest
    price per MI)."""
    if inst.etc is not None:
        each = inst.etc * inst.price / 3600.0
        return float(each.min(1).sum()), float(each.max(1).sum())
    a = inst.arrays
    per_work = a.price / (a.mips * (a.vm_pes if inst.kind == SIMULATED else 1))
    work = (a.length * a.pes).sum() if inst.kind == SIMULATED else a.length.sum()
    return float(work * per_work.min() / 3600.0), float(work * per_work.max() / 3600.0)


def pareto_lower_front(inst: Instance, caps) -> np.ndarray:
    """Least cost `(k,)` of the LP relaxation under each makespan of `caps` (k,) s; inf where a cap is infeasible.

    The LP shares all work out over classes of equal machines; a task may use the speeds that finish it in time. Cost
    depends on the machine alone and the sets of fast enough machines are nested, so filling them from the fastest set
    down, the cheapest machines first, solves it exactly (the tests compare with HiGHS). Related machines only
    (ValueError otherwise).
    """
    if inst.kind != RELATED:
        raise ValueError("pareto_lower_front: defined for related machines and single-PE tasks without release times")
    caps = np.atleast_1d(caps).astype(float)
    classes, member = np.unique(np.stack([inst.mips, inst.price], 1), axis=0, return_inverse=True)
    room = caps[:, None] * (np.bincount(member.ravel()) * classes[:, 0])
    cost, levels = classes[:, 1] / classes[:, 0], np.unique(inst.mips)
    lengths = np.sort(inst.length)
    summed = np.concatenate([[0.0], np.cumsum(lengths)])
    used, bad = np.zeros_like(room), lengths[-1] > levels[-1] * caps * (1 + 1e-12)
    for level in range(len(levels) - 1, -1, -1):
        slower = levels[level - 1] * caps * (1 + 1e-12) if level else np.zeros(len(caps))
        short = summed[-1] - summed[np.searchsorted(lengths, slower, side="right")]
        fit = np.flatnonzero(classes[:, 0] >= levels[level])
        short = short - used[:, fit].sum(1)
        for v in fit[np.argsort(cost[fit], kind="stable")]:
            taken = np.clip(short, 0.0, room[:, v] - used[:, v])
            used[:, v] += taken
            short = short - taken
        bad |= short > 1e-9 * summed[-1]
    return np.where(bad, np.inf, used @ cost / 3600.0)


def hv2(points: np.ndarray, reference: tuple[float, float]) -> float:
    """Area dominated by `points` (k, 2), both minimised, up to `reference`."""
    inside = points[(points < np.array(reference)).all(1)]
    area, height = 0.0, reference[1]
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))]:
        if y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return float(area)


@lru_cache(maxsize=64)
def _fine_front(inst: Instance) -> tuple[np.ndarray, np.ndarray]:
    caps = np.geomspace(lower_bound(inst), REFERENCE_F1 * lower_bound(inst), FINE_POINTS)
    return caps, pareto_lower_front(inst, caps)


def gap(front: np.ndarray, inst: Instance) -> dict[str, float | str | None]:
    """How far a front's objectives `(k, 3)` are from what is possible.

    `makespan_gap` = least makespan / bound; `hv_ratio` = area in (makespan, cost) over that of the LP front at the
    front's own makespans, `hv_ratio_exact` over that of the continuous LP front; `lb_kind` says what sets the bound.
    """
    low, kind = lower_bound_kind(inst)
    out = {"makespan_gap": float(front[:, 0].min() / low), "lb_kind": kind, "hv2": None, "hv_ratio": None,
           "hv_ratio_exact": None}  # fmt: skip
    if inst.kind != RELATED:
        return out
    reference = (REFERENCE_F1 * low, REFERENCE_F3 * cost_range(inst)[1])
    two = front[:, [0, 2]]
    mine = hv2(two, reference)
    order = two[np.lexsort((two[:, 1], two[:, 0]))]
    steps = order[np.concatenate([[True], order[1:, 1] < np.minimum.accumulate(order[:, 1])[:-1]])]
    same = hv2(np.stack([steps[:, 0], pareto_lower_front(inst, steps[:, 0])], 1), reference)
    caps, costs = _fine_front(inst)
    exact = _under_curve(caps, costs, reference)
    return out | {"hv2": mine, "hv_ratio": mine / same if same else None, "hv_ratio_exact": mine / exact}


def _under_curve(caps: np.ndarray, costs: np.ndarray, reference: tuple[float, float]) -> float:
    """Area above a convex falling front, joined by straight lines (no staircase), up to `reference`."""
    ok = np.isfinite(costs)
    return float(np.trapezoid(reference[1] - costs[ok], caps[ok]))  # the last cap is the reference


@lru_cache(maxsize=64)
def _box_edges(inst: Instance) -> tuple[float, float, float]:
    return lower_bound(inst), *cost_range(inst)


def box3(front: np.ndarray, inst: Instance) -> np.ndarray:
    """Objectives `(k, 3)` (imbalance as cv) in the unit box of the three-objective hypervolume."""
    low, cheap, dear = _box_edges(inst)
    span = (dear - cheap) or 1.0
    return np.stack([(front[:, 0] / low - 1) / (REFERENCE_F1 - 1), front[:, 1] / 2, (front[:, 2] - cheap) / span], 1)
