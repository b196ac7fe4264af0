"""Comparison rows of locks: the common ones; sides that give samples themselves instead of being timed."""

from collections.abc import Callable, Sequence
from typing import Any

from operators.lab import peers


def paired(ours: Callable[[], float], peer: Callable[[], float], *, n: int) -> tuple[list[float], list[float]]:
    """`n` samples of each side, interleaved A B A B after one unmeasured run of both; a call gives a sample."""
    ours(), peer()
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(n):
        samples[0].append(ours())
        samples[1].append(peer())
    return samples


def row(
    bench: str, case: str, *, ours_samples: Sequence[float] = (), peer_samples: Sequence[float] = (), **fields: Any
) -> dict[str, Any]:
    """`lab.peers.row`. A side at 0 (a count that stayed 0, a lock that stood) has no ratio, but is measured."""
    limits = list(peer_samples) * (len(ours_samples) if len(peer_samples) == 1 else 1)
    some = all(ours_samples) and all(limits)
    made = peers.row(bench=bench, case=case, ours_samples=ours_samples if some else (), peer_samples=limits, **fields)
    if ours_samples:
        middle = {"ours_value": _median(ours_samples), "peer_value": _median(peer_samples)}
        made |= middle | {"n": len(ours_samples), "status": "measured"}
    return made


def _median(samples: Sequence[float]) -> float | None:
    import statistics

    return statistics.median(samples) if samples else None
