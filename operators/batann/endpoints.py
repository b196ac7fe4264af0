"""Where running servers are, for clients in other processes: one small JSON file, written whole and checked when read.

It holds what a client needs: mode, addresses, partitions and fingerprints of the servers, and how queries must look
(dimension, type, metric). The process that serves writes it once all servers listen and removes it at the end.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from operators.batann.client import MODES
from operators.batann.layout import open_index
from operators.batann.peers import Peer, Peers
from operators.batann.sharded import shard_folders
from operators.batann.transport import pack_address, unpack_address
from operators.lab import faults, stage

if TYPE_CHECKING:
    from operators.batann.actors import Cluster

FORMAT = "batann-endpoints-1"
SAME_SERVERS = ("single", "baton", "rpc", "baton_client_gather")  # modes that the same servers answer


class EndpointsError(ValueError):
    """A file that does not tell where servers are."""


@dataclass(frozen=True)
class Shape:
    """How queries must look (what `prepare_queries` asks of an index's meta)."""

    metric: str
    dim_in: int
    dtype: str
    scale: float


@dataclass(frozen=True)
class Endpoints:
    """Running servers, as a client of another process needs to know them."""

    index: str
    mode: str
    replicas: int
    pid: int  # of the process that serves
    shape: Shape
    servers: tuple[Peer, ...]

    @classmethod
    def of(cls, cluster: "Cluster", index: Path, replicas: int, pid: int) -> Self:
        """Of a cluster over the folder `index` that runs in process `pid`."""
        sharded = cluster.mode not in SAME_SERVERS
        meta = open_index(shard_folders(index)[0] if sharded else index).meta
        shape = Shape(meta.metric, meta.dim_in, str(meta.dtype), float(meta.scale))
        return cls(str(index), cluster.mode, replicas, pid, shape, tuple(cluster.peers.by_id.values()))

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """From a file; EndpointsError when it is missing, foreign or damaged."""
        try:
            found = json.loads(Path(path).read_text())
        except FileNotFoundError:
            hint = "start servers with python -m operators.batann.serve"
            raise EndpointsError(f"endpoints (={path}): no such file; {hint}") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise EndpointsError(f"endpoints (={path}): not JSON; expected what the serving process writes") from None
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise EndpointsError(f"endpoints (={path}): expected a file of format {FORMAT}")
        try:
            servers = tuple(_peer(row) for row in found.pop("servers"))
            made = cls(**found | {"shape": Shape(**found["shape"]), "servers": servers})
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise EndpointsError(f"endpoints (={path}): {error!r}; expected what the serving process writes") from None
        if made.mode not in MODES or not servers:
            raise EndpointsError(f"endpoints (={path}): mode {made.mode!r}, {len(servers)} servers; expected some")
        return made

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        found = asdict(self) | {"format": FORMAT, "servers": [_row(peer) for peer in self.servers]}
        with stage.atomic(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")

    @property
    def peers(self) -> Peers:
        return Peers(list(self.servers))

    def mode_for(self, wanted: str | None) -> str:
        """The mode asked for, when these servers answer it; ValueError otherwise."""
        mode = wanted or self.mode
        able = SAME_SERVERS if self.mode in SAME_SERVERS else ("scatter", "scatter_topn")
        if mode not in able:
            raise ValueError(f"mode (={mode!r}): servers of mode {self.mode!r} answer {', '.join(able)}")
        return mode


def check_free(path: Path) -> None:
    """ValueError when the file tells of servers that run."""
    try:
        other = Endpoints.read(path)
    except EndpointsError:
        return
    if faults.is_alive(other.pid):
        raise ValueError(f"endpoints (={path}): process {other.pid} serves there; stop it or give another file")


def _row(peer: Peer) -> dict[str, Any]:
    host, port = unpack_address(peer.address)
    return {"id": peer.id, "host": host, "port": port, "parts": list(peer.parts), "epoch": f"{peer.epoch:016x}"}


def _peer(row: dict[str, Any]) -> Peer:
    address = pack_address(row["host"], int(row["port"]))
    return Peer(int(row["id"]), address, tuple(row["parts"]), int(row["epoch"], 16))
