"""Stage: serve every trace under one policy and one cold-start model, in simulated time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.warmserve.settings import Settings

if TYPE_CHECKING:
    import polars as pl

TABLES = ("requests", "events", "gpu", "ledger", "forecasts")
LARGE_ALPHA = 0.5


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        from operators.warmserve import run_tables

        return run_tables.REQUESTS
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    traces: Path,
    history: Path,
    policy: str,
    cold: str,
    out_folder: Path,
    large: bool = False,
) -> None:
    """Simulate one policy at every point it is wanted at, all seeds inside.

    Args:
        traces: folder of request tables (trace)
        history: load of the days before (trace)
        policy: name of the policy
        cold: cold-start model, w5 or pcie
        out_folder: folder that gets requests, events, gpu, ledger and forecasts, each with <policy>-<cold>.parquet
        large: the large cluster instead of the grid
    """
    import polars as pl

    from operators.warmserve import run_tables

    past, found = stage.read_table(history), {name: [] for name in TABLES}
    for rps, alpha, seed, pool, nodes in runs(settings, policy, cold, large):
        for name, frame in _one(settings, traces, past, policy, cold, rps, alpha, seed, pool, nodes).items():
            found[name].append(frame)
    for name in TABLES:
        schema = run_tables.SCHEMAS[name]
        frame = pl.concat(found[name]) if found[name] else pl.DataFrame(schema=schema)
        target = out_folder / name / f"{policy}-{cold}{'-large' if large else ''}.parquet"
        mark = "+".join(sorted(frame["data"].cast(pl.String).unique())) or "synthetic"
        stage.write_table(frame, target, schema=schema, settings=settings, data=mark)


def runs(settings: Settings, policy: str, cold: str, large: bool) -> Iterator[tuple[float, float, int, bool, int]]:
    """(rps, alpha, seed, process pool, nodes) of every run of a job.

    Main policies cover the grid under the first cold-start model; everything else is run at `points`.
    """
    if large:
        yield settings.large_rps, LARGE_ALPHA, settings.seed, True, settings.large_nodes
        return
    grid = [(rps, alpha) for rps in settings.rps for alpha in settings.alpha]
    points = [tuple(point) for point in settings.points]
    for pool in settings.pools:
        whole = policy in settings.main and cold == settings.colds[0] and pool
        for rps, alpha in [*grid, *(point for point in points if point not in grid)] if whole else points:
            for seed in settings.seed_list:
                yield rps, alpha, seed, pool, settings.nodes


def _one(
    settings: Settings, traces: Path, past: "pl.DataFrame", policy: str, cold: str, rps, alpha, seed, pool, nodes
) -> dict[str, "pl.DataFrame"]:
    import polars as pl

    from operators.warmserve import run_tables, simulator, workload
    from operators.warmserve.trace import point_name

    name = point_name(settings.source, rps, alpha, seed)
    requests = stage.read_table(traces / f"{name}.parquet")
    names = [served.name for served in settings.models]
    history = past.filter(pl.col("point") == name)
    run = simulator.Run(
        workload.as_trace(requests, names),
        settings,
        workload.as_history(history, names),
        name=policy,
        cold=cold,
        process_pool=pool,
        nodes=nodes,
    )
    keys = {
        **{"policy": policy, "cold": cold, "process_pool": pool, "nodes": nodes, "rps": rps, "alpha": alpha},
        **{"seed": seed, "data": history["data"][0], "basis": "calibrated" if cold == "w5" else "modelled"},
    }
    return run_tables.of_result(run.run(), requests, keys, run.window_s)


if __name__ == "__main__":
    stage.run(main)
