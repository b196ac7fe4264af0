"""The way to SynthPix's peers: synthpix with JAX, synpivimage, OpenPIV, in `.venv-peers-synthpix`.

Nothing of theirs is imported here; a missing peer gives rows `not measured` (lab.peers).
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.lab import peers
from operators.lab.peers import PeerError

FOLDER = ".venv-peers-synthpix"
SCRIPTS = Path(__file__).parent / "peer_scripts"
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def interpreter(package: str) -> Path:
    """The peers' Python, which must have `package`; PeerError saying what to install."""
    return peers.interpreter(FOLDER, package=package)


def available(package: str) -> bool:
    """Whether the peers' interpreter has the package."""
    try:
        interpreter(package)
    except PeerError:
        return False
    return True


def peer(script: str, package: str, *arguments: str, threads: int = 1) -> peers.Peer:
    """A peer's process. One thread for every pool: rates are per core, and a busy pool would count as work."""
    environment = {**os.environ, **dict.fromkeys(POOLS, str(threads)), "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    return peers.Peer(interpreter(package), SCRIPTS / script, *arguments, environment=environment)


def openpiv(pairs: Sequence[tuple[np.ndarray, np.ndarray]], windows: Sequence[int]) -> Iterator[tuple[np.ndarray, ...]]:
    """(y, x, u, v) of every pair by OpenPIV; one window: extended search area, several: multi-pass deformation."""
    interpreter("openpiv")
    with tempfile.TemporaryDirectory(prefix="pg-piv-") as folder:
        given, found = Path(folder) / "pairs.npy", Path(folder) / "vectors.npz"
        np.save(given, np.stack([np.stack(pair) for pair in pairs]))
        with peer("openpiv_vectors.py", "openpiv", str(given), str(found)) as process:
            process.ask(windows=list(windows))
        with np.load(found) as answer:
            fields = [answer[name] for name in ("y", "x", "u", "v")]
    return zip(*fields, strict=True)


def row(*, peer: str, ours_samples: Sequence[float] = (), **fields: Any) -> dict[str, Any]:
    """`lab.peers.row` with rates as the usual case; a figure of ours that has no peer counts as measured."""
    made = peers.row(peer=peer, ours_samples=ours_samples, **({"higher_is_better": True} | fields))
    if ours_samples and not peer:
        made |= {"n": len(ours_samples), "status": "measured"}
    return made
