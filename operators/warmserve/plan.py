"""How many replicas of a model to prewarm, and what each is worth (paper, scoring; constants of the official code).

Foundation replicas carry the forecast mean, burst replicas the forecast peak. A score falls with the rank of a replica
and rises with the cold start it saves. Departures: a forecast mean of 0 gives burst factor 1 (official code divides by
it); with `rule="paper"` a burst replica can outrank a foundation one, as the formula has it.
"""

import math
from dataclasses import dataclass

FOUNDATION, BURST, RESIDENT, ONDEMAND = "foundation", "burst", "resident", "ondemand"


@dataclass(frozen=True)
class Wanted:
    """One replica that should lie ready."""

    kind: str
    score: float


def replica_counts(mean: float, peak: float, running: int, batch: int) -> tuple[int, int]:
    """Foundation and burst replicas still missing besides `running` instances.

    >>> replica_counts(40.0, 100.0, 1, 32)
    (1, 2)
    """
    if batch < 1:
        raise ValueError(f"batch (={batch}): expected >= 1")
    foundation = max(math.ceil(mean / batch) - running, 0)
    return foundation, max(math.ceil(peak / batch) - running - foundation, 0)


def wanted(mean: float, peak: float, running: int, batch: int, cold_s: float) -> list[Wanted]:
    """The replicas a model should have besides its running instances, most valuable first within each kind."""
    foundation, burst = replica_counts(mean, peak, running, batch)
    total, factor = foundation + burst, peak / mean if mean > 0 else 1.0
    return [
        Wanted(FOUNDATION, math.exp(-i / total) * cold_s)
        if i < foundation
        else Wanted(BURST, math.exp(-i / total) * cold_s * factor)
        for i in range(total)
    ]


def order_key(rule: str):
    """Sorting key of (Wanted, model, rank): best first, ties by model and rank."""
    if rule == "foundation_first":
        return lambda item: (item[0].kind != FOUNDATION, -item[0].score, item[1], item[2])
    if rule == "paper":
        return lambda item: (-item[0].score, item[1], item[2])
    raise ValueError(f"rule (={rule!r}): expected 'paper' or 'foundation_first'")
