"""METRO's greedy routing (paper, Algorithm 1): every expert to one copy, on its least loaded candidate GPU.

The paper runs it with racing threads; here the order is fixed (ascending expert id unless another is asked for), ties
go to the lowest GPU id and the slot is the expert's lowest on that GPU, so that all ranks decide the same without a
message. `tournament` is the family on which the greedy is as bad as log2(G) against 1; `racing` shows what happens when
every rank runs Algorithm 1 in a lock order of its own.
"""

from typing import Any, NamedTuple

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.metro.assignment import Routing, RoutingError, Tables, checked, from_share

ORDERS = ("index", "fewest_candidates", "random")
ORDER_STREAM, RACE_STREAM = 21, 22


def metro(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
    order: str = "index",
) -> Routing:
    """Route `topk (T, k)` by the greedy. O(number of copies); no bound near the optimum in general."""
    topk, counts, tables = checked(layer, topk, alive)
    share = metro_share(counts[None, None], tables, layer.num_gpus, expert_order(order, tables, seed))
    return from_share(layer, topk, tables, share[0, 0])


def expert_order(order: str, tables: Tables, seed: int = 0) -> np.ndarray:
    """Expert ids `(L, N)` in the order the greedy takes them; RoutingError lists the known orders."""
    layers, experts = tables.cand_start.shape[0], tables.cand_start.shape[1] - 1
    if order == "index":
        return np.tile(np.arange(experts), (layers, 1))
    if order == "fewest_candidates":
        return by_candidates(tables.cand_start)
    if order == "random":
        return np.tile(np.random.default_rng([seed, ORDER_STREAM]).permutation(experts), (layers, 1))
    raise RoutingError(f"order (={order!r}): unknown; known: {', '.join(ORDERS)}")


def by_candidates(cand_start: np.ndarray) -> np.ndarray:
    """Expert ids `(L, N)` by (number of candidate GPUs, id)."""
    return np.argsort(np.diff(cand_start, axis=1), axis=1, kind="stable")


@inner
def choose_least_loaded(row, t, layer, order, choice, load):
    """Give every expert with tokens its least loaded candidate; `choice[N]` (-1: none) and `load[G]` are filled."""
    load[:] = 0
    choice[:] = -1
    for expert in order:
        if row[expert] > 0:
            best = t.cand_start[layer, expert]
            for cand in range(best + 1, t.cand_start[layer, expert + 1]):
                if load[t.cand_gpu[layer, cand]] < load[t.cand_gpu[layer, best]]:
                    best = cand
            choice[expert] = best
            load[t.cand_gpu[layer, best]] += 1


@inner
def give_whole(row, t, layer, choice, share):
    """Set `share[R]` so that every expert's tokens go to its chosen candidate's lowest slot."""
    share[:] = 0
    for expert in range(len(row)):
        if choice[expert] >= 0:
            share[t.cand_copy[layer, choice[expert]]] = row[expert]


@kernel
def metro_share(counts, t, num_gpus, order):
    """`share[S, L, R]` of the greedy for `counts[S, L, N]`."""
    steps, layers, experts = counts.shape
    share = np.empty((steps, layers, t.copy_gpu.shape[1]), np.int64)
    choice, load = np.empty(experts, np.int64), np.empty(num_gpus, np.int64)
    for step in range(steps):
        for layer in range(layers):
            row = counts[step, layer]
            choose_least_loaded(row, t, layer, order[layer], choice, load)
            give_whole(row, t, layer, choice, share[step, layer])
    return share


def tournament(rounds: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Candidates of every expert, and counts `(N,)`, where index order reaches `rounds` and the optimum is 1.

    2^rounds GPUs; round by round the survivors pair up, each pair is one expert's candidates, the lower id survives.
    """
    survivors = list(range(2**rounds))
    candidates: list[tuple[int, ...]] = []
    while len(survivors) > 1:
        candidates += zip(survivors[::2], survivors[1::2], strict=True)
        survivors = survivors[::2]
    return candidates, np.ones(len(candidates), np.int64)


class Race(NamedTuple):
    """What racing ranks do to one batch: fractions of the experts with tokens."""

    disagree: float  # put on another GPU than rank 0 puts it, mean over the other ranks
    orphaned: float  # no rank chose itself: nobody computes the expert


def racing(layer: Any, counts: np.ndarray, *, seed: int = 0) -> Race:
    """Algorithm 1 run by every rank for itself, each in its own random lock order, on `counts (N,)`.

    Demonstrates why order and tie rule must be fixed: without messages a rank computes what its own run gave it.
    """
    counts, tables, gpus = np.asarray(counts, np.int64), layer.tables(), layer.num_gpus
    rng = np.random.default_rng([seed, RACE_STREAM])
    orders = [rng.permutation(len(counts))[None] for _ in range(gpus)]
    shares = np.stack([metro_share(counts[None, None], tables, gpus, order)[0, 0] for order in orders])
    _, at = np.nonzero(shares)
    chosen = tables.copy_gpu[0][at].reshape(gpus, -1)  # one copy per active expert, in ascending expert id
    if not chosen.shape[1]:
        return Race(0.0, 0.0)
    orphaned = ~(chosen == np.arange(gpus)[:, None]).any(axis=0)
    return Race(float((chosen[1:] != chosen[0]).mean()) if gpus > 1 else 0.0, float(orphaned.mean()))
