"""Tables of a run, simulated or real: requests, events, GPU timeline, ledger, forecasts; one schema each.

Every row carries what the run was: policy, cold-start model, whether processes stood ready, nodes, rates, seed, basis
and data. Times are seconds since the first second of traffic.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from operators.warmserve import plane
from operators.warmserve.catalogue import GIB
from operators.warmserve.cluster_state import Cluster
from operators.warmserve.simulator import Result

TEXT, REAL = pl.Categorical, pl.Float64
KEYS = {
    **{"system": TEXT, "policy": TEXT, "ablation": pl.Boolean, "cold": TEXT, "process_pool": pl.Boolean},
    **{"nodes": pl.Int32, "rps": REAL, "alpha": REAL, "seed": pl.Int64, "data": TEXT, "basis": TEXT},
}
REQUESTS = KEYS | {
    **{"request_id": pl.String, "model": TEXT, "arrival_s": REAL, "input_tokens": pl.Int32},
    **{"output_tokens": pl.Int32, "engine_id": pl.Int32, "start_kind": TEXT, "queue_s": pl.Float32},
    **{"first_token_s": REAL, "finish_s": REAL, "ttft_s": REAL, "tpot_s": pl.Float32},
    **{"preemptions": pl.Int16, "restarts": pl.Int16, "failed": pl.Boolean},
}
EVENTS = KEYS | {
    **{"t_s": REAL, "kind": TEXT, "model": TEXT, "gpus": pl.String, "replica_id": pl.Int64, "engine_id": pl.Int64},
    **{"bytes": REAL, "score": REAL, "reason": TEXT},
}
GPU = KEYS | {
    **{"gpu": pl.Int32, "t0_s": REAL, "t1_s": REAL, "state": TEXT, "model": TEXT, "weight_blocks": pl.Int64},
    **{"kv_blocks": pl.Int64, "free_blocks": pl.Int64},
}
LEDGER = KEYS | {
    **{"replica_id": pl.Int64, "model": TEXT, "gpus": pl.String, "kind": TEXT, "score": REAL, "decided_s": REAL},
    **{"load_start_s": REAL, "load_end_s": REAL, "bytes_loaded": REAL, "gb_s_held": REAL, "outcome": TEXT},
}
FORECASTS = KEYS | {"window_s": REAL, "window": pl.Int32, "model": TEXT, "stat": TEXT, "forecast": REAL, "actual": REAL}
SCHEMAS = {"requests": REQUESTS, "events": EVENTS, "gpu": GPU, "ledger": LEDGER, "forecasts": FORECASTS}
ABLATIONS = ("no_prewarm", "no_placement", "no_proactive", "window_180", "window_2400")


def keyed(frame: pl.DataFrame, keys: Mapping[str, Any], schema: Mapping[str, Any]) -> pl.DataFrame:
    """`frame` with the key columns in front and every column in its type."""
    values = {"system": "warmserve", "ablation": keys["policy"] in ABLATIONS, **keys}
    marked = frame.with_columns(**{name: pl.lit(value) for name, value in values.items()})
    return marked.select(pl.col(name).cast(kind) for name, kind in schema.items())


def of_result(result: Result, trace: pl.DataFrame, keys: Mapping[str, Any], window_s: float) -> dict[str, pl.DataFrame]:
    """All tables of a simulated run; `trace` is its request table."""
    return {
        "requests": keyed(_requests(result.plane, trace), keys, REQUESTS),
        **of_cluster(result.cluster, keys),
        "forecasts": keyed(_forecasts(result, window_s), keys, FORECASTS),
    }


def of_cluster(cluster: Cluster, keys: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
    """Events, GPU timeline and ledger of a cluster, simulated or real."""
    names = [model.name for model in cluster.models]
    events = pl.DataFrame(
        [(*row[:2], _name(names, row[2]), _gpus(row[3]), *row[4:]) for row in cluster.events],
        schema={name: pl.String if kind == TEXT else kind for name, kind in list(EVENTS.items())[len(KEYS) :]},
        orient="row",
    )
    gpu = pl.DataFrame(
        [(*row[:4], _name(names, row[4]), *row[5:]) for row in cluster.timeline],
        schema={name: pl.String if kind == TEXT else kind for name, kind in list(GPU.items())[len(KEYS) :]},
        orient="row",
    )
    ledger = pl.DataFrame(
        [{**vars(entry), "gpus": _gpus(entry.gpus)} for entry in cluster.ledger.entries.values()],
        schema={name: pl.String if kind == TEXT else kind for name, kind in list(LEDGER.items())[len(KEYS) :]},
    )
    found = {"events": (events, EVENTS), "gpu": (gpu, GPU), "ledger": (ledger, LEDGER)}
    return {name: keyed(frame, keys, schema) for name, (frame, schema) in found.items()}


def _requests(p: plane.Plane, trace: pl.DataFrame) -> pl.DataFrame:
    rest = np.maximum(p.r_out - 1, 1)
    kinds = pl.Series(list(plane.KINDS), dtype=pl.String)
    return trace.select("request_id", "model", "arrival_s", "input_tokens", "output_tokens").with_columns(
        engine_id=pl.Series(p.r_engine),
        start_kind=kinds[pl.Series(p.r_kind.astype(np.uint32))],
        queue_s=pl.Series(p.r_sent - p.r_arrival),
        first_token_s=pl.Series(p.r_first),
        finish_s=pl.Series(p.r_finish),
        ttft_s=pl.Series(p.r_first - p.r_arrival),
        tpot_s=pl.Series((p.r_finish - p.r_first) / rest),
        preemptions=pl.Series(p.r_preempted),
        restarts=pl.lit(0),
        failed=pl.lit(False),
    )


def _forecasts(result: Result, window_s: float) -> pl.DataFrame:
    """Forecasts beside what the load was in the end; windows that did not end have no actual value."""
    rows = [(window_s, window, model, stat, value, seen) for window, model, stat, value, seen in result.forecasts]
    kinds = {name: pl.String if kind == TEXT else kind for name, kind in list(FORECASTS.items())[len(KEYS) :]}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def _name(names: list[str], model: int) -> str:
    return names[model] if model >= 0 else ""


def _gpus(gpus: tuple[int, ...]) -> str:
    return " ".join(map(str, gpus))


def gib(size: float) -> float:
    """Bytes in GiB."""
    return size / GIB
