"""How many tokens every copy gets, for routers that need only counts: `share[S, L, R]` of `counts[S, L, N]`.

One entry per router, all with the same signature `(counts, tables, num_gpus, **options)`; an entry ignores options that
are not its own.
"""

from collections.abc import Callable

import numpy as np

from operators.metro import baselines, costaware, greedy, optimum


def _even(counts, tables, num_gpus, **_):
    return baselines.even_share(counts, tables)


def _primary(counts, tables, num_gpus, **_):
    return baselines.primary_share(counts, tables)


def _metro(counts, tables, num_gpus, *, order="index", seed=0, **_):
    return greedy.metro_share(counts, tables, num_gpus, greedy.expert_order(order, tables, seed))


def _exact(counts, tables, num_gpus, **_):
    return optimum.exact_share(counts, tables, num_gpus, greedy.by_candidates(tables.cand_start), False)[0]


def _exact_balanced(counts, tables, num_gpus, **_):
    return optimum.exact_share(counts, tables, num_gpus, greedy.by_candidates(tables.cand_start), True)[0]


def _adaptive(counts, tables, num_gpus, *, cost=None, **_):
    order = greedy.by_candidates(tables.cand_start)
    return costaware.adaptive_share(counts, tables, num_gpus, order, costaware.cost_numbers(cost))


def _lp(counts, tables, num_gpus, **_):
    return baselines.lp_share(counts, tables, num_gpus)


# name -> share[S, L, R] of counts[S, L, N]
SHARES: dict[str, Callable[..., np.ndarray]] = {
    "primary": _primary,
    "even": _even,
    "metro": _metro,
    "exact": _exact,
    "exact_balanced": _exact_balanced,
    "adaptive": _adaptive,
    "lp": _lp,
}
