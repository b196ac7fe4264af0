"""Stage `measure`: the memory-bound experiment with real weights in Ray actors on this machine (see experiment.py)."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.metro.settings import Settings

KINDS = {
    "router": "String",  # a router, or `sweep`: the calibration grid
    "r": "Float64",
    "B": "Int64",  # tokens of the batch; of a sweep row: tokens per expert
    "rank": "Int64",
    "rep": "Int64",
    "layer": "Int64",
    "A": "Int64",  # activated experts of this rank
    "n": "Int64",  # token assignments of this rank
    "cpu_ns": "Int64",
    "wall_ns": "Int64",
    "bytes": "Int64",  # weight bytes read
    "stream_GBps": "Float64",  # plain reading of memory, just before, same thread
    "kernel": "String",  # native | numba
    "l3_bytes": "Int64",
    "cache_resident": "Boolean",  # the experts are less than four times the cache, or its size is not known
    "nested": "Boolean",
    "lam": "Int64",
    "experts": "Int64",
    "hidden": "Int64",
    "width": "Int64",
    "data": "String",
    "batches": "String",
    "seed": "Int64",
    "machine": "String",
}


FAULT_KINDS = {
    "step": "Int64",
    "faults": "String",  # what was done just before this step
    "tries": "Int64",
    "died": "String",  # ranks found dead
    "stragglers": "String",
    "outcome": "String",  # served, or why the step was refused
    "apart": "Float64",  # largest relative difference to the undisturbed output
}


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        import polars as pl

        return {column: getattr(pl, kind) for column, kind in KINDS.items()}
    raise AttributeError(name)


def main(
    *, settings: Settings, out: Path, out_faults: Path, address: Path | None = None, data: Path | None = None
) -> None:
    """Measure how long each rank's experts take, for every router, ratio and batch size, with real memory traffic.

    Args:
        out: table to write (runs/measured.parquet)
        out_faults: what the faults of the settings did, step by step (runs/faults.parquet; empty without faults)
        address: address file of the run's Ray head (default: RAY_ADDRESS, else a private head)
        data: data root (default: synthetic twins)
    """
    import polars as pl

    from operators.lab import cluster
    from operators.metro import cold, experiment, kernel

    cpu, cache = settings.cpu, cold.l3_bytes()
    batch = experiment.read_batch(cpu, data=data, seed=settings.seed)
    with cluster.connect(address) as ray:
        try:
            rows, rehearsed = experiment.measure(ray, settings, batch)
        except ray.exceptions.RayError as error:
            raise cluster.ClusterError(
                f"Ray or a rank died while measuring ({type(error).__name__}); run again"
            ) from error
    total = cpu.experts * 3 * cpu.width * cpu.hidden * 4
    resident = cache == 0 or total < 4 * cache or cold.evict_bytes(cache) < 1.25 * cache
    frame = pl.DataFrame(rows).rename({"activated": "A", "tokens": "n"}).with_columns(
        layer=pl.lit(batch.layer, pl.Int64),
        kernel=pl.lit(kernel.name_of(kernel.core())),
        l3_bytes=pl.lit(cache, pl.Int64),
        cache_resident=pl.lit(resident),
        experts=pl.lit(cpu.experts, pl.Int64),
        hidden=pl.lit(cpu.hidden, pl.Int64),
        width=pl.lit(cpu.width, pl.Int64),
        data=pl.lit(batch.data),
        batches=pl.lit(batch.batches),
        seed=pl.lit(settings.seed, pl.Int64),
        machine=pl.lit(stage.machine()),
    )  # fmt: skip
    schema = {column: getattr(pl, kind) for column, kind in KINDS.items()}
    stage.write_table(frame.select(list(schema)), out, schema=schema, settings=settings)
    faults = {name: getattr(pl, kind) for name, kind in FAULT_KINDS.items()}
    table = pl.DataFrame(rehearsed, schema=faults, orient="row")
    stage.write_table(table, out_faults, schema=faults, settings=settings, data=batch.data)


if __name__ == "__main__":
    stage.run(main)
