"""Exact neighbours by blocked brute force, recall, and the statistics that tell how hard a set is (spec 4).

Blocks go through one matrix product; the best of a block, with some to spare, are measured again exactly. Integer types
are exact throughout: every sum stays below 2^24 (d <= 256).
"""

import numpy as np

from operators.batann.core import core
from operators.batann.vectors import check_queries, check_vectors

NOBODY = np.uint32(2**32 - 1)
SPARE = 32  # more than k of a float32 block are measured again, for what the product rounds away
ROWS, COLUMNS = 512, 16_384


def exact_neighbours(
    x: np.ndarray, queries: np.ndarray, k: int = 10, *, skip_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Ids `(nq, k)` uint32 and squared distances `(nq, k)` float32 of the k nearest, by (distance, id).

    `skip_self`: query i is vector i and not its own neighbour. Fewer than k vectors: ids 2**32 - 1, distances inf.
    """
    check_vectors(x)
    queries = check_queries(queries, x.shape[1], x.dtype)
    if k < 1:
        raise ValueError(f"k (={k}): must be >= 1")
    ids, dists = np.full((len(queries), k), NOBODY, np.uint32), np.full((len(queries), k), np.inf, np.float32)
    for at in range(0, len(queries), ROWS):
        some = slice(at, at + ROWS)
        ids[some], dists[some] = _block(x, queries[some], k, at if skip_self else None)
    return ids, dists


def _block(x: np.ndarray, queries: np.ndarray, k: int, first: int | None) -> tuple[np.ndarray, np.ndarray]:
    q = queries.astype(np.float32)
    best = np.empty((len(q), 0), np.int64)
    for at in range(0, len(x), COLUMNS):
        rows = x[at : at + COLUMNS].astype(np.float32)
        near = (rows * rows).sum(axis=1) - 2.0 * (q @ rows.T)
        if first is not None:
            mine = np.arange(len(q)) + first - at
            inside = (mine >= 0) & (mine < len(rows))
            near[np.flatnonzero(inside), mine[inside]] = np.inf
        take = min(k + SPARE, near.shape[1])
        chosen = np.argpartition(near, take - 1, axis=1)[:, :take] + at
        best = _best(x, queries, np.concatenate([best, chosen], axis=1), k, first)[0]
    ids, dists = _best(x, queries, best, k, first)
    full_ids = np.full((len(q), k), NOBODY, np.uint32)
    full_dists = np.full((len(q), k), np.inf, np.float32)
    full_ids[:, : ids.shape[1]], full_dists[:, : ids.shape[1]] = ids, dists
    full_ids[~np.isfinite(full_dists)] = NOBODY
    return full_ids, full_dists


def _best(
    x: np.ndarray, queries: np.ndarray, ids: np.ndarray, k: int, first: int | None
) -> tuple[np.ndarray, np.ndarray]:
    dists = np.empty(ids.size, np.float32)
    left = np.repeat(queries, ids.shape[1], axis=0)
    core().distances(np.ascontiguousarray(x[ids.ravel()]), left, False, dists)
    dists = dists.reshape(ids.shape)
    if first is not None:
        dists[ids == (np.arange(len(ids)) + first)[:, None]] = np.inf
    order = np.lexsort((ids, dists), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(dists, order, axis=1)


def recall(ids: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours `(nq, k)` among the found `(nq, >= k)`; ids that are no node count for nothing."""
    if len(ids) != len(truth):
        raise ValueError(f"ids: {len(ids)} queries; expected the truth's {len(truth)}")
    hits = (np.asarray(ids)[:, :, None] == np.asarray(truth)[:, None, :]) & (np.asarray(truth) != NOBODY)[:, None, :]
    return float(hits.any(axis=1).sum() / max(1, int((np.asarray(truth) != NOBODY).sum())))


def local_dimension(dists: np.ndarray) -> float:
    """Local intrinsic dimension by maximum likelihood from squared distances `(m, k)` to the k nearest, ascending.

    Mean over points of k / sum(log(r_k / r_i)), r the distances; points with a neighbour at distance 0 are left out.
    """
    kept = dists[(dists[:, 0] > 0) & (dists[:, -1] > dists[:, 0])].astype(np.float64)
    if not len(kept):
        raise ValueError("dists: every point has a neighbour at distance 0; the dimension is not defined")
    logs = 0.5 * np.log(kept[:, -1:] / kept)
    return float(np.mean((kept.shape[1] - 1) / logs[:, :-1].sum(axis=1)))


def statistics(x: np.ndarray, *, sample: int = 500, seed: int = 0) -> dict[str, float]:
    """Mean, zeros, norm, median, p99, local dimension (k = 20, 100), median distances to neighbours 1, 10 and 100.

    Distances are of `sample` random vectors to all others, `random_pair` between two of them.
    """
    rng = np.random.default_rng([seed, 3])
    chosen = rng.permutation(len(x))[: min(sample, len(x))]
    k = min(100, len(x) - 2)
    _, dists = exact_neighbours(x, x[chosen], k + 1)
    dists = dists[:, 1:]
    middle = np.sqrt(np.median(dists, axis=0))
    pair = x[chosen[:-1]].astype(np.float64) - x[chosen[1:]]
    return {
        "mean": float(x.mean()),
        "zeros": float((x == 0).mean()),
        "norm": float(np.linalg.norm(x[chosen].astype(np.float64), axis=1).mean()),
        "median": float(np.median(x)),
        "p99": float(np.percentile(x, 99)),
        "lid_20": local_dimension(dists[:, : min(20, k)]),
        "lid_100": local_dimension(dists),
        "nn_1": float(middle[0]),
        "nn_10": float(middle[min(10, k) - 1]),
        "nn_100": float(middle[-1]),
        "random_pair": float(np.median(np.linalg.norm(pair, axis=1))),
    }
