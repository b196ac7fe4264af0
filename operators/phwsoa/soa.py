"""The Seagull Optimisation Algorithm (Dhiman and Kumar 2019): migration, then a spiral attack, one gene at a time.

With the original's u = v = 1 the spiral's radius reaches e^(2 pi) = 535 and the product about 1e8, so nearly every gene
leaves the box and what comes back is the repair's doing. `bounded` keeps the form with v = 0.1 and the factor clipped
to [-1, 1] (our choice); both are offered and compared in the ablation.
"""

import math

from operators.lab.compiled import inner
from operators.phwsoa.rng import uniform

CONTROL = 2.0  # fc, falls linearly to 0
BOUNDED_V = 0.1


@inner
def attack_factor(k, v, bounded):
    """x y z of the spiral: (rho cos k)(rho sin k)(rho k), rho = e^(k v)."""
    rho = math.exp(k * v)
    factor = (rho * math.cos(k)) * (rho * math.sin(k)) * (rho * k)
    return min(1.0, max(-1.0, factor)) if bounded else factor


@inner
def seagull_gene(x, leader, big_a, big_b, factor):
    """X' = |A X + B (X* - X)| * factor + X*."""
    return abs(big_a * x + big_b * (leader - x)) * factor + leader


@inner
def seagull(x, leader, progress, bounded, per_gene, state, out):
    """One seagull's new position `(n,)` into `out`; `progress` runs from 0 to 1."""
    big_a = CONTROL * (1.0 - progress)
    r, k = uniform(state), 2.0 * math.pi * uniform(state)
    for g in range(x.shape[0]):
        if per_gene and g > 0:
            r, k = uniform(state), 2.0 * math.pi * uniform(state)
        factor = attack_factor(k, BOUNDED_V if bounded else 1.0, bounded)
        out[g] = seagull_gene(x[g], leader[g], big_a, 2.0 * big_a * big_a * r, factor)
