"""The way to the peers: their own interpreter, one process per peer, and one row form for every comparison.

Peers live in `.venv-peers-synthpix` (or PG_SYNTHPIX_PEERS_PYTHON, or the common `.venv-peers`): synthpix with JAX,
synpivimage, OpenPIV. Nothing of theirs is imported here. A missing peer gives rows `not measured`.
"""

import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

ROOT = Path(__file__).parents[2]
PLACES = (".venv-peers-synthpix", ".venv-peers")
SCRIPTS = Path(__file__).parent / "peer_scripts"
COLUMNS = (
    *("bench", "case", "ours", "peer", "ours_value", "peer_value", "unit", "ratio", "bar", "higher_is_better", "n"),
    *("median", "ratio_low", "ratio_high", "status", "reason", "load", "data"),
)


class PeerError(ValueError):
    """The peers' interpreter or one of its packages is missing, or the peer failed."""


def interpreter(package: str) -> Path:
    """The first peers' Python that has `package`. Raises PeerError saying what to install."""
    given = os.environ.get("PG_SYNTHPIX_PEERS_PYTHON")
    places = [Path(given)] if given else [ROOT / place / "bin" / "python" for place in PLACES]
    for place in places:
        libraries = list(place.parent.parent.glob(f"lib/python*/site-packages/{package}"))
        if place.is_file() and libraries:
            return place
    raise PeerError(f"{package} is not installed for the peers ({', '.join(PLACES)}, or PG_SYNTHPIX_PEERS_PYTHON); "
                    "run `make peers`")  # fmt: skip


def available(package: str) -> bool:
    """Whether a peers' interpreter has the package."""
    try:
        interpreter(package)
    except PeerError:
        return False
    return True


class Peer:
    """A peer's process: one JSON line in, one out, so that runs can be interleaved with ours."""

    def __init__(self, script: str, package: str, *arguments: str, threads: int = 1):
        # One thread for every pool: rates are per core, and a busy pool would count as work.
        pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(pools, str(threads)), "JAX_PLATFORMS": "cpu"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [str(interpreter(package)), str(SCRIPTS / script), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one message, wait for its answer; PeerError with the peer's last words when it has ended."""
        process = self._process
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            for line in process.stdout:  # peers print banners; answers begin with a mark
                if line.startswith("@"):
                    return json.loads(line[1:])
        except BrokenPipeError:
            pass
        words = process.communicate()[1].strip().splitlines()
        raise PeerError(f"the peer ended with {process.returncode}: {words[-1] if words else 'no output'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def openpiv(pairs: Sequence[tuple[np.ndarray, np.ndarray]], windows: Sequence[int]) -> Iterator[tuple[np.ndarray, ...]]:
    """(y, x, u, v) of every pair by OpenPIV; one window: extended search area, several: multi-pass deformation."""
    interpreter("openpiv")
    with tempfile.TemporaryDirectory(prefix="pg-piv-") as folder:
        given, found = Path(folder) / "pairs.npy", Path(folder) / "vectors.npz"
        np.save(given, np.stack([np.stack(pair) for pair in pairs]))
        with Peer("openpiv_vectors.py", "openpiv", str(given), str(found)) as peer:
            peer.ask(windows=list(windows))
        with np.load(found) as answer:
            fields = [answer[name] for name in ("y", "x", "u", "v")]
    return zip(*fields, strict=True)


def row(
    *, bench: str, case: str, ours: str, peer: str, unit: str, ours_samples: Sequence[float] = (),
    peer_samples: Sequence[float] = (), higher_is_better: bool = True, bar: float | None = None, reason: str = "",
    data: str = "synthetic",
) -> dict[str, Any]:  # fmt: skip
    """One row of bench.parquet from samples taken in turn. `ratio`: how many times ours is better, pair by pair, its
    median and extremes; `bar` the least ratio that passes. Without samples of a side it says `not measured`.
    """
    pairs = list(zip(ours_samples, peer_samples, strict=True)) if ours_samples and peer_samples else []
    ratios = [(mine / other if higher_is_better else other / mine) for mine, other in pairs]
    middle = statistics.median(ratios) if ratios else None
    alone = bool(ours_samples) and not peer
    return {
        **{"bench": bench, "case": case, "ours": ours, "peer": peer, "unit": unit, "bar": bar},
        "ours_value": statistics.median(ours_samples) if ours_samples else None,
        "peer_value": statistics.median(peer_samples) if peer_samples else None,
        **{"ratio": middle, "median": middle, "higher_is_better": higher_is_better},
        "n": len(ours_samples) if alone else len(ratios),
        **{"ratio_low": min(ratios, default=None), "ratio_high": max(ratios, default=None)},
        **{"status": "measured" if ratios or alone else "not measured", "reason": reason},
        **{"load": os.getloadavg()[0], "data": data},
    }  # fmt: skip
