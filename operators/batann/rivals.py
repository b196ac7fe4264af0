"""What every performance bar shares: one row per comparison, and the way into the peers' environments.

Rows of bench.parquet are made here and nowhere else, so that all parts agree on columns, on the direction of the ratio
(always: above 1 means ours is better) and on what a missing peer looks like (a row `not measured` with its reason).
Peers have two environments, since diskannpy needs an older NumPy than everything else: `.venv-peers-batann` (or
PG_BATANN_PEERS_PYTHON) and `.venv-peers-batann-diskann` (or PG_BATANN_DISKANN_PYTHON).
"""

import json
import os
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

COLUMNS = (
    "bench",
    "case",
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
    "ours_recall",
    "peer_recall",
    "status",
    "reason",
    "load",
    "data",
)
ENVIRONMENTS = {
    "main": ("PG_BATANN_PEERS_PYTHON", ".venv-peers-batann"),
    "diskann": ("PG_BATANN_DISKANN_PYTHON", ".venv-peers-batann-diskann"),
}
BUILD_S, ANSWER_S = 3600.0, 300.0  # a peer that has not answered by then is ended


class PeerError(ValueError):
    """A peers' interpreter or one of its packages is missing, or the peer failed."""


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
    ours_recall: float | None = None,
    peer_recall: float | None = None,
    reason: str = "",
    data: str = "synthetic",
) -> dict[str, Any]:
    """One row of bench.parquet from paired samples in `unit`.

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
        "ours_recall": ours_recall,
        "peer_recall": peer_recall,
        "status": "measured" if ratios else "not measured",
        "reason": reason,
        "load": os.getloadavg()[0],
        "data": data,
    }


def interpreter(environment: str = "main") -> Path:
    """The Python of one of the peers' environments; PeerError naming what is missing."""
    variable, folder = ENVIRONMENTS[environment]
    given = os.environ.get(variable)
    place = Path(given) if given else Path(__file__).parents[2] / folder / "bin" / "python"
    if not place.is_file():
        raise PeerError(f"no peers' interpreter ({folder} or {variable}); run `make peers`")
    return place


class Peer:
    """A peer's process in its own interpreter: one JSON line in, one out, so that runs can be interleaved with ours.

    `script` is a file of this package run as `python FILE ARGUMENTS`. What a peer's library prints goes to standard
    error, since the script keeps the first descriptor for its answers.
    """

    def __init__(self, script: Path, *arguments: str, environment: str = "main"):
        command = [str(interpreter(environment)), str(script), *arguments]
        # A file: a pipe that nobody reads would fill and block the peer. It is closed with the peer.
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one message and wait for its answer.

        PeerError with the peer's last words when it has ended, or when it gave no answer in time and was ended: a
        library that hangs (DiskANN's disk index with one thread does, now and then) must not hold up the run.
        """
        process, limit_s = self._process, BUILD_S if message.get("op", "").startswith("build") else ANSWER_S
        late = threading.Event()
        watchdog = threading.Timer(limit_s, lambda: (late.set(), process.kill()))
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
            raise PeerError(f"the peer gave no answer to {message.get('op')} in {limit_s:g} s")
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
