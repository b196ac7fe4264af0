"""The way to BatANN's peers, and its comparison rows: the common ones with the recall of both sides.

`.venv-peers-batann` holds hnswlib, faiss, KaMinPar and METIS, `.venv-peers-batann-diskann` DiskANN with the old NumPy
it needs (lab.peers).
"""

from pathlib import Path
from typing import Any

from operators.lab import peers

FOLDERS = {"main": ".venv-peers-batann", "diskann": ".venv-peers-batann-diskann"}
RECALLS = ("ours_recall", "peer_recall")


def schema() -> dict[str, Any]:
    """Columns and types of BatANN's bench.parquet."""
    import polars as pl

    return peers.schema(dict.fromkeys(RECALLS, pl.Float64))


def row(**fields: Any) -> dict[str, Any]:
    """`lab.peers.row` with the recalls, None where a comparison has none."""
    return peers.row(**(dict.fromkeys(RECALLS) | fields))


def peer(script: Path, *arguments: str, environment: str = "main") -> peers.Peer:
    """A script of this package in one of the peers' environments; PeerError when that is missing."""
    return peers.Peer(peers.interpreter(FOLDERS[environment]), script, *arguments)
