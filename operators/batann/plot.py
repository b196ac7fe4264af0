"""Stage: the figures made from measures, runs, bench and predictions, each with the plotted table beside it."""

from pathlib import Path

from operators.batann.settings import Settings
from operators.lab import stage


def main(*, settings: Settings, measures: Path, runs: Path, bench: Path, predictions: Path, out_folder: Path) -> None:
    """Draw recall, rates, work, latency and predictions, as SVG with a Parquet table each.

    Args:
        measures: measures.parquet (evaluate)
        runs: one row a query (run stage)
        bench: comparisons with peers (bench)
        predictions: predictions.parquet (simulate)
        out_folder: folder of the figures
    """
    from operators.batann import charts, charts_model, charts_time, charts_work
    from operators.lab import figures

    tables = charts.Tables(*(stage.read_table(path) for path in (measures, runs, bench, predictions)))
    drawn = {
        "overview": charts.overview,
        "recall": charts.recall,
        "servers": charts.servers,
        "work": charts_work.reads,
        "share": charts_work.share,
        "width": charts_work.width,
        "latency": charts_time.latency,
        "cdf": charts_time.cdf,
        "refill": charts_time.refill,
        "state": charts_work.state,
        "faults": charts_time.faults,
        "transports": charts_model.transports,
        "peers": charts_model.peers,
        "prediction": charts_model.prediction,
    }
    for name, draw in drawn.items():
        figure, frame = draw(tables, settings)
        figures.save(figure, out_folder / f"{name}.svg", frame)


if __name__ == "__main__":
    stage.run(main)
