"""What became of the queries of one search, as arrays and as a table."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from operators.batann.client import ClientCore, Outcome

SUMMED = (
    "hops",
    "reads",
    "pq_dists",
    "exact_dists",
    "bytes_sent",
    "total_us",
    "io_us",
    "queue_us",
    "cpu_us",
    "head_us",
)
NONE = 2**32 - 1


@dataclass(frozen=True)
class Result:
    """`ids (nq, k)` uint32 (2**32 - 1 where fewer were found), `dists (nq, k)` float32, one row of `stats` a query."""

    ids: np.ndarray
    dists: np.ndarray
    outcomes: list["Outcome"]
    took_s: float
    client: dict[str, int] = field(default_factory=dict)

    @property
    def stats(self) -> "pl.DataFrame":
        """A row a query: query, attempt, status, reason, first_server, hops, handoffs, reads, ... times in us."""
        import polars as pl

        return pl.DataFrame([row_of(number, outcome) for number, outcome in enumerate(self.outcomes)], schema=SCHEMA())

    @property
    def steady_qps(self) -> float:
        """Answers per second between the tenth and the ninetieth percentile of the answers' times."""
        ends = np.sort([outcome.ended_s for outcome in self.outcomes])
        first, last = int(0.1 * len(ends)), int(0.9 * len(ends)) - 1
        return float((last - first) / (ends[last] - ends[first])) if last > first and ends[last] > ends[first] else 0.0


def SCHEMA() -> dict:
    import polars as pl

    counts = dict.fromkeys(("handoffs", *SUMMED, "latency_us"), pl.Int64)
    return {
        "query": pl.Int64,
        "attempt": pl.Int64,
        "status": pl.String,
        "reason": pl.String,
        "first_server": pl.Int64,
        **counts,
        "history": pl.List(pl.Int64),
    }


def row_of(number: int, outcome: "Outcome") -> dict:
    """One query: counters summed over its answers (one, but for the scatter modes)."""
    sums = {name: sum(answer.counters[name] for answer in outcome.answers) for name in SUMMED}
    return {
        "query": number,
        "attempt": outcome.attempt,
        "status": outcome.status,
        "reason": outcome.reason,
        "first_server": outcome.first_server,
        "handoffs": sum(max(0, len(answer.history) - 1) for answer in outcome.answers),
        **sums,
        "latency_us": outcome.latency_us,
        "history": [who for answer in outcome.answers for who in answer.history],
    }


def result_of(outcomes: list["Outcome"], core: "ClientCore", k: int, took_s: float) -> Result:
    """Arrays of the outcomes, in the order of the queries."""
    ids = np.full((len(outcomes), k), NONE, np.uint32)
    dists = np.full((len(outcomes), k), np.inf, np.float32)
    for row, outcome in enumerate(outcomes):
        ids[row, : len(outcome.ids)], dists[row, : len(outcome.dists)] = outcome.ids, outcome.dists
    return Result(ids, dists, outcomes, took_s, dict(core.counters))
