"""Stage: the figures made from raw runs, each with the plotted table beside it; it does not wait for the measures."""

from pathlib import Path

from operators.lab import stage
from operators.metro.settings import Settings


def main(*, settings: Settings, routing: Path, serve: Path, pareto: Path, measured: Path, out_folder: Path) -> None:
    """Draw gap to the optimum, Pareto, the measured experiment and the serving run, as SVG with a Parquet table each.

    Args:
        routing: routed layers (route)
        serve: requests of the serving run (simulate)
        pareto: batch and parallelism sweep (simulate)
        measured: the experiment on this processor (measure)
        out_folder: folder of the figures
    """
    import polars as pl

    from operators.lab import figures
    from operators.metro import charts_runs, scenarios

    ranks = stage.read_table(measured)
    drawn = {
        "gap": charts_runs.gap(stage.read_table(routing)),
        "pareto": charts_runs.pareto(stage.read_table(pareto).filter(pl.col("lookup") == scenarios.PRIMARY)),
        "measured": charts_runs.measured(ranks),
        "crossover": charts_runs.crossover(ranks),
        "serve": charts_runs.serve(stage.read_table(serve)),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


if __name__ == "__main__":
    stage.run(main)
