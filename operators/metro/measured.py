"""What the measured experiment says: makespans, the regression on experts and tokens, and where METRO stops winning.

Pure functions of the table `measured` (stage measure). A rank's time is the least of its repetitions, because the
machine may be shared; a step's time is its slowest rank. Times are thread CPU times of the kernel alone, milliseconds.
"""

from typing import Any

import numpy as np
import polars as pl

STEP = ["data", "batches", "seed", "layer", "r", "nested", "router", "B"]
MEMORY_BOUND_TOKENS = 2  # tokens per expert up to which a processor's kernel time is reading time


def rank_times(measured: pl.DataFrame) -> pl.DataFrame:
    """The least time of every rank in every step: columns of STEP, rank, lam, A, n, ms, GBps, stream_GBps."""
    return (
        measured.group_by([*STEP, "rank", "lam", "A", "n"], maintain_order=True)
        .agg(
            ms=pl.col("cpu_ns").min() / 1e6,
            GBps=(pl.col("bytes") / pl.col("cpu_ns")).max(),
            stream_GBps=pl.col("stream_GBps").max(),
        )
        .sort([*STEP, "rank", "A"])
    )


def regression(measured: pl.DataFrame) -> pl.DataFrame:
    """Least squares of the sweep's times: which of experts (A) and tokens (n) explains them.

    One row per subset (`<=2`, `<=8` tokens per expert, `all`) and model (`A`, `n`, `A+n`): r2, intercept_ms,
    per_expert_ms, per_token_ms, points. Coefficients a model does not have are null.
    """
    swept = rank_times(measured.filter(pl.col("router") == "sweep"))
    rows = []
    for subset, limit in (("<=2", 2), ("<=8", 8), ("all", np.inf)):
        part = swept.filter(pl.col("B") <= limit)
        for model in ("A", "n", "A+n"):
            names = model.split("+")
            values, r2 = _least_squares(part, names)
            found = dict(zip(["intercept", *names], values, strict=True))
            rows.append(
                {
                    "subset": subset,
                    "model": model,
                    "r2": r2,
                    "intercept_ms": found["intercept"],
                    "per_expert_ms": found.get("A"),
                    "per_token_ms": found.get("n"),
                    "points": len(part),
                }
            )
    kinds = {"subset": pl.String, "model": pl.String, "points": pl.Int64}
    return pl.DataFrame(rows, schema={name: kinds.get(name, pl.Float64) for name in _REGRESSION})


_REGRESSION = ("subset", "model", "r2", "intercept_ms", "per_expert_ms", "per_token_ms", "points")


def _least_squares(part: pl.DataFrame, names: list[str]) -> tuple[list[float], float]:
    """Coefficients (intercept first) and R2 of ms on `names`; NaN when there are too few points."""
    if len(part) <= len(names) + 1:
        return [float("nan")] * (len(names) + 1), float("nan")
    inputs = np.column_stack([np.ones(len(part)), part.select(names).to_numpy()])
    ms = part["ms"].to_numpy()
    values = np.linalg.lstsq(inputs, ms, rcond=None)[0]
    spread = np.sum((ms - ms.mean()) ** 2)
    r2 = 1 - np.sum((ms - inputs @ values) ** 2) / spread if spread > 0 else float("nan")
    return values.tolist(), float(r2)


def makespans(measured: pl.DataFrame) -> pl.DataFrame:
    """The time of every routed step, and what the linear model of the sweep predicts for it.

    Columns: those of STEP, lam, activated (sum over ranks), n_max, makespan_ms, predicted_ms, slowest (its rank).
    """
    model = regression(measured).row(by_predicate=(pl.col("subset") == "all") & (pl.col("model") == "A+n"), named=True)
    predicted = model["intercept_ms"] + pl.col("A") * model["per_expert_ms"] + pl.col("n") * model["per_token_ms"]
    ranks = rank_times(measured.filter(pl.col("router") != "sweep"))
    return (
        ranks.with_columns(predicted=pl.when(pl.col("A") > 0).then(predicted).otherwise(0.0))
        .group_by(STEP, maintain_order=True)
        .agg(
            pl.col("lam").first(),
            activated=pl.col("A").sum(),
            n_max=pl.col("n").max(),
            makespan_ms=pl.col("ms").max(),
            predicted_ms=pl.col("predicted").max(),
            slowest=pl.col("rank").sort_by("ms").last(),
        )
    )


def ratios(measured: pl.DataFrame) -> pl.DataFrame:
    """How many times slower each alternative to METRO is, at every ratio and batch: time(against) / time(metro).

    `against`: `even` (same placement) and `none` (no replication, r = 1.0). Columns data, batches, seed, layer, r, B,
    against, metro_ms, against_ms, ratio, predicted (the same ratio by the linear model) and lam_ratio.
    """
    keys = ["data", "batches", "seed", "layer", "r", "B"]
    steps = makespans(measured).filter(~pl.col("nested"))
    metro, parts = steps.filter(pl.col("router") == "metro"), []
    for against, other in (
        ("even", steps.filter(pl.col("router") == "even")),
        ("none", steps.filter((pl.col("router") == "primary") & (pl.col("r") == 1.0)).drop("r")),
    ):
        joined = metro.join(other, on=[key for key in keys if key in other.columns], suffix="_other")
        parts.append(
            joined.select(
                *keys,
                against=pl.lit(against),
                metro_ms="makespan_ms",
                against_ms="makespan_ms_other",
                ratio=pl.col("makespan_ms_other") / pl.col("makespan_ms"),
                predicted=pl.col("predicted_ms_other") / pl.col("predicted_ms"),
                lam_ratio=pl.col("lam_other") / pl.col("lam"),
            )
        )
    return pl.concat(parts).sort("against", *keys)


def crossover(measured: pl.DataFrame) -> pl.DataFrame:
    """The batch from which METRO no longer wins, per ratio and alternative (see `ratios`).

    Columns data, batches, seed, layer, r, against, crossover_B (interpolated on log2 B; null: METRO wins everywhere
    measured; the smallest B measured: it never wins), last_win_B (largest batch it wins, null: none), best_ratio.
    """
    keys = ["data", "batches", "seed", "layer", "r", "against"]
    rows = []
    for group, part in ratios(measured).group_by(keys, maintain_order=True):
        batch, ratio = part.sort("B")["B"].to_numpy(), part.sort("B")["ratio"].to_numpy()
        rows.append(
            dict(zip(keys, group, strict=True))
            | {
                "crossover_B": _crossing(batch, ratio),
                "last_win_B": int(batch[ratio > 1].max()) if (ratio > 1).any() else None,
                "best_ratio": float(ratio.max()),
            }
        )
    kinds: dict[str, Any] = {"data": pl.String, "batches": pl.String, "against": pl.String}
    kinds |= {"seed": pl.Int64, "layer": pl.Int64, "last_win_B": pl.Int64}
    names = [*keys, "crossover_B", "last_win_B", "best_ratio"]
    return pl.DataFrame(rows, schema={name: kinds.get(name, pl.Float64) for name in names})


def _crossing(batch: np.ndarray, ratio: np.ndarray) -> float | None:
    """Where the ratio falls to 1 for good, linear in log2 of the batch; None when it ends above."""
    if ratio[-1] > 1:
        return None
    won = np.flatnonzero(ratio > 1)
    if not len(won):
        return float(batch[0])
    at = won[-1]
    share = (ratio[at] - 1) / (ratio[at] - ratio[at + 1])
    return float(2 ** (np.log2(batch[at]) + share * (np.log2(batch[at + 1]) - np.log2(batch[at]))))


def adaptive_gap(measured: pl.DataFrame) -> pl.DataFrame:
    """time(adaptive) over the best of {no replication, even, METRO}, per ratio, batch and nested placement or not.

    On a nested placement `no replication` is `primary` there, measured in the same call; else it is r = 1.0. Columns
    data, batches, seed, layer, r, nested, B, adaptive_ms, best_ms, best (which one), gap.
    """
    keys = ["data", "batches", "seed", "layer", "r", "nested", "B"]
    steps = makespans(measured).select(*keys, "router", "makespan_ms")
    mine = steps.filter((pl.col("router") == "adaptive") & (pl.col("r") > 1)).drop("router")
    routed = steps.filter(pl.col("router").is_in(["even", "metro"]) & ~pl.col("nested")).drop("nested")
    none = steps.filter((pl.col("router") == "primary") & (pl.col("r") == 1.0)).drop("nested", "r")
    nested = steps.filter((pl.col("router") == "primary") & pl.col("nested"))
    shared = ["data", "batches", "seed", "layer", "B"]
    others = [
        mine.join(routed, on=[*shared, "r"], suffix="_other"),
        mine.filter(~pl.col("nested")).join(none, on=shared, suffix="_other"),
        mine.join(nested, on=keys, suffix="_other"),
    ]
    columns = [*keys, "makespan_ms", "router", "makespan_ms_other"]
    return (
        pl.concat([other.select(columns) for other in others])
        .group_by(keys)
        .agg(
            adaptive_ms=pl.col("makespan_ms").first(),
            best_ms=pl.col("makespan_ms_other").min(),
            best=pl.col("router").sort_by("makespan_ms_other").first(),
        )
        .with_columns(gap=pl.col("adaptive_ms") / pl.col("best_ms"))
        .sort(keys)
    )


def stream_fraction(measured: pl.DataFrame) -> pl.DataFrame:
    """Kernel bandwidth over streaming bandwidth in the sweep, per tokens per expert: median, low and high over runs.

    Each run is compared with the plain read just before it on the same thread.
    """
    share = pl.col("bytes") / pl.col("cpu_ns") / pl.col("stream_GBps")
    return (
        measured.filter((pl.col("router") == "sweep") & (pl.col("A") >= 4))
        .group_by(tokens_per_expert="B")
        .agg(
            fraction=share.median(),
            low=share.min(),
            high=share.max(),
            kernel_GBps=(pl.col("bytes") / pl.col("cpu_ns")).median(),
            stream_GBps=pl.col("stream_GBps").median(),
            n=pl.len(),
        )
        .sort("tokens_per_expert")
    )
