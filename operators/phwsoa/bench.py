"""Stage `bench`: every performance bar beside its peer, measured in this run, interleaved."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.phwsoa.settings import Settings

EXTRA = {"lb_kind": "String", "ours_over_bound": "Float64", "peer_over_bound": "Float64"}


def _schema() -> dict[str, Any]:
    import polars as pl

    from operators.lab import peers

    return peers.schema({name: getattr(pl, kind) for name, kind in EXTRA.items()})


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        return _schema()
    raise AttributeError(name)


def main(*, settings: Settings, instances: Path, vms: Path, out: Path, data: Path | None = None) -> None:
    """Measure ours and every peer that is installed; a missing peer gives a row `not measured`.

    Args:
        instances: tasks (trace)
        vms: machines (trace)
        out: table of comparisons; ratio above 1 means ours is better, bar is the least ratio that passes
        data: data root (default: synthetic twins)
    """
    import polars as pl

    from operators.phwsoa import bench_kernel, bench_search, tables

    rows = bench_kernel.evaluation(settings) + bench_kernel.bound_cost(settings)
    first = True
    for keys, made in tables.instances(instances, vms):
        if keys["n"] != settings.n[0]:
            continue
        rows += bench_kernel.table(settings, made, keys, bench_search.best_makespans(settings, made))
        rows += bench_search.volumes(settings, made, keys)
        if first or settings.profile in ("full", "paper"):
            rows += bench_search.generation(settings, made, keys)
            rows += bench_search.faithful(settings, made, keys)
        first = False
    rows += bench_kernel.unrelated(settings, data)
    schema = _schema()
    frame = pl.DataFrame([{name: item.get(name) for name in schema} for item in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
