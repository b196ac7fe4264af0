"""One generation of the whale-seagull family, individual by individual: move, repair, mutate, redistribute, evaluate.

The rule that joins both animals is not stated in the sources available. `phase` (default): a whale with probability
1 - t, else a seagull; `half`: the first half of the population are whales; `sequential`: both in turn, the second kept
unless the first dominates it. The pure algorithms and the `_like` variants are rules of the same kernel, so that every
comparison shares evaluation, repair and counting. A random stream belongs to (seed, generation, individual): any split
of the population over threads gives the same bytes.
"""

from typing import NamedTuple

import numpy as np

from operators.lab.compiled import inner
from operators.phwsoa.instance import SIMULATED
from operators.phwsoa.mutation import mutate, mutation_rate
from operators.phwsoa.objectives import evaluate_one, free_kernel
from operators.phwsoa.redistribution import spread_out
from operators.phwsoa.rng import below, start, uniform
from operators.phwsoa.soa import seagull
from operators.phwsoa.whales_like import gcwoa_like, pewoa_like
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
    redis_prob: float
    redis_moves: int
    theta: float
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
def dominates(a, b):
    """Whether objectives `a` (3,) are nowhere worse than `b` and somewhere better."""
    better = False
    for k in range(3):
        if a[k] > b[k]:
            return False
        if a[k] < b[k]:
            better = True
    return better


@inner
def propose(code, x, leader, other, knobs, state, out):
    """A new position by one animal's rule."""
    if code == WOA:
        whale(x, leader, other, 2.0 * (1.0 - knobs.progress), 1.0, knobs.per_gene, state, out)
    elif code == SOA:
        seagull(x, leader, knobs.progress, knobs.bounded, knobs.per_gene, state, out)
    elif code == PEWOA:
        pewoa_like(x, leader, other, knobs.progress, knobs.per_gene, state, out)
    else:
        gcwoa_like(x, leader, other, knobs.progress, knobs.per_gene, state, out)


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


@inner
def replace(new_position, new_x, new_f, position, x, f):
    """Copy a solution over another."""
    for g in range(x.shape[0]):
        position[g], x[g] = new_position[g], new_x[g]
    for k in range(3):
        f[k] = new_f[k]


@inner
def second_animal(position, leader, arrays, knobs, state, space, out_position, out_x, out_f):
    """Rule `sequential`: a seagull's step after the whale's; kept unless the whale's result dominates it."""
    trial_position, trial_x, trial_f, loads, first = space
    evaluate_one(out_x, arrays, knobs.balance, knobs.quantum, loads, first, out_f)
    propose(SOA, out_position, leader, position, knobs, state, trial_position)
    decode(trial_position, arrays, knobs.repair, state, trial_x)
    evaluate_one(trial_x, arrays, knobs.balance, knobs.quantum, loads, first, trial_f)
    if not dominates(out_f, trial_f):
        replace(trial_position, trial_x, trial_f, out_position, out_x, out_f)
    return 2


@inner
def mutant(guide, arrays, knobs, state, space, known, out_position, out_x, out_f):
    """Try a mutation of the offspring; evaluations it took (`known`: the offspring is evaluated already)."""
    trial_position, trial_x, trial_f, loads, first = space
    if not known:
        evaluate_one(out_x, arrays, knobs.balance, knobs.quantum, loads, first, out_f)
    mutate(out_position, guide, arrays[2].shape[0], state, trial_position)
    decode(trial_position, arrays, knobs.repair, state, trial_x)
    evaluate_one(trial_x, arrays, knobs.balance, knobs.quantum, loads, first, trial_f)
    if not dominates(out_f, trial_f):
        replace(trial_position, trial_x, trial_f, out_position, out_x, out_f)
    return 1 if known else 2


@free_kernel
def evolve(low, high, seed, generation, knobs, arrays, position, guides, cumulative, out_position, out_x, out_f, counts):
    """Offspring of individuals `low` to `high`: positions, genes, objectives, and (evaluations, delta evaluations).

    `guides` (k, n) are positions of the archive (or the one best solution), drawn by `cumulative` (k,).
    """
    count, m = position.shape[0], arrays[2].shape[0]
    state, loads, first = np.zeros(1, np.uint64), np.zeros(m), np.zeros(m)
    space = (np.empty(position.shape[1]), np.empty_like(out_x[0]), np.empty(3), loads, first)
    for i in range(low, high):
        start(state, seed, generation, i)
        leader = guides[pick(cumulative, state)]
        other = position[below(state, count)]
        y, x, f, done = out_position[i], out_x[i], out_f[i], 0
        propose(animal(i, count, knobs, state), position[i], leader, other, knobs, state, y)
        decode(y, arrays, knobs.repair, state, x)
        if knobs.rule == SEQUENTIAL:
            done += second_animal(position[i], leader, arrays, knobs, state, space, y, x, f)
        if knobs.mutation and uniform(state) < mutation_rate(knobs.progress):
            guide = guides[pick(cumulative, state)]
            done += mutant(guide, arrays, knobs, state, space, done > 0, y, x, f)
        looked = 0
        if knobs.redis_moves > 0 and uniform(state) < knobs.redis_prob:
            looked = spread_out(x, y, arrays, knobs.theta, knobs.redis_moves, loads)
        if looked > 0 or done == 0:
            evaluate_one(x, arrays, knobs.balance, knobs.quantum, loads, first, f)
            done += 1
        counts[i, 0], counts[i, 1] = done, looked
