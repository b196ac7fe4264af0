"""Stage: which setting moves the tail most: the same trace with one setting changed at a time."""

from pathlib import Path

from operators.lab import stage
from operators.warmserve.settings import Settings

VARIANTS: tuple[dict, ...] = (
    {},
    *({"window_s": value} for value in (60.0, 180.0, 600.0, 1200.0)),
    *({"reserve": value} for value in ("official", "all")),
    *({"batch": value} for value in (16, 64)),
    *({"scale_low": value} for value in (0.3, 0.7)),
    *({"scale_high": value} for value in (0.71, 0.95)),
    *({"rule": "foundation_first"}, {"plan_compat": "official"}, {"order": "printed"}, {"poll_s": 0.0}),
    *({"burst": "band", "band_level": value} for value in (0.5, 0.9, 0.99)),
    {"nodes": 4, "gpus_per_node": 4},
)
KINDS = {
    **{"setting": "String", "value": "String", "rps": "Float64", "alpha": "Float64", "seed": "Int64"},
    **{"ttft_p95_s": "Float64", "ttft_p99_s": "Float64", "share_ttft_100ms": "Float64", "gb_loaded": "Float64"},
    **{"gpu_s_dedicated": "Float64", "data": "String"},
}


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        import polars as pl

        return {key: getattr(pl, kind) for key, kind in KINDS.items()}
    raise AttributeError(name)


def main(*, settings: Settings, traces: Path, history: Path, out: Path) -> None:
    """Run warmserve at `points` with one setting changed at a time.

    Args:
        traces: folder of request tables (trace)
        history: load of the days before (trace)
        out: one row per variant, point and seed
    """
    import polars as pl

    past, rows = stage.read_table(history), []
    for change in VARIANTS if settings.whatif else VARIANTS[:1]:
        changed = type(settings).checked(settings.model_dump() | change)
        for rps, alpha in settings.points:
            for seed in settings.seed_list[: 1 if settings.profile == "laptop" else 3]:
                rows.append(_one(changed, traces, past, rps, alpha, seed, change))
    schema = {key: getattr(pl, kind) for key, kind in KINDS.items()}
    stage.write_table(pl.DataFrame(rows, schema=schema, orient="row"), out, schema=schema, settings=settings)


def _one(settings: Settings, traces: Path, past, rps: float, alpha: float, seed: int, change: dict) -> tuple:
    import numpy as np
    import polars as pl

    from operators.warmserve import measures, simulator, workload
    from operators.warmserve.trace import point_name

    name = point_name(settings.source, rps, alpha, seed)
    requests, history = stage.read_table(traces / f"{name}.parquet"), past.filter(pl.col("point") == name)
    names = [served.name for served in settings.models]
    result = simulator.simulate(
        workload.as_trace(requests, names), settings, workload.as_history(history, names), name="warmserve"
    )
    plane = result.plane
    late = plane.r_arrival >= settings.settle_s
    ttft = (plane.r_first - plane.r_arrival)[late]
    loaded = sum(entry.bytes_loaded for entry in result.cluster.ledger.entries.values()) / 1e9
    busy = sum(row[2] - row[1] for row in result.cluster.timeline if row[3] in measures.BUSY)
    key = ", ".join(change) or "none"
    value = ", ".join(str(one) for one in change.values()) or "-"
    return (
        *(key, value, rps, alpha, seed, float(np.quantile(ttft, 0.95)), float(np.quantile(ttft, 0.99))),
        *(float(np.mean(ttft <= measures.GOOD_TTFT_S)), loaded, busy, history["data"][0]),
    )


if __name__ == "__main__":
    stage.run(main)
