"""Readers of request logs and serving measurements in the forms their publishers chose, into the tables of `workloads`.

Each takes a path (a file, or a set's folder) and names file, column, found and expected in its SchemaError. Rows that
the publisher's own tools leave out (a time that is no time, a request that failed) are dropped and counted, never
repaired. Checksums are `lab.datasets`' business; these readers also take a file of the user's own.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from operators.llm.workloads import REQUESTS, validate

DAY_S, WEEK_S = 86_400.0, 604_800.0
MONDAY_AFTER_S = {"conv": 86_400.0, "code": 259_200.0}  # from the first row of a week to Monday 0 h
BURSTGPT = {"Timestamp": pl.Float64, "Model": pl.String, "Request tokens": pl.Int64, "Response tokens": pl.Int64}
MEASURED = {
    "request_id": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    **dict.fromkeys(("queued_s", "scheduled_s", "first_token_s", "last_token_s"), pl.Float64),
}
RATES = {"model": pl.String, "client": pl.Int64, "t_s": pl.Int64, "rate_rps": pl.Float64, "cv": pl.Float64}
LENGTHS = {"model": pl.String, "t_s": pl.Int64, "field": pl.String, "mean": pl.Float64, "hist": pl.List(pl.Float64)}


class SchemaError(ValueError):
    """A file lacks a column or holds another type; the message names file, column, found and expected."""


@dataclass(frozen=True)
class Measured:
    """One measured serving run: its requests and, per request, when it was scheduled, began and ended (seconds)."""

    requests: pl.DataFrame
    first_token_s: np.ndarray
    last_token_s: np.ndarray
    scheduled_s: np.ndarray
    max_num_seqs: int
    token_budget: int
    kv_tokens: int | None  # None: not reported
    block: int
    data_parallel: int
    lockstep: bool = False  # ranks step together: data parallel with experts spread over the ranks

    @property
    def meta(self) -> dict[str, int | None]:
        """The engine's limits, as `engine.serve_many` takes them."""
        names = ("max_num_seqs", "token_budget", "kv_tokens", "block", "data_parallel", "lockstep")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ServeGen:
    """Request rates of several models over days: `rates[model][day, window]` in requests/s, NaN where none were kept.

    `clients`: model, client, rate_rps (mean over the windows it was active), share, cv (median). `lengths`: mean and
    histogram of tokens per model, field and 6 h; `edges` are the left edges of its bins.
    """

    rates: dict[str, np.ndarray]
    window_s: float
    clients: pl.DataFrame
    lengths: pl.DataFrame
    edges: np.ndarray


def columns(frame: pl.DataFrame, wanted: dict[str, pl.DataType], file: Path | str) -> pl.DataFrame:
    """The wanted columns in the wanted types; SchemaError naming file, column, found and expected."""
    for name, kind in wanted.items():
        if name not in frame.columns:
            raise SchemaError(f"{file}: no column {name!r}; found {', '.join(frame.columns)}; expected {kind}")
        try:
            frame = frame.with_columns(pl.col(name).cast(kind))
        except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError):
            raise SchemaError(f"{file}: column {name} is {frame.schema[name]}; expected {kind}") from None
    return frame.select(list(wanted))


def table(path: Path) -> pl.DataFrame:
    """A Parquet or CSV file; SchemaError when it is not there or is neither."""
    if not Path(path).is_file():
        raise SchemaError(f"{path}: no such file; expected a Parquet or CSV table")
    try:
        return pl.read_csv(path) if Path(path).suffix == ".csv" else pl.read_parquet(path)
    except pl.exceptions.ComputeError as error:
        raise SchemaError(f"{path}: found no readable table ({error}); expected Parquet or CSV") from None


def numbered(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    """Rows with ids `<source>-<row>` and their source."""
    ids = pl.format("{}-{}", pl.lit(source), pl.int_range(pl.len()))
    return frame.with_columns(request_id=ids, source=pl.lit(source))


def read_azure2023(path: Path) -> pl.DataFrame:
    """Azure's 2023 trace as converted (arrival_s, input_tokens, output_tokens) -> requests."""
    wanted = {name: REQUESTS[name] for name in ("arrival_s", "input_tokens", "output_tokens")}
    return validate(numbered(columns(table(path), wanted, path), Path(path).stem))


def read_azure_week(path: Path, service: str = "conv", day: int | None = None) -> tuple[pl.DataFrame, int]:
    """Azure's one-week 2024 CSV (TIMESTAMP, ContextTokens, GeneratedTokens) -> requests and the count of rows dropped.

    Times count from Monday 0 h, or with `day` (0 = Monday .. 6) from the start of that day, which alone is kept. The
    files begin before a Monday: rows before it belong to the end of the week. Dropped: no time, a token count below 1.
    """
    if service not in MONDAY_AFTER_S:
        raise ValueError(f"service (={service!r}): expected {' or '.join(MONDAY_AFTER_S)}")
    if day is not None and not 0 <= day <= 6:
        raise ValueError(f"day (={day}): expected 0 (Monday) to 6, or None for the week")
    raw = columns(
        table(path), {"TIMESTAMP": pl.String, "ContextTokens": pl.Int64, "GeneratedTokens": pl.Int64}, path
    ).with_columns(pl.col("TIMESTAMP").str.slice(0, 26).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False))
    good = raw.filter(pl.col("TIMESTAMP").is_not_null(), pl.col("ContextTokens") > 0, pl.col("GeneratedTokens") > 0)
    since = (pl.col("TIMESTAMP") - good["TIMESTAMP"].min()).dt.total_microseconds() / 1e6
    week = good.select(
        arrival_s=(since - MONDAY_AFTER_S[service]) % WEEK_S,
        input_tokens="ContextTokens",
        output_tokens="GeneratedTokens",
    ).sort("arrival_s", maintain_order=True)
    if day is not None:
        inside = (pl.col("arrival_s") >= day * DAY_S) & (pl.col("arrival_s") < (day + 1) * DAY_S)
        week = week.filter(inside).with_columns(pl.col("arrival_s") - day * DAY_S)
    return validate(numbered(week, f"azure-week-{service}")), raw.height - good.height


def read_burstgpt(path: Path) -> tuple[pl.DataFrame, int]:
    """BurstGPT's CSV -> requests with their model, and the count of failed rows (0 response tokens) dropped."""
    raw = columns(table(path), BURSTGPT, path)
    good = raw.filter(pl.col("Response tokens") > 0, pl.col("Request tokens") > 0).sort(
        "Timestamp", maintain_order=True
    )
    renamed = good.select(
        arrival_s=pl.col("Timestamp") - pl.col("Timestamp").min(),
        input_tokens="Request tokens",
        output_tokens="Response tokens",
        model="Model",
    )
    return validate(numbered(renamed, "burstgpt")), raw.height - good.height


def mooncake_requests(raw: pl.DataFrame) -> pl.DataFrame:
    """Mooncake's rows (timestamp_ms, input_tokens, output_tokens, hash_ids) -> requests."""
    return validate(numbered(raw.with_columns(arrival_s=pl.col("timestamp_ms") / 1000.0), "mooncake"))


def read_mooncake(path: Path) -> pl.DataFrame:
    """Mooncake's trace as converted -> requests with `hash_ids`, the prompt's 512-token blocks."""
    wanted = {"timestamp_ms": pl.Int64, "input_tokens": pl.Int64, "output_tokens": pl.Int64}
    return mooncake_requests(columns(table(path), wanted | {"hash_ids": pl.List(pl.Int32)}, path))


def measured_runs(folder: Path) -> list[str]:
    """Names of the measured runs that lie in a folder."""
    return sorted(path.name.removesuffix("_requests.parquet") for path in Path(folder).glob("*_requests.parquet"))


def read_vllm_measured(folder: Path, run: str) -> Measured:
    """One run of a folder of measured vLLM runs: `<run>_requests.parquet` and `<run>_meta.json`."""
    path = Path(folder) / f"{run}_requests.parquet"
    raw = columns(table(path), MEASURED, path).sort("queued_s", maintain_order=True)
    place = Path(folder) / f"{run}_meta.json"
    if not place.is_file():
        raise SchemaError(f"{place}: no such file; expected the engine's arguments (engine_kwargs)")
    return measured_from(raw, json.loads(place.read_text()), place)


def measured_from(raw: pl.DataFrame, meta: dict, place: Path | str = "meta") -> Measured:
    """A measured run from its rows and the engine's own record of its arguments."""
    found = meta.get("engine_kwargs", {})
    lacking = [name for name in ("max_num_seqs", "max_num_batched_tokens") if name not in found]
    if lacking:
        raise SchemaError(f"{place}: no engine_kwargs.{lacking[0]}; found {', '.join(found)}; expected an integer")
    cache = meta.get("kv_cache") or {}
    return Measured(
        requests=validate(raw.rename({"queued_s": "arrival_s"}).select(list(REQUESTS))),
        first_token_s=raw["first_token_s"].to_numpy(),
        last_token_s=raw["last_token_s"].to_numpy(),
        scheduled_s=raw["scheduled_s"].to_numpy(),
        max_num_seqs=found["max_num_seqs"],
        token_budget=found["max_num_batched_tokens"],
        kv_tokens=cache.get("num_kv_tokens"),
        block=cache.get("block_size", 16),
        data_parallel=found.get("data_parallel_size", 1),
        lockstep=bool(found.get("enable_expert_parallel")) and found.get("data_parallel_size", 1) > 1,
    )


def read_servegen(folder: Path) -> ServeGen:
    """ServeGen's statistics as converted: `arrivals.parquet`, `length_hist_6h.parquet`, length_bin_left_edges.json."""
    place = Path(folder) / "length_bin_left_edges.json"
    if not place.is_file():
        raise SchemaError(f"{place}: no such file; expected the left edges of the length bins")
    names = ("arrivals.parquet", "length_hist_6h.parquet")
    arrivals, lengths = (table(Path(folder) / name) for name in names)
    return servegen_from(arrivals, lengths, json.loads(place.read_text()), folder)


def servegen_from(arrivals: pl.DataFrame, lengths: pl.DataFrame, edges: list, folder: Path | str = "") -> ServeGen:
    """ServeGen's statistics from its tables: rates summed over clients, windows without a client missing (NaN)."""
    window_s = 600
    rows = columns(arrivals, RATES, f"{folder}/arrivals.parquet")
    totals = rows.group_by("model", "t_s").agg(pl.col("rate_rps").sum()).filter(pl.col("rate_rps") > 0)
    per_day, rates = int(DAY_S) // window_s, {}
    for (model,), part in totals.sort("model").group_by("model", maintain_order=True):
        days = int(part["t_s"].max()) // int(DAY_S) + 1
        grid = np.full(days * per_day, np.nan)
        grid[part["t_s"].to_numpy() // window_s] = part["rate_rps"].to_numpy()
        rates[model] = grid.reshape(days, per_day)
    clients = rows.group_by("model", "client").agg(
        pl.col("rate_rps").mean(), total=pl.col("rate_rps").sum(), cv=pl.col("cv").median()
    )
    clients = clients.with_columns(share=pl.col("total") / pl.col("total").sum().over("model")).drop("total")
    lengths = columns(lengths, LENGTHS, f"{folder}/length_hist_6h.parquet")
    return ServeGen(rates, float(window_s), clients.sort("model", "client"), lengths, np.asarray(edges, float))
