"""Rows of bench.parquet about allocator, class optimiser and copies. Processor time, interleaved A B A B."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from operators.lab.peers import paired, row
from operators.odma import arena_core, cutting
from operators.odma.arena import Arena, native
from operators.odma.buckets import optimal_buckets
from operators.odma.rivals import SortedFreeList
from operators.odma.settings import Settings

UNITS, HANDLES = 7000, 600  # the modelled card's arena, half again as many requests as it holds
P99_US = 5.0


def rows(settings: Settings) -> list[dict[str, Any]]:
    """All rows; a few seconds."""
    small = settings.profile == "ci"
    pairs = 20_000 if small else 200_000
    return [*_allocator(settings, pairs), *_optimiser(settings, small), _copies(settings, small)]


def stream(pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A full arena in which a random request ends and another begins, `pairs` times: op, slot, size in units."""
    rng = np.random.default_rng([seed, 41])
    slots = rng.integers(0, HANDLES, pairs)
    op = np.concatenate([np.zeros(HANDLES, np.int8), np.tile(np.array([1, 0], np.int8), pairs)])
    slot = np.concatenate([np.arange(HANDLES), np.repeat(slots, 2)]).astype(np.int32)
    return op, slot, rng.integers(3, 40, len(op)).astype(np.int32)


def _replayer(run: Callable, pairs: int, seed: int, ns: np.ndarray | None = None) -> Callable[[], None]:
    op, slot, size = stream(pairs, seed)
    out, extra = np.zeros(len(op), np.int32), () if ns is None else (ns,)

    def work() -> None:
        run(arena_core.new(UNITS), op, slot, size, np.full(HANDLES, -1, np.int32), out, *extra)

    return work


def _python(pairs: int, seed: int) -> Callable[[], None]:
    op, slot, size = (values.tolist() for values in stream(pairs, seed))

    def work() -> None:
        arena, held = SortedFreeList(UNITS), [-1] * HANDLES
        for kind, place, need in zip(op, slot, size, strict=True):
            if kind == 0:
                held[place] = arena.reserve(need)
            elif held[place] >= 0:
                arena.release(held[place])
                held[place] = -1

    return work


def _allocator(settings: Settings, pairs: int) -> list[dict[str, Any]]:
    seed, n = settings.seed, settings.bench_repeats
    common = {"bench": "allocator", "unit": "pairs/s", "higher_is_better": True, "case": "pairs per second"}
    compiled = native()
    run = compiled.replay if compiled else arena_core.replay
    ours = "native arena" if compiled else "numba arena"
    found = []
    peer_pairs = pairs // 20
    peers = {"sorted free list in Python": (_python(peer_pairs, seed), peer_pairs)}
    if compiled:
        peers["numba arena"] = (_replayer(arena_core.replay, pairs, seed), pairs)
    for name, (work, count) in peers.items():
        times = paired(_replayer(run, pairs, seed), work, n=n)
        mine, other = ([amount / s for s in side] for amount, side in zip((pairs, count), times, strict=True))
        found.append(row(ours=ours, peer=name, ours_samples=mine, peer_samples=other, **common))
    found.append(row(ours=ours, peer="DistServe block manager (LLMServe/DistServe @ 82831f16)", **common,
                     reason="exists as a repository only; sources are not downloaded or built here"))  # fmt: skip
    if compiled:
        samples = []
        for repeat in range(n):
            ns = np.zeros(2 * pairs + HANDLES, np.int32)
            _replayer(run, pairs, seed + repeat, ns)()
            samples.append(float(np.quantile(ns, 0.99)) / 1000)
        found.append(row(bench="allocator", case="p99", ours=ours, peer="limit",
                         unit="us per operation, clock included", ours_samples=samples,
                         peer_samples=[P99_US], bar=1.0))  # fmt: skip
    else:
        found.append(row(bench="allocator", case="p99", ours=ours, peer="limit", unit="us per operation",
                         reason="the native core is not built here"))  # fmt: skip
    found.append(_calls(settings, n))
    return found


def _calls(settings: Settings, n: int) -> dict[str, Any]:
    """Reserve and release one by one through the Python class, as a serving loop calls it."""
    count = 2000

    def ours() -> None:
        arena = Arena(UNITS * 16)
        for _ in range(count):
            arena.release(arena.reserve(300))

    def peer() -> None:
        arena = SortedFreeList(UNITS)
        for _ in range(count):
            arena.release(arena.reserve(19))

    mine, other = ([count / s for s in side] for side in paired(ours, peer, n=n))
    return row(bench="allocator", case="calls from Python", ours="Arena", peer="sorted free list in Python, no checks",
               unit="pairs/s", ours_samples=mine, peer_samples=other, higher_is_better=True)  # fmt: skip


def _optimiser(settings: Settings, small: bool) -> list[dict[str, Any]]:
    rng = np.random.default_rng([settings.seed, 42])
    hist = np.bincount(np.minimum(rng.lognormal(6.5, 1.0, 20_000).astype(int), 4095), minlength=4096) + 1e-3
    mass, size = np.cumsum(hist) / hist.sum(), np.arange(1.0, 4097.0)
    fast, slow = (lambda plain=plain: cutting.cut(mass, size, 16, plain) for plain in (False, True))
    times = paired(fast, slow, n=1 if small else settings.bench_repeats)
    ms = [[s * 1e3 for s in side] for side in times]
    case = "4096 bins, K 16, divide and conquer"
    found = [row(bench="optimiser", case=case, ours="divide and conquer", peer="plain recurrence", unit="ms",
                 ours_samples=ms[0], peer_samples=ms[1])]  # fmt: skip
    times = paired(fast, lambda: optimal_buckets(hist, 16, method="quantile"), n=settings.bench_repeats)
    ms = [[s * 1e3 for s in side] for side in times]
    found.append(row(bench="optimiser", case="4096 bins, K 16, against quantiles", ours="divide and conquer",
                     peer="quantiles (no optimum)", unit="ms", ours_samples=ms[0], peer_samples=ms[1]))  # fmt: skip
    return found


def _copies(settings: Settings, small: bool) -> dict[str, Any]:
    """A migration (reserve, copy, switch, release) against numpy's memcpy of the same bytes along the same ways."""
    width, tokens = settings.real_token_bytes, 2048
    slots = 4 if small else 24
    arena = Arena(tokens * (slots + 2) * 2, 16, width)
    arena.bytes[:] = 1  # touched
    held = [arena.reserve(tokens) for _ in range(slots)]
    arena.reserve(16)

    block, ways = tokens * width, []

    def migrate() -> float:
        ways.clear()
        began = time.process_time()
        for place, extent in enumerate(held):
            moved, copied = arena.grow(extent, extent.tokens + 16, used=tokens)
            assert copied
            ways.append((extent.offset * width, moved.offset * width))
            held[place] = _shrunk(arena, moved, tokens)
        return time.process_time() - began

    def memcpy() -> float:
        began = time.process_time()
        for source, target in ways:
            arena.bytes[target : target + block] = arena.bytes[source : source + block]
        return time.process_time() - began

    migrate(), memcpy()
    pairs = [(migrate(), memcpy()) for _ in range(max(3, settings.bench_repeats))]
    moved = slots * block / 1e9
    return row(bench="copy", case="migration", ours="Arena.grow to a new block", peer="numpy memcpy", unit="GB/s",
               ours_samples=[moved / mine for mine, _ in pairs], peer_samples=[moved / other for _, other in pairs],
               higher_is_better=True, bar=0.7)  # fmt: skip


def _shrunk(arena: Arena, extent, tokens: int):
    """The same block for the next round: given back and reserved at its old size, nothing copied."""
    arena.release(extent)
    return arena.reserve(tokens)
