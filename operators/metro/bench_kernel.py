"""Rows of bench.parquet about the expert kernel: its bandwidth against plain reading, against BLAS, against numba.

Both sides of a row run on the same weights, interleaved, in one thread; the experts are more than four times the
last-level cache, else the rows say `not measured`. BLAS must be capped to one thread from outside (stages do that):
processor time counts all its threads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from operators.lab.peers import paired
from operators.metro import cold, experts, kernel
from operators.metro.peers import row
from operators.metro.settings import Settings

TOKENS = (1, 2, 4, 8)
STREAM_BAR = 0.45  # of the streaming bandwidth, at one token per expert
FEWEST_EXPERTS = 8


def rows(settings: Settings) -> list[dict[str, Any]]:
    """All rows; a few seconds."""
    cpu, cache = settings.cpu, cold.l3_bytes()
    size = 3 * cpu.width * cpu.hidden * 4
    count = max(FEWEST_EXPERTS, -(-4 * cache // size), -(-4 * kernel.STREAM_UNIT // size))
    sizes = {"N": count, "G": 1}
    try:
        native = kernel.core("native")
    except ValueError as error:
        return [_missing(tokens, str(error), sizes) for tokens in TOKENS]
    if cache == 0 or count > 4 * cpu.experts:
        reason = f"cache resident: {cpu.experts} experts of {size / 1e6:.1f} MB, {cache / 1e6:.0f} MB of cache"
        return [_missing(tokens, reason, sizes) for tokens in TOKENS]
    slab = experts.empty_slab(count, cpu.width, cpu.hidden)
    for expert, block in enumerate(slab):
        experts.fill(block, seed=settings.seed, layer=0, expert=expert)
    small = settings.profile == "ci"
    n, counts = (3, TOKENS[:1]) if small else (max(5, cpu.reps), TOKENS)
    found = [_against_stream(native, slab, tokens, n, sizes) for tokens in counts]
    found += [_against_blas(native, slab, tokens, n, sizes) for tokens in counts]
    return found + [_against_numba(native, slab, tokens, n, sizes) for tokens in counts[::2]]


def _missing(tokens: int, reason: str, sizes: dict[str, int]) -> dict[str, Any]:
    bar = STREAM_BAR if tokens == 1 else None
    return row(bench="kernel", case=_case(tokens), ours="native kernel", peer="plain read", unit="GB/s", reason=reason,
               higher_is_better=True, bar=bar, B=tokens, **sizes)  # fmt: skip


def _case(tokens: int) -> str:
    return f"{tokens} token{'s' * (tokens > 1)} per expert"


def _work(core: Any, slab: np.ndarray, tokens: int) -> Callable[[], tuple[int, int]]:
    """A call that runs every expert of the slab on the same `tokens` tokens."""
    count = len(slab)
    x = np.random.default_rng(tokens).standard_normal((tokens, slab.shape[3]), np.float32)
    y = np.zeros_like(x)
    start = np.arange(count + 1, dtype=np.int64) * tokens
    lists = (np.arange(count), start, np.tile(np.arange(tokens), count), np.full(count * tokens, 1e-3, np.float32))
    return lambda: core.forward(slab, *lists, x, y)


def _against_stream(core: Any, slab: np.ndarray, tokens: int, n: int, sizes: dict[str, int]) -> dict[str, Any]:
    """GB/s of weights, kernel against the best plain reader of the same memory, by the thread's CPU clock."""
    flat = slab.reshape(-1)
    flat = flat[: len(flat) // kernel.STREAM_UNIT * kernel.STREAM_UNIT]
    best = max(kernel.STREAMS, key=lambda streams: kernel.stream_rate(flat, core, streams=(streams,)))
    work = _work(core, slab, tokens)
    work()
    ours, peer = [], []
    for _ in range(n):
        ours.append(slab.nbytes / work()[0])
        peer.append(kernel.stream_rate(flat, core, streams=(best,)))
    bar = STREAM_BAR if tokens == 1 else None
    return row(bench="kernel", case=_case(tokens), ours="native kernel", peer=f"plain read, {best} streams",
               unit="GB/s", ours_samples=ours, peer_samples=peer, higher_is_better=True, bar=bar, B=tokens,
               **sizes)  # fmt: skip


def _against_blas(core: Any, slab: np.ndarray, tokens: int, n: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Milliseconds an expert, against numpy with each matrix in the layout BLAS likes best."""
    matrices = [tuple(np.ascontiguousarray(part) for part in experts.unpack(block)) for block in slab]
    x = np.random.default_rng(tokens).standard_normal((tokens, slab.shape[3]), np.float32)
    x = x[0] if tokens == 1 else x  # matrix times vector is BLAS's best case

    def blas() -> None:
        y = np.zeros_like(x)
        for w1, w3, w2 in matrices:
            gate = x @ w1.T
            y += (gate / (1 + np.exp(-gate)) * (x @ w3.T)) @ w2.T

    return _per_expert(_work(core, slab, tokens), blas, tokens, n, peer="numpy (BLAS)", sizes=sizes)


def _against_numba(core: Any, slab: np.ndarray, tokens: int, n: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Milliseconds an expert, against the stand-in for machines without a compiler."""
    standin = _work(kernel.core("numba"), slab, tokens)
    return _per_expert(_work(core, slab, tokens), standin, tokens, n, peer="numba stand-in", sizes=sizes)


def _per_expert(ours: Callable, peer_run: Callable, tokens: int, n: int, *, peer: str, sizes: dict[str, int]) -> dict:
    ms = [[s * 1e3 / sizes["N"] for s in side] for side in paired(ours, peer_run, n=n)]
    return row(bench="kernel", case=_case(tokens), ours="native kernel", peer=peer, unit="ms per expert",
               ours_samples=ms[0], peer_samples=ms[1], B=tokens, **sizes)  # fmt: skip
