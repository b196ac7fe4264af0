"""One ANN server as a pure machine over an engine: frames and engine events go in, frames for addresses come out.

`ServerCore` knows neither sockets nor time. It keeps the vectors of the queries that have visited (until the client's
ACK, or a time-out), chooses who gets a baton, refuses new queries when full and never batons, and answers for batons it
cannot pass on. The loop that gives it sockets, a clock and a life is server.py.

Promises: a damaged frame or state ends its connection or its query, nothing else; queries for a partition that nobody
up holds end with `partition_down`; nothing waits for ever, because every state carries a budget.
"""

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from operators.batann import engine as engines
from operators.batann import state as wire
from operators.batann import transport
from operators.batann.messages import (
    ACKED,
    PINGED,
    MessageError,
    pack_rpc,
    pack_states,
    rpc_key,
    unpack_rpc,
    unpack_states,
)
from operators.batann.peers import Peers
from operators.batann.transport import Down, Frame

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("batann.server")
VECTOR_TTL_S = 30.0
QUEUE_LIMIT = 4096
REFUSALS = {"stale epoch": "stale_epoch"}


class Out(NamedTuple):
    """A frame to be sent."""

    address: int
    type: int
    body: bytes
    flags: int = 0


class ServerCore:
    """See the module's text. `global_ids` renames nodes in results (a shard of a scatter-gather index)."""

    def __init__(
        self,
        server_id: int,
        engine: Any,
        peers: Peers,
        *,
        batch: int = 8,
        queue_limit: int = QUEUE_LIMIT,
        vector_ttl_s: float = VECTOR_TTL_S,
        global_ids: "np.ndarray | None" = None,
    ):
        self.id, self.engine, self.peers = server_id, engine, peers
        self._batch, self._queue_limit, self._ttl = batch, queue_limit, vector_ttl_s
        self._global_ids = global_ids
        self._vectors: dict[bytes, tuple[bytes, float]] = {}  # by query and attempt: vector, when it may go
        self._asked: dict[bytes, set[int]] = {}  # likewise: servers that were given the vector for remote reads
        self._batons: dict[int, list[tuple[bytes, bytes]]] = {}  # by server: what goes out in the next frames
        self.counters = dict.fromkeys(
            (
                "queries_in",
                "batons_in",
                "batons_out",
                "results",
                "busy",
                "bad_states",
                "stale",
                "rerouted",
                "undeliverable",
            ),
            0,
        )

    @property
    def load(self) -> int:
        """States that wait or are live here, as frames tell others."""
        return min(self.engine.counters()["live"] + self.engine.waiting(), 0xFFFF)

    def on_frame(self, frame: Frame, now_s: float) -> list[Out]:
        """What a frame leads to; MessageError for a body that is not what its type says."""
        if frame.sender.role == transport.SERVER:
            self.peers.heard_from(frame.sender.id, frame.flags)
        if frame.type == transport.PING and len(frame.body) == PINGED.size:
            address = PINGED.unpack(frame.body)[0]
            if address > transport.ADDRESS_MAX:
                raise MessageError(f"ping: {address:#x} is no address")
            return [Out(address, transport.PONG, b"", self.load)]
        if frame.type == transport.PONG:
            return []
        if frame.type == transport.QUERY:
            return self._on_queries(unpack_states(frame.body), now_s)
        if frame.type == transport.BATON:
            items = unpack_states(frame.body)
            self.counters["batons_in"] += len(items)
            return [out for state, vector in items for out in self._take(state, vector, now_s)]
        if frame.type == transport.ACK:
            for at in range(0, len(frame.body), ACKED.size):
                self._vectors.pop(frame.body[at : at + ACKED.size], None)
            return []
        if frame.type == transport.RPC:
            return self._on_remote_read(frame, now_s)
        if frame.type == transport.RPC_REPLY:
            if self.engine.rpc_reply(frame.body):
                self.counters["bad_states"] += 1
            return []
        raise MessageError(f"frame type {frame.type}: not for a server")

    def _on_queries(self, items: list[tuple[bytes, bytes]], now_s: float) -> list[Out]:
        outs = []
        for state, vector in items:
            self.counters["queries_in"] += 1
            if self.engine.waiting() >= self._queue_limit:
                self.counters["busy"] += 1
                outs += self._refuse(state, "busy")
            else:
                outs += self._take(state, vector, now_s)
        return outs

    def _take(self, state: bytes, vector: bytes, now_s: float) -> list[Out]:
        """Give a state to the engine; a state that cannot go on here is answered."""
        if len(state) < wire.HEADER.size:
            self.counters["bad_states"] += 1
            return []
        key = wire.key_of(state)
        if vector:
            self._vectors[key] = (vector, now_s + self._ttl)
        elif key not in self._vectors:
            return self._refuse(state, "no_vector")
        refused = self.engine.submit(state, self._vectors[key][0])
        if not refused:
            return []
        if refused == "stale epoch":
            self.counters["stale"] += 1
        return self._refuse(state, REFUSALS.get(refused, "malformed"))

    def _refuse(self, state: bytes, reason: str) -> list[Out]:
        """Tell the client; bytes that are no state are only counted, for nobody can be told."""
        try:
            body = wire.refusal(state, reason, self.id)
        except wire.StateError:
            self.counters["bad_states"] += 1
            return []
        return [Out(wire.client_of(state), transport.RESULT, body)]

    def _on_remote_read(self, frame: Frame, now_s: float) -> list[Out]:
        body, vector = unpack_rpc(frame.body)
        key = rpc_key(body)
        if vector:
            self._vectors[key] = (vector, now_s + self._ttl)
        if key not in self._vectors or self.engine.submit_rpc(body, self._vectors[key][0]):
            self.counters["bad_states"] += 1
        return []

    def on_events(self, events: list[tuple[int, int, int, bytes]], now_s: float) -> list[Out]:
        """Frames for what the engine has finished, passed on, or wants to know."""
        outs = []
        for kind, to, _, body in events:
            if kind == engines.RESULT:
                self.counters["results"] += 1
                outs.append(Out(to, transport.RESULT, self._renamed(body)))
                outs += self._forget_asked(body[: ACKED.size])
            elif kind == engines.HANDOFF:
                outs += self._pass_on(to, body, now_s)
            elif kind == engines.RPC_REQUEST:
                outs += self._ask(to, body, now_s)
            elif kind == engines.RPC_REPLY:
                asker = self.peers.by_id.get(to)  # the number comes from a frame
                if asker is None:
                    self.counters["bad_states"] += 1
                else:
                    outs.append(Out(asker.address, transport.RPC_REPLY, body, self.load))
            else:
                outs.append(Out(to, transport.TRACE if kind == engines.TRACED else transport.PART, body))
        return outs + self._flush_batons()

    def _pass_on(self, part: int, state: bytes, now_s: float, *, but: int = -1) -> list[Out]:
        """Queue a baton for a server that holds `part`; with nobody there the query ends."""
        target = self.peers.holder(part, now_s, but=but)
        if target is None:
            self.counters["undeliverable"] += 1
            return self._refuse(state, "partition_down")
        known = target in wire.history_of(state)
        vector = b"" if known else self._vectors.get(wire.key_of(state), (b"", 0))[0]
        self._batons.setdefault(target, []).append((state, vector))
        return []

    def _flush_batons(self) -> list[Out]:
        """Batons for the same server share a frame, at most `batch` of them."""
        outs, load = [], self.load
        for target, items in self._batons.items():
            self.counters["batons_out"] += len(items)
            address = self.peers.by_id[target].address
            for at in range(0, len(items), self._batch):
                outs.append(Out(address, transport.BATON, pack_states(items[at : at + self._batch]), load))
        self._batons.clear()
        return outs

    def _ask(self, part: int, body: bytes, now_s: float) -> list[Out]:
        target = self.peers.holder(part, now_s)
        if target is None:
            self.counters["undeliverable"] += 1
            return []  # the state's own budget ends it
        key = rpc_key(body)
        asked = self._asked.setdefault(key, set())
        vector = b"" if target in asked else self._vectors.get(key, (b"", 0))[0]
        asked.add(target)
        return [Out(self.peers.by_id[target].address, transport.RPC, pack_rpc(body, vector), self.load)]

    def _forget_asked(self, key: bytes) -> list[Out]:
        asked = self._asked.pop(key, ())
        return [Out(self.peers.by_id[who].address, transport.ACK, key) for who in asked if who in self.peers.by_id]

    def _renamed(self, body: bytes) -> bytes:
        """A shard's node numbers become those of the whole collection."""
        if self._global_ids is None:
            return body
        import numpy as np

        count = wire.RESULT.unpack_from(body)[4]
        end = wire.RESULT.size + 4 * count
        ids = np.frombuffer(body, np.uint32, count, wire.RESULT.size)
        return body[: wire.RESULT.size] + self._global_ids[ids].astype("<u4").tobytes() + body[end:]

    def on_down(self, down: Down, now_s: float) -> list[Out]:
        """A peer cannot be reached: batons that never left go to another holder, or their queries end."""
        peer = self.peers.by_address.get(down.address)
        if peer is None:
            return []  # a client is gone; what it asked for ends by itself
        closed = down.kind == "closed"  # it may have come back already: the next try will show
        if not closed:
            self.peers.mark_down(peer.id, now_s, refused=down.kind == "refused")
        outs = []
        for kind, _, body in down.unsent:
            if kind != transport.BATON:
                continue
            for state, vector in unpack_states(body):
                self.counters["rerouted"] += 1
                if vector:
                    self._vectors.setdefault(wire.key_of(state), (vector, now_s + self._ttl))
                part = self._part_wanted(state)
                outs += self._pass_on(part, state, now_s, but=-1 if closed else peer.id)
        return outs + self._flush_batons()

    def _part_wanted(self, state: bytes) -> int:
        parsed = wire.QueryState.from_bytes(state)
        best = next(node for node, _, explored in parsed.beam if not explored)
        return int(self.part_of[best])

    part_of: Any = ()

    def pings(self, address: int, now_s: float) -> list[Out]:
        """Ask every other server whether it is there; answers come to `address`."""
        others = [peer for peer in self.peers.by_id.values() if peer.id != self.id]
        for peer in others:
            self.peers.asked(peer.id, now_s)
        return [Out(peer.address, transport.PING, PINGED.pack(address), self.load) for peer in others]

    def forget_old_vectors(self, now_s: float) -> None:
        """Free vectors whose ACK never came."""
        for query in [query for query, (_, due) in self._vectors.items() if due <= now_s]:
            del self._vectors[query]

    @property
    def vectors_held(self) -> int:
        return len(self._vectors)

    def validate(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        broken = self.engine.validate()
        assert not broken, f"server {self.id}: {broken}"
        assert not self._batons, f"server {self.id}: batons were left behind"
