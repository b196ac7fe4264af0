"""The cluster: servers as Ray actors (or plain child processes), a client, faults, and what became of each query.

Ray carries placement, start, stop, health, configuration and counters; queries, batons, results and ACKs go over the
servers' own sockets. With `transport="ray"` the frames themselves go by actor calls, for the comparison the paper's
readers ask for (it costs about a millisecond a frame).

Promises. A query is answered at most once. When a server is killed, queries that were not in it finish; those in it are
tried once more; later ones use the other holder of its partition (`replicas=2`) or fail with `partition_down` within
two seconds. At W = 1 the answers with a replica are those of the undisturbed cluster.
"""

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from operators.batann import transport
from operators.batann.client import MODES, Client, Outcome, Plan
from operators.batann.engine import check_search, native_core, native_engine
from operators.batann.host import START_S, Host, HostError, ProcessHandle
from operators.batann.layout import open_index
from operators.batann.metric import prepare_queries
from operators.batann.outcomes import Result, result_of
from operators.batann.peers import Peer, Peers, parts_of
from operators.batann.sharded import medoid_vector, nearest, shard_folders
from operators.batann.state import ADAPTIVE, TRACE
from operators.lab import cluster as head
from operators.lab import faults

if TYPE_CHECKING:
    from operators.batann.settings import Fault

WINDOW = 16  # queries in flight a server in a closed loop
SHARDED = ("scatter", "scatter_topn")
SLOW_IOPS = 200.0  # of a slowed server that was not metered
MAILBOX = 1  # the client's address when frames go by Ray


class ServerActor(Host):
    """A Host in an actor's process; frames may come and go by actor calls."""

    def connect_to(self, handles: dict[int, Any]) -> None:
        """Send frames to other actors (by address) instead of sockets."""
        self.send_through(lambda to, *frame: handles[to].deliver.remote(*frame) if to in handles else None)


class Mailbox:
    """Where a client that is no actor receives frames sent by Ray."""

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue = queue.SimpleQueue()

    def deliver(self, *frame: Any) -> None:
        self._frames.put(frame)

    def take(self, timeout_s: float) -> list[tuple]:
        """All frames that are there; waits for the first."""
        found = []
        try:
            found.append(self._frames.get(timeout=timeout_s))
            while True:
                found.append(self._frames.get_nowait())
        except queue.Empty:
            return found


class RayTransport:
    """The client's side of `transport="ray"`: what Tcp does, by actor calls."""

    def __init__(self, ray: Any, mailbox: Any, handles: dict[int, Any], epoch: int):
        self._ray, self._mailbox, self._handles = ray, mailbox, handles
        self._hello = transport.Hello(transport.CLIENT, epoch, 0)
        self.address = MAILBOX

    def send(self, address: int, kind: int, body: bytes, flags: int = 0) -> None:
        self._handles[address].deliver.remote(self._hello, kind, flags, body)

    def poll(self, timeout_s: float) -> list[transport.Frame]:
        frames = self._ray.get(self._mailbox.take.remote(max(timeout_s, 0.001)))
        return [transport.Frame(transport.Hello(*hello), *rest) for hello, *rest in frames]

    def close(self) -> None:
        """The mailbox ends with the cluster."""


class RayHandle:
    """A server in a Ray actor."""

    def __init__(self, ray: Any):
        self._ray = ray
        self.actor = ray.remote(ServerActor).options(num_cpus=0, max_restarts=0, max_concurrency=2).remote()
        self.pid = 0
        self._owed: Any = None

    def ask(self, method: str, *args: Any) -> None:
        self._owed = getattr(self.actor, method).remote(*args)

    def answer(self, timeout_s: float = 30.0) -> Any:
        try:
            return self._ray.get(self._owed, timeout=timeout_s)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError) as error:
            raise HostError(f"server process {self.pid}: {type(error).__name__}") from None

    def call(self, method: str, *args: Any, timeout_s: float = 30.0) -> Any:
        self.ask(method, *args)
        return self.answer(timeout_s)

    def is_alive(self) -> bool:
        return bool(self.pid) and faults.is_alive(self.pid)

    def end(self) -> None:
        if self.pid and faults.is_alive(self.pid):
            faults.strike("continue", self.pid)  # a stopped process cannot end
        self._ray.kill(self.actor)


@dataclass
class _Member:
    handle: Any
    peer: Peer
    folder: Path
    options: dict[str, Any]


class Cluster:
    """Servers of one index and a client. Use `Cluster.start(...)` as a context manager.

    `index_dir`: an index (write_index); for the scatter modes the folder of its shards (write_shards).
    """

    def __init__(self, mode: str, launch: str):
        self.mode, self._launch = mode, launch
        self._members: list[_Member] = []
        self._stack = ExitStack()
        self._ray: Any = None
        self._client: Client | None = None
        self._core_options: dict[str, Any] = {}
        self._restarts: list[threading.Thread] = []

    @classmethod
    def start(
        cls,
        index_dir: Path | str,
        servers: int = 1,
        mode: str = "baton",
        transport: str = "tcp",
        replicas: int = 1,
        *,
        launch: str = "ray",
        ray: Any = None,
        address: Path | str | None = None,
        client_head: bool = False,
        ports: Sequence[int] = (),
        **options: Any,
    ) -> Self:
        """Start `servers` servers and connect a client.

        `launch`: "ray" (actors: `ray` is the module of a cluster joined already, else `address` is a run's address
        file, else one is brought up) or "process" (child processes, no Ray).
        `options` go to each Server: live, refill, batch, iops_cap, read_latency_us, link_delay_us, io, ...
        Raises ValueError for arguments, IndexCorrupt for damaged files, EpochMismatch for servers that disagree.
        """
        if mode not in MODES:
            raise ValueError(f"mode (={mode!r}): expected one of {', '.join(MODES)}")
        if (
            launch not in ("ray", "process")
            or transport not in ("tcp", "ray")
            or (transport, launch) == ("ray", "process")
        ):
            raise ValueError(
                f"launch, transport (={launch!r}, {transport!r}): expected ray|process and tcp|ray, ray with ray"
            )
        if servers < 1 or (mode == "single" and servers != 1):
            raise ValueError(f"servers (={servers}): expected at least 1, and 1 for mode 'single'")
        made = cls(mode, launch)
        try:
            if launch == "ray":
                made._ray = ray or made._stack.enter_context(head.connect(address))
            made._start_servers(Path(index_dir), servers, replicas, ports, options)
            made._connect(transport, client_head, options.get("link_delay_us", 0))
        except BaseException:
            made.close()
            raise
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _start_servers(
        self, folder: Path, servers: int, replicas: int, ports: Sequence[int], options: dict[str, Any]
    ) -> None:
        if self.mode in SHARDED:
            folders = shard_folders(folder)
            if len(folders) != servers:
                raise ValueError(f"servers (={servers}): {folder} holds {len(folders)} shards")
            parts = [(0,)] * servers
        else:
            count = open_index(folder).meta.parts
            folders = [folder] * servers
            parts = [parts_of(server, servers, count, replicas) for server in range(servers)]
        handles = [self._handle() for _ in range(servers)]
        given = [
            options | {"server_id": server} | ({"port": ports[server]} if ports else {}) for server in range(servers)
        ]
        for server, handle in enumerate(handles):
            self._members.append(_Member(handle, Peer(server, 0, parts[server], 0), folders[server], given[server]))
            handle.ask("start", str(folders[server]), list(parts[server]), given[server])
        for member in self._members:
            self._started(member)
        self.check_epochs()
        self._publish()

    def check_epochs(self) -> None:
        """Raise EpochMismatch unless all servers serve the same index."""
        epochs = {member.peer.epoch for member in self._members}
        if self.mode not in SHARDED and len(epochs) > 1:
            raise EpochMismatch(
                f"servers disagree on the index: epochs {', '.join(f'{epoch:016x}' for epoch in epochs)}"
            )

    def _handle(self) -> Any:
        return RayHandle(self._ray) if self._launch == "ray" else ProcessHandle()

    def _started(self, member: _Member) -> None:
        found = member.handle.answer(START_S)
        member.handle.pid = found["pid"]
        member.peer = Peer(member.peer.id, found["address"], tuple(found["parts"]), found["epoch"])

    def _rows(self) -> list[list[Any]]:
        return Peers([member.peer for member in self._members]).to_list()

    def _publish(self) -> None:
        """Give every server that is alive the table."""
        rows = self._rows()
        for member in self._members:
            if member.handle.is_alive():
                try:
                    member.handle.call("configure", rows)
                except HostError:
                    continue  # it has just died; whoever sends to it will notice

    def _connect(self, way: str, client_head: bool, link_delay_us: float) -> None:
        peers = Peers([member.peer for member in self._members])
        self._client = Client(peers, link_delay_us=link_delay_us)
        if way == "ray":
            mailbox = self._ray.remote(Mailbox).options(num_cpus=0, max_concurrency=2).remote()
            handles = {member.peer.address: member.handle.actor for member in self._members}
            for member in self._members:
                member.handle.call("connect_to", {**handles, MAILBOX: mailbox})
            self._client.tcp.close()
            self._client.tcp = RayTransport(self._ray, mailbox, handles, self._members[0].peer.epoch)
        index = open_index(self._members[0].folder)
        self._index = index
        if client_head and self.mode not in SHARDED:
            self._core_options = client_head_options(index)
        if self.mode == "scatter_topn":
            centres = np.stack([medoid_vector(member.folder) for member in self._members])
            self._core_options = {
                "nearest_parts": lambda vector, n: nearest(centres, np.frombuffer(vector, index.meta.dtype), n)
            }

    def search(
        self,
        q: np.ndarray,
        k: int = 10,
        L: int = 20,
        W: int = 4,
        rate: float | None = None,
        deadline_ms: float | None = None,
        *,
        window: int | None = None,
        adaptive: bool = False,
        trace: bool = False,
        mem_l: int = 10,
        timeout_s: float = 2.0,
        max_hops: int = 4096,
        max_handoffs: int = 256,
        topn: int = 2,
        mode: str | None = None,
        seed: int = 0,
        schedule: Sequence["Fault"] = (),
    ) -> Result:
        """The k nearest of each query `(nq, d)`: ids `(nq, k)` uint32, exact distances, a row of statistics each.

        Closed loop with `window` queries in flight (default 16 a server; 16 in all for the scatter modes, whose every
        query is on every server); with `rate` queries/s an open loop. `deadline_ms`, `max_hops`, `max_handoffs` travel
        with the query: what runs out gives a result marked `partial`. `mode` overrides the cluster's (baton, rpc and
        baton_client_gather use the same servers). `schedule` holds faults.
        """
        mode = mode or self.mode
        if mode not in MODES or (mode in SHARDED) != (self.mode in SHARDED):
            raise ValueError(f"mode (={mode!r}): not one of a cluster started for {self.mode!r}")
        check_search(k, L, W)
        queries = self._checked(q)
        flags = (ADAPTIVE if adaptive else 0) | (TRACE if trace else 0)
        plan = Plan(
            k=k, L=L, W=W, mem_l=mem_l, mode=mode, flags=flags, max_hops=max_hops, max_handoffs=max_handoffs,
            timeout_s=timeout_s, deadline_ms=deadline_ms, topn=topn,
        )  # fmt: skip
        in_flight = window or (WINDOW if self.mode in SHARDED else WINDOW * len(self._members))
        injected = _Schedule(self, schedule)
        outcomes, core, took = self._client.search(
            queries, plan, window=in_flight, rate=rate, seed=seed, before=injected.before, **self._core_options
        )
        injected.done()
        return result_of(outcomes, core, k, took)

    def explain(self, q: np.ndarray, k: int = 10, L: int = 20, W: int = 4) -> Outcome:
        """One query with its whole path: visits, servers, nodes, times (`Outcome.trace`)."""
        queries = self._checked(np.atleast_2d(q))
        plan = Plan(k=k, L=L, W=W, mode=self.mode, flags=TRACE)
        outcomes, _, _ = self._client.search(queries[:1], plan, window=1, **self._core_options)
        return outcomes[0]

    def _checked(self, q: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(prepare_queries(q, self._index.meta))

    @property
    def peers(self) -> Peers:
        """Who serves what, for clients of other processes (endpoints.py)."""
        return Peers([member.peer for member in self._members])

    def dead(self) -> list[int]:
        """Servers whose process has ended."""
        return [member.peer.id for member in self._members if not member.handle.is_alive()]

    @property
    def pids(self) -> list[int]:
        return [member.handle.pid for member in self._members]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every server."""
        return [transport.unpack_address(member.peer.address) for member in self._members]

    def stats(self) -> list[dict[str, Any]]:
        """Counters of every server that is alive; raises when one has broken an invariant."""
        return [member.handle.call("stats") for member in self._members if member.handle.is_alive()]

    def client_stats(self) -> dict[str, Any]:
        """Counters of the client's transport, as server -1."""
        return {"server": -1, **getattr(self._client.tcp, "counters", {})}

    def kill(self, server: int) -> None:
        """SIGKILL a server's process."""
        faults.strike("kill", self._members[server].handle.pid)

    def strike(self, kind: str, server: int) -> None:
        """One of the faults of the settings, now. Restarts go on in the background."""
        member = self._members[server]
        if kind in ("kill", "stop"):
            faults.strike(kind, member.handle.pid)
        elif kind == "slow":
            member.handle.call("set_cap", (member.options.get("iops_cap") or SLOW_IOPS * 10) / 10)
        elif kind == "drop_connection":
            member.handle.call("drop_connections")
        elif kind in ("restart", "stale_epoch"):
            options = {"epoch": member.peer.epoch + 1} if kind == "stale_epoch" else {}
            thread = threading.Thread(target=self.restart, args=(server,), kwargs=options, daemon=True)
            thread.start()
            self._restarts.append(thread)
        else:
            raise ValueError(f"fault (={kind!r}): expected kill, stop, slow, drop_connection, restart or stale_epoch")

    def restart(self, server: int, *, epoch: int | None = None, port: int = 0) -> None:
        """Replace a server's process (killed if it still runs); it rejoins once it has opened its files again.

        `port`: where it listens from then on, so that clients of other processes find it; 0 as it was started.
        """
        member = self._members[server]
        if member.handle.is_alive():
            faults.strike("kill", member.handle.pid)
        member.handle.end()
        member.handle = self._handle()
        options = member.options | ({} if epoch is None else {"epoch": epoch}) | ({"port": port} if port else {})
        member.handle.ask("start", str(member.folder), list(member.peer.parts), options)
        self._started(member)
        self._publish()
        peers = [member.peer for member in self._members]
        self._client.later(lambda: self._client.peers.update(peers))

    def join_restarts(self, timeout_s: float = START_S) -> None:
        """Wait for restarts that go on in the background."""
        deadline = time.monotonic() + timeout_s
        for thread in self._restarts:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._restarts.clear()

    def close(self) -> None:
        """End client, servers and, where this cluster brought it up, Ray."""
        self.join_restarts()
        if self._client is not None:
            self._client.close()
            self._client = None
        members, self._members = self._members, []
        for member in members:
            member.handle.end()
        self._stack.close()


class EpochMismatch(ValueError):
    """Servers whose index fingerprints differ."""


class _Schedule:
    """Faults by query number or by time, struck while a search runs."""

    def __init__(self, cluster: Cluster, schedule: Sequence["Fault"]):
        self._cluster = cluster
        self._by_query = sorted((fault for fault in schedule if fault.at_query is not None), key=lambda f: f.at_query)
        self._timers = [
            threading.Timer(fault.at_s, cluster.strike, (fault.kind, fault.server))
            for fault in schedule
            if fault.at_s is not None
        ]
        for timer in self._timers:
            timer.daemon = True
            timer.start()

    def before(self, number: int) -> None:
        while self._by_query and self._by_query[0].at_query <= number:
            fault = self._by_query.pop(0)
            self._cluster.strike(fault.kind, fault.server)

    def done(self) -> None:
        for timer in self._timers:
            timer.cancel()


def client_head_options(index: Any) -> dict[str, Any]:
    """What ClientCore needs to start beams itself."""
    core = native_core()
    if core is None:
        raise ValueError("client_head (=True): needs the native core; run `make native`")
    config = core.engine_config(0, 2, 1, 0, 0.0, 1.0, 0, index.meta.record_bytes, index.meta.records_per_sector, False)
    engine = native_engine(core, index, config)
    return {"start_beam": engine.start, "part_of": np.asarray(index.map)}
