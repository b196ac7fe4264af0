"""Stage `bench`: every performance bar beside its peer, measured in this run, interleaved."""

from pathlib import Path
from typing import Any

from operators.lab import peers, stage
from operators.synthpix.settings import Settings

RATES = {"policy": "String", "case": "String", "unit": "String", "repeat": "Int64", "rate": "Float64", "data": "String"}


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        return peers.schema()
    raise AttributeError(name)


def main(*, settings: Settings, out: Path, out_rates: Path) -> None:
    """Measure ours and every peer that is installed; a missing peer gives a row `not measured`.

    Args:
        out: table of comparisons; ratio above 1 means ours is better, bar is the least ratio that passes
        out_rates: every single rate (runs/rates.parquet)
    """
    import polars as pl

    from operators.synthpix import bench_rates, bench_system

    found = {(case, tool): (samples, why) for case, tool, samples, why in bench_rates.rates(settings)}
    rows = bench_rates.rows(found) + bench_system.rows(settings)
    schema = peers.schema()
    frame = pl.DataFrame([{name: item.get(name) for name in schema} for item in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings)
    single = [
        {"policy": tool, "case": case, "unit": unit, "repeat": k, "rate": rate, "data": "synthetic"}
        for (case, tool), (samples, _) in found.items()
        for unit, values in ((bench_rates.RATE, samples.core), (bench_rates.WALL, samples.wall))
        for k, rate in enumerate(values)
    ]
    kinds = {column: getattr(pl, kind) for column, kind in RATES.items()}
    stage.write_table(pl.DataFrame(single, schema=kinds), out_rates, schema=kinds, settings=settings)


if __name__ == "__main__":
    stage.run(main)
