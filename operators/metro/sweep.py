"""Every ratio x batch size x router on a run's batches: placements, activated experts, token loads, router time.

One row per (router, r, B, seed, step, layer). All routers of a row see the same tokens and the same placement; the
exact optimum stands beside each. A batch of B tokens is the first B of the drawn ones, so batch sizes differ in nothing
else. At r = 1 every expert has one copy, all routers are the same map, and an engine would call none: time 0.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.metro import routing
from operators.metro.assignment import destinations, most_destinations, totals
from operators.metro.batches import counts_of
from operators.metro.draws import prefill_counts
from operators.metro.placement import Placement, place

if TYPE_CHECKING:
    import polars as pl

REPEATS = 3  # router timings of one block, while they are short
SHORT_S = 0.005
TIMED_LAYERS = 64  # a block with fewer is repeated, so that a layer's time is not the call's
PREFILL_STREAM = 31


@dataclass(frozen=True)
class Block:
    """Batches of one workload that share a size: `topk (S, L, T, k)`; steps are consecutive."""

    seed: int
    steps: np.ndarray  # (S,)
    topk: np.ndarray


@dataclass(frozen=True)
class Workload:
    """One model's batches with the loads that go with them and the machine they run on."""

    model: str
    name: str
    batches: str
    data: str
    placed_on: str
    layers: np.ndarray  # (L,)
    place: np.ndarray  # (L, N)
    gpus: int
    batch_sizes: tuple[int, ...]  # global tokens
    blocks: list[Block] = field(repr=False)
    prefill: np.ndarray | None = None  # (L, N)
    cost: Any = None  # of the adaptive router; None: that router is left out

    @property
    def experts(self) -> int:
        return self.place.shape[1]


def ratios_of(workload: Workload, ratios: tuple[float, ...]) -> Iterator[tuple[float, int]]:
    """(r, slots), without ratios that round up to the same number of slots as one before."""
    seen = set()
    for ratio in ratios:
        slots = routing.slots_for(ratio, workload.experts, workload.gpus)
        if slots not in seen:
            seen.add(slots)
            yield ratio, slots


def placements(workload: Workload, settings: Any) -> Iterator[tuple[float, Placement]]:
    """The placement of every ratio."""
    for ratio, slots in ratios_of(workload, settings.ratios):
        yield (
            ratio,
            place(
                workload.place,
                slots,
                workload.gpus,
                avoid_same_gpu=settings.avoid_same_gpu,
                nested=settings.nested and workload.experts % workload.gpus == 0,
            ),
        )


def placement_frame(workload: Workload, ratio: float, placement: Placement) -> "pl.DataFrame":
    """Rows (layer, slot, gpu, expert, copy): `copy` is the rank of the slot in the expert's copy order."""
    import polars as pl

    layers, slots = placement.phys2log.shape
    copy = np.empty((layers, slots), np.int16)
    at_layer, at_expert, rank = np.nonzero(placement.log2phys >= 0)
    copy[at_layer, placement.log2phys[at_layer, at_expert, rank]] = rank
    slot = np.tile(np.arange(slots, dtype=np.int32), layers)
    columns = {
        "layer": np.repeat(workload.layers.astype(np.int16), slots),
        "slot": slot,
        "gpu": (slot // placement.slots_per_gpu).astype(np.int16),
        "expert": placement.phys2log.ravel().astype(np.int16),
        "copy": copy.ravel(),
    }
    return pl.DataFrame(columns).with_columns(
        workload=pl.lit(workload.name),
        model=pl.lit(workload.model),
        placed_on=pl.lit(workload.placed_on),
        data=pl.lit(workload.data),
        r=pl.lit(ratio, pl.Float64),
        G=pl.lit(workload.gpus, pl.Int16),
    )


@dataclass
class Decided:
    """What one router did with one block, and how long a layer took it (us)."""

    routed: routing.Routed
    a2a: np.ndarray  # (S, L)
    time_us: float


def decode_frames(workload: Workload, ratio: float, placement: Placement, settings: Any) -> Iterator["pl.DataFrame"]:
    """Routing rows of all batch sizes and blocks under one placement."""
    names = [name for name in settings.routers if name != "adaptive" or workload.cost is not None]
    one_copy = placement.num_slots == placement.num_experts
    for size in workload.batch_sizes:
        for block in workload.blocks:
            if block.topk.shape[2] < size:
                continue
            topk = np.ascontiguousarray(block.topk[:, :, :size])
            counts = counts_of(topk, workload.experts)
            exact, certified = routing.certified_optimum(placement, counts)
            first = None
            for name in names:
                decided = first if one_copy and first else _decide(name, placement, topk, workload, settings)
                if one_copy:
                    decided.time_us = 0.0
                first = first or decided
                yield _frame(workload, ratio, placement, name, size, block, decided, exact, certified, "decode")


def _decide(name, placement, topk, workload, settings) -> Decided:
    tables, gpus, options = placement.tables, placement.num_gpus, {"order": settings.order, "seed": settings.seed}
    source = routing.source_gpus(None, topk.shape[2], gpus)

    def run(tokens: np.ndarray) -> np.ndarray:
        if name in routing.BY_POSITION:
            return routing.position_slots(name, placement, tokens, tables, source, None, settings.seed)
        fresh = counts_of(tokens, workload.experts)  # every rank counts all tokens before it can decide
        return routing.all_shares(name, fresh, tables, gpus, {"cost": workload.cost, **options})

    result, time_us = _timed(run, topk)
    if name in routing.BY_POSITION:
        activated, tokens = routing.slot_totals(result, gpus, placement.slots_per_gpu)
        a2a = most_destinations(result, source, gpus, placement.slots_per_gpu)
    else:
        activated, tokens = totals(result, tables, gpus)
        a2a = destinations(topk, tables, result, source, gpus)
    routed = routing.Routed(activated.max(axis=2), activated, tokens)
    return Decided(routed, a2a, time_us)


def _timed(run: Callable[[np.ndarray], np.ndarray], topk: np.ndarray) -> tuple[np.ndarray, float]:
    """What `run` makes of the block, and its processor time per layer (us), the median of a few runs while short."""
    result, layers = run(topk), max(1, topk.shape[0] * topk.shape[1])
    began = time.process_time()
    run(topk)
    taken = [time.process_time() - began]
    if taken[0] < SHORT_S:
        topk = np.tile(topk, (-(-TIMED_LAYERS // layers), 1, 1, 1)) if layers < TIMED_LAYERS else topk
        layers, taken = max(1, topk.shape[0] * topk.shape[1]), []
        for _ in range(REPEATS):
            began = time.process_time()
            run(topk)
            taken.append(time.process_time() - began)
    return result, float(np.median(taken)) / layers * 1e6


def prefill_frame(workload: Workload, ratio: float, placement: Placement, settings: Any, k: int) -> "pl.DataFrame":
    """Routing rows of prefill steps of `chunk` tokens a GPU: the even split, on counts drawn from the prefill load."""
    import polars as pl

    size, seeds = workload.gpus * settings.chunk, range(settings.seed, settings.seed + settings.seeds)
    frames = []
    for seed in seeds:
        counts = np.stack(
            [prefill_counts(workload.prefill, size * k, [seed, PREFILL_STREAM, step]) for step in range(settings.steps)]
        )
        routed = routing.route_counts("even", placement, counts)
        exact, certified = routing.certified_optimum(placement, counts)
        block = Block(seed, np.arange(settings.steps), np.empty((settings.steps, len(workload.layers), 0, k)))
        decided = Decided(routed, None, None)
        frames.append(_frame(workload, ratio, placement, "even", size, block, decided, exact, certified, "prefill"))
    return pl.concat(frames)


def _frame(workload, ratio, placement, router, size, block, decided, exact, certified, phase) -> "pl.DataFrame":
    import polars as pl

    steps, layers, gpus = decided.routed.activated.shape
    a2a = None if decided.a2a is None else decided.a2a.ravel().astype(np.int64)

    def per_gpu(values: np.ndarray, kind: Any, dtype: Any) -> pl.Series:
        flat = np.ascontiguousarray(values.reshape(-1, gpus).astype(dtype))
        return pl.Series(flat, dtype=pl.Array(kind, gpus)).cast(pl.List(kind))

    columns = {
        "step": np.repeat(block.steps.astype(np.int32), layers),
        "layer": np.tile(workload.layers.astype(np.int16), steps),
        "lam": decided.routed.lam.ravel().astype(np.int32),
        "activated_sum": decided.routed.activated.sum(axis=2).ravel().astype(np.int32),
        "max_tokens": decided.routed.tokens.max(axis=2).ravel().astype(np.int64),
        "lam_exact": exact.ravel().astype(np.int32),
        "certified": certified.ravel(),
        "activated": per_gpu(decided.routed.activated, pl.UInt16, np.uint16),
        "tokens": per_gpu(decided.routed.tokens, pl.UInt32, np.uint32),
        "a2a_tokens": pl.Series([None] * (steps * layers), dtype=pl.Int64) if a2a is None else a2a,
    }
    return pl.DataFrame(columns).with_columns(
        model=pl.lit(workload.model),
        workload=pl.lit(workload.name),
        phase=pl.lit(phase),
        batches=pl.lit(workload.batches if phase == "decode" else "synthesised"),
        data=pl.lit(workload.data),
        placed_on=pl.lit(workload.placed_on),
        router=pl.lit(router),
        r=pl.lit(ratio, pl.Float64),
        G=pl.lit(workload.gpus, pl.Int16),
        slots=pl.lit(placement.num_slots, pl.Int32),
        B=pl.lit(size, pl.Int32),
        batch_per_gpu=pl.lit(size / workload.gpus, pl.Float64),
        seed=pl.lit(block.seed, pl.Int32),
        time_us=pl.lit(decided.time_us, pl.Float64),
    )
