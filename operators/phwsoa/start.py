"""Start populations: random, Halton plain and scrambled, opposition, and solutions of the heuristics.

A trap of the plain sequence, kept for the ablation: a gene needs a prime of its own, so a thousand tasks need primes up
to 7919, and the first P points of base p are k/p, k < P. With P = 50 nearly every task lands on the first machine.
Scrambling permutes the digits and removes it.
"""

from functools import lru_cache

import numpy as np

from operators.phwsoa import heuristics
from operators.phwsoa.instance import RELATED, Instance

INITS = ("halton_scrambled", "halton", "random", "heuristic")
SEED_SHARE = 0.2  # of the population, at most


def start_positions(inst: Instance, pop: int, init: str, seed: int) -> np.ndarray:
    """Positions `(pop, n)` in [0, m); `heuristic` draws at random here, its seeds replace a part of them later."""
    if init not in INITS:
        raise ValueError(f"init (={init!r}): expected one of {', '.join(INITS)}")
    if init.startswith("halton"):
        unit = halton(inst.n, pop, init == "halton_scrambled", seed)
    else:
        unit = np.random.default_rng([seed, 1]).random((pop, inst.n))
    return np.ascontiguousarray(np.minimum(unit * inst.m, inst.m - 1e-9))  # scipy's points come column by column


@lru_cache(maxsize=16)  # all methods of one seed start from the same points
def halton(n: int, pop: int, scramble: bool, seed: int) -> np.ndarray:
    """The first `pop` points of the Halton sequence in `n` dimensions `(pop, n)`, in [0, 1)."""
    from scipy.stats import qmc

    return qmc.Halton(n, scramble=scramble, rng=np.random.default_rng([seed, 1])).random(pop)


def opposites(position: np.ndarray, m: int) -> np.ndarray:
    """The mirror image of each position: m - x."""
    return np.minimum(m - position, m - 1e-9)


@lru_cache(maxsize=8)
def heuristic_seeds(inst: Instance) -> np.ndarray:
    """Solutions of LPT, MCT, Min-Min and Max-Min and, on related machines, the greedy front `(k, n)`."""
    simple = np.stack([make(inst) for make in (heuristics.lpt, heuristics.mct, heuristics.min_min, heuristics.max_min)])
    if inst.kind != RELATED:
        return np.concatenate([simple, heuristics.sufferage(inst)[None]])
    return np.concatenate([simple, heuristics.eps_greedy_front(inst)[0]])


def chosen_seeds(count: int, pop: int) -> np.ndarray:
    """Which of `count` seeds enter a population of `pop`: the four simple ones, then the front evenly, 20 % in all."""
    room = max(1, int(SEED_SHARE * pop))
    simple = np.arange(min(4, count, room))
    rest = room - len(simple)
    if rest <= 0 or count <= 4:
        return simple
    return np.concatenate([simple, np.unique(np.linspace(4, count - 1, rest).round().astype(int))])


def mean_hamming(x: np.ndarray) -> float:
    """Mean share of tasks two solutions of `x` (P, n) place differently, over all pairs."""
    count = len(x)
    equal = 0
    for column in x.T:
        hits = np.bincount(column)
        equal += int((hits * (hits - 1) // 2).sum())
    return 1.0 - equal / (count * (count - 1) / 2 * x.shape[1]) if count > 1 else 0.0
