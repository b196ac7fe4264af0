"""Breeding of the genetic algorithms: tournament of two, uniform crossover, uniform reset of a few genes.

Used by the single-objective GA (crossover 0.9, one reset on average) and by NSGA-II and NSGA-III (crossover 1, three
resets), each with its own order of merit.
"""

import math

import numpy as np

from operators.lab.compiled import inner
from operators.phwsoa.instance import SIMULATED
from operators.phwsoa.objectives import free_kernel
from operators.phwsoa.rng import below, start, uniform, word

ONE = np.uint64(1)


@inner
def tournament(rank, crowding, state):
    """The better of two random members: lower rank, then larger crowding distance."""
    a, b = below(state, rank.shape[0]), below(state, rank.shape[0])
    if rank[a] != rank[b]:
        return a if rank[a] < rank[b] else b
    return a if crowding[a] >= crowding[b] else b


@inner
def skip(resets, n, state):
    """Genes passed over until the next reset (geometric, mean `n / resets`)."""
    return int(math.log(1.0 - uniform(state)) / math.log(1.0 - min(0.999, resets / n)))


@free_kernel
def breed(low, high, seed, generation, crossover, resets, arrays, parents, rank, crowding, out):
    """Children `low` to `high` of `parents` (P, n) genes: genes `out`; one random word decides 64 genes."""
    n, m, pes, vm_pes = parents.shape[1], arrays[2].shape[0], arrays[5], arrays[6]
    state = np.zeros(1, np.uint64)
    for i in range(low, high):
        start(state, seed, generation, i)
        mother, father = parents[tournament(rank, crowding, state)], parents[tournament(rank, crowding, state)]
        child = out[i]
        for g in range(n):
            child[g] = mother[g]
        if uniform(state) < crossover:
            for first in range(0, n, 64):
                coins = word(state)
                for g in range(first, min(first + 64, n)):
                    child[g] = father[g] if coins & ONE else mother[g]
                    coins >>= ONE
        g = skip(resets, n, state)
        while g < n:
            j = below(state, m)
            while arrays[0] == SIMULATED and pes[g] > vm_pes[j]:
                j = (j + 1) % m
            child[g] = j
            g += 1 + skip(resets, n, state)
