"""Environmental selection of NSGA-II (Deb et al. 2002) and NSGA-III (Deb and Jain 2014) on box coordinates.

NSGA-III: objectives are translated by the ideal point and scaled by the range of the first fronts (the intercepts'
usual fall-back, always taken here), associated with the nearest of Das and Dennis' reference lines, and the last front
is filled niche by niche.
"""

from itertools import combinations

import numpy as np

from operators.phwsoa.archive import crowding, nondominated_ranks


def select_crowded(points: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NSGA-II: which `keep` of `points` (N, d) survive, their ranks and their crowding distances."""
    rank = nondominated_ranks(points)
    distance = np.zeros(len(points))
    for level in range(int(rank.max()) + 1):
        members = np.flatnonzero(rank == level)
        distance[members] = crowding(points[members])
    order = np.lexsort((np.arange(len(points)), -distance, rank))[:keep]
    return order, rank[order], distance[order]


def reference_lines(d: int, divisions: int | None = None) -> np.ndarray:
    """Das and Dennis' points on the simplex `(k, d)`: 91 in three objectives (12 divisions), 100 in two."""
    parts = divisions or (99 if d == 2 else 12)
    rows = []
    for bars in combinations(range(parts + d - 1), d - 1):
        edges = (-1, *bars, parts + d - 1)
        rows.append([edges[k + 1] - edges[k] - 1 for k in range(d)])
    return np.array(rows) / parts


def select_niched(
    points: np.ndarray, keep: int, lines: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NSGA-III: which `keep` of `points` (N, d) survive, their ranks, and zeros (it has no crowding)."""
    rank = nondominated_ranks(points)
    counts = np.cumsum(np.bincount(rank))
    last = int(np.searchsorted(counts, keep))
    sure, maybe = np.flatnonzero(rank < last), np.flatnonzero(rank == last)
    used = np.concatenate([sure, maybe])
    low = points[used].min(0)
    span = points[used].max(0) - low
    scaled = (points[used] - low) / np.where(span > 0, span, 1.0)
    unit = lines / np.linalg.norm(lines, axis=1, keepdims=True)
    along = scaled @ unit.T
    away = np.sqrt(np.maximum((scaled**2).sum(1)[:, None] - along**2, 0))
    niche, distance = away.argmin(1), away.min(1)
    filled = np.bincount(niche[: len(sure)], minlength=len(lines))
    chosen = list(sure)
    free = np.ones(len(maybe), bool)
    niches, distances = niche[len(sure) :], distance[len(sure) :]
    while len(chosen) < keep:
        open_lines = np.unique(niches[free])
        least = open_lines[filled[open_lines] == filled[open_lines].min()]
        line = int(least[rng.integers(len(least))])
        members = np.flatnonzero(free & (niches == line))
        one = members[np.argmin(distances[members])] if filled[line] == 0 else members[rng.integers(len(members))]
        free[one] = False
        filled[line] += 1
        chosen.append(int(maybe[one]))
    order = np.array(chosen)
    return order, rank[order], np.zeros(len(order))
