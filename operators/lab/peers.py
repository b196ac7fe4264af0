"""What every comparison with a peer shares: interleaved timing, one row per comparison, a process in the peers' venv.

Rows of bench.parquet are made by `row` and nowhere else, so that all systems agree on columns, on the direction of the
ratio (always: above 1 means ours is better) and on what a missing peer looks like (a row `not measured` with its
reason). A peer whose packages conflict with ours lives in an environment of its own (`.venv-peers*`, made by
`make peers`) and runs as a process that is asked line by line, so that its runs can take turns with ours.
"""

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PATIENCE_S = 900.0  # a peer may build an index in one answer
COLUMNS = (
    *("bench", "case", "ours", "peer", "ours_value", "peer_value", "unit", "ratio", "bar", "higher_is_better", "n"),
    *("median", "ratio_low", "ratio_high", "status", "reason", "load", "data"),
)
NUMBERS = ("ours_value", "peer_value", "ratio", "bar", "median", "ratio_low", "ratio_high", "load")


class PeerError(ValueError):
    """The peers' interpreter or one of its packages is missing, or the peer failed."""


def schema(extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Columns and types of bench.parquet; `extra` columns stand behind the common ones."""
    import polars as pl

    kinds = {**dict.fromkeys(NUMBERS, pl.Float64), "n": pl.Int64, "higher_is_better": pl.Boolean}
    return {name: kinds.get(name, pl.String) for name in COLUMNS} | dict(extra or {})


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
    **extra: Any,
) -> dict[str, Any]:
    """One row of bench.parquet from paired samples in `unit`; `extra` are a system's own columns.

    `ratio` is how many times ours is better, pair by pair, its median in `ratio` and `median`, its extremes in
    `ratio_low` and `ratio_high`; a peer given as one number (a limit) is compared with every sample. `bar` is the least
    ratio that passes. Without samples of ours or of the peer the row says `not measured`, and `reason` says why.
    """
    limits = list(peer_samples) * (len(ours_samples) if len(peer_samples) == 1 else 1)
    pairs = list(zip(ours_samples, limits, strict=True)) if limits and ours_samples else []
    ratios = [(mine / other if higher_is_better else other / mine) for mine, other in pairs]
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
        "n": len(ratios),
        "median": middle,
        "ratio_low": min(ratios, default=None),
        "ratio_high": max(ratios, default=None),
        "status": "measured" if ratios else "not measured",
        "reason": reason,
        "load": os.getloadavg()[0],
        "data": data,
        **extra,
    }


def interpreter(folder: str = ".venv-peers", *, package: str | None = None) -> Path:
    """The Python of a peers' environment in this checkout, which must have `package`.

    The variable PG_PEERS_PYTHON (for `.venv-peers-x`: PG_PEERS_X_PYTHON) names another one. PeerError says what is
    missing.
    """
    words = folder.removeprefix(".venv-").replace("-", "_").upper()
    variable = f"PG_{words}_PYTHON"
    place = Path(os.environ.get(variable) or ROOT / folder / "bin" / "python")
    if not place.is_file():
        raise PeerError(f"no peers' interpreter ({folder} or {variable}); run `make peers`")
    if package and not list(place.parent.parent.glob(f"lib/python*/site-packages/{package}")):
        raise PeerError(f"{package} is not in the peers' environment ({folder}); run `make peers`")
    return place


class Peer:
    """A peer's process: one JSON line in, one out, so that its runs can be interleaved with ours.

    `command` is the interpreter and its arguments. What a peer's library prints belongs on standard error. A library
    that gives no answer within `patience_s` is ended: one that hangs must not hold up a run.
    """

    def __init__(
        self, *command: str | Path, environment: Mapping[str, str] | None = None, patience_s: float = PATIENCE_S
    ):
        # A file: a pipe that nobody reads would fill and block the peer. It is closed with the peer.
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._patience_s = patience_s
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            env=environment,
        )

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one message and wait for its answer.

        PeerError with the peer's last words when it has ended, or when it gave no answer in time and was ended.
        """
        process, late = self._process, threading.Event()
        watchdog = threading.Timer(self._patience_s, lambda: (late.set(), process.kill()))
        watchdog.start()
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        watchdog.cancel()
        if answer:
            return json.loads(answer)
        process.communicate()
        if late.is_set():
            raise PeerError(f"the peer gave no answer within {self._patience_s:g} s to {json.dumps(message)[:80]}")
        self._words.seek(0)
        words = self._words.read().strip().splitlines()
        raise PeerError(f"the peer ended with {process.returncode}: {words[-1] if words else 'no output'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._words.close()
