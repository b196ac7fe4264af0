"""Vamana graphs (spec 2.1): one pass, robust prune with alpha, reverse edges, everything reachable from the medoid.

Points are inserted in a seeded random order in batches (doubling, then 0.5 % of n); a batch is searched on the frozen
graph and its reverse edges are applied target by target, so the graph depends on the seed and not on threads.

Departures from the textbook: lists may grow to 1.3 R between prunes (as DiskANN's code does) and are cut to R at the
end; a node that nobody reaches gets an edge from its nearest reachable neighbour. The inner loops are core.py's.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from operators.batann.core import core
from operators.batann.vectors import check_vectors

NOBODY = np.uint32(2**32 - 1)
SLACK = 1.3
BATCH_SHARE = 0.005
CHECKPOINT_S = 10.0
log = logging.getLogger("batann.vamana")


@dataclass(frozen=True)
class Graph:
    """Directed graph: `adj (n, R)` uint32 padded with 2**32 - 1, `deg (n,)` uint16, the entry node `medoid`."""

    adj: np.ndarray
    deg: np.ndarray
    medoid: int

    def validate(self) -> None:
        """Degrees within R, ids are nodes, no self-loops, no double edges, all reachable from the medoid."""
        n, width = self.adj.shape
        if self.adj.dtype != np.uint32 or self.deg.dtype != np.uint16 or self.deg.shape != (n,):
            raise ValueError(
                f"graph: adj {self.adj.dtype} and deg {self.deg.dtype} {self.deg.shape}; expected uint32, uint16"
            )
        if not 0 <= self.medoid < n:
            raise ValueError(f"graph: medoid (={self.medoid}); expected a node below {n}")
        if (self.deg > width).any():
            raise ValueError(f"graph: a node has {self.deg.max()} edges; expected at most R (={width})")
        used = np.arange(width) < self.deg[:, None]
        if (self.adj[used] >= n).any():
            raise ValueError(f"graph: an edge ends at {self.adj[used].max()}; expected nodes below {n}")
        ends = np.sort(np.where(used, self.adj, NOBODY), axis=1)
        if ((ends[:, 1:] == ends[:, :-1]) & (ends[:, 1:] != NOBODY)).any():
            raise ValueError("graph: a node has the same edge twice")
        if (used & (self.adj == np.arange(n, dtype=np.uint32)[:, None])).any():
            raise ValueError("graph: a node has an edge to itself")
        lost = n - int(reachable(self).sum())
        if lost:
            raise ValueError(f"graph: {lost} nodes cannot be reached from the medoid")


def reachable(graph: Graph) -> np.ndarray:
    """Which nodes `(n,)` bool a walk from the medoid can reach."""
    seen = np.zeros(len(graph.deg), bool)
    seen[graph.medoid] = True
    front = np.array([graph.medoid])
    while len(front):
        lists = graph.adj[front]
        ends = np.unique(lists[np.arange(lists.shape[1]) < graph.deg[front][:, None]])
        front = ends[~seen[ends]]
        seen[front] = True
    return seen


def build_vamana(
    x: np.ndarray,
    R: int = 64,
    L: int = 128,
    alpha: float = 1.2,
    seed: int = 0,
    threads: int = 2,
    metric: str = "l2",
    progress: Callable[[int, int], None] | None = None,
    *,
    checkpoint: Path | None = None,
    implementation: str | None = None,
) -> Graph:
    """Build the Vamana graph of `x (n, d)` uint8, int8 or float32.

    Args:
        R: most edges of a node
        L: beam entries of the searches
        alpha: factor on squared distances in the prune; more means longer edges and fewer hops
        progress: called with (inserted, n) after every batch
        checkpoint: file in which the unfinished graph is kept every ten seconds, and from which a build of the same
            input goes on; removed at the end
        implementation: `native` or `numba`

    Raises ValueError naming the argument, its value and what was expected.
    """
    check_vectors(x)
    if not 1 <= R <= 256:
        raise ValueError(f"R (={R}): expected 1 to 256 edges a node")
    if L < 1 or threads < 1 or not alpha >= 1:
        raise ValueError(f"L (={L}), threads (={threads}), alpha (={alpha}): each must be >= 1")
    if metric != "l2":
        from operators.batann.metric import stored

        x = stored(x, metric).vectors
    x = np.ascontiguousarray(x)
    use, n = core(implementation), len(x)
    medoid = medoid_of(x)
    order = np.random.default_rng([seed, 1]).permutation(n).astype(np.uint32)
    order = np.ascontiguousarray(order[order != medoid])
    kept = Checkpoint(checkpoint, fingerprint(x, R, L, alpha, seed)) if checkpoint else None
    adj, deg, done = kept.read() if kept and kept.there() else _empty(n, R)
    for start, end in _batches(done, len(order), n):
        use.insert_batch(x, adj, deg, medoid, order[start:end], R, L, alpha, threads)
        if progress:
            progress(end + 1, n)
        if kept and end < len(order):
            kept.maybe_write(adj, deg, end)
    use.trim(x, adj, deg, R, alpha, threads)
    given = use.connect(x, adj, deg, medoid, R, L)
    if given:
        log.info("%d nodes were out of reach and got an edge", given)
    if kept:
        kept.remove()
    adj = np.ascontiguousarray(adj[:, :R])
    adj[np.arange(R) >= deg[:, None]] = NOBODY
    return Graph(adj, deg, medoid)


def medoid_of(x: np.ndarray) -> int:
    """The vector nearest the mean of all; ties to the smaller id."""
    blocks = range(0, len(x), 65_536)
    mean = sum(x[at : at + 65_536].sum(axis=0, dtype=np.float64) for at in blocks) / len(x)
    return int(np.argmin(np.concatenate([((x[at : at + 65_536] - mean) ** 2).sum(axis=1) for at in blocks])))


def _empty(n: int, R: int) -> tuple[np.ndarray, np.ndarray, int]:
    return np.full((n, int(SLACK * R)), NOBODY, np.uint32), np.zeros(n, np.uint16), 0


def _batches(done: int, count: int, n: int) -> Iterator[tuple[int, int]]:
    """Where batches begin and end: each as large as all before it, at most BATCH_SHARE of n."""
    most = max(1, int(BATCH_SHARE * n))
    while done < count:
        end = min(count, done + min(most, done + 1))
        yield done, end
        done = end


def fingerprint(x: np.ndarray, *values: object) -> str:
    """Sixteen hex digits of an array's shape, type and bytes and of some values."""
    digest = hashlib.sha256(repr((x.shape, x.dtype.str, *values)).encode())
    digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()[:16]


class Checkpoint:
    """The unfinished graph in a file; one of other input or of a damaged file is ignored."""

    def __init__(self, path: Path, key: str):
        self.path, self.key, self._last = Path(path), key, monotonic()
        self._found: tuple[np.ndarray, np.ndarray, int] | None = None

    def there(self) -> bool:
        try:
            with np.load(self.path) as file:
                if str(file["key"]) != self.key:
                    return False
                self._found = file["adj"], file["deg"], int(file["done"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        log.info("going on with the graph in %s: %d nodes are inserted", self.path.name, self._found[2])
        return True

    def read(self) -> tuple[np.ndarray, np.ndarray, int]:
        return self._found

    def maybe_write(self, adj: np.ndarray, deg: np.ndarray, done: int) -> None:
        if monotonic() - self._last < CHECKPOINT_S:
            return
        self.write(adj, deg, done)

    def write(self, adj: np.ndarray, deg: np.ndarray, done: int) -> None:
        temporary = self.path.with_name(f".{self.path.name}.part")
        with open(temporary, "wb") as file:
            np.savez(file, key=self.key, adj=adj, deg=deg, done=done)
        os.replace(temporary, self.path)
        self._last = monotonic()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
