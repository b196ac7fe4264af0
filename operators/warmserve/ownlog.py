"""A user's own request log: read and checked, split into past and present, and the figures of a run on it."""

from pathlib import Path

import numpy as np
import polars as pl

from operators.llm import arrivals, importers, workloads
from operators.warmserve.errors import ConfigError
from operators.warmserve.oracle import BASE_S, History
from operators.warmserve.settings import Settings
from operators.warmserve.simulator import Result, Trace
from operators.warmserve.workload import as_trace

BUSY = ("promoting", "dedicated", "draining")
COLUMNS = ("arrival_s", "model", "input_tokens", "output_tokens")


def read(path: Path, names: str = "") -> pl.DataFrame:
    """The log as a request table; `names` maps its models to those of the settings. TraceError names a bad row.

    CSV files in the form of the Azure traces (TIMESTAMP, ContextTokens, GeneratedTokens; all of one model called `log`)
    and of BurstGPT are known by their columns; their readers drop rows that failed.
    """
    frame = _published(path)
    if frame is None:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise workloads.TraceError(f"{path}: no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
    if names:
        pairs = [pair.partition("=") for pair in names.split(",")]
        bad = [one for one, sign, _ in pairs if not sign]
        if bad:
            raise ValueError(f"names (={names!r}): {bad[0]!r}: expected log-name=model, separated by commas")
        table = {one.strip(): other.strip() for one, _, other in pairs}
        frame = frame.with_columns(pl.col("model").cast(pl.String).replace(table))
    if "request_id" not in frame.columns:
        frame = frame.with_columns(
            pl.concat_str(pl.lit("r"), pl.int_range(pl.len()).cast(pl.String)).alias("request_id")
        )
    return workloads.validate(frame.with_columns(pl.col("request_id").cast(pl.String)), need=("model",))


def _published(path: Path) -> pl.DataFrame | None:
    """A log in a publisher's own form, or None."""
    if path.suffix == ".parquet":
        return None
    with open(path) as file:
        head = {name.strip().strip('"') for name in file.readline().split(",")}
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= head:
        return importers.read_azure_week(path)[0].with_columns(model=pl.lit("log"))
    if {"Timestamp", "Model", "Request tokens", "Response tokens"} <= head:
        return importers.read_burstgpt(path)[0]
    return None


def split(frame: pl.DataFrame, settings: Settings, history_share: float) -> tuple[Trace, History, Settings]:
    """What is served (the last part), the load of the parts before it of the same length, and settings that fit."""
    names = [served.name for served in settings.models]
    unknown = np.flatnonzero(~frame["model"].is_in(names).to_numpy())
    if len(unknown):  # of the past too: a forecast without them would be made in silence
        row = int(unknown[0])
        known = ", ".join(names)
        raise ConfigError(f"requests row {row}: model {frame['model'][row]!r}; expected one of {known}")
    first, last = float(frame["arrival_s"][0]), float(frame["arrival_s"][-1])
    length = max((last - first) * (1.0 - history_share), BASE_S)
    start = last - length
    capped = frame.with_columns(
        pl.col("input_tokens").clip(upper_bound=settings.cap_input),
        pl.col("output_tokens").clip(lower_bound=settings.min_output),
    )
    served = capped.filter(pl.col("arrival_s") >= start).with_columns(pl.col("arrival_s") - start)
    trace = as_trace(served, names)
    days = max(int((start - first) // length), 1)
    mean, peak = [], []
    for index, name in enumerate(names):
        one = capped.filter(pl.col("model") == name)
        chunks = [_load(one, settings, index, start - back * length, length) for back in range(days + 1)]
        mean.append(np.array([chunk[0] for chunk in chunks]))
        peak.append(np.array([chunk[1] for chunk in chunks], float))
    history = History([m[1:] for m in mean], [p[1:] for p in peak], [m[0] for m in mean], [p[0] for p in peak])
    settle = min(settings.settle_s, length / 10)
    changed = type(settings).checked(settings.model_dump() | {"hours": length / 3600, "settle_s": settle})
    return trace, history, changed


def _load(frame: pl.DataFrame, settings: Settings, index: int, start: float, length: float):
    served = settings.models[index]
    part = frame.filter((pl.col("arrival_s") >= start) & (pl.col("arrival_s") < start + length))
    hold = served.prefill_s + part["output_tokens"].to_numpy() * served.decode_s
    times = (part["arrival_s"] - start).to_numpy()
    return arrivals.load_windows(times, hold, BASE_S, windows=int(np.ceil(length / BASE_S)))


def figures(result: Result, settings: Settings) -> tuple[float, ...]:
    """P50, P95, P99 of TTFT, share within 100 ms, GPU-seconds, GB loaded, GB never used."""
    p = result.plane
    ttft = (p.r_first - p.r_arrival)[p.r_arrival >= settings.settle_s]
    busy = sum(row[2] - row[1] for row in result.cluster.timeline if row[3] in BUSY)
    if not result.cluster.instances and not result.cluster.ledger.entries:  # shared GPUs: all serve all the time
        busy = result.end_s * result.cluster.nodes * result.cluster.gpus_per_node
    entries = result.cluster.ledger.entries.values()
    loaded = sum(entry.bytes_loaded for entry in entries) / 1e9
    unused = sum(entry.bytes_loaded for entry in entries if entry.outcome != "hit") / 1e9
    return (
        *(float(np.quantile(ttft, q)) for q in (0.5, 0.95, 0.99)),
        float((ttft <= 0.1).mean()),
        busy,
        loaded,
        unused,
    )
