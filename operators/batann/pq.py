"""Product quantisation: each vector in `chunks` bytes, distances to a query from a table (spec 2.1).

Dimensions are cut into chunks as evenly as possible (the first d % chunks get one more); each chunk has 256 centroids
by Lloyd's algorithm. Our choice where the paper is silent: k-means++ starts (a tenth less error than random ones after
the same iterations), and an empty cluster takes half of the largest, as in faiss.
All sums have a fixed order (native/pq.h), so codes and tables are the same bits on every machine and implementation.
"""

from dataclasses import dataclass

import numpy as np

from operators.batann.core import core
from operators.batann.vectors import check_vectors

CENTROIDS = 256
BLOCK = 65_536
START = 4096  # points the starting centroids are drawn from


@dataclass(frozen=True)
class PQ:
    """`centroids (256, d)` float32; columns `offsets[c]:offsets[c + 1]` are chunk c."""

    centroids: np.ndarray
    offsets: np.ndarray

    @property
    def chunks(self) -> int:
        return len(self.offsets) - 1

    def encode(self, x: np.ndarray, *, threads: int = 1, implementation: str | None = None) -> np.ndarray:
        """Codes `(n, chunks)` uint8 of vectors `(n, d)`."""
        check_vectors(x)
        self._check_width(x)
        codes = np.empty((len(x), self.chunks), np.uint8)
        for at in range(0, len(x), BLOCK):
            rows = np.ascontiguousarray(x[at : at + BLOCK], np.float32)
            core(implementation).pq_encode(self.centroids, self.offsets, rows, threads, codes[at : at + BLOCK])
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The vectors `(n, d)` float32 that codes stand for."""
        columns = np.repeat(np.arange(self.chunks), np.diff(self.offsets))
        return self.centroids[codes[:, columns], np.arange(self.centroids.shape[1])]

    def lut(self, query: np.ndarray, *, implementation: str | None = None) -> np.ndarray:
        """Squared distances `(chunks, 256)` float32 of one query's chunks to all centroids."""
        query = np.ascontiguousarray(query, np.float32).reshape(-1)
        self._check_width(query[None])
        out = np.empty((self.chunks, CENTROIDS), np.float32)
        core(implementation).pq_lut(self.centroids, self.offsets, query, True, out)
        return out

    def distances(self, query: np.ndarray, codes: np.ndarray, *, implementation: str | None = None) -> np.ndarray:
        """Asymmetric squared distances `(n,)` float32 of one query to codes `(n, chunks)`."""
        out = np.empty(len(codes), np.float32)
        table = self.lut(query, implementation=implementation)
        core(implementation).pq_distances(table, np.ascontiguousarray(codes), out)
        return out

    def _check_width(self, x: np.ndarray) -> None:
        if x.shape[1] != self.centroids.shape[1]:
            raise ValueError(f"x: {x.shape[1]} dimensions; expected the codebook's {self.centroids.shape[1]}")


def chunk_offsets(d: int, chunks: int) -> np.ndarray:
    """Where chunks begin, `(chunks + 1,)` int32: the first d % chunks are one dimension wider."""
    if not 1 <= chunks <= d:
        raise ValueError(f"chunks (={chunks}): expected 1 to the dimension (={d})")
    widths = np.full(chunks, d // chunks)
    widths[: d % chunks] += 1
    return np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)


def train_pq(
    x: np.ndarray,
    chunks: int = 32,
    bits: int = 8,
    sample: int = 65_536,
    iters: int = 12,
    seed: int = 0,
    *,
    threads: int = 1,
    implementation: str | None = None,
) -> PQ:
    """Train a codebook on at most `sample` vectors of `x (n, d)`.

    The result does not depend on `threads`: a chunk is one thread's work.
    """
    from concurrent.futures import ThreadPoolExecutor

    check_vectors(x)
    if bits != 8:
        raise ValueError(f"bits (={bits}): expected 8; a code is one byte")
    if sample < 1 or iters < 1:
        raise ValueError(f"sample (={sample}), iters (={iters}): each must be >= 1")
    offsets = chunk_offsets(x.shape[1], chunks)
    rng = np.random.default_rng([seed, 2])
    chosen = np.sort(rng.permutation(len(x))[:sample]) if len(x) > sample else np.arange(len(x))
    rows = x[chosen].astype(np.float32)
    pick = rng.permutation(len(rows))
    centroids = np.empty((CENTROIDS, x.shape[1]), np.float32)

    def train(chunk: int) -> None:
        begin, end = offsets[chunk], offsets[chunk + 1]
        part = np.ascontiguousarray(rows[:, begin:end])
        start = _spread(part, pick, np.random.default_rng([seed, 9, chunk]))
        core(implementation).kmeans_chunk(part, iters, start)
        centroids[:, begin:end] = start

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(train, range(chunks)))
    return PQ(centroids, offsets)


def _spread(part: np.ndarray, pick: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """256 starting centroids by k-means++ on the first START points of `pick`: each next one drawn by its squared
    distance to the nearest so far. Where fewer points differ they are repeated.
    """
    some = part[pick[:START]].astype(np.float64)
    chosen, near = [0], np.full(len(some), np.inf)
    draws = rng.random(CENTROIDS)
    for draw in draws[1:]:
        near = np.minimum(near, ((some - some[chosen[-1]]) ** 2).sum(axis=1))
        sums = np.cumsum(near)
        if not sums[-1]:
            break
        chosen.append(min(int(np.searchsorted(sums, draw * sums[-1], side="right")), len(some) - 1))
    return np.ascontiguousarray(np.resize(some[chosen], (CENTROIDS, part.shape[1])), np.float32)
