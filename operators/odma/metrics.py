"""From a served trace to tables and measures, with three utilisations because the paper does not say which it means.

`util_live` time-weighted live over reserved KV tokens; `util_final` final lengths over reservations at completion;
`util_device` (weights + live KV) over device memory, time-weighted. A block reserved exactly at admission cannot exceed
util_live of about 0.58 on Alpaca, since KV grows from the prompt to the end.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from operators.odma import engine_loop as loop
from operators.odma import engine_state as es

if TYPE_CHECKING:
    from operators.odma.device import Outcome

MEASURES = (
    *(
        "tps",
        "rps",
        "util_live",
        "util_final",
        "util_device",
        "external",
        "batch_mean",
        "copies_share",
        "preempt_share",
    ),
    *("ttft_p99_s", "latency_p99_s", "latency_mean_s", "moved_bytes", "grown_share", "parked_s", "recuts", "failed"),
)


def measures(outcome: "Outcome") -> dict[str, float]:
    """MEASURES of one run; shares are of requests, a growth in place is no copy."""
    r, x, s, f = outcome.r, outcome.x, outcome.s, outcome.f
    ended = r[:, es.STATE] == es.FINISHED
    span = np.nanmax(x[:, es.FINISH]) - x[:, es.ARRIVAL].min()
    latency = (x[:, es.FINISH] - x[:, es.ARRIVAL])[ended]
    busy, n = f[es.BUSY], len(ended)
    live = f[es.LIVE_DT] / busy
    return {
        "tps": float(r[:, es.OUTPUT][ended].sum() / span),
        "rps": float(ended.sum() / span),
        "util_live": float(f[es.LIVE_DT] / f[es.RESERVED_DT]),
        "util_final": float((r[:, es.INPUT] + r[:, es.OUTPUT])[ended].sum() / r[:, es.LAST][ended].sum()),
        "util_device": float((outcome.facts["weights"] + outcome.facts["kv"] * live) / outcome.facts["memory"]),
        "external": float(f[es.EXTERNAL_DT] / busy),
        "batch_mean": float(f[es.BATCH_DT] / busy),
        "copies_share": float(r[:, es.COPIES].sum() / n),
        "preempt_share": float(r[:, es.PREEMPTIONS].sum() / n),
        "ttft_p99_s": float(np.quantile((x[:, es.TOKEN] - x[:, es.ARRIVAL])[ended], 0.99)),
        "latency_p99_s": float(np.quantile(latency, 0.99)),
        "latency_mean_s": float(latency.mean()),
        "moved_bytes": float(s[es.MOVED] * outcome.facts["kv"]),
        "grown_share": float(r[:, es.GROWN].sum() / n),
        "parked_s": float(x[:, es.PARKED_S].sum()),
        "recuts": float(s[es.RECUTS]),
        "failed": float((~ended).sum()),
    }


def requests(trace: pl.DataFrame, outcome: "Outcome") -> pl.DataFrame:
    """One row per request, in the trace's order."""
    r, x = outcome.r, outcome.x
    return pl.DataFrame(
        {
            "request_id": trace["request_id"] if "request_id" in trace.columns else [str(i) for i in range(len(trace))],
            "device": np.zeros(len(trace), np.int32),
            "arrival_s": x[:, es.ARRIVAL],
            "input_tokens": r[:, es.INPUT],
            "output_tokens": r[:, es.OUTPUT],
            "predicted": x[:, es.VALUE],
            "class": r[:, es.CLASS],
            "reserved_first": r[:, es.FIRST],
            "reserved_last": r[:, es.LAST],
            "start_s": x[:, es.START],
            "first_token_s": x[:, es.TOKEN],
            "finish_s": x[:, es.FINISH],
            "copies": r[:, es.COPIES],
            "copied_tokens": r[:, es.COPIED],
            "preemptions": r[:, es.PREEMPTIONS],
            "parked_s": x[:, es.PARKED_S],
            "restarts": np.zeros(len(trace), np.int32),
        }
    )


def samples(outcome: "Outcome") -> pl.DataFrame:
    """One row per hundred steps."""
    rows, cuts = outcome.samples
    names = ("step", "t_s", "live", "reserved", "free", "largest_free", "n_free", "batch", "queue")
    columns = {name: rows[:, i] if name == "t_s" else rows[:, i].astype(np.int64) for i, name in enumerate(names)}
    assert len(names) == loop.SAMPLE_FIELDS
    return pl.DataFrame(columns).with_columns(boundaries=pl.Series(cuts.tolist(), dtype=pl.List(pl.Int32)))


def alloc_log(outcome: "Outcome") -> pl.DataFrame:
    """Every operation on the arena in order (replayable: `replay.py`); offsets and sizes in tokens."""
    from operators.odma.device import OPS

    log, times = outcome.log
    align = outcome.facts["align"]
    table = pl.DataFrame(
        {
            "seq": np.arange(len(times)),
            "t_s": times,
            "op": [OPS[code] for code in log[0]],
            "request_id": log[1],
            "offset": log[2].astype(np.int64) * align,
            "tokens": log[3].astype(np.int64) * align,
        },
        schema_overrides={"op": pl.String, "seq": pl.Int64},
    )
    return table.with_columns(result=pl.when(pl.col("op") == "relabel").then(pl.lit("cut")).otherwise(pl.lit("done")))
