"""Stage: raw runs to accuracy, coverage, crossover, fragmentation and measures; with --advise, advice for one trace."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.odma.settings import Settings

NEEDED = ("predictions", "split", "predictor", "traces", "measured", "samples", "alloc")


def _measures_schema() -> dict[str, Any]:
    import polars as pl

    from operators.odma import comparisons, simulate

    kinds = simulate.MEASURED_SCHEMA
    return kinds | {f"{name}_gain": pl.Float64 for name in comparisons.UTILISATIONS}


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return _measures_schema()
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    predictions: Path | None = None,
    split: Path | None = None,
    predictor: Path | None = None,
    traces: Path | None = None,
    measured: list[Path] | None = None,
    samples: list[Path] | None = None,
    alloc: list[Path] | None = None,
    out_measures: Path | None = None,
    out_accuracy: Path | None = None,
    out_coverage: Path | None = None,
    out_crossover: Path | None = None,
    out_fragmentation: Path | None = None,
    advise: Path | None = None,
) -> None:
    """Judge predictors and policies from the raw runs, or advise on a trace of your own.

    Args:
        predictions: predictions of the tested prompts (trace)
        split: who trained, with lengths (trace)
        predictor: folder of trained predictors (trace)
        traces: folder of traces (trace)
        measured: measures of each policy (simulate)
        samples: samples of each policy (simulate)
        alloc: allocation logs (simulate)
        out_measures: measures.parquet
        out_accuracy: accuracy beside majority and ceiling
        out_coverage: coverage of unseen prompts, of drifting streams, of size classes
        out_crossover: alpha* for every load and length mix
        out_fragmentation: internal and external fragmentation, and whether logs replay
        advise: a Parquet table with input_tokens and output_tokens: print classes, level and pool for it, write nothing
    """
    if advise is not None:
        from operators.odma import advice

        print(advice.report(settings, advise))
        return
    given = {name: value for name, value in locals().items() if name in NEEDED or name.startswith("out_")}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(f"{missing[0]}: missing; give it, or --advise with a trace of your own")
    _judge(settings, given)


def _judge(settings: Settings, given: dict[str, Any]) -> None:
    import numpy as np
    import polars as pl

    from operators.odma import accuracy, buckets, comparisons, scenarios
    from operators.odma.predictor import LengthPredictor

    guessed, sides = stage.read_table(given["predictions"]), stage.read_table(given["split"])
    trained = {name: LengthPredictor.load(given["predictor"] / name) for name in scenarios.targets(settings)}
    column = settings.levels.index(settings.level)
    bounds = {}
    for name, one in trained.items():
        longest = settings.longest("hard" if name == "hard" else "alpaca")
        hist = buckets.histogram(np.clip(one.train_needs[:, column], 1, longest), longest)
        bounds[name] = buckets.optimal_buckets(hist, min(settings.classes, 8), settings.align, longest)
    lengths = {
        name: sides.filter((pl.col("target") == name) & (pl.col("split") == "train"))["length"].to_numpy()
        for name in trained
    }
    seeds = range(settings.seed, settings.seed + settings.seeds)
    table = comparisons.measures([stage.read_table(path) for path in given["measured"]])
    tables = {
        "out_measures": (table, _measures_schema()),
        "out_accuracy": (
            accuracy.accuracy(guessed, lengths, level=settings.level, seed=settings.seed),
            accuracy.ACCURACY,
        ),
        "out_coverage": (
            accuracy.coverage(guessed, trained, seeds=seeds, gamma=settings.gamma, window=settings.window,
                              boundaries=bounds, level=settings.level),
            accuracy.COVERAGE,
        ),
        "out_crossover": (comparisons.crossovers(settings, given["traces"], trained), comparisons.CROSSOVER),
        "out_fragmentation": (
            comparisons.fragmentation(settings, table, *([stage.read_table(path) for path in given[kind]]
                                                         for kind in ("samples", "alloc"))),
            comparisons.FRAGMENTATION,
        ),
    }  # fmt: skip
    for out, (frame, schema) in tables.items():
        stage.write_table(frame.select(list(schema)), given[out], schema=schema, settings=settings,
                          data=guessed["data"][0])  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
