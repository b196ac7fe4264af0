"""Stage: raw runs to measures, the one table that claims and most figures are made from."""

from pathlib import Path

from operators.lab import stage
from operators.metro.settings import Settings


def main(
    *,
    settings: Settings,
    routing: Path,
    tpot: Path,
    ttft: Path,
    throughput: Path,
    pareto: Path,
    roofline: Path,
    measured: Path,
    out: Path,
) -> None:
    """Put every policy's measures beside EPLB's even split and no replication.

    Args:
        routing: routed layers (route)
        tpot: decode times (simulate)
        ttft: prefill times (simulate)
        throughput: total token throughput of mixes (simulate)
        pareto: batch and parallelism sweep (simulate)
        roofline: arithmetic intensities (simulate)
        measured: the experiment on this processor (measure)
        out: measures.parquet
    """
    import polars as pl

    from operators.metro import scenarios

    sizes = {"batch_per_gpu": settings.decode_batch_per_gpu, "global_batch": settings.global_batch}
    layers, timed, sweep = stage.read_table(routing), stage.read_table(tpot), stage.read_table(pareto)
    experiment = stage.read_table(measured)
    parts = [
        scenarios.decode(timed, layers, comm=settings.comm, **sizes),
        scenarios.small_batches(layers, settings.decode_batch_per_gpu),
        scenarios.real_batches(layers),
        scenarios.prefill(stage.read_table(ttft)),
        scenarios.throughput(stage.read_table(throughput), comm=settings.comm, **sizes),
        scenarios.pareto(sweep, comm=settings.comm),
        scenarios.tp_ep(sweep),
        scenarios.roofline(stage.read_table(roofline)),
        scenarios.cpu(experiment),
        scenarios.cpu_fit(experiment),
    ]
    stage.write_table(pl.concat(parts), out, schema=scenarios.SCHEMA, settings=settings)


if __name__ == "__main__":
    stage.run(main)
