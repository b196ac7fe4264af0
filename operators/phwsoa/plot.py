"""Stage `plot`: the figures, each with the plotted table beside it."""

from pathlib import Path

from operators.lab import stage
from operators.phwsoa.settings import Settings


def main(
    *, settings: Settings, measures: Path, bounds: Path, instances: Path, vms: Path, fronts: list[Path],
    history: list[Path], timings: list[Path], ablation: Path, variants: Path, executed: Path,
    out_folder: Path,
) -> None:  # fmt: skip
    """Draw gaps, fronts, convergence, ablation, loads, start populations and the executed plan.

    Args:
        measures: measures.parquet (evaluate)
        bounds: bounds and LP fronts (trace)
        instances: tasks (trace)
        vms: machines (trace)
        fronts: points of every front (simulate)
        history: best values by generation (simulate)
        timings: seconds by generation (simulate)
        ablation: the ablation (ablate)
        variants: billing, rigid tasks, balance (ablate)
        executed: the executed plan (execute_plan)
        out_folder: folder of the figures
    """
    import polars as pl

    from operators.lab import figures
    from operators.phwsoa import charts, tables

    table, low = stage.read_table(measures), stage.read_table(bounds)
    points = pl.concat([stage.read_table(path) for path in fronts])
    rows, seconds = (pl.concat([stage.read_table(path) for path in paths]) for paths in (history, timings))
    keys, made = tables.instances(instances, vms)[0]
    drawn = {
        "gaps": charts.gaps(table),
        "front": charts.front(points, low),
        "convergence": charts.convergence(rows, seconds, low),
        "ablation": charts.ablation(stage.read_table(ablation)),
        "variants": charts.variants(stage.read_table(variants)),
        "loads": charts.loads(made, _shortest(points, keys, made), float(low["lb"][0]), keys),
        "start": charts.start(made, settings.pop, settings.seed),
        "executed": charts.executed(stage.read_table(executed)),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


def _shortest(points, keys: dict, made) -> dict:
    """The schedule of least makespan of each method shown."""
    import numpy as np
    import polars as pl

    found = {}
    here = points.filter((pl.col("log") == keys["log"]) & (pl.col("n") == keys["n"]))
    for name in ("round_robin", "lpt", "woa", "phwsoa", "phwsoa_h"):
        rows = here.filter(pl.col("method") == name).sort("f1")
        if len(rows):
            found[name] = np.frombuffer(rows["assign"][0], made.gene_type).astype(np.int64)
    return found


if __name__ == "__main__":
    stage.run(main)
