"""Beam search of a query's state as the paper writes it (algorithms 1 and 2), in plain Python: the reference.

`PythonEngine` has the native engine's methods and gives the same answers, batons and counters; it reads with pread and
stands in where the native core is not built (much slower). The tests compare the two state by state.
"""

import heapq
import os
import struct
import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.batann import state as wire
from operators.batann.state import ADAPTIVE, GATHER, NO_BUDGET, REASONS, STATUS, TRACE, QueryState, StateError

if TYPE_CHECKING:
    from operators.batann.layout import Index

SECTOR = 4096
RESULT, HANDOFF, TRACED, GATHERED = 0, 1, 4, 5


class _Live:
    """A state while it is here: its lists as dictionaries and sorted lists, and its query."""

    def __init__(self, state: QueryState, query: np.ndarray, came: float):
        self.state, self.query, self.came = state, query, came
        self.beam = [[dist, node, explored] for node, dist, explored in state.beam]
        self.full = list(state.full)
        self.counts = {
            name: getattr(state, name) for name in ("hops", "reads", "pq_dists", "exact_dists", "bytes_sent")
        }
        self.hops_left, self.w_now = state.hops_left, state.w_now
        self.history = list(state.history)
        self.trace: list[tuple[int, int]] = []

    def packed(self, now: float, **changes: Any) -> QueryState:
        """The state as it would leave now."""
        used = int((now - self.came) * 1e6)
        budget = self.state.budget_us
        return self.state.with_changes(
            **self.counts,
            hops_left=self.hops_left,
            w_now=self.w_now,
            total_us=self.state.total_us + used,
            budget_us=budget if budget == NO_BUDGET else max(0, budget - used),
            history=tuple(self.history),
            beam=tuple((node, dist, explored) for dist, node, explored in self.beam),
            full=tuple(self.full),
            **changes,
        )


class PythonEngine:
    """One state at a time, start to end; see the module's text."""

    def __init__(self, index: "Index", parts: Sequence[int], *, server_id: int = 0, live: int = 8, iops_cap: float = 0):
        self._index, self._id, self._parts, self._cap = index, server_id, set(parts), iops_cap
        self._files = {part: open(index.part_path(part), "rb", buffering=0) for part in parts}  # noqa: SIM115
        self._ids = {part: np.asarray(index.part_ids(part)) for part in parts}
        self._crc = {part: np.asarray(index.part_crc(part)) for part in parts}
        self._kept: dict[tuple[int, int], bytes] = {}
        self._inbox: list[tuple[QueryState, np.ndarray, float]] = []
        self._events: list[tuple[int, int, int, bytes]] = []
        self._pipe = os.pipe()
        self._error, self._next_read = "", 0.0
        names = ("submitted", "finished", "left", "failed", "reads", "cached", "rpc_served", "bad_sectors", "busy_us")
        self._counters = dict.fromkeys((*names, "live_max"), 0)

    def keep_sectors(self, part: int, numbers: np.ndarray, sectors: np.ndarray) -> None:
        """Sectors of a part that need no read."""
        self._kept |= {(part, int(number)): row.tobytes() for number, row in zip(numbers, sectors, strict=True)}

    def submit(self, state: bytes, query: bytes) -> str:
        """Take a state; "" or why it is refused."""
        try:
            parsed = QueryState.from_bytes(state)
        except StateError as error:
            return str(error)
        if parsed.epoch != self._index.epoch:
            return "stale epoch"
        dtype = np.dtype(self._index.meta.dtype)
        if len(query) != self._index.meta.d * dtype.itemsize:
            return "wrong vector length"
        if any(node >= self._index.meta.n for node, _, _ in parsed.beam):
            return "node out of range"
        self._counters["submitted"] += 1
        self._inbox.append((parsed, np.frombuffer(query, dtype), time.monotonic()))
        os.write(self._pipe[1], b"x")
        return ""

    def submit_rpc(self, body: bytes, query: bytes) -> str:
        return "remote reads need the native core"

    def rpc_reply(self, body: bytes) -> str:
        return "remote reads need the native core"

    def poll(self, wait: bool = False) -> list[tuple[int, int, int, bytes]]:
        """Run what is waiting to its end or its hand-off; the events."""
        while self._inbox:
            os.read(self._pipe[0], 1)
            self._run(_Live(*self._inbox.pop(0)))
        events, self._events = self._events, []
        return events

    def _run(self, live: _Live) -> None:
        state, began = live.state, time.monotonic()
        live.history.append(self._id)
        lut = self._index.pq.lut(live.query)
        if not live.beam:
            self._start(live, lut)
        live.w_now = live.w_now or (1 if state.flags & ADAPTIVE else state.W)
        while True:
            reason = self._over_budget(live)
            chosen = [entry for entry in live.beam if not entry[2]][: live.w_now]
            if reason or not chosen:
                return self._finish(live, "partial" if reason else "ok", reason)
            local = [entry for entry in chosen if self._index.map[entry[1]] in self._parts]
            if not local:
                return self._leave(live, int(self._index.map[chosen[0][1]]))
            for entry in local:
                entry[2] = 1
            if not self._explore(live, [entry[1] for entry in local], lut, began):
                return self._finish(live, "failed", "corrupt")

    def _start(self, live: _Live, lut: np.ndarray) -> None:
        """The head index's hits re-scored with PQ, or the medoid."""
        head, state = self._index.head, live.state
        nodes = [self._index.meta.medoid]
        if head is not None and len(head.ids) and state.mem_l:
            found = search_head(head, live.query, min(state.mem_l, len(head.ids)))
            nodes = [int(head.ids[position]) for position in found][: min(state.mem_l, state.L)]
        for node, dist in zip(nodes, self._pq(lut, nodes), strict=True):
            self._insert(live, node, dist)
            live.counts["pq_dists"] += 1

    def _explore(self, live: _Live, nodes: list[int], lut: np.ndarray, began: float) -> bool:
        """Read and score a batch in the order the nodes were chosen; False when a sector is damaged."""
        records = [self._record(node) for node in nodes]
        if any(record is None for record in records):
            return False
        best, meta = live.state.L, self._index.meta
        for node, (vector, neighbours) in zip(nodes, records, strict=True):
            live.counts["reads"] += 1
            live.counts["exact_dists"] += 1
            live.full.append((node, squared_l2(vector, live.query)))
            for neighbour, dist in zip(neighbours, self._pq(lut, neighbours), strict=True):
                place = self._insert(live, neighbour, dist)
                live.counts["pq_dists"] += place is not None
                best = best if place is None else min(best, place)
            if live.state.flags & TRACE:
                live.trace.append((node, int((time.monotonic() - began) * 1e6)))
        live.counts["hops"] += 1
        live.hops_left -= 1
        if live.state.flags & ADAPTIVE and best >= live.state.k:
            live.w_now = min(live.state.W, 2 * live.w_now)
        assert len(records[0][0]) == meta.d
        return True

    def _insert(self, live: _Live, node: int, dist: float) -> int | None:
        """Where a new node went in the beam (L: it is new but too far); None when it was there already."""
        if any(entry[1] == node for entry in live.beam):
            return None
        place = sum((entry[0], entry[1]) < (dist, node) for entry in live.beam)
        if place < live.state.L:
            live.beam.insert(place, [dist, node, 0])
            del live.beam[live.state.L :]
        return place

    def _pq(self, lut: np.ndarray, nodes: Sequence[int]) -> list[float]:
        codes = np.asarray(self._index.codes[np.asarray(nodes, np.int64)]).reshape(len(nodes), -1)
        return [float(value) for value in pq_sums(lut, codes)]

    def _record(self, node: int) -> tuple[np.ndarray, list[int]] | None:
        """Vector and neighbours of a node of this server; None when its sector is damaged."""
        meta, part = self._index.meta, int(self._index.map[node])
        ids = self._ids[part]
        place = int(np.searchsorted(ids, node))
        if place == len(ids) or ids[place] != node:
            self._error = f"node {node} is not in partition {part}"
            return None
        number = place // meta.records_per_sector
        sector = self._kept.get((part, number))
        self._counters["reads" if sector is None else "cached"] += 1
        if sector is None:
            self._meter()
            sector = os.pread(self._files[part].fileno(), SECTOR, number * SECTOR)
        if len(sector) != SECTOR or zlib.crc32(sector) != int(self._crc[part][number]):
            self._counters["bad_sectors"] += 1
            self._error = f"partition {part}, sector {number}: wrong checksum"
            return None
        at = place % meta.records_per_sector * meta.record_bytes
        dtype = np.dtype(meta.dtype)
        vector = np.frombuffer(sector, dtype, meta.d, at)
        (degree,) = struct.unpack_from("<I", sector, at + vector.nbytes)
        return vector, list(struct.unpack_from(f"<{degree}I", sector, at + vector.nbytes + 4))

    def _meter(self) -> None:
        if self._cap:
            now = time.monotonic()
            time.sleep(max(0.0, self._next_read - now))
            self._next_read = max(now, self._next_read) + 1 / self._cap

    def _over_budget(self, live: _Live) -> str:
        budget = live.state.budget_us
        if budget != NO_BUDGET and (time.monotonic() - live.came) * 1e6 >= budget:
            return "deadline"
        return "hops" if not live.hops_left else ""

    def _leave(self, live: _Live, part: int) -> None:
        state, now = live.state, time.monotonic()
        if not state.handoffs_left:
            return self._finish(live, "partial", "handoffs")
        self._emit_trace(live)
        if state.flags & GATHER:
            body = wire.PART.pack(state.query_id, state.attempt, len(live.history) - 1, len(live.full))
            body += b"".join(wire.FULL.pack(*entry) for entry in live.full)
            live.counts["bytes_sent"] += len(body)
            live.full.clear()
            self._events.append((GATHERED, state.client, state.query_id, body))
        size = wire.HEADER.size + len(live.history) + 9 * len(live.beam) + 8 * len(live.full) + 4
        live.counts["bytes_sent"] += size
        packed = live.packed(now, handoffs_left=state.handoffs_left - 1)
        self._counters["left"] += 1
        self._events.append((HANDOFF, part, state.query_id, packed.to_bytes()))
        return None

    def _emit_trace(self, live: _Live) -> None:
        state = live.state
        if state.flags & TRACE:
            head = wire.TRACED.pack(state.query_id, state.attempt, len(live.history) - 1, self._id, len(live.trace))
            body = head + b"".join(wire.STEP.pack(*step) for step in live.trace)
            self._events.append((TRACED, state.client, state.query_id, body))

    def _finish(self, live: _Live, status: str, reason: str) -> None:
        self._emit_trace(live)
        state = live.packed(time.monotonic())
        full = sorted(live.full, key=lambda entry: (entry[1], entry[0]))
        gather = bool(state.flags & GATHER)
        found, rest = full[: state.k], full if gather else []
        size = wire.RESULT.size + 8 * len(found) + len(live.history) + 8 * len(rest)
        body = wire.RESULT.pack(
            state.query_id, state.attempt, STATUS.index(status), REASONS.index(reason), len(found), len(live.history),
            self._id, gather, state.hops, state.reads, state.pq_dists, state.exact_dists, state.bytes_sent + size,
            len(rest), state.total_us, state.io_us, state.queue_us, state.cpu_us, state.head_us,
        )  # fmt: skip
        body += struct.pack(f"<{len(found)}I", *(node for node, _ in found))
        body += struct.pack(f"<{len(found)}f", *(dist for _, dist in found))
        body += bytes(live.history) + b"".join(wire.FULL.pack(*entry) for entry in rest)
        self._counters["failed" if status == "failed" else "finished"] += 1
        self._events.append((RESULT, state.client, state.query_id, body))

    def fileno(self) -> int:
        return self._pipe[0]

    def wake_at(self, monotonic_ns: int) -> None:
        """Nothing here is ever left for later."""

    def set_cap(self, iops_cap: float) -> None:
        self._cap = iops_cap

    def idle(self) -> bool:
        return not self._inbox

    def waiting(self) -> int:
        return len(self._inbox)

    def owns(self, part: int) -> bool:
        return part in self._parts

    def last_error(self) -> str:
        return self._error

    def counters(self) -> dict[str, int]:
        return self._counters | {"waiting": len(self._inbox), "live": 0}

    def validate(self) -> str:
        counts = self._counters
        ended = counts["finished"] + counts["failed"] + counts["left"] + len(self._inbox)
        return "" if counts["submitted"] == ended else "submitted != finished + failed + left + waiting"


def search_head(head: Any, query: np.ndarray, length: int) -> list[int]:
    """Best-first search of the head index: positions of the `length` nearest it finds, nearest first."""
    graph, start = head.graph, int(head.graph.medoid)
    best = [(squared_l2(head.vectors[start], query), start)]
    seen, explored = {start}, set()
    while True:
        entry = next((entry for entry in best if entry[1] not in explored), None)
        if entry is None:
            return [position for _, position in best]
        explored.add(entry[1])
        for neighbour in graph.adj[entry[1], : graph.deg[entry[1]]].tolist():
            if neighbour not in seen:
                seen.add(neighbour)
                best.append((squared_l2(head.vectors[neighbour], query), neighbour))
        best = heapq.nsmallest(length, best)


def squared_l2(a: np.ndarray, b: np.ndarray) -> float:
    """Exact for integers; for floats in double precision, rounded once."""
    kind = np.float64 if a.dtype == np.float32 else np.int64
    difference = a.astype(kind) - b.astype(kind)
    return float(np.float32((difference * difference).sum()))


def pq_sums(lut: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of table entries `(n,)` float32 in the order of native/pq.h: chunk c into accumulator c % 4."""
    values = lut[np.arange(lut.shape[0]), codes]
    sums = [np.zeros(len(codes), np.float32) for _ in range(4)]
    for chunk in range(lut.shape[0]):
        sums[chunk % 4] = sums[chunk % 4] + values[:, chunk]
    return (sums[0] + sums[1]) + (sums[2] + sums[3])
