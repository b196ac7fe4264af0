"""Stage `ablate`: each part of the hybrid switched on and off: start, seagull, mutation, redistribution, rule."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.phwsoa.settings import Settings


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        from operators.phwsoa import tables

        return tables.schema("ablation")
    raise AttributeError(name)


GROUPS = {
    "init": [(name, {"init": name}) for name in ("halton", "halton_scrambled", "random")],
    "seagull": [(f"seagull {name}", {"soa_variant": name}) for name in ("original", "bounded")],
    "mutation": [(f"mutation {'on' if on else 'off'}", {"mutation": on}) for on in (True, False)],
    "redistribution": [(f"redistribution {moves}", {"redis_moves": moves}) for moves in (0, 5, 50)],
    "rule": [(f"rule {name}", {"hybrid_rule": name}) for name in ("phase", "half", "sequential")],
}


def main(
    *, settings: Settings, instances: Path, vms: Path, out: Path, out_variants: Path, data: Path | None = None
) -> None:
    """Run phwsoa with one switch changed at a time, at equal full evaluations; delta evaluations are listed.

    Args:
        instances: tasks (trace)
        vms: machines (trace)
        out: one row per variant and seed (runs/ablation.parquet)
        out_variants: billing quanta, rigid tasks, measures of balance (runs/variants.parquet)
        data: data root (default: synthetic twins)
    """
    from operators.phwsoa import tables, variants

    rows, other = [], []
    for keys, made in tables.instances(instances, vms):
        if keys["n"] != settings.n[0]:
            continue
        rows += _references(made, keys, settings)
        other = other or variants.rows(settings, made, keys, data)
        for group, changes in GROUPS.items():
            for policy, change in changes:
                for seed in range(settings.seed, settings.seed + settings.ablation_seeds):
                    rows.append({"group": group, "policy": policy, **keys, "seed": seed,
                                 **_one(settings, made, seed, change)})  # fmt: skip
    tables.write("ablation", rows, out, settings)
    tables.write("variants", other, out_variants, settings)


def _references(made, keys: dict, settings: Settings) -> list[dict]:
    """Rows of the bound, LPT and the greedy front, to stand beside every variant."""
    from operators.phwsoa import bounds, heuristics, objectives
    from operators.phwsoa.optimise import volume

    low, kind = bounds.lower_bound_kind(made)
    rows = [{"policy": "lower_bound", "f1_over_lb": 1.0, "f3": bounds.cost_range(made)[0]}]
    for name, x in (("lpt", heuristics.lpt(made)[None]), ("eps_greedy", heuristics.eps_greedy_front(made)[0])):
        f = objectives.evaluate(made, x)
        rows.append({"policy": name, "f1_over_lb": f[:, 0].min() / low, "f2_cv": f[:, 1].min(), "f3": f[:, 2].min(),
                     "hv3": volume(f, made)})  # fmt: skip
    return [{"group": "reference", **keys, "seed": settings.seed, "lb_kind": kind, **row} for row in rows]


def _one(settings: Settings, made, seed: int, change: dict) -> dict:
    from operators.phwsoa import bounds, objectives, start
    from operators.phwsoa.optimise import optimise, volume

    how = settings.operators() | change
    first = start.start_positions(made, settings.pop, how["init"], seed).astype(made.gene_type)
    low, kind = bounds.lower_bound_kind(made)
    found = optimise(made, "phwsoa", pop=settings.pop, max_evals=settings.pop * (settings.generations + 1), seed=seed,
                     **how)  # fmt: skip
    f = objectives.evaluate(made, found.front_X)
    return {
        "lb_kind": kind, "start_f1_over_lb": float(_median(objectives.evaluate(made, first)[:, 0]) / low),
        "start_hamming": start.mean_hamming(first), "f1_over_lb": float(f[:, 0].min() / low),
        "f2_cv": float(f[:, 1].min()), "f3": float(f[:, 2].min()), "hv3": volume(f, made),
        "evals": found.counters["evals"], "delta_evals": found.counters["delta_evals"],
    }  # fmt: skip


def _median(values) -> float:
    import statistics

    return statistics.median(values.tolist())


if __name__ == "__main__":
    stage.run(main)
