"""Two published variants of WOA, as far as their formulas are known: `pewoa_like` and `gcwoa_like`.

PEWOA (Khan et al., IEEE Access 12, 2024) and GCWOA (Ni et al., Comput. Intell. Neurosci. 2021, 5546758) are known in
words only, so what stands here is our choice and carries `_like` in every table. PEWOA: mobility falls quadratically,
the spiral flattens. GCWOA: start from the better of x and m - x (in start.py), mobility falls as 1 - sin, one gene in
five is drawn from a Gaussian cloud round the leader.
"""

import math

from operators.lab.compiled import inner
from operators.phwsoa.rng import normal, uniform

CLOUD_SHARE = 0.2


@inner
def pewoa_mobility(progress):
    """a and b: 2 (1 - t^2), and the spiral's shape from 1 to 0.2; t the progress."""
    return 2.0 * (1.0 - progress * progress), 1.0 - 0.8 * progress


@inner
def gcwoa_mobility(progress):
    """a = 2 (1 - sin(pi t / 2)), t the progress."""
    return 2.0 * (1.0 - math.sin(0.5 * math.pi * progress))


@inner
def cloud(x, leader, state, out):
    """A gene in five ~ N(X*, En'), En' ~ N(En, En / 10), En = |X* - X| / 3."""
    for g in range(x.shape[0]):
        if uniform(state) < CLOUD_SHARE:
            entropy = abs(leader[g] - x[g]) / 3.0
            spread = entropy + normal(state) * entropy / 10.0
            out[g] = leader[g] + normal(state) * spread
