"""What engines do today, exactly: EPLB's even split, vLLM's modulo, SGLang's static and random choice, a token LP.

`even` and `primary` look at counts only; the engines' own rules depend on where a token stands in the batch or which
rank it comes from, so they need the token lists. "Copy order" is the order of `log2phys[layer, expert]`.
"""

import functools
import random
from typing import Any

import numpy as np

from operators.lab.compiled import kernel
from operators.metro.assignment import Routing, Tables, checked, from_share, from_slots, source_gpus

SGLANG_SEED = 42  # of sglang's own random.Random
SGLANG_RANGE = 65536  # sglang draws integers in [0, 65536) before the modulo
RANDOM_STREAM = 23


def even(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
) -> Routing:
    """EPLB's token step: the m-th assignment of an expert (flattened order) goes to copy m mod copies."""
    topk, counts, tables = checked(layer, topk, alive)
    return from_share(layer, topk, tables, even_share(counts[None, None], tables)[0, 0])


def primary(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
) -> Routing:
    """First live copies only: on a nested placement this is "no replication"."""
    topk, counts, tables = checked(layer, topk, alive)
    return from_share(layer, topk, tables, primary_share(counts[None, None], tables)[0, 0])


def vllm_modulo(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
    hash_multiplier: int = 1,
) -> Routing:
    """vLLM's fused kernel: copy `(p * hash_multiplier) mod copies`, p counting a source rank's assignments from 0."""
    topk, _, tables = checked(layer, topk, alive)
    source = source_gpus(source_gpu, len(topk), layer.num_gpus)
    return from_slots(layer, modulo_slots(topk[None, None], tables, source, layer.num_gpus, hash_multiplier)[0, 0])


def sglang_random(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
    rank_invariant: bool = False,
) -> Routing:
    """sglang's "dynamic": a seeded random integer mod copies per assignment; `rank_invariant`: token row instead."""
    topk, _, tables = checked(layer, topk, alive)
    draws = random_draws((1, 1, *topk.shape), seed, rank_invariant)
    return from_slots(layer, drawn_slots(topk[None, None], tables, draws)[0, 0])


def sglang_static(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
) -> Routing:
    """sglang's "static": every source rank has one copy of each expert, the nearest, leftovers dealt fairly."""
    topk, _, _ = checked(layer, topk, alive)
    source = source_gpus(source_gpu, len(topk), layer.num_gpus)
    ranks = static_map(layer.placement) if alive is None else alive_map(layer.placement, alive)
    return from_slots(layer, static_slots(topk[None, None], ranks[layer.index, None], source)[0, 0])


def lp(
    layer: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    cost: Any = None,
    seed: int = 0,
    alive: np.ndarray | None = None,
) -> Routing:
    """Tokens only: the split over copies with the least tokens on the busiest GPU (the goal of sglang's lp mode)."""
    topk, counts, tables = checked(layer, topk, alive)
    return from_share(layer, topk, tables, lp_share(counts[None, None], tables, layer.num_gpus)[0, 0])


@kernel
def even_share(counts, t):
    """`share[S, L, R]` of the even split: copies in front get the odd tokens."""
    steps, layers, experts = counts.shape
    share = np.zeros((steps, layers, t.copy_gpu.shape[1]), np.int64)
    for step in range(steps):
        for layer in range(layers):
            for expert in range(experts):
                have, first = counts[step, layer, expert], t.copy_start[layer, expert]
                if have > 0:
                    copies = t.copy_start[layer, expert + 1] - first
                    each = have // copies
                    for rank in range(copies):
                        share[step, layer, first + rank] = each + (rank < have - each * copies)
    return share


@kernel
def primary_share(counts, t):
    """`share[S, L, R]` with everything on first copies."""
    steps, layers, experts = counts.shape
    share = np.zeros((steps, layers, t.copy_gpu.shape[1]), np.int64)
    for step in range(steps):
        for layer in range(layers):
            for expert in range(experts):
                if counts[step, layer, expert] > 0:
                    share[step, layer, t.copy_start[layer, expert]] = counts[step, layer, expert]
    return share


@kernel
def modulo_slots(topk, t, source, num_gpus, multiplier):
    """Slots `(S, L, T, k)` of `vllm_modulo`."""
    steps, layers, tokens, k = topk.shape
    slot = np.empty((steps, layers, tokens, k), np.int64)
    seen = np.empty(num_gpus, np.int64)
    for step in range(steps):
        for layer in range(layers):
            seen[:] = 0
            for token in range(tokens):
                for j in range(k):
                    first = t.copy_start[layer, topk[step, layer, token, j]]
                    copies = t.copy_start[layer, topk[step, layer, token, j] + 1] - first
                    at = first + (seen[source[token]] * multiplier) % copies
                    slot[step, layer, token, j] = t.copy_slot[layer, at]
                    seen[source[token]] += 1
    return slot


def random_draws(shape: tuple[int, ...], seed: int, rank_invariant: bool) -> np.ndarray:
    """The integers `(S, L, T, k)` whose remainder picks the copy."""
    if rank_invariant:
        return np.ascontiguousarray(np.broadcast_to(np.arange(shape[2])[:, None], shape), np.int64)
    return np.random.default_rng([seed, RANDOM_STREAM]).integers(0, SGLANG_RANGE, shape, np.int64)


@kernel
def drawn_slots(topk, t, draws):
    """Slots `(S, L, T, k)`: copy `draws mod copies` of each assignment."""
    steps, layers, tokens, k = topk.shape
    slot = np.empty((steps, layers, tokens, k), np.int64)
    for step in range(steps):
        for layer in range(layers):
            for token in range(tokens):
                for j in range(k):
                    first = t.copy_start[layer, topk[step, layer, token, j]]
                    copies = t.copy_start[layer, topk[step, layer, token, j] + 1] - first
                    slot[step, layer, token, j] = t.copy_slot[layer, first + draws[step, layer, token, j] % copies]
    return slot


@functools.lru_cache(maxsize=2)
def static_map(placement: Any) -> np.ndarray:
    """Slot `(L, G, N)` of each source rank and expert under sglang's static rule; engines build it per placement.

    One random stream runs over layers, then experts, as in sglang, so a layer's map needs the layers before it.
    """
    return alive_map(placement, None)


def alive_map(placement: Any, alive: np.ndarray | None) -> np.ndarray:
    """The map without the copies on dead GPUs; -1 where an expert has none left."""
    layers = placement.num_layers
    stream, gpus, per_gpu = random.Random(SGLANG_SEED), placement.num_gpus, placement.slots_per_gpu
    per_node = per_gpu * gpus // placement.num_nodes
    out = np.full((layers, gpus, placement.num_experts), -1, np.int64)
    for layer in range(layers):
        for expert, row in enumerate(placement.log2phys[layer].tolist()):
            slots = [slot for slot in row if slot >= 0 and (alive is None or alive[slot // per_gpu])]
            if not slots:
                continue
            near = [_nearest(slots, rank, per_gpu, per_node, placement.num_nodes) for rank in range(gpus)]
            left = [rank for rank in range(gpus) if near[rank] < 0]
            for rank, slot in zip(left, _fair_choices(slots, len(left), stream) if left else [], strict=True):
                near[rank] = slot
            out[layer, :, expert] = near
    return out


def _nearest(slots: list[int], rank: int, per_gpu: int, per_node: int, num_nodes: int) -> int:
    if len(slots) == 1:
        return slots[0]
    here = [slot for slot in slots if slot // per_gpu == rank]
    if here:
        return here[0]
    node = [slot for slot in slots if slot // per_node == rank * per_gpu // per_node]
    return node[0] if num_nodes > 1 and 0 < len(node) < len(slots) else -1


def _fair_choices(slots: list[int], count: int, stream: random.Random) -> list[int]:
    whole, rest = divmod(count, len(slots))
    chosen = slots * whole + stream.sample(slots, k=rest)
    stream.shuffle(chosen)
    return chosen


@kernel
def static_slots(topk, ranks, source):
    """Slots `(S, L, T, k)` under the map `ranks[L, G, N]`."""
    steps, layers, tokens, k = topk.shape
    slot = np.empty((steps, layers, tokens, k), np.int64)
    for step in range(steps):
        for layer in range(layers):
            for token in range(tokens):
                for j in range(k):
                    slot[step, layer, token, j] = ranks[layer, source[token], topk[step, layer, token, j]]
    return slot


def lp_share(counts: np.ndarray, tables: Tables, num_gpus: int) -> np.ndarray:
    """`share[S, L, R]` of the token LP, rounded by largest remainder within each expert.

    Departure: the engines draw a copy per assignment from the LP's probabilities; rounding needs no draw.
    """
    share = np.zeros((*counts.shape[:2], tables.copy_gpu.shape[1]), np.int64)
    for step, layer in np.ndindex(counts.shape[:2]):
        row, starts = counts[step, layer], tables.copy_start[layer]
        split = _lp_split(row, starts, tables.copy_gpu[layer], num_gpus)
        for expert in np.flatnonzero(row):
            part = split[starts[expert] : starts[expert + 1]]
            whole = np.floor(part + 1e-9).astype(np.int64)
            spare = row[expert] - whole.sum()
            whole[np.argsort(whole - part, kind="stable")[:spare]] += 1
            share[step, layer, starts[expert] : starts[expert + 1]] = whole
    return share


def _lp_split(row: np.ndarray, starts: np.ndarray, copy_gpu: np.ndarray, num_gpus: int) -> np.ndarray:
    """Fractional tokens per copy that minimise the busiest GPU's."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    live = int(starts[-1])
    if not live or not row.any():
        return np.zeros(live)
    owner = np.repeat(np.arange(len(row)), np.diff(starts))
    at = np.arange(live)
    columns = np.concatenate([at, np.full(num_gpus, live)])
    per_gpu = coo_array(
        (
            np.concatenate([np.ones(live), -np.ones(num_gpus)]),
            (np.concatenate([copy_gpu[:live], np.arange(num_gpus)]), columns),
        )
    )
    per_expert = coo_array((np.ones(live), (owner, at)), shape=(len(row), live + 1))
    goal = np.zeros(live + 1)
    goal[live] = 1.0
    solved = linprog(
        goal, A_ub=per_gpu.tocsr(), b_ub=np.zeros(num_gpus), A_eq=per_expert.tocsr(), b_eq=row, method="highs"
    )
    return solved.x[:live]
