"""Stage: the vectors of the run, its queries and their exact neighbours, real where there is data, else the twin."""

from pathlib import Path

from operators.batann.settings import Settings
from operators.lab import stage


def _schemas() -> tuple[dict, dict]:
    import polars as pl

    truth = {"query": pl.Int32, "rank": pl.Int16, "id": pl.UInt32, "dist": pl.Float32}
    figures = ("mean", "zeros", "norm", "median", "p99", "lid_20", "lid_100", "nn_1", "nn_10", "nn_100", "random_pair")
    stats = {"data": pl.String, "n": pl.Int64, "d": pl.Int32, "queries": pl.Int64, **dict.fromkeys(figures, pl.Float64)}
    return truth, stats


def __getattr__(name: str) -> dict:
    if name in ("SCHEMA", "STATS_SCHEMA"):
        return _schemas()[name == "STATS_SCHEMA"]
    raise AttributeError(name)


def main(
    *, settings: Settings, out_base: Path, out_query: Path, out_truth: Path, out_stats: Path, data: Path | None = None
) -> None:
    """Write the run's vectors, queries, exact neighbours and what is known of the set.

    Args:
        out_base: vectors, u8bin
        out_query: queries, u8bin
        out_truth: table of exact neighbours; its stamp says whether the data are real or synthetic
        out_stats: one row of statistics: dimension, distances, zeros
        data: data root; without it the synthetic twin is used
    """
    import numpy as np
    import polars as pl

    from operators.batann import sift
    from operators.batann.truth import statistics
    from operators.batann.vectors import write_bin

    sift.needs(max(settings.n, *settings.extrapolation.tiers), data)  # not after half an hour, in stage tiers
    found = sift.load(settings.n, settings.queries, settings.truth_k, root=data, seed=settings.seed)
    write_bin(out_base, found.base)
    write_bin(out_query, found.queries)
    count, k = found.truth_ids.shape
    truth = pl.DataFrame(
        {
            "query": np.repeat(np.arange(count, dtype=np.int32), k),
            "rank": np.tile(np.arange(k, dtype=np.int16), count),
            "id": found.truth_ids.ravel(),
            "dist": found.truth_dists.ravel(),
        }
    )
    truth_schema, stats_schema = _schemas()
    stage.write_table(truth, out_truth, schema=truth_schema, settings=settings, data=found.mark)
    row = {"data": found.mark, "n": len(found.base), "d": found.base.shape[1], "queries": count}
    row |= statistics(found.base, seed=settings.seed)
    stage.write_table(pl.DataFrame([row], schema=stats_schema), out_stats, schema=stats_schema, settings=settings)


def read_truth(path: Path) -> tuple:
    """Ids and squared distances `(nq, k)` of a table this stage wrote, and its mark: `real` or `synthetic`."""
    frame = stage.read_table(path, _schemas()[0]).sort("query", "rank")
    k = int(frame["rank"].max()) + 1
    return (
        frame["id"].to_numpy().reshape(-1, k),
        frame["dist"].to_numpy().reshape(-1, k),
        stage.read_stamp(path)["data"],
    )


if __name__ == "__main__":
    stage.run(main)
