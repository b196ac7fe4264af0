"""Pareto-guided mutation (inferred from the abstract's words): genes are copied from an archive member or reset.

Applied with a probability that falls from 0.35 to 0.05; each gene is copied from the guide with 0.3 and reset uniformly
with 2/n. The mutant is kept unless its parent dominates it, which costs an evaluation of both.
"""

from operators.lab.compiled import inner
from operators.phwsoa.rng import below, uniform

COPY_SHARE = 0.3
RESETS = 2.0


@inner
def mutation_rate(progress):
    """pm(t) = 0.3 (1 - t) + 0.05, t the progress from 0 to 1."""
    return 0.3 * (1.0 - progress) + 0.05


@inner
def mutate(x, guide, m, state, out):
    """A mutant of position `x` (n,) into `out`."""
    n = x.shape[0]
    for g in range(n):
        u = uniform(state)
        if u < RESETS / n:
            out[g] = below(state, m) + 0.5
        elif u < RESETS / n + COPY_SHARE:
            out[g] = guide[g]
        else:
            out[g] = x[g]


@inner
def copy_reset(guide, m, state, out):
    """The guide's position with 1/n of the genes drawn anew: how the seeded hybrid refines an archive member."""
    n = guide.shape[0]
    for g in range(n):
        out[g] = below(state, m) + 0.5 if uniform(state) < 1.0 / n else guide[g]
