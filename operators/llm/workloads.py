"""Requests of a serving run: one table schema, a reader of the real set, its synthetic twin, and the checks.

request_id, arrival_s (seconds from the first), input_tokens and output_tokens (both > 0), sorted by arrival.
"""

from pathlib import Path

import numpy as np
import polars as pl

from operators.lab import datasets
from operators.llm.twins_routing import stream

SCHEMA = {"request_id": pl.String, "arrival_s": pl.Float64, "input_tokens": pl.Int32, "output_tokens": pl.Int32}
# name -> (data set, file): 300 conversations at about ten a second, served by vLLM in the validation run
SOURCES = {"sharegpt_300": ("moe_calib_rtxpro6000", "vllm_workload.parquet")}


class TraceError(ValueError):
    """A row of a trace is impossible; the message names the row and the field."""


def read(name: str, data: Path | None = None, *, seed: int = 0) -> tuple[pl.DataFrame, str]:
    """The requests called `name` and where they come from: `real`, or `synthetic` when the set is not there."""
    if name not in SOURCES:
        raise KeyError(f"workload {name!r}: unknown; known: {', '.join(SOURCES)}")
    source, file = SOURCES[name]
    if not datasets.present(source, data):
        return synthetic(name, seed=seed), "synthetic"
    raw = datasets.read(source, file, data).rename({"input_toks": "input_tokens", "output_toks": "output_tokens"})
    return checked(raw), "real"


def synthetic(name: str, *, seed: int = 0, requests: int = 300) -> pl.DataFrame:
    """A twin of the real requests: exponential gaps, lognormal inputs and outputs with the real means and limits."""
    if name not in SOURCES:
        raise KeyError(f"workload {name!r}: unknown; known: {', '.join(SOURCES)}")
    rng = np.random.default_rng([seed, stream(f"workload/{name}")])
    gaps = rng.exponential(0.0974, requests)
    median, mean = 729.0, 862.0
    inputs = np.clip(median * np.exp(np.sqrt(2 * np.log(mean / median)) * rng.standard_normal(requests)), 257, 4570)
    above, spread = 665.0 - 512.0, 0.7  # outputs are 512 and more: a lognormal part above that floor
    outputs = 512 + above * np.exp(spread * rng.standard_normal(requests) - spread**2 / 2)
    frame = pl.DataFrame(
        {
            "request_id": [f"twin-{i}" for i in range(requests)],
            "arrival_s": np.cumsum(gaps) - gaps[0],
            "input_tokens": inputs.astype(np.int32),
            "output_tokens": np.minimum(outputs, 1224).astype(np.int32),
        }
    )
    return checked(frame)


def checked(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with exactly the schema, sorted by arrival; TraceError naming the first impossible row."""
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise TraceError(f"requests: no column {missing[0]!r}; expected {', '.join(SCHEMA)}")
    frame = frame.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
    rules = {
        "arrival_s": (pl.col("arrival_s").is_finite() & (pl.col("arrival_s") >= 0), "a finite time >= 0"),
        "input_tokens": (pl.col("input_tokens") > 0, "> 0"),
        "output_tokens": (pl.col("output_tokens") > 0, "> 0"),
    }
    for name, (rule, expected) in rules.items():
        bad = frame.with_row_index("row").filter(~rule.fill_null(False))
        if len(bad):
            raise TraceError(f"requests row {bad['row'][0]}: {name} (={bad[name][0]}): must be {expected}")
    if frame["request_id"].is_duplicated().any():
        row = int(frame["request_id"].is_duplicated().arg_max())
        raise TraceError(f"requests row {row}: request_id {frame['request_id'][row]!r} occurs twice")
    return frame.sort("arrival_s", maintain_order=True)
