"""Approximate k-NN graph by recursive sketches, as the paper's partitioner makes it (spec 2.2; arXiv 2403.01797).

Each repetition sends every point to its nearest of up to 950 random leaders (the nearest `fanout` at the top level),
recurses into a bucket with max(3, min(1500, 0.005 n)) leaders until it has at most 5,000 points, merges buckets below
50 points, and then compares all pairs inside each bucket; the k best of all repetitions stay. Duplicates, which no
leader can part, are split at random below depth 10.

Departure: small sets get fewer leaders (n / 50 at most), so that a bucket still holds neighbours. Repetitions are
independent and merged by (distance, id): the graph does not depend on threads.
"""

from collections.abc import Callable

import numpy as np

from operators.batann.core import core
from operators.batann.vectors import check_vectors

TOP_LEADERS, MOST_LEADERS, LEADER_SHARE = 950, 1500, 0.005
BUCKET, SMALL, MERGED = 5_000, 50, 2_500
MAX_DEPTH, RANDOM_DEPTH, LEAST_SHRINK = 14, 10, 0.8
EMPTY = np.uint64(2**64 - 1)


def knn_graph(
    x: np.ndarray,
    k: int = 10,
    seed: int = 555,
    *,
    repetitions: int = 3,
    fanout: int = 3,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    implementation: str | None = None,
) -> np.ndarray:
    """Approximate k nearest neighbours `(n, k)` int32 of every vector but itself, nearest first, padded with -1.

    `progress` is called with (repetitions done, repetitions).
    """
    from concurrent.futures import ThreadPoolExecutor

    check_vectors(x)
    if k < 1 or repetitions < 1 or fanout < 1:
        raise ValueError(f"k (={k}), repetitions (={repetitions}), fanout (={fanout}): each must be >= 1")
    x = np.ascontiguousarray(x)
    with ThreadPoolExecutor(threads) as pool:
        sketches = pool.map(lambda number: _sketch(x, k, [seed, number], fanout, implementation), range(repetitions))
        best = next(sketches)
        for number, sketch in enumerate(sketches, 1):
            if progress:
                progress(number, repetitions)
            best = merge(best, sketch)
    if progress:
        progress(repetitions, repetitions)
    ids = (best & np.uint64(0xFFFFFFFF)).astype(np.int64) >> 1
    return np.where(best == EMPTY, -1, ids).astype(np.int32)


def merge(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The k smallest different keys of each row of two ascending key arrays `(n, k)`."""
    both = np.sort(np.concatenate([left, right], axis=1), axis=1)
    both[:, 1:][both[:, 1:] == both[:, :-1]] = EMPTY
    return np.ascontiguousarray(np.sort(both, axis=1)[:, : left.shape[1]])


def _sketch(x: np.ndarray, k: int, seed: list[int], fanout: int, implementation: str | None) -> np.ndarray:
    best = np.full((len(x), k), EMPTY, np.uint64)
    rng = np.random.default_rng(seed)
    for bucket in _buckets(x, np.arange(len(x), dtype=np.uint32), rng, fanout, 0, implementation):
        core(implementation).bucket_neighbours(x, bucket, best)
    return best


def _buckets(x, points, rng, fanout: int, depth: int, implementation):
    """Buckets of at most BUCKET points; depth first, so that random numbers are drawn in one order."""
    if len(points) <= (BUCKET if depth else SMALL) or depth >= MAX_DEPTH:
        yield from (points[at : at + BUCKET] for at in range(0, len(points), BUCKET))
        return
    leaders = min(TOP_LEADERS, len(points) // SMALL) if not depth else int(LEADER_SHARE * len(points))
    leaders = max(3, min(MOST_LEADERS, leaders, len(points)))
    chosen = np.ascontiguousarray(points[rng.permutation(len(points))[:leaders]])
    nearest = np.empty((len(points), min(fanout if depth == 0 else 1, len(chosen))), np.uint32)
    core(implementation).nearest_leaders(x, points, chosen, 1, nearest)
    buckets = _merged([np.repeat(points, nearest.shape[1])[at] for at in _groups(nearest.ravel())])
    for bucket in buckets:
        if depth >= RANDOM_DEPTH and len(bucket) > LEAST_SHRINK * len(points):
            shuffled = np.ascontiguousarray(rng.permutation(bucket))
            yield from (shuffled[at : at + BUCKET] for at in range(0, len(shuffled), BUCKET))
        else:
            yield from _buckets(x, bucket, rng, fanout, max(1, depth + 1), implementation)


def _groups(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of each label that occurs, labels ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _merged(buckets: list[np.ndarray]) -> list[np.ndarray]:
    """Buckets below SMALL points joined, in their order, to at most MERGED points."""
    large = [np.ascontiguousarray(bucket) for bucket in buckets if len(bucket) >= SMALL]
    pile: list[np.ndarray] = []
    for bucket in (bucket for bucket in buckets if len(bucket) < SMALL):
        pile.append(bucket)
        if sum(map(len, pile)) + SMALL > MERGED:
            large.append(np.unique(np.concatenate(pile)))
            pile = []
    if pile:
        large.append(np.unique(np.concatenate(pile)))
    return large
