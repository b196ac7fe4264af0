"""Measures side by side: gains over static reservation, where contiguous prediction and paging cross, fragmentation."""

import math
from pathlib import Path
from typing import Any

import polars as pl

from operators.lab import stage
from operators.odma import device, metrics, replay, scenarios
from operators.odma.predictor import LengthPredictor
from operators.odma.settings import Settings

UTILISATIONS = ("util_live", "util_final", "util_device")
CROSSOVER = {
    **{"set": pl.String, "load": pl.String, "prefill": pl.Boolean, "rival": pl.String, "metric": pl.String},
    **{"seed": pl.Int64, "alpha_star": pl.Float64, "alpha_low": pl.Float64, "alpha_high": pl.Float64},
    **{"ahead": pl.String, "data": pl.String, "basis": pl.String},
}
FRAGMENTATION = {
    **{"policy": pl.String, "set": pl.String, "load": pl.String, "seed": pl.Int64, "internal": pl.Float64},
    **{"external": pl.Float64, "n_free": pl.Float64, "free_tokens": pl.Float64, "largest_free": pl.Float64},
    **{"operations": pl.Int64, "replayed": pl.Boolean, "data": pl.String, "basis": pl.String},
}
LOWEST_ALPHA = 0.02


def measures(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """All policies' rows with each utilisation's gain over `static`, and paging at alpha 1 under a name of its own."""
    table = pl.concat(parts)
    unit = ["scenario", "set", "arena", "prefill", "load", "drift", "devices", "seed"]
    static = table.filter(pl.col("policy") == "static").select(
        *unit, *(pl.col(name).alias(f"static_{name}") for name in UTILISATIONS)
    )
    table = table.join(static, on=unit, how="left", nulls_equal=True)
    table = table.with_columns(
        (pl.col(name) - pl.col(f"static_{name}")).alias(f"{name}_gain") for name in UTILISATIONS
    ).drop(f"static_{name}" for name in UTILISATIONS)
    alone = table.filter((pl.col("policy") == "paged") & (pl.col("alpha") == 1.0) & (pl.col("arena") == "real"))
    return pl.concat([table, alone.with_columns(policy=pl.lit("paged_at_1"))])


def crossovers(settings: Settings, traces: Path, predictors: dict[str, LengthPredictor]) -> pl.DataFrame:
    """alpha* of odma against pages, for every load, length mix and seed, prefill charged and not.

    All queued at the start: equal tokens per second. With arrivals, where both keep up: equal mean latency.
    """
    rows = []
    if "paged" not in settings.policies:
        return pl.DataFrame(schema=CROSSOVER)
    for name in scenarios.names(settings):
        if name.drift != "none":
            continue
        trace = stage.read_table(traces / f"{name}.parquet")
        metric = "tps" if name.load == scenarios.QUEUED else "latency_mean_s"
        a, b = (
            scenarios.policy(which, settings, predictors[name.target], settings.longest(name.set))
            for which in ("odma", "paged")
        )
        for prefill in (True, False):
            options = {"charge_prefill": prefill, "align": settings.align}
            common = (trace, scenarios.shape(settings), scenarios.device(settings), a, b, metric)
            found = device.crossover(*common, low=LOWEST_ALPHA, **options)
            ahead = "" if found else _ahead(*common, options)
            star, low, high = found or (None, None, None)
            rows.append({"set": name.set, "load": name.load, "prefill": prefill, "rival": "paged", "metric": metric,
                         "seed": name.seed, "alpha_star": star, "alpha_low": low, "alpha_high": high, "ahead": ahead,
                         "data": trace["data"][0], "basis": "modelled"})  # fmt: skip
    return pl.DataFrame(rows, schema=CROSSOVER)


def _ahead(trace, shape, spec, a, b, metric: str, options: dict[str, Any]) -> str:
    """Which policy leads at every alpha."""
    values = [
        metrics.measures(device.serve(trace, shape, spec, policy, sample_rows=0, **options))[metric]
        for policy in (a, b)
    ]
    better = values[0] > values[1] if metric == "tps" else values[0] < values[1]
    return (a if better else b).name


def fragmentation(
    settings: Settings, table: pl.DataFrame, samples: list[pl.DataFrame], logs: list[pl.DataFrame]
) -> pl.DataFrame:
    """Internal, external and free memory per policy, and whether its log replays to the same offsets."""
    capacity = scenarios.device(settings).kv_tokens(scenarios.shape(settings), settings.align)
    taken = pl.concat(samples).filter(pl.col("drift") == "none")
    means = taken.group_by("policy", "set", "load", "seed").agg(
        n_free=pl.col("n_free").mean(), free_tokens=pl.col("free").mean(), largest_free=pl.col("largest_free").mean(),
    )  # fmt: skip
    replayed = {}
    for log in logs:
        for (policy, which, load), rows in log.partition_by("policy", "set", "load", as_dict=True).items():
            operations = rows.filter(pl.col("op") != "relabel")
            try:
                replayed[policy, which, load] = (replay.replay(operations, capacity, align=settings.align), True)
            except replay.ReplayError:
                replayed[policy, which, load] = (len(operations), False)
    kept = table.filter((pl.col("scenario") == "grid") & pl.col("prefill") & (pl.col("seed") == settings.seed))
    kept = kept.filter(pl.col("policy") != "paged_at_1").unique(
        ["policy", "set", "load"], keep="first", maintain_order=True
    )
    rows = kept.select("policy", "set", "load", "seed", "data", "basis", internal=1 - pl.col("util_final"),
                       external="external").join(means, on=["policy", "set", "load", "seed"], how="left")  # fmt: skip
    keys = rows.select("policy", "set", "load").rows()
    rows = rows.with_columns(
        operations=pl.Series([replayed.get(key, (None, None))[0] for key in keys], dtype=pl.Int64),
        replayed=pl.Series([replayed.get(key, (None, None))[1] for key in keys], dtype=pl.Boolean),
    )
    return rows.select(list(FRAGMENTATION)).cast(FRAGMENTATION).sort("set", "load", "policy")


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and standard error of a few values."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
    return mean, spread
