"""Stage `simulate`: every search and every heuristic on the instances of one log, all seeds in one job."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.phwsoa.settings import Settings


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        from operators.phwsoa import tables

        return tables.schema("fronts")
    raise AttributeError(name)


SCALAR = ("woa", "ga", "pewoa_like", "gcwoa_like", "soa")  # run a second time on the scaled mean of all objectives


def main(
    *, settings: Settings, log: str, instances: Path, vms: Path, out: Path, out_history: Path, out_timings: Path
) -> None:
    """Run all methods with the same number of evaluations, and the heuristics.

    Args:
        log: which log's instances
        instances: tasks (trace)
        vms: machines (trace)
        out: points of every front (runs/fronts/<log>.parquet)
        out_history: best values after each generation
        out_timings: seconds of each generation
    """
    from operators.phwsoa import tables

    fronts, history, timings = [], [], []
    for keys, made in tables.instances(instances, vms, log):
        fronts += _simple(made, keys, settings.seed)
        for method, label, extra in _runs(settings):
            for seed in range(settings.seed, settings.seed + settings.seeds):
                named = {**keys, "method": method, "settings": label, "seed": seed}
                _one(settings, made, named, method.removesuffix("_scalar"), seed, extra, (fronts, history, timings))
    tables.write("fronts", fronts, out, settings)
    tables.write("history", history, out_history, settings)
    tables.write("timings", timings, out_timings, settings)


def _runs(settings: Settings) -> list[tuple[str, str, dict]]:
    """(policy, label, operators) of every search."""
    runs = [(method, "default", {}) for method in settings.methods]
    runs += [(f"{method}_scalar", "default", {"fitness": "scalar"}) for method in settings.methods if method in SCALAR]
    if "phwsoa_h" in settings.methods:
        runs.append(("phwsoa_h", "two objectives", {"objectives": 2}))
    return runs


def _one(settings: Settings, made, named: dict, method: str, seed: int, extra: dict, tables: tuple) -> None:
    from operators.phwsoa.optimise import optimise

    fronts, history, timings = tables
    found = optimise(made, method, pop=settings.pop, max_evals=settings.pop * (settings.generations + 1), seed=seed,
                     **(settings.operators() | extra))  # fmt: skip
    counted = {key: found.counters[key] for key in ("evals", "delta_evals")}
    fronts += _points(made, found.front_X, named | counted)
    history += [named | row for row in found.history.iter_rows(named=True)]
    timings += [{**named, "gen": gen, "seconds": float(value)} for gen, value in enumerate(found.seconds, 1)]


def _simple(made, keys: dict, seed: int) -> list[dict]:
    """Points of the heuristics, the greedy front, and the bound (which has no schedule)."""
    from operators.phwsoa import bounds, heuristics

    rows = []
    for name, make in heuristics.HEURISTICS.items():
        rows += _points(made, make(made)[None], {**keys, "method": name, "settings": "default", "seed": seed})
    front = heuristics.eps_greedy_front(made)[0]
    rows += _points(made, front, {**keys, "method": "eps_greedy", "settings": "default", "seed": seed})
    low, kind = bounds.lower_bound_kind(made)
    least = bounds.cost_range(made)[0]
    rows.append({**keys, "method": "lower_bound", "settings": "default", "seed": seed, "point": 0, "f1": low,
                 "f2_cv": 0.0, "f2_di": 0.0, "f3": least, "lb": low, "lb_kind": kind})  # fmt: skip
    return rows


def _points(made, solutions, named: dict) -> list[dict]:
    """One row per solution, objectives computed anew from its genes."""
    from operators.phwsoa import bounds, objectives

    low, kind = bounds.lower_bound_kind(made)
    f, di = objectives.evaluate(made, solutions), objectives.evaluate(made, solutions, balance="di")[:, 1]
    return [
        {**named, "point": k, "f1": float(f[k, 0]), "f2_cv": float(f[k, 1]), "f2_di": float(di[k]),
         "f3": float(f[k, 2]), "lb": low, "lb_kind": kind, "assign": solutions[k].tobytes()}
        for k in range(len(solutions))
    ]  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
