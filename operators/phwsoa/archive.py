"""Pareto machinery: non-dominated ranks, crowding, hypervolume, and the external archive.

The archive keeps mutually non-dominated solutions up to a capacity. Too many are thinned by crowding distance in two
objectives and by hypervolume contribution in three; the extreme point of each objective always stays. Contributions
are thinned lazily: removing a point can only raise the others' contributions, so an old value is a lower bound and
only the least one has to be computed again.
"""

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.phwsoa.objectives import free_kernel


@inner
def weakly(a, b):
    """Whether `a` is nowhere worse than `b`."""
    for k in range(a.shape[0]):  # noqa: SIM110 - a kernel has no generator
        if a[k] > b[k]:
            return False
    return True


@kernel
def nondominated_ranks(points):
    """Front number of each of `points` (N, d), from 0; equal points share a front."""
    count, d = points.shape
    above = np.zeros(count, np.int64)
    beats = np.zeros((count, count), np.bool_)
    for a in range(count):
        for b in range(a + 1, count):
            less, more = False, False
            for k in range(d):
                less = less or points[a, k] < points[b, k]
                more = more or points[a, k] > points[b, k]
            if less and not more:
                beats[a, b] = True
                above[b] += 1
            elif more and not less:
                beats[b, a] = True
                above[a] += 1
    rank = np.full(count, -1, np.int64)
    level, left = 0, count
    while left > 0:
        for a in range(count):
            if rank[a] < 0 and above[a] == 0:
                rank[a] = level
                left -= 1
        for a in range(count):
            if rank[a] == level:
                above[a] = -1
                for b in range(count):
                    if beats[a, b]:
                        above[b] -= 1
        level += 1
    return rank


def crowding(points: np.ndarray) -> np.ndarray:
    """Crowding distance of each of `points` (k, d) among themselves; inf at the ends of each objective."""
    k, d = points.shape
    out = np.zeros(k)
    for axis in range(d):
        order = np.argsort(points[:, axis], kind="stable")
        values = points[order, axis]
        span = values[-1] - values[0]
        out[order[[0, -1]]] = np.inf
        if span > 0 and k > 2:
            out[order[1:-1]] += (values[2:] - values[:-2]) / span
    return out


@inner
def volume_of(points, count):
    """Volume of `points[:count]` (k, 3) up to (1, 1, 1); sorts them in place by the third coordinate."""
    for a in range(1, count):
        x, y, z = points[a, 0], points[a, 1], points[a, 2]
        b = a - 1
        while b >= 0 and points[b, 2] > z:
            for k in range(3):
                points[b + 1, k] = points[b, k]
            b -= 1
        points[b + 1, 0], points[b + 1, 1], points[b + 1, 2] = x, y, z
    xs, ys, kept, total = np.empty(count), np.empty(count), 0, 0.0
    for a in range(count):
        x, y = points[a, 0], points[a, 1]
        place = 0
        while place < kept and xs[place] <= x:
            place += 1
        if x < 1.0 and y < 1.0 and (place == 0 or ys[place - 1] > y):
            end = place
            while end < kept and ys[end] >= y:
                end += 1
            gone = end - place
            if gone == 0:
                for k in range(kept, place, -1):
                    xs[k], ys[k] = xs[k - 1], ys[k - 1]
                kept += 1
            else:
                for k in range(end, kept):
                    xs[k - gone + 1], ys[k - gone + 1] = xs[k], ys[k]
                kept -= gone - 1
            xs[place], ys[place] = x, y
        top = points[a + 1, 2] if a + 1 < count else 1.0
        height = min(top, 1.0) - points[a, 2]
        if height > 0.0:
            area, edge = 0.0, 1.0
            for k in range(kept):
                area += (1.0 - xs[k]) * (edge - ys[k])
                edge = ys[k]
            total += height * area
    return total


@kernel
def hv3(points):
    """Volume dominated by `points` (k, 3), all minimised, up to (1, 1, 1)."""
    return volume_of(points.copy(), points.shape[0])


@inner
def contribution(p, points, alive, space):
    """Volume only point `p` dominates; outside the unit box: minus how far outside."""
    out = 0.0
    for k in range(3):
        out = max(out, points[p, k] - 1.0)
    if out >= 0.0 and max(points[p, 0], points[p, 1], points[p, 2]) >= 1.0:
        return -1.0 - out
    kept = 0
    limited = np.empty(3)
    for q in range(points.shape[0]):
        if q == p or not alive[q]:
            continue
        for k in range(3):
            limited[k] = max(points[p, k], points[q, k])
        if max(limited[0], limited[1], limited[2]) >= 1.0:
            continue
        covered = False
        for k in range(kept):
            if weakly(space[k], limited):
                covered = True
                break
        if covered:
            continue
        left = 0
        for k in range(kept):
            if not weakly(limited, space[k]):
                for c in range(3):
                    space[left, c] = space[k, c]
                left += 1
        for c in range(3):
            space[left, c] = limited[c]
        kept = left + 1
    own = (1.0 - points[p, 0]) * (1.0 - points[p, 1]) * (1.0 - points[p, 2])
    return own - volume_of(space, kept)


@free_kernel
def thin_by_volume(points, keep):
    """Which of `points` (k, 3) stay when `keep` of them may; extreme points always do."""
    count = points.shape[0]
    alive, value, space = np.ones(count, np.bool_), np.empty(count), np.empty((count + 1, 3))
    fixed = np.zeros(count, np.bool_)
    for k in range(3):
        best = 0
        for p in range(count):
            if points[p, k] < points[best, k]:
                best = p
        fixed[best] = True
    fresh = np.zeros(count, np.int64)
    for p in range(count):
        value[p] = np.inf if fixed[p] else contribution(p, points, alive, space)
    left, turn = count, 0
    while left > keep:
        least = -1
        for p in range(count):
            if alive[p] and not fixed[p] and (least < 0 or value[p] < value[least]):
                least = p
        if least < 0:
            break
        if fresh[least] < turn:
            value[least] = contribution(least, points, alive, space)
            fresh[least] = turn
            continue
        alive[least] = False
        left -= 1
        turn += 1
    return alive


@free_kernel
def admit(points, new):
    """Which of `points` (c, d) stay `(c,)` and which of `new` (k, d) join `(k,)`; of equal points the older stays."""
    size, count = points.shape[0], new.shape[0]
    stay, join = np.ones(size, np.bool_), np.zeros(count, np.bool_)
    for a in range(count):
        beaten = False
        for p in range(size):
            if stay[p] and weakly(points[p], new[a]):
                beaten = True
                break
        for b in range(count):
            if beaten:
                break
            if join[b] and weakly(new[b], new[a]):
                beaten = True
        if beaten:
            continue
        join[a] = True
        for p in range(size):
            if stay[p] and weakly(new[a], points[p]):
                stay[p] = False
        for b in range(a):
            if join[b] and weakly(new[a], new[b]):
                join[b] = False
    return stay, join


class Archive:
    """Non-dominated solutions: `position` (k, n), `x` (k, n), `f` (k, 3) and their box coordinates `g` (k, d)."""

    def __init__(self, capacity: int, n: int, dimensions: int, gene_type: type):
        self.capacity = capacity
        self.position, self.x = np.empty((0, n)), np.empty((0, n), gene_type)
        self.f, self.g = np.empty((0, 3)), np.empty((0, dimensions))

    def update(self, position: np.ndarray, x: np.ndarray, f: np.ndarray, g: np.ndarray) -> bool:
        """Offer solutions; whether the archive changed."""
        stay, join = admit(self.g, np.array(g, order="C"))  # a copy: read-only would be compiled for once more
        if not join.any():
            return False
        parts = ((self.position, position), (self.x, x), (self.f, f), (self.g, g))
        merged = [np.concatenate([old[stay], new[join]]) for old, new in parts]
        if len(merged[3]) > self.capacity:
            keep = self._thinned(merged[3])
            merged = [part[keep] for part in merged]
        self.position, self.x, self.f, self.g = (np.ascontiguousarray(part) for part in merged)
        return True

    def _thinned(self, g: np.ndarray) -> np.ndarray:
        if g.shape[1] == 3:
            return thin_by_volume(g, self.capacity)
        alive = np.arange(len(g))
        while len(alive) > self.capacity:
            alive = np.delete(alive, np.argmin(crowding(g[alive])))
        return alive

    def roulette(self) -> np.ndarray:
        """Running sum of leaders' weights: crowding distance, the ends counting twice the largest finite one."""
        weight = crowding(self.g)
        finite = weight[np.isfinite(weight)]
        top = 2.0 * finite.max() if len(finite) and finite.max() > 0 else 1.0
        return np.cumsum(np.where(np.isfinite(weight), weight, top) + 1e-9)

    def validate(self) -> None:
        """Raise ValueError when two members dominate each other or there are too many."""
        if len(self.g) > self.capacity:
            raise ValueError(f"archive: {len(self.g)} members; capacity {self.capacity}")
        for a in range(len(self.g)):
            worse = (self.g[a] <= self.g).all(1)
            worse[a] = False
            if worse.any():
                raise ValueError(f"archive: member {a} dominates or equals member {int(np.argmax(worse))}")
