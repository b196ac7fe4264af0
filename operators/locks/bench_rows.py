"""What every performance bar shares: interleaved samples, and one row per comparison with its direction and spread.

`ratio` is how many times ours is better (above 1: ours), pair by pair, its median; a peer given as one number (a limit
quoted from elsewhere) is compared with every sample. A missing peer gives a row `not measured` with the reason.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

COLUMNS = {
    **dict.fromkeys(("bench", "case", "ours", "peer"), "String"),
    **dict.fromkeys(("ours_value", "peer_value"), "Float64"),
    "unit": "String",
    **dict.fromkeys(("ratio", "bar"), "Float64"),
    "higher_is_better": "Boolean",
    "n": "Int64",
    **dict.fromkeys(("median", "ratio_low", "ratio_high"), "Float64"),
    **dict.fromkeys(("status", "reason"), "String"),
    "load": "Float64",
    "data": "String",
}


def paired(ours: Callable[[], float], peer: Callable[[], float], *, n: int) -> tuple[list[float], list[float]]:
    """`n` samples of each side, interleaved A B A B after one unmeasured run of both; a call gives a sample."""
    ours(), peer()
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(n):
        samples[0].append(ours())
        samples[1].append(peer())
    return samples


def row(
    bench: str,
    case: str,
    *,
    ours: str,
    peer: str,
    unit: str,
    ours_samples: Sequence[float] = (),
    peer_samples: Sequence[float] = (),
    higher_is_better: bool = False,
    bar: float | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """One row of bench.parquet."""
    limits = list(peer_samples) * (len(ours_samples) if len(peer_samples) == 1 else 1)
    pairs = list(zip(ours_samples, limits, strict=True)) if limits and ours_samples else []
    ratios = [(mine / other if higher_is_better else other / mine) for mine, other in pairs if mine and other]
    middle = statistics.median(ratios) if ratios else None
    return {
        "bench": bench,
        "case": case,
        "ours": ours,
        "peer": peer,
        "ours_value": statistics.median(ours_samples) if ours_samples else None,
        "peer_value": statistics.median(peer_samples) if peer_samples else None,
        "unit": unit,
        "ratio": middle,
        "bar": bar,
        "higher_is_better": higher_is_better,
        "n": len(ours_samples),
        "median": middle,
        "ratio_low": min(ratios, default=None),
        "ratio_high": max(ratios, default=None),
        "status": "measured" if ours_samples else "not measured",
        "reason": reason,
        "load": os.getloadavg()[0],
        "data": "synthetic",
    }
