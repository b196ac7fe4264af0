"""Measures of runs, one function per group of columns; `evaluate` puts them into one wide table."""

from typing import Any

import numpy as np
import polars as pl

from operators.warmserve import catalogue
from operators.warmserve.policies import ABLATION_RANK, SCALE_RANK
from operators.warmserve.run_tables import KEYS
from operators.warmserve.settings import Settings

RUN = [name for name in KEYS if name not in ("system", "ablation", "data", "basis")]
BUSY = ("promoting", "dedicated", "draining")
GOOD_TTFT_S = 0.1
NUMBERS = (
    *("ttft_p50_s", "ttft_p95_s", "ttft_p99_s", "share_ttft_100ms", "tpot_mean_s", "max_rps_slo", "hit_share"),
    *("gpu_s_dedicated", "gb_loaded", "gb_wasted", "gb_s_held", "wape_mean", "wape_peak", "restarts", "failed"),
    *("single_cold_ttft_s", "single_hot_ttft_s", "replicas_per_gpu", "fit_error", "fit_corr", "place_gap"),
    *("blend_over_best", "printed_over_newest", "real_start_s", "ledger_gap_bytes", "crash_ok"),
)
RANKS = ("ablation_rank", "scale_rank", "start_rank")


def schema() -> dict[str, Any]:
    """Columns of measures.parquet."""
    keys = {name: pl.String if kind == pl.Categorical else kind for name, kind in KEYS.items() if name in RUN}
    return {
        **keys,
        **{"model": pl.String, "run": pl.String, "pressure": pl.Boolean, "basis": pl.String, "data": pl.String},
        **dict.fromkeys(RANKS, pl.Int32),
        **dict.fromkeys(NUMBERS, pl.Float64),
        "profile": pl.String,
    }


def of_requests(requests: pl.LazyFrame, settings: Settings) -> pl.DataFrame:
    """Latencies per run, of the requests that came after the settling time."""
    late = requests.filter(pl.col("arrival_s") >= settings.settle_s)
    ttft = pl.col("ttft_s")
    return (
        late.group_by([*RUN, "data", "basis"])
        .agg(
            ttft_p50_s=ttft.quantile(0.5, "linear"),
            ttft_p95_s=ttft.quantile(0.95, "linear"),
            ttft_p99_s=ttft.quantile(0.99, "linear"),
            share_ttft_100ms=(ttft <= GOOD_TTFT_S).mean(),
            tpot_mean_s=pl.col("tpot_s").cast(pl.Float64).mean(),
            hit_share=_share_of_hits(),
            restarts=pl.col("restarts").sum().cast(pl.Float64),
            failed=pl.col("failed").sum().cast(pl.Float64),
        )
        .collect()
    )


def _share_of_hits() -> pl.Expr:
    """Of requests that waited for a start: the share that found the weights complete."""
    started = pl.col("start_kind").cast(pl.String) != "running"
    return ((pl.col("start_kind").cast(pl.String) == "hit").sum() / started.sum()).fill_nan(None)


def of_gpus(gpu: pl.LazyFrame) -> pl.DataFrame:
    """GPU-seconds in which an instance had the GPU."""
    busy = gpu.filter(pl.col("state").cast(pl.String).is_in(BUSY))
    return busy.group_by(RUN).agg(gpu_s_dedicated=(pl.col("t1_s") - pl.col("t0_s")).sum()).collect()


def of_ledger(ledger: pl.LazyFrame, events: pl.LazyFrame) -> pl.DataFrame:
    """GB loaded, of them never used, GB-seconds held; bytes of load events less bytes in the ledger."""
    used = pl.col("outcome").cast(pl.String) == "hit"
    held = ledger.group_by(RUN).agg(
        gb_loaded=pl.col("bytes_loaded").sum() / 1e9,
        gb_wasted=pl.col("bytes_loaded").filter(~used).sum() / 1e9,
        gb_s_held=pl.col("gb_s_held").sum(),
        ledger_bytes=pl.col("bytes_loaded").sum(),
    )
    loads = events.filter(pl.col("kind").cast(pl.String).is_in(["load_end", "cancel"]))
    moved = loads.group_by(RUN).agg(event_bytes=pl.col("bytes").sum())
    both = held.join(moved, on=RUN, how="left").with_columns(pl.col("event_bytes").fill_null(0.0))
    gap = (pl.col("event_bytes") - pl.col("ledger_bytes")).abs()
    # sums of different order differ in the last digits of a float
    exact = pl.when(gap <= 1e-9 * pl.col("ledger_bytes")).then(0.0).otherwise(gap)
    return both.with_columns(ledger_gap_bytes=exact).drop("ledger_bytes", "event_bytes").collect()


def of_forecasts(forecasts: pl.LazyFrame) -> pl.DataFrame:
    """WAPE of the forecasts the manager worked with."""
    known = forecasts.filter(pl.col("actual").is_not_nan())
    error = (pl.col("actual") - pl.col("forecast")).abs().sum() / pl.col("actual").sum()
    found = known.group_by([*RUN, "stat"]).agg(wape=error).collect()
    wide = found.with_columns(pl.col("stat").cast(pl.String)).pivot("stat", index=RUN, values="wape")
    names = {stat: f"wape_{stat}" for stat in ("mean", "peak") if stat in wide.columns}
    return wide.rename(names)


def ranked(frame: pl.DataFrame) -> pl.DataFrame:
    """Ranks along which orders are claimed."""
    ranks = {"ablation_rank": ABLATION_RANK, "scale_rank": SCALE_RANK}
    return frame.with_columns(
        pl.col("policy").cast(pl.String).replace_strict(table, default=None, return_dtype=pl.Int32).alias(name)
        for name, table in ranks.items()
    )


def highest_rates(runs: pl.DataFrame, limit_s: float) -> pl.DataFrame:
    """Per policy and popularity: the highest rate of the grid up to which P95 TTFT stays under the limit."""
    rows = []
    for key, part in runs.filter(pl.col("rps").count().over(*[n for n in RUN if n != "rps"]) > 1).group_by(
        [name for name in RUN if name != "rps"]
    ):
        held = None
        for rps, ttft in part.sort("rps").select("rps", "ttft_p95_s").iter_rows():
            if ttft > limit_s:
                break
            held = rps
        names = [name for name in RUN if name != "rps"]
        rows.append(dict(zip(names, key, strict=True)) | {"max_rps_slo": held, "data": part["data"][0]})
    return pl.DataFrame([row | {"basis": "calibrated"} for row in rows])


def single_starts(settings: Settings) -> list[dict[str, Any]]:
    """TTFT of one request on an empty cluster: engine made on arrival, and weights prewarmed."""
    from operators.warmserve.oracle import History
    from operators.warmserve.simulator import Trace, simulate

    rows = []
    flat = [np.zeros((1, 2))] * len(settings.models)
    history = History(flat, flat, [one[0] for one in flat], [one[0] for one in flat])
    for index, served in enumerate(settings.models):
        trace = Trace(np.array([1.0]), np.array([index]), np.array([100]), np.array([settings.min_output]))
        found = {}
        for kind, name in (("cold", "sllm_gpu"), ("hot", "oracle_hit")):
            plane = simulate(trace, settings, history, name=name, cold="w5").plane
            found[f"single_{kind}_ttft_s"] = float(plane.r_first[0] - plane.r_arrival[0])
        rows.append({"policy": "start", "model": served.name, "cold": "w5", "basis": "calibrated", **found})
    return rows


def fits(settings: Settings) -> list[dict[str, Any]]:
    """Whole weight sets of the first model that one card's memory, and its pool, can hold."""
    model = catalogue.models(settings, "w5")[0]
    card, pool = settings.gpu_gib * catalogue.GIB, catalogue.pool_bytes(settings)
    common = {"model": model.name, "basis": "modelled"}
    return [
        common | {"policy": name, "replicas_per_gpu": float(size // (model.weight_bytes / model.tp))}
        for name, size in (("card", card), ("pool", pool))
    ]


def of_fits(fit: pl.DataFrame) -> list[dict[str, Any]]:
    """Largest error of the means and correlation, per measured run, whole fits."""
    rows = fit.filter((pl.col("scored") == "all") & pl.col("request_id").is_null())
    errors = ("ttft_mean_err", "tpot_mean_err", "latency_mean_err")
    return [
        {
            **{"policy": "step_model", "run": row["run"], "pressure": row["pressure"], "data": row["data"]},
            **{"basis": "calibrated", "fit_corr": row["ttft_corr"]},
            "fit_error": max(abs(row[name]) for name in errors),
        }
        for row in rows.iter_rows(named=True)
    ]


def of_methods(forecast: pl.DataFrame) -> list[dict[str, Any]]:
    """Per production model, one step ahead: blend over the better of CSP and last window; printed over newest order."""
    one = forecast.filter((pl.col("horizon") == 1) & pl.col("forecast").is_not_nan())
    error = (pl.col("actual") - pl.col("forecast")).abs().sum() / pl.col("actual").sum()
    rows = []
    for (model, data), part in one.group_by("model", "data"):
        wape = dict(part.group_by("method").agg(wape=error).iter_rows())
        rows.append(
            {
                **{"policy": "forecast", "model": model, "data": data, "basis": "real"},
                "blend_over_best": wape["blend"] / min(wape["csp"], wape["last"]),
                "printed_over_newest": wape["csp_printed"] / wape["csp"],
            }
        )
    return rows


def of_real(starts: pl.DataFrame, faults: pl.DataFrame) -> list[dict[str, Any]]:
    """Median start of each kind; whether each fault was survived."""
    order = {"hit": 0, "loading": 1, "ondemand": 2}
    medians = starts.group_by("kind").agg(pl.col("ttft_s").median())
    rows = [
        {"policy": "real", "run": kind, "start_rank": order[kind], "real_start_s": seconds}
        for kind, seconds in medians.sort("kind").iter_rows()
    ]
    rows += [
        {"policy": "real", "run": name, "crash_ok": float(ok)} for name, ok in faults.select("name", "ok").iter_rows()
    ]
    return [row | {"basis": "real", "data": "synthetic"} for row in rows]
