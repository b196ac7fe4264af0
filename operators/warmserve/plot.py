"""Stage: the figures, each with the plotted table beside it."""

from pathlib import Path

from operators.lab import stage
from operators.warmserve.settings import Settings


def main(
    *,
    settings: Settings,
    runs: Path,
    real: Path,
    measures: Path,
    forecast: Path,
    fit: Path,
    whatif: Path,
    out_folder: Path,
) -> None:
    """Draw latencies, ablations, forecasts, GPU states, what was loaded for nothing, fits, sensitivities, real starts.

    Args:
        runs: folder with requests, gpu and ledger (simulate)
        real: folder of the real run (run)
        measures: measures.parquet (evaluate)
        forecast: forecasts of production rates (trace)
        fit: errors of fitted step models (trace)
        whatif: one setting changed at a time (whatif)
        out_folder: folder of the figures
    """
    import polars as pl

    from operators.lab import figures
    from operators.warmserve import charts

    table = stage.read_table(measures)
    drawn = {
        "ttft": charts.ttft_cdf(pl.scan_parquet(runs / "requests" / "*.parquet"), settings.settle_s),
        "rates": charts.p99_rps(table),
        "ablation": charts.ablation(table),
        "forecast": charts.forecasts(stage.read_table(forecast)),
        "timeline": charts.timeline(pl.scan_parquet(runs / "gpu" / "*.parquet")),
        "waste": charts.waste(pl.scan_parquet(runs / "ledger" / "*.parquet")),
        "fit": charts.fit_residuals(stage.read_table(fit)),
        "whatif": charts.sensitivity(stage.read_table(whatif)),
        "starts": charts.starts(stage.read_table(real / "starts.parquet"), stage.read_table(real / "memory.parquet")),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


if __name__ == "__main__":
    stage.run(main)
