"""Advice: at which replication ratio, and with which router, would these batches be served fastest?"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from operators.metro.assignment import RoutingError
from operators.metro.placement import place
from operators.metro.routing import route_counts, slots_for


def advise(
    batches: np.ndarray,
    cost: Any,
    memory_bytes: float,
    ratios: Iterable[float],
    *,
    num_gpus: int,
    expert_bytes: float,
    load: np.ndarray | None = None,
    other_bytes: float = 0.0,
    rest_us: float = 0.0,
    routers: Iterable[str] = ("primary", "even", "metro", "exact", "adaptive"),
    placing: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Which replication ratio and router suit these batches: a row each, those that fit in memory first, then fastest.

    `batches`: counts `(S, L, N)` of S steps. The placement is fitted on `load (L, N)`, or on the first half of the
    steps while the second half is evaluated (never both on the same). Columns: r, router, slots, tpot_us = mean over
    steps of the sum over layers of max_g t(A, n), plus `rest_us` (the rest of a decode step); bytes_per_gpu of experts
    (plus `other_bytes`); fits. `placing` goes to `place`. At one copy each all routers agree: one row, router `any`.
    """
    counts = np.ascontiguousarray(batches, np.int64)
    if counts.ndim != 3 or (load is None and len(counts) < 2):
        raise RoutingError(f"batches (shape {counts.shape}): expected counts (steps >= 2, layers, experts)")
    if load is None:
        half = len(counts) // 2
        load, counts = counts[:half].sum(axis=0), counts[half:]
    rows = []
    for ratio in ratios:
        slots = slots_for(ratio, counts.shape[2], num_gpus)
        placement = place(load, slots, num_gpus, **(placing or {}))
        size = slots // num_gpus * counts.shape[1] * expert_bytes + other_bytes
        for router in routers if slots > counts.shape[2] else ("even",):
            routed = route_counts(router, placement, counts, cost=cost)
            times = np.asarray(cost.time_us(routed.activated, routed.tokens))
            tpot = float(times.max(axis=2).sum(axis=1).mean()) + rest_us
            name = router if slots > counts.shape[2] else "any"
            rows.append((float(ratio), name, slots, tpot, float(size), bool(size <= memory_bytes)))
    columns = ["r", "router", "slots", "tpot_us", "bytes_per_gpu", "fits"]
    return pl.DataFrame(rows, schema=columns, orient="row").sort(["fits", "tpot_us"], descending=[True, False])
