"""Stage, and the user's command: build an index from a file of vectors, or verify one.

    python -m operators.batann.index --base vectors.fbin --dir my-index --servers 10 --threads 4
    python -m operators.batann.index --verify my-index/layout_gp_10

A build that was interrupted goes on where it stopped when it is started again with the same input.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.batann.settings import Settings
from operators.lab import stage

if TYPE_CHECKING:
    from operators.batann.build import Build
    from operators.batann.metric import Stored

log = logging.getLogger("batann.index")
CHECKED_L = (20, 40)


def _schema() -> dict:
    import polars as pl

    return {
        "step": pl.String,
        "method": pl.String,
        "servers": pl.Int32,
        "n": pl.Int64,
        "R": pl.Int32,
        "L": pl.Int32,
        "alpha": pl.Float64,
        "cpu_s": pl.Float64,
        "wall_s": pl.Float64,
        "reused": pl.Boolean,
        "recall": pl.Float64,  # of the search in memory, steps recall_L20 and recall_L40
        "largest": pl.Float64,  # largest block over n / servers, partitions only
        "cut": pl.Float64,  # share of neighbour pairs in different blocks, partitions only
        "bytes": pl.Int64,  # of the folder, layouts and shards only
        "data": pl.String,
    }


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return _schema()
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    base: Path | None = None,
    dir: Path | None = None,
    out: Path | None = None,
    query: Path | None = None,
    truth: Path | None = None,
    servers: list[int] | None = None,
    methods: list[str] | None = None,
    shards: bool = False,
    verify: Path | None = None,
) -> None:
    """Build graph, codes, head, partitions and index folders; or, with --verify, check one folder to the sector.

    Args:
        base: vectors: u8bin, i8bin, fbin, fvecs, bvecs, npy or parquet
        dir: folder of the index; finished steps in it are kept and used again
        out: table of steps with their times (default: build.parquet in the folder)
        query: queries, for a check of the graph's recall
        truth: exact neighbours of the queries (of the trace stage, or ibin)
        servers: numbers of servers to lay out for (default: of the settings)
        methods: gp, kmeans, random, kaminpar, metis (default: of the settings)
        shards: also build scatter-gather's own indexes, a graph a server
        verify: index folder to check; nothing is built
    """
    if verify is not None:
        return _verify(verify)
    if base is None or dir is None:
        raise ValueError("--base and --dir: both are needed to build an index (or --verify DIR to check one)")
    from operators.batann.build import Build
    from operators.batann.metric import stored
    from operators.batann.vectors import read_vectors

    numbers, names = tuple(servers or settings.servers), tuple(methods or settings.methods)
    _check_partitions(numbers, names)
    data = stored(read_vectors(base), settings.metric)
    settings = _fitting(data, settings)
    build = Build(dir, data, settings, int(os.environ.get("OMP_NUM_THREADS", "1")))
    rows = _partitions(build, numbers, names, shards)
    mark = "real"
    if query and truth:
        checks, mark = _recall(build, query, truth)
        rows += checks
    _write(rows, build, mark, settings, out or dir / "build.parquet")
    return None


def _check_partitions(servers: tuple[int, ...], methods: tuple[str, ...]) -> None:
    """ValueError for numbers of servers or methods there are not, before anything is read."""
    from typing import get_args

    from operators.batann.settings import MOST_SERVERS, Method

    for count in servers:
        if not 1 <= count <= MOST_SERVERS:
            raise ValueError(f"servers (={count}): expected 1 to {MOST_SERVERS}")
    for method in methods:
        if method not in get_args(Method):
            raise ValueError(f"methods (={method!r}): expected some of {', '.join(get_args(Method))}")


def _fitting(data: "Stored", settings: Settings) -> Settings:
    """Settings that can index these vectors, before anything is built; ValueError where they cannot.

    Below 32 dimensions the default of `pq_chunks` becomes one a dimension; any other number is the user's own.
    """
    from operators.batann.layout import record_bytes

    d = data.vectors.shape[1]
    record_bytes(d, data.dtype, settings.R)
    if settings.pq_chunks <= d:
        return settings
    if settings.pq_chunks != Settings.model_fields["pq_chunks"].default:
        raise ValueError(
            f"pq_chunks (={settings.pq_chunks}): expected 1 to the dimension (={d}), as in --set pq_chunks={d}"
        )
    log.info("pq_chunks: %d, one a dimension, in place of the default %d", d, settings.pq_chunks)
    return settings.with_values([f"pq_chunks={d}"])


def _verify(folder: Path) -> None:
    from operators.batann.verify import verify_index

    found = verify_index(folder)
    for damage in found:
        print(damage)
    if found:
        raise ValueError(f"{folder}: {len(found)} damaged places; build the index again")
    print(f"{folder}: every sector and file is as it was written")


def _partitions(
    build: "Build", servers: tuple[int, ...], methods: tuple[str, ...], scatter: bool
) -> list[dict[str, Any]]:
    """Lay out every method and number of servers; rows of all steps. One server needs no method: the first one's."""
    import numpy as np

    from operators.batann.graph_partition import cut, symmetrised

    build.layout(methods[0], 1)  # the steps everything shares come first in the table
    starts, ends = symmetrised(build.knn())
    extra: dict[str, dict[str, Any]] = {}
    for method in methods:
        for parts in servers:
            if parts == 1:
                continue
            part = build.partition(method, parts)
            largest = float(np.bincount(part, minlength=parts).max() * parts / len(part))
            marks = {"method": method, "servers": parts}
            share = cut(starts, ends, part) / max(1, len(ends) // 2)
            extra[f"partition_{method}_{parts}"] = {**marks, "largest": largest, "cut": share}
            build.layout(method, parts)
            if scatter and method == methods[0]:
                build.shards(method, parts)
    rows = [{**step, **extra.get(step["step"], {})} for step in build.steps]
    for row in rows:
        folder = build.dir / row["step"]
        if folder.is_dir():
            row["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return rows


def _recall(build: "Build", query: Path, truth: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows with the graph's recall in memory at two beams: the check that the build is sound."""
    from operators.batann import trace
    from operators.batann.memory_search import MemoryIndex
    from operators.batann.metric import prepare_queries
    from operators.batann.truth import recall
    from operators.batann.vectors import read_truth, read_vectors

    if truth.suffix == ".parquet":
        ids, _, mark = trace.read_truth(truth)
    else:
        (ids, _), mark = read_truth(truth), "real"
    index = MemoryIndex(build.x, build.graph())
    queries = prepare_queries(read_vectors(query), build.data)[: len(ids)]
    rows = []
    for beam in CHECKED_L:
        k = min(ids.shape[1], beam)
        found = recall(index.search(queries, k, beam).ids, ids[:, :k])
        rows.append({"step": f"recall_L{beam}", "L": beam, "recall": found})
    return rows, mark


def _write(rows: list[dict[str, Any]], build: "Build", mark: str, settings: Settings, out: Path) -> None:
    import polars as pl

    schema = _schema()
    common = {"n": len(build.x), "R": settings.R, "L": settings.L_build, "alpha": settings.alpha, "data": mark}
    frame = pl.DataFrame([{name: (common | row).get(name) for name in schema} for row in rows], schema=schema)
    frame = frame.with_columns(pl.col("method").fill_null(""), pl.col("servers").fill_null(0))
    stage.write_table(frame, out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
