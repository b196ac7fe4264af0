"""Graph partitioning back ends: our own multilevel partitioner (native/multilevel.h), KaMinPar and METIS if installed.

All take the neighbour graph symmetrised, without weights, and keep blocks within (1 + eps) n / S, or ceil(n / S) where
whole nodes do not allow that (spec 2.2).
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np

from operators.batann.core import core


def symmetrised(knn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CSR `starts (n + 1,)` int64 and `ends` int32 of the undirected graph of `knn (n, k)` (negative: no neighbour)."""
    n, k = knn.shape
    left = np.repeat(np.arange(n, dtype=np.int64), k)
    right = knn.ravel().astype(np.int64)
    kept = (right >= 0) & (right != left)
    left, right = left[kept], right[kept]
    pairs = np.unique(np.concatenate([left * n + right, right * n + left]))
    starts = np.searchsorted(pairs, np.arange(n + 1, dtype=np.int64) * n)
    return starts.astype(np.int64), (pairs % n).astype(np.int32)


def cut(starts: np.ndarray, ends: np.ndarray, part: np.ndarray) -> int:
    """Undirected edges between different blocks."""
    return int((np.repeat(part, np.diff(starts)) != part[ends]).sum()) // 2


def capacity(n: int, parts: int, eps: float) -> int:
    """The most nodes a block may have."""
    return max(-(-n // parts), int((1 + eps) * n / parts))


def own(starts: np.ndarray, ends: np.ndarray, parts: int, eps: float, seed: int, trials: int = 8) -> np.ndarray:
    """Blocks `(n,)` by our partitioner; ValueError where the native core is not built."""
    native = core()
    if not hasattr(native, "multilevel"):
        raise ValueError(
            "method (='gp'): the native core is not built; run `make native`, or use kmeans, random, kaminpar or metis"
        )
    part = np.empty(len(starts) - 1, np.int32)
    native.multilevel(starts, ends, parts, eps, seed, trials, part)
    return part


def kaminpar(starts: np.ndarray, ends: np.ndarray, parts: int, eps: float, seed: int) -> np.ndarray:
    """Blocks by KaMinPar's default context, the paper's choice; ValueError when the package is missing."""
    try:
        import kaminpar as library
    except ImportError:
        raise ValueError("method (='kaminpar'): package kaminpar is not installed (pip install kaminpar)") from None
    library.reseed(seed)
    with tempfile.TemporaryDirectory() as folder:  # the package takes graphs from files only
        path = Path(folder) / "graph.metis"
        write_metis(path, starts, ends)
        graph = library.load_graph(str(path), library.GraphFileFormat.METIS)
        solver = library.KaMinPar(num_threads=1, ctx=library.default_context())
        return np.asarray(solver.compute_partition(graph, k=parts, eps=eps), np.int32)


def write_metis(path: Path, starts: np.ndarray, ends: np.ndarray) -> None:
    """Write a graph as METIS text: node and edge counts, then a line of neighbours (from 1) for each node."""
    words = (ends + 1).astype(str).tolist()
    with open(path, "w") as file:
        file.write(f"{len(starts) - 1} {len(ends) // 2}\n")
        file.writelines(" ".join(words[a:b]) + "\n" for a, b in itertools.pairwise(starts))


def metis(starts: np.ndarray, ends: np.ndarray, parts: int, eps: float, seed: int) -> np.ndarray:
    """Blocks by METIS (k-way, ufactor = 1000 eps); ValueError when the package is missing."""
    try:
        import pymetis
    except ImportError:
        raise ValueError("method (='metis'): package pymetis is not installed (pip install pymetis)") from None
    options = pymetis.Options(ufactor=max(1, round(1000 * eps)), seed=seed)
    adjacency = pymetis.CSRAdjacency(starts.astype(np.int32), ends)
    return np.asarray(pymetis.part_graph(parts, adjacency, options=options, recursive=False).vertex_part, np.int32)
