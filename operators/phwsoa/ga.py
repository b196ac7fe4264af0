"""Breeding of the genetic algorithms: tournament of two, uniform crossover, uniform reset of a few genes.

Used by the single-objective GA (crossover 0.9, one reset on average) and by NSGA-II and NSGA-III (crossover 1, three
resets), each with its own order of merit.
"""

import math

import numpy as np

from operators.lab.compiled import inner
from operators.phwsoa.hybrid import decode
from operators.phwsoa.objectives import free_kernel
from operators.phwsoa.rng import below, start, uniform


@inner
def tournament(rank, crowding, state):
    """The better of two random members: lower rank, then larger crowding distance."""
    a, b = below(state, rank.shape[0]), below(state, rank.shape[0])
    if rank[a] != rank[b]:
        return a if rank[a] < rank[b] else b
    return a if crowding[a] >= crowding[b] else b


@free_kernel
def breed(low, high, seed, generation, crossover, resets, arrays, parents, rank, crowding, out):
    """Children `low` to `high` of `parents` (P, n) genes: genes `out`."""
    n, m = parents.shape[1], arrays[2].shape[0]
    state, position = np.zeros(1, np.uint64), np.empty(n)
    for i in range(low, high):
        start(state, seed, generation, i)
        mother, father = tournament(rank, crowding, state), tournament(rank, crowding, state)
        mixes = uniform(state) < crossover
        for g in range(n):
            position[g] = parents[mother, g] + 0.5
        if mixes:
            for g in range(n):
                if uniform(state) < 0.5:
                    position[g] = parents[father, g] + 0.5
        g = int(math.log(1.0 - uniform(state)) / math.log(1.0 - min(0.999, resets / n)))
        while g < n:
            position[g] = below(state, m) + 0.5
            g += 1 + int(math.log(1.0 - uniform(state)) / math.log(1.0 - min(0.999, resets / n)))
        decode(position, arrays, 0, state, out[i])
