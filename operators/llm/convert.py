"""Public sources of LLM-serving data converted to the tables in use; called by `operators.lab.fetch`.

Each function takes the downloaded files and returns one table; the inventory holds the hash of the table's values, so a
conversion that drifts is refused.
"""

import json
from pathlib import Path

import polars as pl

DENSE_LAYERS = 3  # DeepSeek-V3's first layers have no experts


def expert_load(sources: list[Path]) -> pl.DataFrame:
    """SGLang expert-distribution dumps (`logical_count`, 61 x 256) -> workload, phase, layer, expert, tokens."""
    parts = []
    for source in sources:
        counts = json.loads(source.read_text())["logical_count"]
        rows = [(layer, expert, n) for layer, row in enumerate(counts) for expert, n in enumerate(row)]
        frame = pl.DataFrame(rows, schema={"layer": pl.Int16, "expert": pl.Int16, "tokens": pl.Int64}, orient="row")
        names = {"workload": pl.lit(source.stem), "phase": pl.lit(source.stem.partition("_")[0])}
        parts.append(frame.filter(pl.col("layer") >= DENSE_LAYERS).with_columns(**names))
    return pl.concat(parts).select("workload", "phase", "layer", "expert", "tokens")


def requests_workload(sources: list[Path]) -> pl.DataFrame:
    """vLLM request log (JSON lines) -> request_id, input_toks, output_toks, arrival_s from the first arrival."""
    frame = pl.read_ndjson(sources[0])
    arrival = (pl.col("arrival_time") - pl.col("arrival_time").min()).round(6)
    return frame.select("request_id", "input_toks", "output_toks", arrival_s=arrival)


def requests_measured(sources: list[Path]) -> pl.DataFrame:
    """vLLM request log (JSON lines) of Qwen3-30B on an RTX PRO 6000 -> measured times, see `_measured`."""
    return _measured(sources, "RTXPRO6000", "Qwen3-30B-A3B-Instruct-2507")


def requests_rtxpro6000_llama(sources: list[Path]) -> pl.DataFrame:
    """The same of Llama-3.1-8B on an RTX PRO 6000."""
    return _measured(sources, "RTXPRO6000", "Llama-3.1-8B")


def requests_rtx4090_llama(sources: list[Path]) -> pl.DataFrame:
    """The same of Llama-3.1-8B on an RTX 4090."""
    return _measured(sources, "RTX4090", "Llama-3.1-8B")


def _measured(sources: list[Path], hw: str, model: str) -> pl.DataFrame:
    """Times in seconds from the first queued request, and the run's names."""
    frame = pl.read_ndjson(sources[0])
    start = pl.col("queued_ts").min()
    times = {
        f"{name}_s": (pl.col(f"{name}_ts") - start).round(6)
        for name in ("queued", "scheduled", "first_token", "last_token")
    }
    return frame.select(
        pl.lit(hw).alias("hw"),
        pl.lit(model).alias("model"),
        "request_id",
        input_tokens="input_toks",
        output_tokens="output_toks",
        **times,
    )


def table(sources: list[Path]) -> pl.DataFrame:
    """A CSV file as it is."""
    return pl.read_csv(sources[0])
