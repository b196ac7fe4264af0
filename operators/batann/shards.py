"""Scatter-gather's indexes: the same partition, but each block with its own graph, codebook and head (spec 2.1).

A shard is an index folder of one partition whose `ids.u32` gives the global id of each of its vectors. A shard that is
there and was made from the same input is kept, so an interrupted build goes on where it stopped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from operators.batann.head import build_head
from operators.batann.layout import IndexCorrupt, read_meta, write_index
from operators.batann.pq import train_pq
from operators.batann.vamana import build_vamana, fingerprint
from operators.batann.vectors import check_vectors


def shard_name(shard: int) -> str:
    return f"shard-{shard:02d}"


def write_shards(
    dir: Path | str,
    x: np.ndarray,
    part: np.ndarray,
    *,
    R: int = 64,
    L: int = 128,
    alpha: float = 1.2,
    chunks: int = 32,
    sample: int = 65_536,
    iters: int = 12,
    head_fraction: float = 0.01,
    head_R: int = 32,
    head_L: int = 64,
    seed: int = 0,
    threads: int = 1,
    metric: str = "l2",
    dim_in: int | None = None,
    scale: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Build a full index of each block of `part (n,)` under `dir/shard-NN`; returns the folders.

    `x (n, d)` as compared inside (metric.stored). Raises ValueError when a block is empty.
    """
    check_vectors(x)
    sizes = np.bincount(part)
    if not sizes.all():
        raise ValueError(f"part: block {int(np.argmin(sizes))} is empty; a shard needs at least one vector")
    options = (R, L, alpha, chunks, sample, iters, head_fraction, head_R, head_L, seed, metric, dim_in, scale)
    folders = []
    for shard in range(len(sizes)):
        ids = np.flatnonzero(part == shard).astype(np.uint32)
        mine = np.ascontiguousarray(x[ids])
        folder = Path(dir) / shard_name(shard)
        key = fingerprint(mine, fingerprint(ids[:, None]), *options)
        if not made_from(folder, key):
            pq = train_pq(mine, chunks, sample=sample, iters=iters, seed=seed, threads=threads)
            write_index(
                folder,
                mine,
                build_vamana(mine, R, L, alpha, seed, threads),
                pq,
                pq.encode(mine, threads=threads),
                np.zeros(len(mine), np.uint8),
                build_head(mine, head_fraction, head_R, head_L, alpha, seed),
                metric=metric,
                ids=ids,
                dim_in=dim_in,
                scale=scale,
                extra={"made_from": key, "shard": shard, "shards": len(sizes)},
            )
        folders.append(folder)
        if progress:
            progress(shard + 1, len(sizes))
    return folders


def made_from(folder: Path, key: str) -> bool:
    """Whether a sound index made from the input `key` lies in `folder` (sizes and meta.json are checked)."""
    try:
        meta: Any = read_meta(folder)
    except IndexCorrupt:
        return False
    if meta.extra.get("made_from") != key:
        return False
    files = ((folder / name, size) for name, (size, _) in meta.files.items())
    return all(path.is_file() and path.stat().st_size == size for path, size in files)
