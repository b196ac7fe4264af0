"""Best-first search of a graph held in memory: the single-machine yardstick, the head index, and the builder's check.

What is not here: product quantisation, disks and servers (the serving half). Exact distances throughout.
"""

from dataclasses import dataclass

import numpy as np

from operators.batann.core import core
from operators.batann.vamana import Graph
from operators.batann.vectors import check_queries


@dataclass(frozen=True)
class MemoryResult:
    """`ids (nq, k)` uint32 and `dists (nq, k)` float32 ascending, `hops` and `distances (nq,)` uint32: work done."""

    ids: np.ndarray
    dists: np.ndarray
    hops: np.ndarray
    distances: np.ndarray


class MemoryIndex:
    """Vectors `(n, d)` and their graph, checked once and searched many times."""

    def __init__(self, x: np.ndarray, graph: Graph, *, implementation: str | None = None):
        self.x, self.graph = np.ascontiguousarray(x), graph
        self._searcher = core(implementation).Searcher(
            self.x, np.ascontiguousarray(graph.adj), np.ascontiguousarray(graph.deg)
        )

    def search(
        self, queries: np.ndarray, k: int = 10, L: int = 40, *, starts: np.ndarray | None = None, threads: int = 1
    ) -> MemoryResult:
        """The k nearest found with a beam of L.

        `starts`: nodes to begin at, `(m,)` for all queries or `(nq, m)`; default the medoid. Where fewer than k are
        found ids are 2**32 - 1 and distances inf.
        """
        queries = check_queries(queries, self.x.shape[1], self.x.dtype)
        check_beam(k, L)
        starts = np.atleast_2d(np.asarray(self.graph.medoid if starts is None else starts)).astype(np.uint32)
        count = len(queries)
        ids, dists = np.empty((count, k), np.uint32), np.empty((count, k), np.float32)
        hops, counted = np.empty(count, np.uint32), np.empty(count, np.uint32)
        self._searcher.search(queries, np.ascontiguousarray(starts), L, threads, ids, dists, hops, counted)
        return MemoryResult(ids, dists, hops, counted)


def search_memory(
    x: np.ndarray, graph: Graph, queries: np.ndarray, k: int = 10, L: int = 40, *, threads: int = 1
) -> MemoryResult:
    """`MemoryIndex(x, graph).search(...)` in one call."""
    return MemoryIndex(x, graph).search(queries, k, L, threads=threads)


def check_beam(k: int, L: int) -> None:
    """ValueError unless 1 <= k <= L."""
    if k < 1:
        raise ValueError(f"k (={k}): must be >= 1")
    if k > L:
        raise ValueError(f"L (={L}): must be >= k (={k}); the answers are the first k of the beam")
