"""Routing on the previous step's counts: no all-gather of tokens is needed, at the price of a worse balance.

Every rank knows the last step's counts, so all can work out one complete map of experts to copies before the step
begins: an expert seen then keeps the copies it was given, split evenly if there were several; an expert not seen goes
to its candidate with the least activated experts in that plan, in ascending id (a METRO step). The loss against a fresh
decision is reported by comparing the two rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.metro.assignment import Routing, RoutingError, checked, from_share
from operators.metro.shares import SHARES


def stale(router: Callable[..., Routing]) -> Callable[..., Routing]:
    """A router that runs `router` on `previous` (counts `(N,)` of the last step; None: nothing is known yet).

    Raises RoutingError for a router whose decision needs the tokens, not only their counts.
    """
    if router.__name__ not in SHARES:
        raise RoutingError(f"router (={router.__name__!r}): needs token positions; these do not: {', '.join(SHARES)}")

    def routed(
        layer: Any,
        topk: np.ndarray,
        source_gpu: np.ndarray | None = None,
        *,
        previous: np.ndarray | None = None,
        cost: Any = None,
        seed: int = 0,
        alive: np.ndarray | None = None,
    ) -> Routing:
        topk, counts, tables = checked(layer, topk, alive)
        before = np.zeros_like(counts) if previous is None else np.asarray(previous, np.int64)
        planned = np.where(np.diff(tables.copy_start[0]) > 0, before, 0)[None, None]
        plan = SHARES[router.__name__](planned, tables, layer.num_gpus, cost=cost, seed=seed)
        share = follow(plan, counts[None, None], tables, layer.num_gpus)
        return from_share(layer, topk, tables, share[0, 0])

    routed.__name__ = f"stale_{router.__name__}"
    return routed


def last_step(counts: np.ndarray) -> np.ndarray:
    """`counts[S, L, N]` shifted by one step; the first step knows nothing."""
    before = np.zeros_like(counts)
    before[1:] = counts[:-1]
    return before


@kernel
def follow(plan, counts, t, num_gpus):
    """`share[S, L, R]` that serves `counts` by the map made of the shares `plan[S, L, R]` of the step before."""
    steps, layers, _ = counts.shape
    share = np.zeros(plan.shape, np.int64)
    load = np.empty(num_gpus, np.int64)
    for step in range(steps):
        for layer in range(layers):
            load[:] = 0
            for at in range(t.copy_start[layer, -1]):
                load[t.copy_gpu[layer, at]] += plan[step, layer, at] > 0
            _follow_layer(plan[step, layer], counts[step, layer], t, layer, load, share[step, layer])
    return share


@inner
def _follow_layer(plan, row, t, layer, load, share):
    for expert in range(len(row)):
        first, last, used = t.copy_start[layer, expert], t.copy_start[layer, expert + 1], 0
        for at in range(first, last):
            used += plan[at] > 0
        if used == 0 and last > first:
            best = t.cand_start[layer, expert]
            for cand in range(best + 1, t.cand_start[layer, expert + 1]):
                if load[t.cand_gpu[layer, cand]] < load[t.cand_gpu[layer, best]]:
                    best = cand
            load[t.cand_gpu[layer, best]] += 1
            share[t.cand_copy[layer, best]] = row[expert]
        elif row[expert] > 0:
            each, odd = row[expert] // used, row[expert] % used
            for at in range(first, last):
                if plan[at] > 0:
                    share[at] = each + (odd > 0)
                    odd -= 1
