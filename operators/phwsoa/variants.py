"""Where the plain problem ends: billing by quanta, rigid tasks of several PEs, and other measures of balance.

One small table on the first log and one seed, each variant with a bound or a simple heuristic beside the search. Where
the bound is loose (rigid tasks, released ones) the gap to it is no proof that search could close it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from operators.phwsoa import bounds, heuristics, instance, objectives, sources
from operators.phwsoa.instance import Instance
from operators.phwsoa.optimise import optimise
from operators.phwsoa.settings import Settings

QUANTA_S = (0.0, 60.0, 3600.0)
RIGID_N, RIGID_PES = 200, 32  # tasks and PEs a machine: every evaluation simulates them


def rows(settings: Settings, made: Instance, keys: dict[str, Any], root: Path | None) -> list[dict[str, Any]]:
    """Rows of the table `variants` for one instance of a log."""
    return [*_billing(settings, made, keys), *_rigid(settings, keys, root), *_balance(settings, made, keys)]


def _row(made: Instance, x: np.ndarray, keys: dict, group: str, variant: str, policy: str, **how: Any) -> dict:
    """The best of each objective over solutions `x` (k, n)."""
    low, kind = bounds.lower_bound_kind(made)
    f = objectives.evaluate(made, x, **how)
    di = objectives.evaluate(made, x, balance="di")[:, 1]
    return {**keys, "n": made.n, "m": made.m, "group": group, "variant": variant, "policy": policy, "lb_kind": kind,
            "f1_over_lb": float(f[:, 0].min() / low), "f2_cv": float(objectives.evaluate(made, x)[:, 1].min()),
            "f2_di": float(di.min()), "f3": float(f[:, 2].min()),
            "f3_over_least": float(f[:, 2].min() / bounds.cost_range(made)[0])}  # fmt: skip


def _searched(settings: Settings, made: Instance, method: str, **how: Any) -> tuple[np.ndarray, int]:
    found = optimise(made, method, pop=settings.pop, max_evals=settings.pop * (settings.generations + 1),
                     seed=settings.seed, **(settings.operators() | how))  # fmt: skip
    return found.front_X, found.counters["evals"]


def _billing(settings: Settings, made: Instance, keys: dict) -> list[dict]:
    """Least cost when a machine is billed by started quanta; the bound is the cost of busy seconds."""
    keys, found = {**keys, "seed": settings.seed}, []
    simple = {"lpt": heuristics.lpt(made)[None], "eps_greedy": heuristics.eps_greedy_front(made)[0]}
    for quantum in QUANTA_S:
        how = {"billing_quantum_s": quantum}
        variant = f"{quantum:g} s"
        found += [_row(made, x, keys, "billing", variant, name, **how) for name, x in simple.items()]
        x, evals = _searched(settings, made, "phwsoa_h", **how)
        found.append({**_row(made, x, keys, "billing", variant, "phwsoa_h", **how), "evals": evals})
    return found


def _rigid(settings: Settings, keys: dict, root: Path | None) -> list[dict]:
    """Makespan when a job keeps all its processors, with and without release times (CloudSim's space sharing)."""
    jobs, kind = sources.jobs(keys["log"], root, seed=settings.seed)
    keys, found = {**keys, "seed": settings.seed, "data": kind}, []
    for variant, release in (("rigid", False), ("rigid, released", True)):
        made = instance.rigid(jobs, min(RIGID_N, len(jobs)), min(settings.m, 8), settings.seed, vm_pes=RIGID_PES,
                              release=release)  # fmt: skip
        for name in ("lpt", "mct", "min_min"):
            found.append(_row(made, heuristics.HEURISTICS[name](made)[None], keys, "rigid", variant, name))
        x, evals = _searched(settings, made, "phwsoa_h")
        found.append({**_row(made, x, keys, "rigid", variant, "phwsoa_h"), "evals": evals})
    return found


def _balance(settings: Settings, made: Instance, keys: dict) -> list[dict]:
    """What the search reaches in both measures of balance when it minimises one of them."""
    keys, found = {**keys, "seed": settings.seed}, []
    for balance in objectives.BALANCES:
        x, evals = _searched(settings, made, "phwsoa", balance=balance)
        found.append({**_row(made, x, keys, "balance", balance, "phwsoa"), "evals": evals})
    found.append(_row(made, heuristics.lpt(made)[None], keys, "balance", "none", "lpt"))
    return found
