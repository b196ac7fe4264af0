"""Requests of a serving run: one table schema, its checks, and the named workloads (real set or synthetic twin).

request_id (unique), arrival_s (seconds, never falling), input_tokens and output_tokens (both > 0); a system may need
more: model, hash_ids (512-token blocks of the prompt), source. Files of other forms are read in `importers`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from operators.lab import datasets
from operators.llm.twins_routing import stream

REQUESTS = {"request_id": pl.String, "arrival_s": pl.Float64, "input_tokens": pl.Int32, "output_tokens": pl.Int32}
OPTIONAL = {"model": pl.String, "hash_ids": pl.List(pl.Int32), "source": pl.String}
SCHEMA = REQUESTS
# name -> (data set, file)
SOURCES = {
    "sharegpt_300": ("moe_calib_rtxpro6000", "vllm_workload.parquet"),  # ten a second, the validation run of vLLM
    "azure_conv": ("azure-llm-2023", "conv_first40min.parquet"),
    "azure_code": ("azure-llm-2023", "code.parquet"),
    "mooncake": ("mooncake-fast25", "conversation.parquet"),
}


class TraceError(ValueError):
    """A row of a trace is impossible; the message names the row and the field."""


def read(name: str, data: Path | None = None, *, seed: int = 0) -> tuple[pl.DataFrame, str]:
    """The requests called `name` and where they come from: `real`, or `synthetic` when the set is not there."""
    source, file = _source(name)
    if not datasets.present(source, data):
        return synthetic(name, seed=seed), "synthetic"
    return _READERS[name](datasets.read(source, file, data)), "real"


def synthetic(name: str, *, seed: int = 0, requests: int | None = None) -> pl.DataFrame:
    """The twin of a named workload, as many requests as the real one has unless `requests` says otherwise."""
    from operators.llm import twins_requests

    _source(name)
    makers: dict[str, Callable[..., pl.DataFrame]] = {
        "sharegpt_300": _sharegpt,
        "azure_conv": twins_requests.azure_conv,
        "azure_code": twins_requests.azure_code,
        "mooncake": twins_requests.mooncake,
    }
    return makers[name](seed=seed, **({} if requests is None else {"requests": requests}))


def validate(frame: pl.DataFrame, *, need: tuple[str, ...] = ()) -> pl.DataFrame:
    """`frame` with the schema's columns first and the optional ones it has, types made exact.

    TraceError naming the first row that is impossible: empty, missing columns (also those in `need`), null, not finite,
    a time before the one above it, a token count below 1, an id that occurs twice.
    """
    return _typed(frame, need, order=True)


def checked(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with exactly the schema, sorted by arrival; TraceError naming the first impossible row."""
    return _typed(frame, (), order=False).select(list(REQUESTS)).sort("arrival_s", maintain_order=True)


def _typed(frame: pl.DataFrame, need: tuple[str, ...], *, order: bool) -> pl.DataFrame:
    missing = [name for name in (*REQUESTS, *need) if name not in frame.columns]
    if missing:
        raise TraceError(f"requests: no column {missing[0]!r}; expected {', '.join((*REQUESTS, *need))}")
    if frame.is_empty():
        raise TraceError("requests: no rows; expected at least one")
    kinds = REQUESTS | {name: kind for name, kind in OPTIONAL.items() if name in frame.columns}
    tokens = pl.col("input_tokens", "output_tokens")
    # A count beyond 32 bits, or NaN, becomes null and is then refused with its row.
    frame = frame.with_columns(tokens.cast(pl.Int32, strict=False)).select(pl.col(n).cast(k) for n, k in kinds.items())
    rules = {
        "arrival_s": (pl.col("arrival_s").is_finite() & (pl.col("arrival_s") >= 0), "a finite time >= 0"),
        "input_tokens": (pl.col("input_tokens") > 0, "> 0"),
        "output_tokens": (pl.col("output_tokens") > 0, "> 0"),
        **{name: (pl.col(name).is_not_null(), "given") for name in ("request_id", *need)},
    }
    for name, (rule, expected) in rules.items():
        _refuse(frame, name, ~rule.fill_null(False), f"must be {expected}")
    if order:
        _refuse(frame, "arrival_s", pl.col("arrival_s").diff() < 0, "before the row above; sort by arrival_s")
    if frame["request_id"].is_duplicated().any():
        row = int(frame["request_id"].is_duplicated().arg_max())
        raise TraceError(f"requests row {row}: request_id {frame['request_id'][row]!r} occurs twice")
    return frame


def _refuse(frame: pl.DataFrame, name: str, bad: pl.Expr, why: str) -> None:
    rows = frame.with_row_index("row").filter(bad)
    if len(rows):
        raise TraceError(f"requests row {rows['row'][0]}: {name} is {rows[name][0]}; {why}")


def _source(name: str) -> tuple[str, str]:
    if name not in SOURCES:
        raise KeyError(f"workload {name!r}: unknown; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def _numbered(prefix: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """A reader that gives every row an id and its source."""

    def reader(raw: pl.DataFrame) -> pl.DataFrame:
        from operators.llm.importers import numbered

        return validate(numbered(raw, prefix))

    return reader


def _mooncake(raw: pl.DataFrame) -> pl.DataFrame:
    from operators.llm.importers import mooncake_requests

    return mooncake_requests(raw)


def _workload(raw: pl.DataFrame) -> pl.DataFrame:
    return checked(raw.rename({"input_toks": "input_tokens", "output_toks": "output_tokens"}))


_READERS: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "sharegpt_300": _workload,
    "azure_conv": _numbered("azure-conv"),
    "azure_code": _numbered("azure-code"),
    "mooncake": _mooncake,
}


def _sharegpt(*, seed: int = 0, requests: int = 300) -> pl.DataFrame:
    """Exponential gaps, lognormal inputs and outputs with the real means and limits."""
    rng = np.random.default_rng([seed, stream("workload/sharegpt_300")])
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
