"""The table of routers, for one batch with its tokens and for many batches of counts at once.

`ROUTERS[name](placement_layer, topk (T, k), source_gpu (T,) = None, *, cost, seed, alive)` returns a Routing with the
slot of every assignment. `route_counts` needs no tokens, only how many chose each expert, and is the fast way through
thousands of layers. Routers that depend on a token's place in the batch (the engines' own rules) have no counts form:
`route_batches` serves all of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from operators.metro import baselines, greedy, optimum
from operators.metro.assignment import (
    Routing,
    RoutingError,
    Tables,
    check_alive,
    check_served,
    live_tables,
    slot_totals,
    slots_of,
    source_gpus,
    totals,
)
from operators.metro.baselines import even, lp, primary, sglang_random, sglang_static, vllm_modulo
from operators.metro.batches import TraceError, counts_of
from operators.metro.costaware import adaptive
from operators.metro.greedy import metro, tournament
from operators.metro.optimum import exact, exact_balanced
from operators.metro.shares import SHARES
from operators.metro.stale import follow, last_step, stale

__all__ = [
    "ROUTERS",
    "Routed",
    "Routing",
    "RoutingError",
    "adaptive",
    "certified_optimum",
    "even",
    "exact",
    "exact_balanced",
    "lp",
    "metro",
    "primary",
    "route_batches",
    "route_counts",
    "sglang_random",
    "sglang_static",
    "slots_for",
    "stale",
    "tournament",
    "vllm_modulo",
]

stale_metro = stale(metro)

ROUTERS: dict[str, Callable[..., Routing]] = {
    "primary": primary,
    "even": even,
    "vllm_modulo": vllm_modulo,
    "sglang_static": sglang_static,
    "sglang_random": sglang_random,
    "metro": metro,
    "exact": exact,
    "exact_balanced": exact_balanced,
    "adaptive": adaptive,
    "stale_metro": stale_metro,
    "lp": lp,
}
BY_POSITION = ("vllm_modulo", "sglang_static", "sglang_random")  # need the tokens, not only their counts

CHUNK_BYTES = 64 * 2**20  # of shares held at once by the batched calls


class Routed(NamedTuple):
    """What many batches make every GPU do."""

    lam: np.ndarray  # (S, L)
    activated: np.ndarray  # (S, L, G)
    tokens: np.ndarray  # (S, L, G)


def name_of(router: str | Callable[..., Routing]) -> str:
    """The name of a router given by name or as its function; RoutingError lists the known ones."""
    name = router if isinstance(router, str) else getattr(router, "__name__", repr(router))
    name = "stale_metro" if router is stale_metro else name
    if name not in ROUTERS:
        raise RoutingError(f"router (={name!r}): unknown; known: {', '.join(ROUTERS)}")
    return name


def slots_for(ratio: float, num_experts: int, num_gpus: int) -> int:
    """The least multiple of `num_gpus` that holds `ratio` copies per expert."""
    return num_gpus * int(np.ceil(round(ratio * num_experts, 6) / num_gpus))


def route_counts(
    router: str | Callable[..., Routing],
    placement: Any,
    counts: np.ndarray,
    *,
    alive: np.ndarray | None = None,
    cost: Any = None,
    order: str = "index",
    seed: int = 0,
) -> Routed:
    """Route S steps of all L layers of `placement`, given tokens per expert `counts[S, L, N]`.

    `stale_metro` takes the S axis as consecutive steps. Raises RoutingError for a router that needs the tokens.
    """
    name = name_of(router)
    if name in BY_POSITION:
        raise RoutingError(f"router (={name!r}): depends on token positions; use route_batches with topk[S, L, T, k]")
    counts = _checked_counts(placement, counts)
    tables = _tables(placement, alive)
    check_served(counts, tables)
    options = {"cost": cost, "order": order, "seed": seed}
    chunk = max(1, CHUNK_BYTES // max(1, tables.copy_gpu.size * 8))
    parts = []
    for first in range(0, max(1, len(counts)), chunk):
        some = slice(first, first + chunk)
        parts.append(_routed_chunk(name, counts, some, tables, placement.num_gpus, options))
    return parts[0] if len(parts) == 1 else Routed(*map(np.concatenate, zip(*parts, strict=True)))


def _routed_chunk(name, counts, some, tables, num_gpus, options) -> Routed:
    here = np.ascontiguousarray(counts[some])
    if name == "stale_metro":
        before = last_step(counts)[some]
        plan = SHARES["metro"](np.ascontiguousarray(before), tables, num_gpus, **options)
        share = follow(plan, here, tables, num_gpus)
    else:
        share = SHARES[name](here, tables, num_gpus, **options)
    activated, tokens = totals(share, tables, num_gpus)
    return Routed(activated.max(axis=2), activated, tokens)


def certified_optimum(
    placement: Any, counts: np.ndarray, *, alive: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Least possible `lam (S, L)` of `counts[S, L, N]`, and whether each one's certificate holds `(S, L)`."""
    counts, tables = _checked_counts(placement, counts), _tables(placement, alive)
    check_served(counts, tables)
    order = greedy.by_candidates(tables.cand_start)
    _, _, lam, certified = optimum.exact_share(counts, tables, placement.num_gpus, order, False)
    return lam, certified


def route_batches(
    router: str | Callable[..., Routing],
    placement: Any,
    topk: np.ndarray,
    source_gpu: np.ndarray | None = None,
    *,
    alive: np.ndarray | None = None,
    cost: Any = None,
    order: str = "index",
    seed: int = 0,
) -> tuple[Routed, np.ndarray]:
    """Route S steps of L layers with their tokens `topk[S, L, T, k]`; also the slots `(S, L, T, k)`.

    Ids must lie in [0, N) and be distinct within a token (`batches.check_topk` tells which row is not).
    """
    name, topk = name_of(router), np.asarray(topk)
    if topk.dtype.kind not in "iu":
        raise TraceError(f"topk ({topk.dtype}): expected integer ids")
    topk = np.ascontiguousarray(topk, np.int64)
    if topk.ndim != 4 or topk.shape[1] != placement.num_layers:
        raise TraceError(f"topk (shape {topk.shape}): expected (steps, {placement.num_layers} layers, tokens, k)")
    if topk.size and not 0 <= topk.min() <= topk.max() < placement.num_experts:
        raise TraceError(f"topk: ids in [{topk.min()}, {topk.max()}]; expected [0, {placement.num_experts})")
    tables = _tables(placement, alive)
    counts = counts_of(topk, placement.num_experts)
    check_served(counts, tables)
    gpus = placement.num_gpus
    if name not in BY_POSITION:
        share = all_shares(name, counts, tables, gpus, {"cost": cost, "order": order, "seed": seed})
        activated, tokens = totals(share, tables, gpus)
        slot = slots_of(topk, tables, share)
    else:
        slot = position_slots(name, placement, topk, tables, source_gpus(source_gpu, topk.shape[2], gpus), alive, seed)
        activated, tokens = slot_totals(slot, gpus, placement.slots_per_gpu)
    return Routed(activated.max(axis=2), activated, tokens), slot


def all_shares(name: str, counts: np.ndarray, tables: Tables, num_gpus: int, options: dict[str, Any]) -> np.ndarray:
    """`share[S, L, R]` of a router that needs counts only; `stale_metro` takes S as consecutive steps."""
    if name == "stale_metro":
        return follow(SHARES["metro"](last_step(counts), tables, num_gpus, **options), counts, tables, num_gpus)
    return SHARES[name](counts, tables, num_gpus, **options)


def position_slots(
    name: str,
    placement: Any,
    topk: np.ndarray,
    tables: Tables,
    source: np.ndarray,
    alive: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    """Slots `(S, L, T, k)` of a router that depends on token positions."""
    if name == "vllm_modulo":
        return baselines.modulo_slots(topk, tables, source, placement.num_gpus, 1)
    if name == "sglang_random":
        return baselines.drawn_slots(topk, tables, baselines.random_draws(topk.shape, seed, False))
    ranks = baselines.static_map(placement) if alive is None else baselines.alive_map(placement, alive)
    return baselines.static_slots(topk, ranks, source)


def _tables(placement: Any, alive: np.ndarray | None) -> Tables:
    if alive is None:
        return placement.tables
    alive = check_alive(alive, placement.num_gpus)
    return live_tables(placement.log2phys, placement.copies, placement.slots_per_gpu, alive)


def _checked_counts(placement: Any, counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.dtype.kind not in "iu":
        raise TraceError(f"counts ({counts.dtype}): expected whole numbers of tokens (an integer array)")
    counts = np.ascontiguousarray(counts, np.int64)
    expected = (placement.num_layers, placement.num_experts)
    if counts.ndim != 3 or counts.shape[1:] != expected:
        raise TraceError(
            f"counts (shape {counts.shape}): expected (steps, {expected[0]} layers, {expected[1]} experts)"
        )
    if counts.size and counts.min() < 0:
        step, layer, expert = np.argwhere(counts < 0)[0]
        raise TraceError(
            f"counts (={counts[step, layer, expert]} at step {step}, layer {layer}, expert {expert}): >= 0"
        )
    return counts
