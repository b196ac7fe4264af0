"""What every performance bar shares: interleaved timing, one row per comparison, and the way into the peers' venv.

Rows of bench.parquet are made here and nowhere else, so all parts (routing, kernel, serving) agree on columns, on the
direction of the ratio (always: above 1 means ours is better) and on what a missing peer looks like (a row
`not measured` with its reason). Peers whose packages conflict with ours live in `.venv-peers` and run as a subprocess.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

COLUMNS = (
    "bench",
    "case",
    "N",
    "G",
    "B",
    "ours",
    "peer",
    "ours_value",
    "peer_value",
    "unit",
    "ratio",
    "bar",
    "higher_is_better",
    "n",
    "median",
    "ratio_low",
    "ratio_high",
    "status",
    "reason",
    "load",
    "data",
)


class PeerError(ValueError):
    """The peers' interpreter or one of its packages is missing, or the peer failed."""


def paired(
    ours: Callable[[], Any], peer: Callable[[], Any], *, n: int, clock: Callable[[], float] = time.process_time
) -> tuple[list[float], list[float]]:
    """Seconds of `n` runs of each side, interleaved A B A B after one unmeasured run of both.

    Processor time by default, since the machine may be shared; pass `time.perf_counter` for code that sleeps or forks.
    """
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(n):
        for side, run in zip(times, (ours, peer), strict=True):
            began = clock()
            run()
            side.append(clock() - began)
    return times


def row(
    *,
    bench: str,
    case: str,
    ours: str,
    peer: str,
    unit: str,
    ours_samples: Sequence[float] = (),
    peer_samples: Sequence[float] = (),
    higher_is_better: bool = False,
    bar: float | None = None,
    reason: str = "",
    data: str = "synthetic",
    **sizes: int,
) -> dict[str, Any]:
    """One row of bench.parquet from paired samples in `unit`.

    `ratio` is how many times ours is better, pair by pair, its median in `ratio` and `median`, its extremes in
    `ratio_low` and `ratio_high`; a peer given as one number (a limit) is compared with every sample. `bar` is the least
    ratio that passes. Without samples of ours or of the peer the row says `not measured`, and `reason` says why.
    `sizes`: N, G, B.
    """
    unknown = set(sizes) - {"N", "G", "B"}
    if unknown:
        raise ValueError(f"row: unknown fields {sorted(unknown)}; sizes are N, G and B")
    limits = list(peer_samples) * (len(ours_samples) if len(peer_samples) == 1 else 1)
    pairs = list(zip(ours_samples, limits, strict=True)) if limits and ours_samples else []
    ratios = [(mine / other if higher_is_better else other / mine) for mine, other in pairs]
    middle = statistics.median(ratios) if ratios else None
    return {
        "bench": bench,
        "case": case,
        **{key: sizes.get(key, 0) for key in ("N", "G", "B")},
        "ours": ours,
        "peer": peer,
        "ours_value": statistics.median(ours_samples) if ours_samples else None,
        "peer_value": statistics.median(peer_samples) if peer_samples else None,
        "unit": unit,
        "ratio": middle,
        "bar": bar,
        "higher_is_better": higher_is_better,
        "n": len(ratios),
        "median": middle,
        "ratio_low": min(ratios, default=None),
        "ratio_high": max(ratios, default=None),
        "status": "measured" if ratios else "not measured",
        "reason": reason,
        "load": os.getloadavg()[0],
        "data": data,
    }


def interpreter() -> Path | None:
    """The peers' Python: PG_PEERS_PYTHON, else `.venv-peers` of this checkout; None when there is none."""
    given = os.environ.get("PG_PEERS_PYTHON")
    place = Path(given) if given else Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
    return place if place.is_file() else None


class Peer:
    """A peer's process in its own interpreter: one JSON line in, one out, so that runs can be interleaved with ours.

    `script` reads lines from standard input and prints one JSON line for each. Raises PeerError naming what is missing,
    so that the caller can write a row `not measured`.
    """

    def __init__(self, script: str, *arguments: str):
        python = interpreter()
        if python is None:
            raise PeerError("no peers' interpreter (.venv-peers or PG_PEERS_PYTHON); run `make peers`")
        self._process = subprocess.Popen(
            [str(python), "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one message and wait for its answer; PeerError with the peer's last words when it has ended."""
        process = self._process
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        words = process.communicate()[1].strip().splitlines()
        raise PeerError(f"the peer ended with {process.returncode}: {words[-1] if words else 'no output'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
