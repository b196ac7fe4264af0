"""Which server holds which vector: a partition of the data into blocks of near-equal size (spec 2.2).

gp         the neighbour graph cut by our multilevel partitioner (the paper's GP uses KaMinPar for that step)
kaminpar, metis   the same graph cut by those packages, where installed
kmeans     balanced k-means: Lloyd, then points of over-full blocks move where that costs least
random     a seeded shuffle, dealt out evenly
"""

import numpy as np

from operators.batann import graph_partition as graphs
from operators.batann.knn import knn_graph
from operators.batann.layout import MOST_PARTS
from operators.batann.vectors import DTYPES, check_vectors

METHODS = ("gp", "kmeans", "random", "kaminpar", "metis")
SAMPLE = 20_000  # points k-means centres are found on
LLOYD, BALANCED = 15, 4
GRID = 1024.0  # centres are multiples of 1 / GRID: integer data then give exact, order-free products


def partition(
    x: np.ndarray, parts: int, method: str = "gp", eps: float = 0.05, seed: int = 0, *, threads: int = 1
) -> np.ndarray:
    """Block `(n,)` uint8 of each vector; no block above max(ceil(n / parts), (1 + eps) n / parts).

    `x`: vectors `(n, d)`, or their neighbour graph `(n, k)` int32 (knn.knn_graph), which saves making it. Raises
    ValueError for an unknown method, more than 256 parts, or kmeans on a graph.
    """
    if method not in METHODS:
        raise ValueError(f"method (={method!r}): expected one of {', '.join(METHODS)}")
    if not 1 <= parts <= MOST_PARTS:
        raise ValueError(f"parts (={parts}): expected 1 to {MOST_PARTS}; the map is one byte a vector")
    if eps < 0:
        raise ValueError(f"eps (={eps}): must be >= 0")
    is_graph = isinstance(x, np.ndarray) and x.dtype == np.int32 and x.ndim == 2
    if not is_graph:
        check_vectors(x)
    if parts == 1:
        return np.zeros(len(x), np.uint8)
    if method == "random":
        return random_blocks(len(x), parts, seed)
    if method == "kmeans":
        if is_graph:
            raise ValueError(f"x: a neighbour graph (int32); kmeans needs the vectors ({', '.join(map(str, DTYPES))})")
        return balanced_kmeans(x, parts, eps, seed)
    knn = x if is_graph else knn_graph(x, threads=threads)
    starts, ends = graphs.symmetrised(knn)
    cut = {"gp": graphs.own, "kaminpar": graphs.kaminpar, "metis": graphs.metis}[method]
    found = cut(starts, ends, parts, eps, seed)
    most = int(np.bincount(found, minlength=parts).max())
    if most > graphs.capacity(len(x), parts, eps):
        raise ValueError(
            f"method (={method!r}): a block of {most} nodes; expected at most {graphs.capacity(len(x), parts, eps)}"
        )
    return found.astype(np.uint8)


def random_blocks(n: int, parts: int, seed: int) -> np.ndarray:
    """Blocks of sizes that differ by at most one, in random order."""
    return np.random.default_rng([seed, 7]).permutation(np.arange(n) % parts).astype(np.uint8)


def balanced_kmeans(x: np.ndarray, parts: int, eps: float, seed: int) -> np.ndarray:
    """Blocks `(n,)` uint8 of balanced k-means: Lloyd on a sample, then rounds of balanced assignment of all."""
    n, most = len(x), graphs.capacity(len(x), parts, eps)
    rng = np.random.default_rng([seed, 8])
    sample = x[np.sort(rng.permutation(n)[:SAMPLE])].astype(np.float64)
    centres = _spread(sample, parts, rng)
    for _ in range(LLOYD):
        centres = _means(sample, _squared(sample, centres).argmin(axis=1), centres)
    best, least = None, np.inf
    for _ in range(BALANCED):
        dists = np.concatenate([_squared(x[at : at + SAMPLE], centres) for at in range(0, n, SAMPLE)])
        found = _balanced(dists, most)
        total = float(dists[np.arange(n), found].sum(dtype=np.float64))
        if total < least:
            best, least = found, total
        centres = _means(x, found, centres)
    return best.astype(np.uint8)


def _squared(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    rows = x.astype(np.float64)
    return ((rows * rows).sum(axis=1)[:, None] - 2 * rows @ centres.T + (centres * centres).sum(axis=1)).astype(
        np.float32
    )


def _spread(sample: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each next centre a point drawn by its squared distance to the nearest centre so far."""
    chosen = [int(rng.integers(len(sample)))]
    near = _squared(sample, sample[chosen])[:, 0]
    while len(chosen) < parts:
        sums = np.cumsum(np.maximum(near, 0), dtype=np.float64)
        at = int(np.searchsorted(sums, rng.random() * sums[-1])) if sums[-1] > 0 else int(rng.integers(len(sample)))
        chosen.append(min(at, len(sample) - 1))
        near = np.minimum(near, _squared(sample, sample[chosen[-1:]])[:, 0])
    return sample[chosen]


def _means(x: np.ndarray, found: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Means of the blocks, on the grid; an empty block keeps its centre."""
    out = centres.copy()
    for block in range(len(centres)):
        mine = x[found == block]
        if len(mine):
            out[block] = np.round(mine.mean(axis=0, dtype=np.float64) * GRID) / GRID
    return out


def _balanced(dists: np.ndarray, most: int) -> np.ndarray:
    """Nearest centre of each point; points of blocks above `most` move, those first that lose least by it."""
    parts = dists.shape[1]
    found = dists.argmin(axis=1)
    sizes = np.bincount(found, minlength=parts)
    while (sizes > most).any():
        block = int(np.argmax(sizes))
        members = np.flatnonzero(found == block)
        others = np.where(sizes < most, dists[members], np.inf)
        others[:, block] = np.inf
        to = others.argmin(axis=1)
        loss = others[np.arange(len(members)), to] - dists[members, block]
        for which in np.lexsort((members, loss))[: sizes[block] - most]:
            if sizes[to[which]] < most:  # filled up meanwhile: its point is looked at again in the next round
                found[members[which]] = to[which]
                sizes[to[which]] += 1
                sizes[block] -= 1
    return found
