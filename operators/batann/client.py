"""The client: a pure machine of windows, retries and merges, and the loop that gives it sockets and a clock.

`ClientCore` sends each query to one server (baton, single, rpc, client gather) or to several (scatter), takes answers,
and answers each query exactly once: an answer of an older attempt, or a second one, is dropped and counted. A query not
answered within `timeout_s` is tried once more, from another server; a refusal says why and is tried once more as well
(`busy` as often as it takes, after a pause). What still fails is a failed row with its reason, never an exception.

With a head index at hand the client starts the beam itself and sends the state straight to the owner of its best entry,
which saves the hand-off that 1 - 1/S of the queries would begin with.
"""

import os
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from operators.batann import state as wire
from operators.batann import transport
from operators.batann.messages import ACKED, PINGED, pack_states
from operators.batann.peers import PING_S, Peers
from operators.batann.state import GATHER, RPC, TRACE, Answer, QueryState
from operators.batann.transport import Down, Frame, Hello

MODES = ("single", "baton", "scatter", "scatter_topn", "rpc", "baton_client_gather")
BUSY_PAUSE_S = 0.01
SERVERS_SHARE = 0.8  # of the time-out is the state's own budget: it ends first, with what it has found
ATTEMPTS = 2  # of a query that is not answered
ATTEMPTS_REFUSED = 3  # of one that is refused with a reason


class Out(NamedTuple):
    """A frame to be sent to a server."""

    address: int
    type: int
    body: bytes


@dataclass
class Outcome:
    """How one query ended; `parts` is what came back of it (several with scatter or client gather)."""

    ids: list[int]
    dists: list[float]
    status: str
    reason: str
    attempt: int
    latency_us: int
    first_server: int
    answers: list[Answer]
    ended_s: float = 0.0  # CLOCK_MONOTONIC
    trace: list[tuple[int, int, int, int]] = field(default_factory=list)  # visit, server, node, us


@dataclass
class _Pending:
    number: int
    vector: bytes
    asked_s: float
    sent_s: float = 0.0
    attempt: int = 0
    waiting: set[int] = field(default_factory=set)  # servers that have not answered
    answers: dict[int, Answer] = field(default_factory=dict)
    gathered: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # by visit
    traced: dict[tuple[int, int], list[tuple[int, int, int, int]]] = field(default_factory=dict)
    first: int = -1
    due_s: float = 0.0  # not before this (after busy)
    tried: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Plan:
    """What every query of a search asks for."""

    k: int = 10
    L: int = 20
    W: int = 4
    mem_l: int = 10
    mode: str = "baton"
    flags: int = 0
    max_hops: int = 4096
    max_handoffs: int = 256
    timeout_s: float = 2.0
    deadline_ms: float | None = None
    topn: int = 2


class ClientCore:
    """See the module's text. `start_beam(state, vector) -> state` runs the head search, if the client has one."""

    def __init__(
        self,
        plan: Plan,
        peers: Peers,
        client: int,
        *,
        window: int,
        start_beam: Callable[[bytes, bytes], bytes] | None = None,
        part_of: np.ndarray | None = None,
        nearest_parts: Callable[[bytes, int], Iterable[int]] | None = None,
    ):
        if window < 1:
            raise ValueError(f"window (={window}): expected at least 1 query in flight")
        if plan.mode not in MODES:
            raise ValueError(f"mode (={plan.mode!r}): expected one of {', '.join(MODES)}")
        self.plan, self.peers, self._client, self.window = plan, peers, client, window
        self._start_beam, self._part_of, self._nearest_parts = start_beam, part_of, nearest_parts
        self._base = int.from_bytes(os.urandom(4), "big") << 32
        self._pending: dict[int, _Pending] = {}
        self._again: deque[int] = deque()
        self._asked, self._pinged_s = 0, 0.0
        self.outcomes: dict[int, Outcome] = {}
        self.counters = dict.fromkeys(("late", "retries", "busy", "acks"), 0)

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def ask(self, number: int, vector: bytes, now_s: float) -> list[Out]:
        """Send query `number` for the first time."""
        query = self._base + self._asked
        self._asked += 1
        self._pending[query] = _Pending(number, vector, now_s)
        return self._send(query, now_s)

    def _send(self, query: int, now_s: float) -> list[Out]:
        pending, plan = self._pending[query], self.plan
        pending.sent_s = now_s
        pending.answers.clear(), pending.gathered.clear(), pending.traced.clear()
        if plan.mode in ("scatter", "scatter_topn"):
            targets = list(self.peers.by_id)
            if plan.mode == "scatter_topn" and self._nearest_parts is not None:
                targets = list(self._nearest_parts(pending.vector, plan.topn))
        else:
            targets = [None]
        pending.waiting.clear()
        outs = []
        for target in targets:
            state = self._state(query, pending, target, now_s)
            if state is None:
                return self._end(query, "failed", "partition_down", now_s)
            who, body = state
            pending.waiting.add(who)
            pending.first = who if pending.first < 0 else pending.first
            outs.append(Out(self.peers.by_id[who].address, transport.QUERY, pack_states([(body, pending.vector)])))
        return outs

    def _state(self, query: int, pending: _Pending, target: int | None, now_s: float) -> tuple[int, bytes] | None:
        """Who gets the query, and the state to send; None when no server that can is up."""
        who = target
        if target is None:
            who = self.peers.any_up(now_s, query, but=frozenset(pending.tried))
            if who is None:
                who = self.peers.any_up(now_s, query)
            if who is None:
                return None
        state = self._fresh(query, pending, self.peers.by_id[who].epoch).to_bytes()
        if target is None and self._start_beam is not None:
            state = self._start_beam(state, pending.vector)
            owner = int(self._part_of[wire.BEAM.unpack_from(state, wire.HEADER.size)[0]])
            who = self.peers.holder(owner, now_s)
            if who is None:
                return None
        pending.tried.add(who)
        return who, state

    def _fresh(self, query: int, pending: _Pending, epoch: int) -> QueryState:
        plan = self.plan
        flags = plan.flags | {"rpc": RPC, "baton_client_gather": GATHER}.get(plan.mode, 0)
        limit_s = plan.timeout_s * SERVERS_SHARE
        limit_s = limit_s if plan.deadline_ms is None else min(limit_s, plan.deadline_ms / 1e3)
        return QueryState(
            query_id=query, epoch=epoch, k=plan.k, L=plan.L, W=plan.W, attempt=pending.attempt, flags=flags,
            mem_l=plan.mem_l, handoffs_left=plan.max_handoffs, hops_left=plan.max_hops, budget_us=int(limit_s * 1e6),
            client_ip=self._client >> 16, client_port=self._client & 0xFFFF,
        )  # fmt: skip

    def on_frame(self, frame: Frame, now_s: float) -> list[Out]:
        """Take an answer, a gathered part or a trace; wire.StateError for a body that is none."""
        self.peers.heard_from(frame.sender.id, 0)
        if frame.type == transport.RESULT:
            return self._on_answer(Answer.from_bytes(frame.body), now_s)
        if frame.type == transport.PART:
            query, attempt, visit, full = wire.part_of_answer(frame.body)
            if (pending := self._current(query, attempt)) is not None:
                pending.gathered[visit] = full
                return self._maybe_done(query, now_s)
        elif frame.type == transport.TRACE:
            query, attempt, visit, server, steps = wire.trace_steps(frame.body)
            if (pending := self._current(query, attempt)) is not None:
                pending.traced[visit, server] = [(visit, server, node, us) for node, us in steps]
                return self._maybe_done(query, now_s)
        return []

    def _current(self, query: int, attempt: int) -> _Pending | None:
        pending = self._pending.get(query)
        if pending is None or pending.attempt != attempt:
            self.counters["late"] += 1
            return None
        return pending

    def _on_answer(self, answer: Answer, now_s: float) -> list[Out]:
        pending = self._current(answer.query_id, answer.attempt)
        if pending is None:
            return self._acks([answer])
        if answer.status == "failed":
            return self._on_failure(answer, pending, now_s)
        sharded = self.plan.mode in ("scatter", "scatter_topn")
        if answer.server in pending.answers or (sharded and answer.server not in pending.waiting):
            self.counters["late"] += 1
            return []
        pending.answers[answer.server] = answer
        return self._maybe_done(answer.query_id, now_s)

    def _on_failure(self, answer: Answer, pending: _Pending, now_s: float) -> list[Out]:
        acks = self._acks([answer])
        if answer.reason == "busy":
            self.counters["busy"] += 1
            pending.due_s = now_s + BUSY_PAUSE_S
            pending.attempt += 1
            pending.waiting.clear()
            self._again.append(answer.query_id)
            return acks
        if answer.reason == "stale_epoch":
            self.peers.mark_down(answer.server, now_s, refused=True)
        return acks + self._retry(answer.query_id, answer.reason, now_s)

    def _retry(self, query: int, reason: str, now_s: float) -> list[Out]:
        """Once more from another server, or the end."""
        pending = self._pending[query]
        if pending.attempt + 1 >= (ATTEMPTS if reason == "deadline" else ATTEMPTS_REFUSED):
            return self._end(query, "failed", reason, now_s)
        self.counters["retries"] += 1
        pending.attempt += 1
        return self._send(query, now_s)

    def _maybe_done(self, query: int, now_s: float) -> list[Out]:
        pending = self._pending[query]
        answers = list(pending.answers.values())
        if self.plan.mode in ("scatter", "scatter_topn"):
            if set(pending.answers) != pending.waiting:
                return []
        elif not answers:
            return []
        if self.plan.mode == "baton_client_gather" and len(pending.gathered) < len(answers[0].history) - 1:
            return []
        if self.plan.flags & TRACE and len(pending.traced) < sum(len(answer.history) for answer in answers):
            return []
        partial = next((answer for answer in answers if answer.status == "partial"), None)
        return self._end(query, partial.status if partial else "ok", partial.reason if partial else "", now_s)

    def _end(self, query: int, status: str, reason: str, now_s: float) -> list[Out]:
        pending = self._pending.pop(query)
        answers = list(pending.answers.values())
        found = [pair for answer in answers for pair in zip(answer.ids, answer.dists, strict=True)]
        if self.plan.mode == "baton_client_gather":
            found = [pair for answer in answers for pair in answer.full or ()]
            found += [pair for part in pending.gathered.values() for pair in part]
        best = sorted(set(found), key=lambda pair: (pair[1], pair[0]))[: self.plan.k]
        trace = [step for _, steps in sorted(pending.traced.items()) for step in steps]
        self.outcomes[pending.number] = Outcome(
            ids=[node for node, _ in best],
            dists=[dist for _, dist in best],
            status=status,
            reason=reason,
            attempt=pending.attempt,
            latency_us=int((now_s - pending.asked_s) * 1e6),
            first_server=pending.first,
            answers=answers,
            ended_s=now_s,
            trace=trace,
        )
        return self._acks(answers)

    def _acks(self, answers: list[Answer]) -> list[Out]:
        """Tell every server an attempt has visited that its vector may go."""
        visited = {(who, a.query_id, a.attempt) for a in answers for who in a.history if who in self.peers.by_id}
        self.counters["acks"] += len(visited)
        return [
            Out(self.peers.by_id[who].address, transport.ACK, ACKED.pack(query, attempt))
            for who, query, attempt in sorted(visited)
        ]

    def tick(self, now_s: float) -> list[Out]:
        """Pings, time-outs, and queries that were told to come back later."""
        outs: list[Out] = []
        if now_s - self._pinged_s > PING_S:
            self._pinged_s = now_s
            for peer in self.peers.by_id.values():
                self.peers.asked(peer.id, now_s)
                outs.append(Out(peer.address, transport.PING, PINGED.pack(self._client)))
        for _ in range(len(self._again)):
            query = self._again.popleft()
            if query not in self._pending:
                continue
            if self._pending[query].due_s <= now_s:
                outs += self._send(query, now_s)
            else:
                self._again.append(query)
        limit = self.plan.timeout_s
        late = [query for query, pending in self._pending.items() if pending.waiting and now_s - pending.sent_s > limit]
        for query in late:
            outs += self._retry(query, "deadline", now_s)
        return outs

    def on_down(self, down: Down, now_s: float) -> list[Out]:
        """A server cannot be reached: what waits for it is tried elsewhere at once."""
        peer = self.peers.by_address.get(down.address)
        if peer is None:
            return []
        if down.kind != "closed":
            self.peers.mark_down(peer.id, now_s, refused=down.kind == "refused")
        unsent = any(kind == transport.QUERY for kind, _, _ in down.unsent)
        lost = [
            query
            for query, pending in self._pending.items()
            if peer.id in pending.waiting and peer.id not in pending.answers
        ]
        outs: list[Out] = []
        for query in lost:
            pending = self._pending[query]
            if self.plan.mode in ("scatter", "scatter_topn"):
                outs += self._end(query, "failed", "partition_down", now_s)
            elif unsent or not pending.answers:
                outs += self._retry(query, "partition_down", now_s)
        return outs

    def validate(self) -> None:
        """Raise AssertionError when an invariant is broken."""
        assert self._asked == len(self._pending) + len(self.outcomes), "a query was lost or answered twice"


class Client:
    """Sockets and a clock around a ClientCore."""

    def __init__(self, peers: Peers, *, host: str = "127.0.0.1", client_id: int = 0, link_delay_us: float = 0):
        self.peers = peers
        epoch = next(iter(peers.by_id.values())).epoch if peers.by_id else 0
        hello = Hello(transport.CLIENT, epoch, client_id)
        self.tcp = transport.Tcp(hello, self._welcome, host=host, delay_us=link_delay_us)
        self.malformed = 0
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def later(self, function: Callable[[], None]) -> None:
        """Run `function` in the loop of the search that goes on, or at the start of the next; from any thread."""
        self._later.put(function)

    def _welcome(self, hello: Hello) -> str:
        known = {peer.epoch for peer in self.peers.by_id.values()}
        return "" if hello.epoch in known else f"epoch {hello.epoch:016x}: not one of this cluster's"

    def search(
        self,
        queries: np.ndarray,
        plan: Plan,
        *,
        window: int,
        rate: float | None = None,
        seed: int = 0,
        before: Callable[[int], None] = lambda number: None,
        **core_options,
    ) -> tuple[list[Outcome], ClientCore, float]:
        """Outcomes of `queries (nq, d)` in their order, the core, and the wall time in s.

        Closed loop: `window` queries in flight. Open loop: `rate` queries/s at exponential gaps (at most `window`
        at once). `before(number)` is called just before a query is first sent.
        """
        core = ClientCore(plan, self.peers, self.tcp.address, window=window, **core_options)
        gaps = np.random.default_rng([seed, 77]).exponential(1 / rate, len(queries)) if rate else None
        began = time.monotonic()
        due = began + np.cumsum(gaps) if rate else None
        next_query, ticked = 0, began
        while len(core.outcomes) < len(queries):
            now = time.monotonic()
            while next_query < len(queries) and core.in_flight < window and (due is None or due[next_query] <= now):
                before(next_query)
                self._send(core.ask(next_query, queries[next_query].tobytes(), now))
                next_query += 1
            timeout = 0.005
            if due is not None and next_query < len(queries):
                timeout = min(timeout, max(0.0, due[next_query] - now))
            while not self._later.empty():
                self._later.get()()
            for news in self.tcp.poll(timeout):
                self._send(self._on_news(core, news))
            now = time.monotonic()
            if now - ticked > 0.004:
                self._send(core.tick(now))
                ticked = now
        took = time.monotonic() - began
        core.validate()
        return [core.outcomes[number] for number in range(len(queries))], core, took

    def _on_news(self, core: ClientCore, news: Frame | Down) -> list[Out]:
        now = time.monotonic()
        if isinstance(news, Down):
            return core.on_down(news, now)
        try:
            return core.on_frame(news, now)
        except wire.StateError:
            self.malformed += 1
            return []

    def _send(self, outs: list[Out]) -> None:
        for out in outs:
            self.tcp.send(out.address, out.type, out.body)

    def close(self) -> None:
        self.tcp.close()
