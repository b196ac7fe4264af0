"""One generation of the whale-seagull family, individual by individual: move, repair, mutate, redistribute, evaluate.

The rule that joins both animals is not stated in the sources available. `phase` (default): a whale with probability
1 - t, else a seagull; `half`: the first half of the population are whales; `sequential`: both in turn, the second kept
unless the first dominates it. The pure algorithms and the `_like` variants are rules of the same kernel, so that every
comparison shares evaluation, repair and counting. A random stream belongs to (seed, generation, individual): any split
of the population over threads gives the same bytes. The steps are kernels of their own, each over the population, so
that evaluation and its many branches are compiled once.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from operators.lab.compiled import inner
from operators.phwsoa.instance import SIMULATED
from operators.phwsoa.mutation import copy_reset, mutate, mutation_rate
from operators.phwsoa.objectives import EVALUATE, free_kernel
from operators.phwsoa.redistribution import MIXED, redistribute_into
from operators.phwsoa.rng import below, start, uniform
from operators.phwsoa.soa import seagull
from operators.phwsoa.whales_like import cloud, gcwoa_mobility, pewoa_mobility
from operators.phwsoa.woa import whale

RULES = ("woa", "soa", "phase", "half", "sequential", "pewoa_like", "gcwoa_like")
WOA, SOA, PHASE, HALF, SEQUENTIAL, PEWOA, GCWOA = range(7)
REPAIRS = ("reflect", "clip", "resample")


class Knobs(NamedTuple):
    """Numbers every individual's step depends on."""

    rule: int
    bounded: bool
    per_gene: bool
    repair: int
    mutation: bool
    elite: float
    redis_prob: float
    redis_moves: int
    theta: float
    scope: int
    balance: int
    quantum: float
    progress: float


@inner
def repair_gene(x, m, rule, state):
    """A gene back in [0, m): folded at the borders, clipped, or drawn anew."""
    if 0.0 <= x < m:
        return x
    if rule == 2 or not np.isfinite(x):
        return uniform(state) * m
    if rule == 1:
        return 0.0 if x < 0.0 else m - 1e-9
    x = abs(x) % (2.0 * m)
    return min(2.0 * m - x, m - 1e-9) if x >= m else x


@inner
def decode(position, arrays, rule, state, x):
    """Repair `position` (n,) and write the machine of every task into `x`; a task goes on to a machine it fits on."""
    kind, m, pes, vm_pes = arrays[0], arrays[2].shape[0], arrays[5], arrays[6]
    for g in range(position.shape[0]):
        position[g] = repair_gene(position[g], m, rule, state)
        j = int(position[g])
        if kind == SIMULATED and pes[g] > vm_pes[j]:
            while pes[g] > vm_pes[j]:
                j = (j + 1) % m
            position[g] = j + 0.5
        x[g] = j


@inner
def propose(code, x, leader, other, knobs, state, out):
    """A new position by one animal's rule."""
    if code == SOA:
        seagull(x, leader, knobs.progress, knobs.bounded, knobs.per_gene, state, out)
        return
    a, b = 2.0 * (1.0 - knobs.progress), 1.0
    if code == PEWOA:
        a, b = pewoa_mobility(knobs.progress)
    elif code == GCWOA:
        a = gcwoa_mobility(knobs.progress)
    whale(x, leader, other, a, b, knobs.per_gene, state, out)
    if code == GCWOA:
        cloud(x, leader, state, out)


@inner
def animal(i, count, knobs, state):
    """Which pure rule moves individual `i` of `count` in this generation."""
    if knobs.rule == PHASE:
        return WOA if uniform(state) < 1.0 - knobs.progress else SOA
    if knobs.rule == HALF:
        return WOA if 2 * i < count else SOA
    return WOA if knobs.rule == SEQUENTIAL else knobs.rule


@inner
def pick(cumulative, state):
    """A position drawn by the weights whose running sum is `cumulative`."""
    u = uniform(state) * cumulative[-1]
    for k in range(cumulative.shape[0]):
        if u < cumulative[k]:
            return k
    return cumulative.shape[0] - 1


@free_kernel
def move_range(low, high, seed, generation, second, knobs, arrays, position, guides, cumulative, states, y, x):
    """New positions `y` and genes `x` of individuals `low` to `high`; `second` is rule `sequential`'s second animal.

    `guides` (k, n) are positions of the archive (or the one best solution), drawn by `cumulative` (k,). `states` (P, 1)
    holds each individual's stream, which the next kernels of the generation go on with.
    """
    count = position.shape[0]
    for i in range(low, high):
        state = states[i]
        if not second:
            start(state, seed, generation, i)
        leader = guides[pick(cumulative, state)]
        if not second and knobs.elite > 0.0 and uniform(state) < knobs.elite:
            copy_reset(leader, arrays[2].shape[0], state, y[i])
        else:
            code = SOA if second else animal(i, count, knobs, state)
            propose(code, position[i], leader, position[below(state, count)], knobs, state, y[i])
        decode(y[i], arrays, knobs.repair, state, x[i])


@free_kernel
def mutate_range(low, high, knobs, arrays, position, guides, cumulative, states, y, x, chosen):
    """Mutants `y`, `x` of `position`, for the individuals that are `chosen` (P,) by the mutation rate."""
    for i in range(low, high):
        state = states[i]
        chosen[i] = uniform(state) < mutation_rate(knobs.progress)
        if chosen[i]:
            mutate(position[i], guides[pick(cumulative, state)], arrays[2].shape[0], state, y[i])
            decode(y[i], arrays, knobs.repair, state, x[i])


@free_kernel
def redistribute_range(low, high, knobs, arrays, states, y, x, looked):
    """Redistribute offspring in place, each with `redis_prob`; delta evaluations done into `looked` (P,)."""
    loads = np.zeros(arrays[2].shape[0])
    for i in range(low, high):
        state = states[i]
        looked[i] = 0
        if uniform(state) < knobs.redis_prob:
            scope, moves = knobs.scope, knobs.redis_moves
            if scope == MIXED:
                scope, moves = below(state, 3), 1 + below(state, moves)
            looked[i] = redistribute_into(x[i], y[i], arrays, knobs.theta, moves, scope, loads)


def worse(f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Which rows of `g` (P, 3) are dominated by the same row of `f`."""
    return (f <= g).all(1) & (f < g).any(1)


class Offspring:
    """One generation's offspring of the whale-seagull family: positions `y`, genes `x`, objectives `f`, counts."""

    def __init__(self, position: np.ndarray, gene_type: type, pool: Callable[..., None]):
        self.pool, self.parents = pool, position
        self.y, self.x = np.empty_like(position), np.empty(position.shape, gene_type)
        self.f = np.empty((len(position), 3))
        self._states = np.zeros((len(position), 1), np.uint64)
        self._known = np.zeros(len(position), bool)
        self.evals = self.delta_evals = 0

    def make(self, seed: int, generation: int, knobs: Knobs, arrays: tuple, guides: tuple) -> None:
        """Move, mutate, redistribute, evaluate; `guides` = (positions, running sum of weights)."""
        draw = (seed, generation)
        self.pool(move_range, *draw, False, knobs, arrays, self.parents, *guides, self._states, self.y, self.x)
        if knobs.rule == SEQUENTIAL:
            self._evaluate(~self._known, knobs, arrays)
            y, x = np.empty_like(self.y), np.empty_like(self.x)
            self.pool(move_range, *draw, True, knobs, arrays, self.y.copy(), *guides, self._states, y, x)
            self._take(np.ones(len(y), bool), y, x, knobs, arrays)
        if knobs.mutation:
            y, x = np.empty_like(self.y), np.empty_like(self.x)
            chosen = np.zeros(len(y), bool)
            self.pool(mutate_range, knobs, arrays, self.y, *guides, self._states, y, x, chosen)
            self._evaluate(chosen & ~self._known, knobs, arrays)
            self._take(chosen, y, x, knobs, arrays)
        if knobs.redis_moves > 0:
            looked = np.zeros(len(self.y), np.int64)
            self.pool(redistribute_range, knobs, arrays, self._states, self.y, self.x, looked)
            self.delta_evals += int(looked.sum())
            self._known &= looked == 0
        self._evaluate(~self._known, knobs, arrays)

    def _score(self, x: np.ndarray, knobs: Knobs, arrays: tuple) -> np.ndarray:
        f = np.empty((len(x), 3))
        self.pool(EVALUATE[arrays[0]], x, arrays, knobs.balance, knobs.quantum, f, count=len(x))
        self.evals += len(x)
        return f

    def _evaluate(self, which: np.ndarray, knobs: Knobs, arrays: tuple) -> None:
        if which.any():
            self.f[which] = self._score(self.x[which], knobs, arrays)
            self._known |= which

    def _take(self, tried: np.ndarray, y: np.ndarray, x: np.ndarray, knobs: Knobs, arrays: tuple) -> None:
        """Put trial solutions in place of the offspring, unless the offspring dominates them."""
        rows = np.flatnonzero(tried)
        if not len(rows):
            return
        f = self._score(x[rows], knobs, arrays)
        good = ~worse(self.f[rows], f)
        self.y[rows[good]], self.x[rows[good]], self.f[rows[good]] = y[rows[good]], x[rows[good]], f[good]
