"""Stage: every performance bar beside its peer, measured in this run, interleaved."""

from pathlib import Path

from operators.lab import stage
from operators.metro.settings import Settings


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        from operators.metro import peers

        return peers.schema()
    raise AttributeError(name)


def main(*, settings: Settings, fit_report: Path, serve: Path, out: Path, data: Path | None = None) -> None:
    """Measure ours and every peer that is installed; a missing peer gives a row `not measured`.

    Args:
        fit_report: errors of the fitted kernel costs (calibrate)
        serve: requests of the serving run (simulate)
        out: table of comparisons; ratio above 1 means ours is better, bar is the least ratio that passes
        data: data root; without it synthetic twins are used
    """
    import polars as pl

    from operators.metro import bench_kernel, bench_routing, bench_serving, peers

    rows = bench_routing.rows(settings, data)
    rows += bench_kernel.rows(settings)
    rows += bench_serving.rows(settings, stage.read_table(fit_report), stage.read_table(serve), data)
    schema = peers.schema()
    frame = pl.DataFrame([{name: item.get(name) for name in schema} for item in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
