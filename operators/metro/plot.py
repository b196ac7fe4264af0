"""Stage: the figures made from measures, each with the plotted table beside it."""

from pathlib import Path

from operators.lab import stage
from operators.metro.settings import Settings


def main(*, settings: Settings, measures: Path, out_folder: Path) -> None:
    """Draw what policies do to latency, throughput, activated experts and tokens, as SVG with a Parquet table each.

    Args:
        measures: measures.parquet (evaluate)
        out_folder: folder of the figures
    """
    import polars as pl

    from operators.lab import figures
    from operators.metro import charts, scenarios

    both = stage.read_table(measures)
    table = both.filter(pl.col("lookup").is_null() | (pl.col("lookup") == scenarios.PRIMARY))
    size = {"batch_per_gpu": settings.decode_batch_per_gpu}
    drawn = {
        "overview": charts.overview(table, **size),
        "activated": charts.activated(table, **size),
        "latency": charts.latency(table, **size),
        "breakdown": charts.breakdown(table, **size),
        "regime": charts.regime(both),
        "imbalance": charts.imbalance(table, **size),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


if __name__ == "__main__":
    stage.run(main)
