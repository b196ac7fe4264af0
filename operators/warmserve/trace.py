"""Stage: requests and load history of every point, errors of forecasts on production rates, and fitted step times."""

from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.warmserve.settings import Settings

if TYPE_CHECKING:
    import polars as pl

KINDS = {
    "history": {
        **{"point": "String", "model": "String", "day": "Int32", "window": "Int32"},
        **{"mean": "Float64", "peak": "Float64", "data": "String"},
    },
    "forecast": {
        **{"model": "String", "day": "Int32", "window": "Int32", "stat": "String", "horizon": "Int32"},
        **{"method": "String", "actual": "Float64", "forecast": "Float64", "data": "String"},
    },
    "fit": {
        **{"run": "String", "fitted_on": "String", "scored": "String", "pressure": "Boolean"},
        **{"ttft_mean_err": "Float64", "tpot_mean_err": "Float64", "latency_mean_err": "Float64"},
        **{"ttft_corr": "Float64", "preemptions": "Int64", "request_id": "String", "first_s": "Float64"},
        **{"first_err_s": "Float64", "last_err_s": "Float64", "data": "String"},
    },
}


def schemas() -> dict[str, dict]:
    """Columns and types of history, forecast and fit tables."""
    import polars as pl

    return {name: {column: getattr(pl, kind) for column, kind in kinds.items()} for name, kinds in KINDS.items()}


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return schemas()["history"]
    raise AttributeError(name)


def point_name(source: str, rps: float, alpha: float, seed: int) -> str:
    """Name of a point's trace, as its file is called."""
    return f"{source}-{rps:g}-{alpha:g}-{seed}"


def points(settings: Settings) -> list[tuple[float, float, int]]:
    """(rps, alpha, seed) of every trace a run of this size needs."""
    grid = [(rps, alpha) for rps in settings.rps for alpha in settings.alpha]
    grid += [point for point in settings.points if tuple(point) not in grid]
    every = [(rps, alpha, seed) for rps, alpha in grid for seed in settings.seed_list]
    return every + ([(settings.large_rps, 0.5, settings.seed)] if settings.large else [])


def main(
    *,
    settings: Settings,
    out_traces: Path,
    out_history: Path,
    out_forecast: Path,
    out_costs: Path,
    out_fit: Path,
    data: Path | None = None,
) -> None:
    """Draw every trace, forecast the production rates by every method, fit step times to measured runs.

    Args:
        out_traces: folder of the request tables, one per point
        out_history: load of the days before (and of the day itself) per point, in windows of 60 s
        out_forecast: forecasts beside what came, per method
        out_costs: step times and starts in use, as JSON
        out_fit: errors of the fitted step models per run and request
        data: data root; without it the synthetic twins are used
    """
    import polars as pl

    from operators.warmserve import workload

    source = workload.sources(data, settings.seed)
    tables = schemas()
    histories = []
    for rps, alpha, seed in points(settings):
        requests, history = workload.make(source, settings, rps=rps, alpha=alpha, seed=seed)
        name = point_name(settings.source, rps, alpha, seed)
        schema = dict(requests.schema)
        stage.write_table(requests, out_traces / f"{name}.parquet", schema=schema, settings=settings, data=source.data)
        histories.append(history.select(pl.lit(name).alias("point"), pl.all(), data=pl.lit(source.data)))
    stage.write_table(pl.concat(histories), out_history, schema=tables["history"], settings=settings)
    stage.write_table(
        _forecasts(source, tables["forecast"]), out_forecast, schema=tables["forecast"], settings=settings
    )
    stage.write_table(_fits(settings, data, tables["fit"]), out_fit, schema=tables["fit"], settings=settings)
    with stage.atomic(out_costs) as temporary:
        temporary.write_text(_costs(settings))


def _forecasts(source, schema: dict) -> "pl.DataFrame":
    import polars as pl

    from operators.warmserve import errors_of_forecasts

    rows = errors_of_forecasts.rows(source.rates)
    names = ["model", "day", "window", "horizon", "method", "actual", "forecast"]
    kinds = {name: schema[name] for name in names}
    frame = pl.DataFrame(rows, schema=kinds, orient="row")
    return frame.with_columns(stat=pl.lit("rate"), data=pl.lit(source.data)).select(list(schema))


def _costs(settings: Settings) -> str:
    import json

    from operators.warmserve import catalogue

    return json.dumps(
        {cold: [vars(model) for model in catalogue.models(settings, cold)] for cold in settings.colds}, indent=1
    )


def _fits(settings: Settings, data: Path | None, schema: dict) -> "pl.DataFrame":
    """Errors of step models fitted to the measured runs (or their twins), whole and by halves; ci fits none."""
    import polars as pl

    rows = []
    if settings.profile != "ci":
        from operators.llm import calibrate

        measured, mark = _measured(data, settings.seed)
        for name, run in measured.items():
            whole = calibrate.fit(run)[1]
            halves = calibrate.half_split(run)
            pressure = run.kv_tokens is not None or run.data_parallel > 1
            for scored, report in (("all", whole), ("second half", halves[0]), ("first half", halves[1])):
                common = {
                    **{"run": name, "scored": scored, "pressure": pressure, "data": mark},
                    **{"fitted_on": {"all": "all", "second half": "first half"}.get(scored, "second half")},
                    **{key: getattr(report, key) for key in ("ttft_mean_err", "tpot_mean_err", "latency_mean_err")},
                    **{"ttft_corr": report.ttft_corr, "preemptions": report.preemptions},
                }
                residuals = report.residuals if scored == "all" else report.residuals[:0]
                rows.append(common)
                rows += [
                    common | {"request_id": one[0], "first_s": one[1], "first_err_s": one[3], "last_err_s": one[4]}
                    for one in residuals
                ]
    return pl.DataFrame(rows, schema=schema)


def _measured(data: Path | None, seed: int):
    from operators.lab import datasets
    from operators.llm import importers

    if datasets.present("vllm-measured", data):
        folder = Path(data) / "vllm-measured"
        return {run: importers.read_vllm_measured(folder, run) for run in importers.measured_runs(folder)}, "real"
    from operators.llm import twins_measured

    runs = ("RTXPRO6000_Llama-3.1-8B", "RTX4090_Llama-3.1-8B")
    return {run: twins_measured.measured(run, seed=seed) for run in runs}, "synthetic"


if __name__ == "__main__":
    stage.run(main)
