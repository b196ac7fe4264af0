"""Other placements: brute force (the definition), the official depth-first search, and round robin (the ablation).

Brute force and the depth-first search are exponential in the GPUs of a node and serve as references. Round robin keeps
the quirks of the official code's switch for "no placement": it counts wanted replicas without those that lie there
already, and stops altogether at the first model that wants none or finds no place.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from operators.warmserve.placement import SKIPPED, TOLERANCE, Placed, Standing, mask_of

Row = tuple[int, frozenset[int], int, float]  # node, GPUs, model, score


def bruteforce(now: Standing, model, tp, need, score) -> Placed:
    """Placement by looking at every subset of every node; same results as `place`."""
    return _one_by_one(now, model, tp, need, score, lambda gpus, k: itertools.combinations(range(gpus), k))


def official_dfs(now: Standing, model, tp, need, score) -> Placed:
    """Placement by the official code's depth-first search: the first of equal candidates in its order wins."""
    return _one_by_one(now, model, tp, need, score, _depth_first)


def _depth_first(gpus: int, k: int, start: int = 0) -> Iterator[tuple[int, ...]]:
    if k == 0:
        yield ()
        return
    for gpu in range(start, gpus - k + 1):
        for rest in _depth_first(gpus, k - 1, gpu + 1):
            yield (gpu, *rest)


def _one_by_one(now: Standing, model, tp, need, score, subsets) -> Placed:
    rows: list[Row] = [
        (int(n), frozenset(_bits(m)), int(j), float(s))
        for n, m, j, s in zip(now.node, now.mask, now.model, now.score, strict=True)
    ]
    free, out = np.array(now.free), []
    for j, k, size, value in zip(model, tp, need, score, strict=True):
        found: dict[bool, tuple[float, int, tuple[int, ...]]] = {}
        for node in range(len(free)):
            for gpus in subsets(free.shape[1], int(k)):
                judged = judge(rows, free, node, gpus, int(j), int(size))
                if judged is None:
                    continue
                most, total = judged
                for master in (True, False):
                    if (not master or most < value) and _less(total, found.get(master)):
                        found[master] = (total, node, gpus)
        best = found.get(True, found.get(False))
        out.append((SKIPPED, (), False) if best is None else (best[1], best[2], True in found))
        if best:
            rows.append((best[1], frozenset(best[2]), int(j), float(value)))
            free[best[1], list(best[2])] -= size
    return Placed(
        np.array([row[0] for row in out], np.int32),
        np.array([mask_of(row[1]) for row in out], np.uint64),
        np.array([row[2] for row in out], bool),
    )


def _less(total: float, best: tuple | None) -> bool:
    return best is None or total < best[0] - TOLERANCE * max(1.0, abs(best[0]))


def judge(
    rows: Sequence[Row], free: np.ndarray, node: int, gpus: Sequence[int], model: int, need: int
) -> tuple[float, float] | None:
    """(highest, sum) of the scores that touch these GPUs, or None when the set is no candidate."""
    if any(free[node, gpu] < need for gpu in gpus):
        return None
    own, most, total = frozenset(gpus), -1.0, 0.0
    for where, held, other, value in rows:
        if where != node or not held & own:
            continue
        laminar = held == own if len(held) == len(own) else held < own if len(held) < len(own) else own < held
        if other == model or not laminar:
            return None
        most, total = max(most, value), total + value
    return most, total


def roundrobin(
    now: Standing, wanted: Sequence[int], tp: Sequence[int], need: Sequence[int]
) -> list[tuple[int, int, np.uint64]]:
    """(model, node, set) of each replica placed in turn: first node with enough free GPUs not holding the model.

    Args:
        now: what lies on the GPUs
        wanted: replicas wanted of each model, those that lie there already not subtracted
        tp: GPUs of each model
        need: bytes on each GPU of each model
    """
    left, free, out = list(wanted), np.array(now.free), []
    holds = np.zeros((len(tp), *free.shape), bool)
    for node, mask, model in zip(now.node, now.mask, now.model, strict=True):
        holds[model, node, _bits(mask)] = True
    for model in itertools.cycle(range(len(left))):
        if left[model] <= 0:
            return out
        fits = (free >= need[model]) & ~holds[model]
        nodes = np.flatnonzero(fits.sum(axis=1) >= tp[model])
        if not len(nodes):
            return out
        gpus = np.flatnonzero(fits[nodes[0]])[: tp[model]]
        free[nodes[0], gpus] -= need[model]
        holds[model, nodes[0], gpus] = True
        left[model] -= 1
        out.append((model, int(nodes[0]), mask_of(gpus)))
    return out


def _bits(mask) -> list[int]:
    return [bit for bit in range(64) if int(mask) >> bit & 1]
