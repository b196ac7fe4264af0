"""Stage: every performance bar beside its peer, measured in this run, interleaved."""

from pathlib import Path

from operators.lab import stage
from operators.odma.settings import Settings


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        from operators.lab import peers

        return peers.schema()
    raise AttributeError(name)


def main(*, settings: Settings, traces: Path, predictor: Path, out: Path, data: Path | None = None) -> None:
    """Measure allocator, optimiser, predictor, simulator and copies; a missing peer gives a row `not measured`.

    Args:
        traces: folder of traces (trace)
        predictor: folder of trained predictors (trace)
        out: table of comparisons; ratio above 1 means ours is better, bar is the least ratio that passes
        data: data root; without it synthetic twins are used
    """
    import polars as pl

    from operators.lab import peers
    from operators.odma import bench_core, bench_learning

    rows = bench_core.rows(settings)
    rows += bench_learning.rows(settings, traces, predictor, data)
    schema = peers.schema()
    stage.write_table(pl.DataFrame(rows, schema=schema), out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
