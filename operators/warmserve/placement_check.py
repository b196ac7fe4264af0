"""How far placement is from brute force over random laminar states: the check behind the claim `place-exact`."""

import numpy as np

from operators.warmserve.placement import Placed, Standing, place, standing
from operators.warmserve.placement_baselines import bruteforce

MODELS = 6


def random_state(rng: np.random.Generator, nodes: int, gpus: int) -> Standing:
    """A random laminar family on every node, integer scores, random free memory."""
    rows: list[tuple] = []
    for node in range(nodes):
        _split(rng, node, list(range(gpus)), rows)
    kept: list[tuple] = []
    for row in rows:
        if not any(row[0] == o[0] and row[2] == o[2] and set(row[1]) & set(o[1]) for o in kept):
            kept.append(row)
    return standing(kept, rng.integers(0, 6, (nodes, gpus)))


def _split(rng: np.random.Generator, node: int, gpus: list[int], rows: list[tuple]) -> None:
    for k in (8, 4, 2, 1):
        if len(gpus) >= k and rng.random() < 0.5:
            rng.shuffle(gpus)
            own = sorted(gpus[:k])
            rows.append((node, tuple(own), int(rng.integers(MODELS)), float(rng.integers(0, 5))))
            if k > 1:
                _split(rng, node, own, rows)
            _split(rng, node, gpus[k:], rows)
            return


def random_news(rng: np.random.Generator, gpus: int) -> tuple[np.ndarray, ...]:
    """(model, tp, need, score) of a few new replicas, best score first."""
    count = int(rng.integers(1, 7))
    sizes = rng.choice([k for k in (1, 2, 4, 8) if k <= gpus], MODELS)
    model = rng.integers(0, MODELS, count)
    return model, sizes[model], 1 + model % 2, np.sort(rng.integers(0, 5, count).astype(float))[::-1]


def objective(now: Standing, placed: Placed, model, score) -> list[tuple[bool, bool, float]]:
    """(placed, on top, sum of scores it touches) of each new replica, one after the other."""
    rows = [(int(n), int(m), float(s)) for n, m, s in zip(now.node, now.mask, now.score, strict=True)]
    out = []
    for i in range(len(model)):
        node, mask = int(placed.node[i]), int(placed.mask[i])
        touched = sum(s for n, m, s in rows if n == node and m & mask)
        out.append((node >= 0, bool(placed.master[i]), touched))
        if node >= 0:
            rows.append((node, mask, float(score[i])))
    return out


def largest_gap(seed: int, tries: int = 150) -> float:
    """Largest difference of the objective from brute force; infinite where one places what the other does not."""
    rng, worst = np.random.default_rng([seed, 77]), 0.0
    for _ in range(tries):
        gpus = int(rng.choice([1, 2, 4, 6, 8]))
        now = random_state(rng, int(rng.integers(1, 3)), gpus)
        news = random_news(rng, gpus)
        ours, best = (objective(now, f(now, *news), news[0], news[3]) for f in (place, bruteforce))
        for a, b in zip(ours, best, strict=True):
            worst = max(worst, abs(a[2] - b[2]) if a[:2] == b[:2] else float("inf"))
    return worst
