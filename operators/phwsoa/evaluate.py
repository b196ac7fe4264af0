"""Stage `evaluate`: raw fronts to measures, and statistics of every pair of methods over the seeds."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.phwsoa.settings import Settings


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        from operators.phwsoa import tables

        return tables.schema("measures")
    raise AttributeError(name)


COMPARED = ("f1_over_lb", "f2_cv", "f2_di", "f3", "hv3")
HIGHER = ("hv3",)
RIVALS = ("woa", "soa", "ga", "pewoa_like", "gcwoa_like", "nsga2", "nsga3", "woa_scalar", "ga_scalar")


def main(
    *, settings: Settings, instances: Path, vms: Path, fronts: list[Path], timings: list[Path], executed: Path,
    out: Path, out_stats: Path,
) -> None:  # fmt: skip
    """Best of each objective, gaps to the bounds and hypervolumes of every front; Wilcoxon tests over the seeds.

    Args:
        instances: tasks (trace)
        vms: machines (trace)
        fronts: points of every front (simulate)
        timings: seconds of each generation (simulate)
        executed: the executed plan (execute_plan)
        out: measures.parquet
        out_stats: pairs of methods (runs/stats.parquet)
    """
    import polars as pl

    from operators.phwsoa import tables

    known = {(k["log"], k["n"]): made for k, made in tables.instances(instances, vms)}
    points = pl.concat([stage.read_table(path) for path in fronts])
    seconds = pl.concat([stage.read_table(path) for path in timings])
    spent = {key: value for *key, value in seconds.group_by("log", "n", "method", "settings", "seed").agg(
        pl.col("seconds").sum()).iter_rows() for key in [tuple(key)]}  # fmt: skip
    rows = []
    for key, part in points.group_by("log", "n", "method", "settings", "seed", maintain_order=True):
        rows.append(_measures(known[key[0], key[1]], part, spent.get(key)))
    rows += _executed(stage.read_table(executed), settings)
    tables.write("measures", rows, out, settings)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    tables.write("stats", _stats(frame), out_stats, settings, data=None if len(settings.methods) > 1 else "synthetic")


def _measures(made, part, seconds: float | None) -> dict:
    """One row of a front."""
    import numpy as np

    from operators.phwsoa import bounds
    from operators.phwsoa.optimise import volume

    first = part.row(0, named=True)
    f = part.select("f1", "f2_cv", "f3").to_numpy()
    gap = bounds.gap(f, made) if first["method"] != "lower_bound" else {}
    if first["assign"] is not None:
        gap["hv3"] = volume(np.ascontiguousarray(f), made)
    return {
        "system": "phwsoa", "policy": first["method"], "case": "",
        **{key: first[key] for key in ("seed", "settings", "data", "log", "n", "m", "lb_kind", "evals", "delta_evals")},
        "f1_over_lb": float(f[:, 0].min() / first["lb"]), "f2_cv": float(f[:, 1].min()),
        "f2_di": float(part["f2_di"].min()), "f3": float(f[:, 2].min()),
        "f3_over_lpmin": float(f[:, 2].min() / bounds.cost_range(made)[0]),
        **{key: gap.get(key) for key in ("hv2", "hv_ratio", "hv_ratio_exact", "hv3")},
        "executed_over_planned": None, "seconds": seconds,
        "evals_per_s": first["evals"] / seconds if seconds and first["evals"] else None,
    }  # fmt: skip


def _executed(table, settings: Settings) -> list[dict]:
    """Measured over planned makespan of each case."""

    rows = []
    for (log, case, data), part in table.group_by("log", "case", "data", maintain_order=True):
        ratio = float(part["finish"].max() / part["planned_finish"].max())
        rows.append({"system": "phwsoa", "policy": "executor", "seed": settings.seed, "settings": "default",
                     "data": data, "case": case, "log": log, "n": len(part), "m": settings.execute.m,
                     "executed_over_planned": ratio, "lb_kind": f"{int((part['attempts'] > 1).sum())} tasks twice",
                     "seconds": float((part["finish"].max()) * settings.execute.time_scale)})  # fmt: skip
    return rows


def _stats(measures) -> list[dict]:
    """phwsoa (and the seeded hybrid) against each rival: median difference, Wilcoxon, wins and losses over seeds."""
    import polars as pl

    rows, plain = [], measures.filter((pl.col("settings") == "default") & (pl.col("policy") != "executor"))
    for (log, n, m, data), part in plain.group_by("log", "n", "m", "data", maintain_order=True):
        for ours in ("phwsoa", "phwsoa_h"):
            for rival in RIVALS:
                mine, other = (part.filter(pl.col("policy") == name).sort("seed") for name in (ours, rival))
                if len(mine) and len(mine) == len(other):
                    rows += [{"log": log, "n": n, "m": m, "data": data, "pair": f"{ours}/{rival}",
                              "lb_kind": mine["lb_kind"][0], **_pair(mine, other, name)}
                             for name in COMPARED]  # fmt: skip
    return rows


def _pair(mine, other, measure: str) -> dict:
    import numpy as np
    from scipy import stats

    sign = 1.0 if measure in HIGHER else -1.0
    difference = mine[measure].to_numpy() - other[measure].to_numpy()
    p = float(stats.wilcoxon(difference).pvalue) if len(difference) > 1 and np.any(difference) else 1.0
    wins, losses = int((sign * difference > 0).sum()), int((sign * difference < 0).sum())
    return {"measure": measure, "median_difference": float(np.median(difference)), "wilcoxon_p": p,
            "n_seeds": len(difference), "dominates": wins, "dominated": losses,
            "wins_share": wins / len(difference)}  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
