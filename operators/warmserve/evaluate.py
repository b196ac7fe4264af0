"""Stage: raw runs to measures, to the regret against a perfect forecast, and to the ratios under every cold start."""

from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.warmserve.settings import Settings

if TYPE_CHECKING:
    import polars as pl

REGRET = {
    **{"rps": "Float64", "alpha": "Float64", "seed": "Int64", "model": "String", "hour": "Int32", "data": "String"},
    **{"p99_s": "Float64", "oracle_p99_s": "Float64", "p99_lost_s": "Float64", "gpu_s": "Float64"},
    **{"oracle_gpu_s": "Float64", "gpu_s_lost": "Float64"},
}
RATIOS = {
    **{"ratio": "String", "cold": "String", "process_pool": "Boolean", "rps": "Float64", "alpha": "Float64"},
    **{"value": "Float64", "low": "Float64", "high": "Float64", "seeds": "Int64", "data": "String"},
}
# what is put over what: (name, measure, over, under)
PAIRS = (
    ("P99 TTFT, sllm_gpu / warmserve", "ttft_p99_s", "sllm_gpu", "warmserve"),
    ("P95 TTFT, sllm_gpu / warmserve", "ttft_p95_s", "sllm_gpu", "warmserve"),
    ("P99 TTFT, muxserve / warmserve", "ttft_p99_s", "muxserve", "warmserve"),
    ("P95 TTFT, muxserve / warmserve", "ttft_p95_s", "muxserve", "warmserve"),
    ("P99 TTFT, predictive_autoscale / warmserve", "ttft_p99_s", "predictive_autoscale", "warmserve"),
    ("P99 TTFT, no_proactive / warmserve", "ttft_p99_s", "no_proactive", "warmserve"),
    ("P99 TTFT, warmserve / oracle", "ttft_p99_s", "warmserve", "oracle"),
    ("P99 TTFT, warmserve / oracle_hit", "ttft_p99_s", "warmserve", "oracle_hit"),
    ("share <= 100 ms, no_prewarm / warmserve", "share_ttft_100ms", "no_prewarm", "warmserve"),
    ("share <= 100 ms, no_placement / warmserve", "share_ttft_100ms", "no_placement", "warmserve"),
    ("share <= 100 ms, no_proactive / warmserve", "share_ttft_100ms", "no_proactive", "warmserve"),
    ("share <= 100 ms, window_180 / warmserve", "share_ttft_100ms", "window_180", "warmserve"),
    ("share <= 100 ms, window_2400 / warmserve", "share_ttft_100ms", "window_2400", "warmserve"),
)


def _schema(kinds: dict[str, str]) -> dict:
    import polars as pl

    return {name: getattr(pl, kind) for name, kind in kinds.items()}


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        from operators.warmserve import measures

        return measures.schema()
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    runs: Path,
    real: Path,
    forecast: Path,
    fit: Path,
    out: Path,
    out_regret: Path,
    out_ratios: Path,
) -> None:
    """Make the measures that claims, figures and the README use.

    Args:
        runs: folder with requests, events, gpu, ledger, forecasts (simulate)
        real: folder of the real run (run)
        forecast: forecasts of production rates (trace)
        fit: errors of fitted step models (trace)
        out: measures.parquet
        out_regret: what the forecast's errors cost, per model and hour
        out_ratios: every ratio under every cold-start model, with and without ready processes
    """
    import polars as pl

    from operators.warmserve import measures, placement_check

    tables = {name: pl.scan_parquet(runs / name / "*.parquet") for name in ("requests", "events", "gpu", "ledger")}
    forecasts = pl.scan_parquet(runs / "forecasts" / "*.parquet")
    found = measures.of_requests(tables["requests"], settings)
    for extra in (
        measures.of_gpus(tables["gpu"]),
        measures.of_ledger(tables["ledger"], tables["events"]),
        measures.of_forecasts(forecasts),
    ):
        found = found.join(extra, on=measures.RUN, how="left")
    found = measures.ranked(found)
    data = found["data"].cast(pl.String)[0]
    single = [
        *measures.single_starts(settings),
        *measures.fits(settings),
        *measures.of_methods(stage.read_table(forecast)),
        *measures.of_fits(stage.read_table(fit)),
        *measures.of_real(stage.read_table(real / "starts.parquet"), stage.read_table(real / "faults.parquet")),
        {"policy": "place", "place_gap": placement_check.largest_gap(settings.seed), "basis": "real"},
    ]
    schema = measures.schema()
    parts = [found, measures.highest_rates(found, settings.slo_ttft_s)]
    parts.append(pl.DataFrame([{"data": data} | row for row in single], infer_schema_length=None))
    whole = pl.concat([_fitted(part, schema, settings.profile) for part in parts])
    stage.write_table(whole, out, schema=schema, settings=settings)
    regret = _regret(tables, settings)
    stage.write_table(regret, out_regret, schema=_schema(REGRET), settings=settings)
    stage.write_table(_ratios(found), out_ratios, schema=_schema(RATIOS), settings=settings)


def _fitted(frame: "pl.DataFrame", schema: dict, profile: str) -> "pl.DataFrame":
    """All columns of `schema`, missing ones null, in their types."""
    import polars as pl

    frame = frame.with_columns(profile=pl.lit(profile))
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in schema.items()
    )


def _regret(tables: dict, settings: Settings) -> "pl.DataFrame":
    """Per model and hour: P99 TTFT and GPU-seconds of warmserve beside those with a true forecast."""
    import polars as pl

    unit = ["rps", "alpha", "seed", "model", "hour"]
    wanted = (
        pl.col("policy").cast(pl.String).is_in(["warmserve", "oracle"])
        & (pl.col("cold").cast(pl.String) == settings.colds[0])
        & pl.col("process_pool")
        & (pl.col("nodes") == settings.nodes)
    )
    text = (pl.col("model").cast(pl.String), pl.col("policy").cast(pl.String))
    late = tables["requests"].filter(wanted & (pl.col("arrival_s") >= settings.settle_s)).with_columns(*text)
    hours = late.with_columns(hour=(pl.col("arrival_s") // 3600).cast(pl.Int32))
    p99 = hours.group_by([*unit, "policy"]).agg(
        p99_s=pl.col("ttft_s").quantile(0.99, "linear"), data=pl.col("data").cast(pl.String).first()
    )
    busy = tables["gpu"].filter(wanted & (pl.col("model").cast(pl.String) != "")).with_columns(*text)
    gpu = (
        busy.with_columns(hour=(pl.col("t0_s") // 3600).cast(pl.Int32))
        .group_by([*unit, "policy"])
        .agg(gpu_s=(pl.col("t1_s") - pl.col("t0_s")).sum())
    )
    both = p99.join(gpu, on=[*unit, "policy"], how="left").collect()
    ours = both.filter(pl.col("policy") == "warmserve").drop("policy")
    best = both.filter(pl.col("policy") == "oracle").select(*unit, oracle_p99_s="p99_s", oracle_gpu_s="gpu_s")
    joined = ours.join(best, on=unit).with_columns(
        p99_lost_s=pl.col("p99_s") - pl.col("oracle_p99_s"), gpu_s_lost=pl.col("gpu_s") - pl.col("oracle_gpu_s")
    )
    return joined.sort(unit).select(pl.col(name).cast(kind) for name, kind in _schema(REGRET).items())


def _ratios(found: "pl.DataFrame") -> "pl.DataFrame":
    """Mean over seeds and 95 % interval of every ratio at every point it was run at."""
    import polars as pl

    from operators.lab.claims import T975

    unit = ["cold", "process_pool", "nodes", "rps", "alpha", "seed"]
    rows = []
    for name, measure, over, under in PAIRS:
        one, other = (
            found.filter(pl.col("policy").cast(pl.String) == policy).select(*unit, "data", value=measure)
            for policy in (over, under)
        )
        pairs = one.join(other.drop("data"), on=unit, suffix="_under")
        pairs = pairs.with_columns(ratio=pl.col("value") / pl.col("value_under"))
        for key, part in pairs.group_by("cold", "process_pool", "rps", "alpha", maintain_order=True):
            mean, n = float(part["ratio"].mean()), len(part)
            half = T975[min(n - 2, 29)] * float(part["ratio"].std()) / n**0.5 if n > 1 else None
            low, high = (None, None) if half is None else (mean - half, mean + half)
            rows.append((name, str(key[0]), *key[1:], mean, low, high, n, str(part["data"][0])))
    return pl.DataFrame(rows, schema=_schema(RATIOS), orient="row")


if __name__ == "__main__":
    stage.run(main)
