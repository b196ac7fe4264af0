"""Stage: the figures, each with the plotted table beside it."""

from pathlib import Path

from operators.lab import stage
from operators.odma.settings import Settings


def main(
    *,
    settings: Settings,
    measures: Path,
    coverage: Path,
    crossover: Path,
    samples: list[Path],
    curve: Path,
    out_folder: Path,
) -> None:
    """Draw utilisation, crossover, boundaries, coverage, fragmentation, frontier and the measured alpha curve.

    Args:
        measures: measures.parquet (evaluate)
        coverage: coverage.parquet (evaluate)
        crossover: crossover.parquet (evaluate)
        samples: samples of each policy (simulate)
        curve: alpha_curve.parquet (run)
        out_folder: folder of the figures
    """
    import polars as pl

    from operators.lab import figures
    from operators.odma import charts

    table = stage.read_table(measures)
    sampled = pl.concat([stage.read_table(path) for path in samples])
    drawn = {
        "utilisation": charts.utilisation(table, alpha=settings.alpha),
        "crossover": charts.crossover(table, stage.read_table(crossover)),
        "boundaries": charts.boundaries(sampled),
        "coverage": charts.coverage(stage.read_table(coverage)),
        "fragmentation": charts.fragmentation(sampled),
        "frontier": charts.frontier(table),
        "alpha": charts.alpha_curve(stage.read_table(curve)),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


if __name__ == "__main__":
    stage.run(main)
