"""The head index: an in-memory Vamana on a uniform 1 % sample, held by every server, that starts a search.

Its hits are vectors of the whole set (`ids`), measured exactly here and re-scored with PQ by the search (spec 2.1).
"""

from dataclasses import dataclass

import numpy as np

from operators.batann.memory_search import MemoryIndex
from operators.batann.vamana import NOBODY, Graph, build_vamana
from operators.batann.vectors import check_vectors


@dataclass(frozen=True)
class Head:
    """`ids (h,)` uint32 ascending, the graph over them and their vectors `(h, d)`; h = 0 means there is no head."""

    ids: np.ndarray
    graph: Graph
    vectors: np.ndarray

    def search(self, queries: np.ndarray, k: int, L: int) -> np.ndarray:
        """Ids `(nq, k)` uint32 of the k nearest of the sample, padded with 2**32 - 1."""
        if not len(self.ids):
            return np.full((len(queries), k), NOBODY, np.uint32)
        found = MemoryIndex(self.vectors, self.graph).search(queries, k, max(k, L)).ids
        return np.where(found == NOBODY, NOBODY, self.ids[np.minimum(found, len(self.ids) - 1)])


def build_head(
    x: np.ndarray,
    fraction: float = 0.01,
    R: int = 32,
    L: int = 64,
    alpha: float = 1.2,
    seed: int = 0,
    *,
    implementation: str | None = None,
) -> Head:
    """Sample `fraction` of `x (n, d)` (at least one vector; none for fraction 0) and build its graph."""
    check_vectors(x)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction (={fraction}): expected 0 to 1")
    if fraction == 0:
        return Head(np.empty(0, np.uint32), Graph(np.empty((0, R), np.uint32), np.empty(0, np.uint16), 0), x[:0])
    count = max(1, round(fraction * len(x)))
    ids = np.sort(np.random.default_rng([seed, 4]).permutation(len(x))[:count]).astype(np.uint32)
    vectors = np.ascontiguousarray(x[ids])
    graph = build_vamana(vectors, R, L, alpha, seed, threads=1, implementation=implementation)
    return Head(ids, graph, vectors)
