"""Stage: calibrate the queueing model on one and two metered servers, validate it on others, predict 100M and 1B.

Calibration: thread time a read and a start from the engines' own clocks, processor time of a hand-off from a pair of
processes. Validation: metered runs of more servers than were fitted on, their visits replayed through the model.
Prediction: hops, reads and shares by the settings' rule (extrapolate.py), then the model with the device the settings
name. Nothing here knows a figure of the paper.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.batann.settings import Settings
from operators.lab import stage

if TYPE_CHECKING:
    import polars as pl

    from operators.batann.model import SimConfig, Visits

FITTED_SERVERS = 2
MESSAGES = 4000
MOST_RATE_QUERIES = 4000


def _schemas() -> tuple[dict, dict]:
    import polars as pl

    whole, number, text = pl.Int64, pl.Float64, pl.String
    validation = {
        "mode": text, "n": whole, "S": whole, "W": whole, "L": whole, "quantity": text, "measured": number,
        "predicted": number, "error": number, "data": text,
    }  # fmt: skip
    predictions = {
        "quantity": text, "mode": text, "n": whole, "S": whole, "W": whole, "value": number, "value_low": number,
        "value_high": number, "basis": text, "data": text,
    }  # fmt: skip
    return validation, predictions


def __getattr__(name: str) -> dict:
    if name in ("SCHEMA", "PREDICTIONS_SCHEMA"):
        return _schemas()[name == "PREDICTIONS_SCHEMA"]
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    runs: Path,
    summary: Path,
    hops: Path,
    tiers: Path,
    out_calibration: Path,
    out_validation: Path,
    out_predictions: Path,
) -> None:
    """Calibrate, validate, predict.

    Args:
        runs: one row a query (run stage)
        summary: one row a run (run stage)
        hops: steps of queries (run stage)
        tiers: work per size of the collection (tiers stage)
        out_calibration: the constants, as JSON
        out_validation: measured and predicted QPS and latency of runs that were not fitted on
        out_predictions: quantities at the target sizes, with intervals
    """
    import json

    import polars as pl

    tables = {name: stage.read_table(path) for name, path in (("runs", runs), ("summary", summary), ("hops", hops))}
    work = stage.read_table(tiers)
    mark = stage.read_stamp(tiers)["data"]
    costs = calibrated(tables["runs"])
    with stage.atomic(out_calibration) as temporary:
        temporary.write_text(json.dumps(costs, indent=1))
    validation, predictions = _schemas()
    rows = validated(settings, tables, costs)
    frame = pl.DataFrame([row | {"data": mark} for row in rows], schema=validation)
    stage.write_table(frame, out_validation, schema=validation, settings=settings, data=mark)
    from operators.batann.predict import Predictor

    rows = Predictor(settings, work, costs).rows()
    frame = pl.DataFrame([{"basis": "modelled", "data": mark} | row for row in rows], schema=predictions)
    stage.write_table(frame, out_predictions, schema=predictions, settings=settings, data=mark)


def calibrated(runs: "pl.DataFrame") -> dict[str, float]:
    """us of thread time a read and a visit, us a message; from metered runs of at most two servers."""
    import polars as pl

    few = runs.filter((pl.col("scenario") == "metered") & (pl.col("mode") == "baton") & (pl.col("S") <= FITTED_SERVERS))
    start_us = few["head_us"].sum() / few.height
    score_us = (few["cpu_us"].sum() - few["head_us"].sum()) / few["reads"].sum()
    return {
        "score_us": float(max(score_us, 0.1)),
        "start_us": float(max(start_us, 0.0)),
        "message_us": message_us(),
        "fitted_queries": few.height,
    }


def message_us() -> float:
    """Processor time of a hand-off, both ends: states of 4 KiB to another process and back, one a frame."""
    import time

    from operators.batann import bench_transport

    state = bench_transport.state_of(bench_transport.STATE_BYTES)
    with bench_transport.Pair() as pair:
        pair.rate(state, MESSAGES // 4, 1)
        began = time.process_time()
        pair.rate(state, MESSAGES, 1)
        return (time.process_time() - began) / MESSAGES * 1e6


def validated(settings: Settings, tables: dict[str, "pl.DataFrame"], costs: dict[str, float]) -> list[dict[str, Any]]:
    """Metered closed loops of more than two servers against the model with their own visits."""
    import polars as pl

    from operators.batann import actors, model

    key = ["mode", "n", "S", "W", "L"]
    metered = tables["summary"].filter((pl.col("scenario") == "metered") & (pl.col("mode") == "baton"))
    rows = []
    for row in metered.filter(pl.col("S") > FITTED_SERVERS).unique(key).sort(key).iter_rows(named=True):
        here = [pl.col(name) == row[name] for name in key]
        steps = tables["hops"].filter(pl.col("scenario") == "local", *here)
        if not steps.height or not row["iops_cap"]:
            continue
        config = model.SimConfig(
            row["S"], threads=1, live=settings.live, iops=row["iops_cap"], read_us=row["read_latency_us"],
            link_us=row["link_delay_us"], **{name: costs[name] for name in ("score_us", "start_us", "message_us")},
        )  # fmt: skip
        runs = tables["runs"].filter(pl.col("scenario") == "metered", *here)
        count = int(runs.height / max(1, runs["seed"].n_unique()))
        found = model.simulate_cluster(visits_of(steps, count), config, window=actors.WINDOW * row["S"])
        measured = {
            "qps": float(metered.filter(*here)["steady_qps"].mean()),
            "latency_ms": float(runs["latency_us"].mean()) / 1e3,
        }
        predicted = {"qps": found.qps, "latency_ms": float(found.latency_us.mean()) / 1e3}
        for quantity, value in measured.items():
            error = abs(predicted[quantity] / value - 1) if value else float("nan")
            marks = {name: row[name] for name in key}
            rows.append(
                marks | {"quantity": quantity, "measured": value, "predicted": predicted[quantity], "error": error}
            )
    return rows


def visits_of(steps: "pl.DataFrame", count: int) -> "Visits":
    """Visits of `count` queries from their steps (round and round): nodes issued at one time are one hop."""
    import numpy as np
    import polars as pl

    from operators.batann import model

    per_visit = (
        steps.group_by("query", "visit", maintain_order=True)
        .agg(pl.col("server").first(), reads=pl.len(), hops=pl.col("us").n_unique())
        .sort("query", "visit")
    )
    by_query = per_visit.partition_by("query", maintain_order=True)
    chosen = [by_query[number % len(by_query)] for number in range(count)]
    rows = pl.concat(chosen)
    reads = np.maximum(1, np.rint(rows["reads"].to_numpy() / rows["hops"].to_numpy())).astype(np.int64)
    first = np.concatenate([[0], np.cumsum([frame.height for frame in chosen])])
    return model.Visits(first, rows["server"].to_numpy(), rows["hops"].to_numpy(), reads)


def device(settings: Settings, costs: dict[str, float], servers: int) -> "SimConfig":
    """The cluster of the prediction: the settings' device with this code's measured costs."""
    from operators.batann import model

    return model.SimConfig(
        servers, threads=settings.device_threads, live=settings.live * settings.device_threads,
        iops=settings.device_iops, read_us=settings.device_read_us, link_us=settings.device_link_us,
        **{name: costs[name] for name in ("score_us", "start_us", "message_us")},
    )  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
