"""Stage `trace`: the instances of a run and their bounds; the checked table of section 4 comes from here."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.phwsoa.settings import Settings


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        from operators.phwsoa import tables

        return tables.schema("instances")
    raise AttributeError(name)


def main(*, settings: Settings, out: Path, out_vms: Path, out_bounds: Path, data: Path | None = None) -> None:
    """Take the first n usable jobs of each log, draw the machines, and bound what any schedule can reach.

    Args:
        out: tasks of every instance (runs/instances.parquet)
        out_vms: machines (runs/vms.parquet)
        out_bounds: bounds and simple heuristics, one row per point of the LP front (runs/bounds.parquet)
        data: data root (default: synthetic twins)
    """
    from operators.phwsoa import instance, sources, tables

    tasks, vms, bounds = [], [], []
    for log in settings.logs:
        jobs, kind = sources.jobs(log, data, seed=settings.seed)
        for n in settings.n:
            made = instance.five_class(jobs, n, settings.m, settings.seed, price=settings.vm_table)
            keys = {"log": log, "n": n, "m": settings.m, "data": kind}
            tasks += [{**keys, "task": i, "length_mi": float(length), "pes": 1, "release_s": 0.0}
                      for i, length in enumerate(made.length)]  # fmt: skip
            vms += [{**keys, "vm": j, "mips": float(made.mips[j]), "price_per_h": float(made.price[j]), "pes": 1}
                    for j in range(made.m)]  # fmt: skip
            bounds += _bounds(made, keys)
    _warm(made)
    tables.write("instances", tasks, out, settings)
    tables.write("vms", vms, out_vms, settings)
    tables.write("bounds", bounds, out_bounds, settings)


def _warm(made) -> None:
    """Compile the searches' kernels once, before several processes would each do it at the same time."""
    from operators.phwsoa.optimise import optimise

    for method in ("phwsoa_h", "nsga2"):
        optimise(made, method, pop=4, generations=1)


def _bounds(made, keys: dict) -> list[dict]:
    """Bound, its kind, heuristics over it, and the LP front's points of one instance."""
    import numpy as np

    from operators.phwsoa import bounds, heuristics, objectives

    low, kind = bounds.lower_bound_kind(made)
    cheap, dear = bounds.cost_range(made)
    simple = {f"{name}_over_lb": float(objectives.evaluate(made, heuristics.HEURISTICS[name](made))[0, 0] / low)
              for name in ("lpt", "mct", "round_robin")}  # fmt: skip
    caps = np.geomspace(low, bounds.REFERENCE_F1 * low, 40)
    costs = bounds.pareto_lower_front(made, caps)
    same = {**keys, "lb": low, "lb_kind": kind, "cmin": cheap, "cmax": dear, **simple}
    return [{**same, "lp_cap": float(cap), "lp_cost": float(cost)} for cap, cost in zip(caps, costs, strict=True)]


if __name__ == "__main__":
    stage.run(main)
