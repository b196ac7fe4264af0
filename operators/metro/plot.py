"""Stage: every figure, with the plotted table beside it."""

from pathlib import Path

from operators.lab import stage
from operators.metro.settings import Settings


def main(
    *, settings: Settings, routing: Path, measures: Path, serve: Path, pareto: Path, measured: Path, out_folder: Path
) -> None:
    """Draw every figure as SVG and write its table as Parquet.

    Args:
        routing: routed layers (route)
        measures: measures.parquet (evaluate)
        serve: requests of the serving run (simulate)
        pareto: batch and parallelism sweep (simulate)
        measured: the experiment on this processor (measure)
        out_folder: folder of the figures
    """
    import polars as pl

    from operators.lab import figures
    from operators.metro import charts, charts_measured, scenarios

    both, layers, ranks = stage.read_table(measures), stage.read_table(routing), stage.read_table(measured)
    primary = pl.col("lookup").is_null() | (pl.col("lookup") == scenarios.PRIMARY)
    table, sweep = both.filter(primary), stage.read_table(pareto).filter(primary)
    size = {"batch_per_gpu": settings.decode_batch_per_gpu}
    requests = stage.read_table(serve)
    drawn = {
        "overview": charts.overview(table, **size),
        "activated": charts.activated(table, **size),
        "gap": charts.gap(layers),
        "latency": charts.latency(table, **size),
        "breakdown": charts.breakdown(table, **size),
        "regime": charts.regime(both),
        "pareto": charts.pareto(sweep) if len(sweep) else (figures.nothing("no sweep: metro.pareto is off"), sweep),
        "imbalance": charts.imbalance(table, **size),
        "measured": charts_measured.measured(ranks),
        "crossover": charts_measured.crossover(ranks),
        "serve": charts_measured.serve(requests)
        if len(requests)
        else (figures.nothing("no serving run: metro.serve is off"), requests),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


if __name__ == "__main__":
    stage.run(main)
