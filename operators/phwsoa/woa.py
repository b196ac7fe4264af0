"""The Whale Optimisation Algorithm's three moves (Mirjalili and Lewis 2016), one gene at a time.

`a` falls from 2 to 0; with p < 0.5 a whale encircles the leader (|A| < 1) or searches towards a random member, else it
swims a logarithmic spiral to the leader. Random scalars are drawn once per individual (our choice; the original draws
vectors): setting `draws`. The leader of the Pareto version comes from the archive.
"""

import math

from operators.lab.compiled import inner
from operators.phwsoa.rng import uniform


@inner
def encircle(x, target, big_a, big_c):
    """X' = X* - A |C X* - X|; with a random member as target this is the search move."""
    return target - big_a * abs(big_c * target - x)


@inner
def spiral(x, leader, b, turn):
    """X' = |X* - X| e^(b l) cos(2 pi l) + X*."""
    return abs(leader - x) * math.exp(b * turn) * math.cos(2.0 * math.pi * turn) + leader


@inner
def whale(x, leader, other, a, b, per_gene, state, out):
    """One whale's new position `(n,)` into `out`; `a` and `b` are the mobility and the spiral's shape."""
    r, c, p, turn = uniform(state), uniform(state), uniform(state), 2.0 * uniform(state) - 1.0
    for g in range(x.shape[0]):
        if per_gene and g > 0:
            r, c, p, turn = uniform(state), uniform(state), uniform(state), 2.0 * uniform(state) - 1.0
        big_a = 2.0 * a * r - a
        if p >= 0.5:
            out[g] = spiral(x[g], leader[g], b, turn)
        elif abs(big_a) < 1.0:
            out[g] = encircle(x[g], leader[g], big_a, 2.0 * c)
        else:
            out[g] = encircle(x[g], other[g], big_a, 2.0 * c)
