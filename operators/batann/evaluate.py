"""Stage: raw runs and work to the measures that claims and figures use."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.batann.settings import Settings
from operators.lab import stage

if TYPE_CHECKING:
    import polars as pl

SLACK = 0.02  # a run's queries are a sample: its recall may lie this much below the target its beam was chosen for


def _schema() -> dict:
    import polars as pl

    whole, number, text = pl.Int64, pl.Float64, pl.String
    return {
        "scenario": text,  # metered | open | refill | fault | work | identity | derived
        "mode": text,
        "at": text,  # run | best (the best W of the mode) | L
        "n": whole,
        "S": whole,
        "method": text,
        "transport": text,
        "seed": whole,
        "W": whole,
        "L": whole,
        "rate": number,
        "replicas": whole,
        "fault": text,
        "refill": text,
        "recall": number,
        "qps": number,
        "hops": number,
        "handoffs": number,
        "share": number,
        "share_over_kmeans": number,
        "share_over_random": number,
        "reads": number,
        "pq_dists": number,
        "state_bytes": number,
        "bytes_sent": number,
        "cpu_us": number,
        "latency_ms": number,
        "latency_p50_ms": number,
        "latency_p95_ms": number,
        "latency_p99_ms": number,
        "differing": whole,
        "bad_answers": whole,
        "quantity": text,
        "value": number,
        "basis": text,
        "data": text,
    }


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return _schema()
    raise AttributeError(name)


def main(*, settings: Settings, runs: Path, summary: Path, tiers: Path, out: Path) -> None:
    """Measures per configuration.

    Args:
        runs: one row a query (run stage)
        summary: one row a run (run stage)
        tiers: work per size, servers, partition (tiers stage)
        out: measures.parquet
    """
    import polars as pl

    per_query, per_run, work = stage.read_table(runs), stage.read_table(summary), stage.read_table(tiers)
    mark = stage.read_stamp(tiers)["data"]
    measured = _measured(per_query, per_run)
    best = _best(measured, settings.recall_target)
    work = _with_shares(work)
    derived = pl.DataFrame(
        [*_from_runs(best, measured), *_from_refills(per_run), *_from_work(work, settings)],
        schema={"scenario": pl.String, "quantity": pl.String, "S": pl.Int64, "W": pl.Int64, "L": pl.Int64,
                "seed": pl.Int64, "value": pl.Float64},
    )  # fmt: skip
    refills = per_run.filter(pl.col("scenario") == "refill").with_columns(at=pl.lit("run"), qps=pl.col("steady_qps"))
    schema = _schema()
    frame = pl.concat([measured, best, refills, work.with_columns(at=pl.lit("L")), derived], how="diagonal_relaxed")
    frame = frame.with_columns(basis=pl.lit("real"), data=pl.lit(mark), n=pl.col("n").fill_null(settings.n))
    frame = frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None).alias(name)).cast(kind)
        for name, kind in schema.items()
    )
    stage.write_table(frame, out, schema=schema, settings=settings, data=mark)


CONFIG = ("scenario", "mode", "n", "S", "method", "W", "L", "transport", "seed", "rate", "replicas", "fault", "refill")


def _measured(runs: "pl.DataFrame", summary: "pl.DataFrame") -> "pl.DataFrame":
    """One row a run through servers: rates from the run, work and latency from its queries."""
    import polars as pl

    answered = runs.filter(pl.col("status") != "failed")
    latency = pl.col("latency_us") / 1e3
    per_run = answered.group_by(*CONFIG, maintain_order=True).agg(
        *(pl.col(name).mean() for name in ("hops", "handoffs", "reads", "pq_dists", "bytes_sent", "cpu_us")),
        latency_ms=latency.mean(),
        latency_p50_ms=latency.median(),
        latency_p95_ms=latency.quantile(0.95),
        latency_p99_ms=latency.quantile(0.99),
    )
    served = summary.filter(pl.col("scenario") != "refill")
    rates = served.select(*CONFIG, "recall", "bad_answers", qps=pl.col("steady_qps"))
    joined = rates.join(per_run, on=CONFIG, how="left", nulls_equal=True)  # a run that only failed is one, too
    sharded = pl.col("mode").str.starts_with("scatter")
    return joined.with_columns(
        at=pl.lit("run"), share=pl.when(sharded).then(None).otherwise(pl.col("handoffs") / pl.col("hops"))
    )


def _best(measured: "pl.DataFrame", target: float) -> "pl.DataFrame":
    """Per mode and number of servers the W with the highest mean QPS; its runs again with `at` best and W 0."""
    import polars as pl

    able = measured.filter((pl.col("scenario") == "metered") & (pl.col("recall") >= target - SLACK))
    rank = able.group_by("mode", "S", "W").agg(pl.col("qps").mean()).sort("qps", descending=True)
    chosen = rank.group_by("mode", "S", maintain_order=True).first().select("mode", "S", "W")
    rows = able.join(chosen, on=["mode", "S", "W"], how="inner")
    return rows.with_columns(at=pl.lit("best"), W=pl.lit(0, pl.Int64), L=pl.lit(0, pl.Int64))


def _with_shares(work: "pl.DataFrame") -> "pl.DataFrame":
    """Shares beside those of the other partitions with the same search."""
    import polars as pl

    key = ["scenario", "mode", "n", "S", "seed", "W", "L"]
    for method in ("kmeans", "random"):
        other = work.filter((pl.col("scenario") == "work") & (pl.col("method") == method))
        other = other.select(*key, pl.col("share").alias("other"))
        work = work.join(other, on=key, how="left").with_columns(
            pl.when((pl.col("method") != method) & (pl.col("scenario") == "work"))
            .then(pl.col("share") / pl.col("other"))
            .alias(f"share_over_{method}")
        )
        work = work.drop("other")
    return work


def _from_runs(best: "pl.DataFrame", measured: "pl.DataFrame") -> Iterator[dict[str, Any]]:
    """Scaling and the gain of W, per repetition."""
    import polars as pl

    qps = {(row["mode"], row["S"], row["seed"]): row["qps"] for row in best.iter_rows(named=True)}
    for mode, S, seed in qps:
        if mode == "baton" and S > 1 and ("baton", 1, seed) in qps:
            over = qps[mode, S, seed] / qps["baton", 1, seed]
            marks = {"scenario": "derived", "S": S, "seed": seed}
            yield marks | {"quantity": f"scaling_{S}", "value": over / S}
            yield marks | {"quantity": f"scaling_{S}_over_1", "value": over}
    metered = measured.filter((pl.col("scenario") == "metered") & (pl.col("mode") == "baton"))
    by_width = {(row["S"], row["W"], row["seed"]): row["qps"] for row in metered.iter_rows(named=True)}
    for S, W, seed in by_width:
        if W == 8 and (S, 1, seed) in by_width:
            value = by_width[S, 8, seed] / by_width[S, 1, seed]
            yield {"scenario": "derived", "quantity": "qps_w8_over_w1", "S": S, "seed": seed, "value": value}


def _from_refills(summary: "pl.DataFrame") -> Iterator[dict[str, Any]]:
    import polars as pl

    rows = summary.filter(pl.col("scenario") == "refill")
    qps = {(row["L"], row["seed"], row["refill"]): row["qps"] for row in rows.iter_rows(named=True)}
    for above, below in (("one", "all"), ("all", "single")):
        for L, seed, refill in qps:
            if refill == above and (L, seed, below) in qps:
                value = qps[L, seed, above] / qps[L, seed, below]
                marks = {"scenario": "refill", "quantity": f"{above}_over_{below}", "S": 1, "L": L, "seed": seed}
                yield marks | {"value": value}


def _from_work(work: "pl.DataFrame", settings: Settings) -> Iterator[dict[str, Any]]:
    """Ratios of reads: W = 8 over 1, many servers over one, scatter-gather per server; at the run's own size."""
    import polars as pl

    from operators.batann.beams import at_recall

    own = work.filter(
        (pl.col("scenario") == "work") & (pl.col("n") == settings.n) & (pl.col("seed") == settings.seed)
        & pl.col("method").is_in(["", settings.partition])
    )  # fmt: skip
    reads = {(row["mode"], row["S"], row["W"], row["L"]): row["reads"] for row in own.iter_rows(named=True)}
    for mode, S, W, L in reads:
        if mode == "baton" and W == 8 and ("baton", S, 1, L) in reads:
            value = reads[mode, S, 8, L] / reads[mode, S, 1, L]
            yield {
                "scenario": "derived",
                "quantity": "reads_w8_over_w1",
                "S": S,
                "W": 8,
                "L": L,
                "seed": 0,
                "value": value,
            }
    at_target = {}
    for (mode, S, W), group in own.group_by("mode", "S", "W", maintain_order=True):
        group = group.sort("L")
        at_target[mode, S, W] = at_recall(group["recall"], group["reads"], settings.recall_target)
    for (mode, S, W), value in at_target.items():
        alone = at_target.get(("single", 1, W))
        if not alone or S == 1:
            continue
        marks = {"scenario": "derived", "S": S, "W": W, "seed": 0}
        if mode == "baton":
            yield marks | {"quantity": f"reads_s{S}_over_s1", "value": value / alone}
        elif mode == "scatter":
            yield marks | {"quantity": "sg_reads_per_server", "value": value / S / alone}


if __name__ == "__main__":
    stage.run(main)
