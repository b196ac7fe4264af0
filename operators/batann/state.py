"""The state of a query: what a baton carries, and the checked bytes it travels as (paper section 3; wire format ours).

Little endian, packed: a header of 120 bytes, `history` (one byte a visit), the beam (9 bytes an entry: id u32, PQ
distance f32, explored u8), the explored nodes (8 bytes each: id u32, exact distance f32), CRC32 of all before it. The
size follows exactly from the counts in the header. Departures from the official layout: versioned, checksummed, no flag
per explored node, a budget (us, hops, hand-offs) instead of absolute times, no query vector (the frame carries it).

native/state.h is the same in C++; the tests compare the two byte by byte.
"""

import math
import struct
import zlib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

MAGIC, VERSION = 0x4E544142, 1
NO_BUDGET = 2**64 - 1
MAX_L, MAX_W = 2048, 64
TRACE, ADAPTIVE, GATHER, RPC = 1, 2, 4, 8
STATUS = ("ok", "partial", "failed")
REASONS = (
    "",
    "deadline",
    "hops",
    "handoffs",
    "corrupt",
    "io_error",
    "partition_down",
    "no_vector",
    "stale_epoch",
    "busy",
    "malformed",
)
HEADER = struct.Struct("<IHHQHHHHHHHHQQIIIIIIQQQQIHHII")
BEAM, FULL, CRC = struct.Struct("<IfB"), struct.Struct("<If"), struct.Struct("<I")
QUERY_ID, HISTORY = struct.Struct("<Q"), struct.Struct("<H")
FIELDS = (
    *(
        "magic",
        "version",
        "flags",
        "query_id",
        "attempt",
        "k",
        "L",
        "W",
        "w_now",
        "mem_l",
        "handoffs_left",
        "n_history",
    ),
    *("epoch", "budget_us", "hops_left", "hops", "reads", "pq_dists", "exact_dists", "bytes_sent"),
    *("total_us", "io_us", "queue_us", "cpu_us", "client_ip", "client_port", "n_beam", "n_full", "head_us"),
)


class StateError(ValueError):
    """Bytes that are no query state of this version."""


@dataclass(frozen=True)
class QueryState:
    """One query on its way. `beam` is sorted by (PQ distance, id), `full` is in the order of exploration."""

    query_id: int
    epoch: int
    k: int = 10
    L: int = 20
    W: int = 4
    attempt: int = 0
    flags: int = 0
    w_now: int = 0  # 0: not begun; with ADAPTIVE the width of the next hop
    mem_l: int = 10
    handoffs_left: int = 256
    budget_us: int = NO_BUDGET
    hops_left: int = 4096
    hops: int = 0
    reads: int = 0
    pq_dists: int = 0
    exact_dists: int = 0
    bytes_sent: int = 0
    total_us: int = 0
    io_us: int = 0
    queue_us: int = 0
    cpu_us: int = 0
    client_ip: int = 0
    client_port: int = 0
    head_us: int = 0
    history: tuple[int, ...] = ()
    beam: tuple[tuple[int, float, int], ...] = ()
    full: tuple[tuple[int, float], ...] = field(default=())

    @property
    def handoffs(self) -> int:
        return max(0, len(self.history) - 1)

    @property
    def client(self) -> int:
        """The client's address as one number: IPv4 << 16 | port."""
        return self.client_ip << 16 | self.client_port

    def to_bytes(self) -> bytes:
        values = vars(self) | {
            "magic": MAGIC,
            "version": VERSION,
            "n_history": len(self.history),
            "n_beam": len(self.beam),
            "n_full": len(self.full),
        }
        body = b"".join(
            [
                HEADER.pack(*(values[name] for name in FIELDS)),
                bytes(self.history),
                *(BEAM.pack(*entry) for entry in self.beam),
                *(FULL.pack(*entry) for entry in self.full),
            ]
        )
        return body + CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state in `data`; StateError says what is wrong with bytes that are none."""
        if len(data) < HEADER.size + CRC.size:
            raise StateError(f"state of {len(data)} bytes: shorter than a header")
        values = dict(zip(FIELDS, HEADER.unpack_from(data), strict=True))
        magic, version = values.pop("magic"), values.pop("version")
        counts = [values.pop(name) for name in ("n_history", "n_beam", "n_full")]
        if magic != MAGIC:
            raise StateError(f"state: wrong magic {magic:#x}; expected {MAGIC:#x}")
        if version != VERSION:
            raise StateError(f"state: wrong version {version}; expected {VERSION}")
        expected = HEADER.size + counts[0] + BEAM.size * counts[1] + FULL.size * counts[2] + CRC.size
        if len(data) != expected:
            raise StateError(f"state: wrong size {len(data)}; its header says {expected} bytes")
        if CRC.unpack_from(data, len(data) - CRC.size)[0] != zlib.crc32(data[: -CRC.size]):
            raise StateError("state: wrong checksum")
        at = HEADER.size
        history = tuple(data[at : at + counts[0]])
        at += counts[0]
        beam = tuple(BEAM.iter_unpack(data[at : at + BEAM.size * counts[1]]))
        at += BEAM.size * counts[1]
        full = tuple(FULL.iter_unpack(data[at : at + FULL.size * counts[2]]))
        state = cls(**values, history=history, beam=beam, full=full)
        state.validate()
        return state

    def validate(self) -> None:
        """Raise StateError when a number is out of range or the beam is not sorted."""
        if not 1 <= self.L <= MAX_L:
            raise StateError(f"state: L (={self.L}) out of range; expected 1 to {MAX_L}")
        if not 1 <= self.W <= MAX_W:
            raise StateError(f"state: W (={self.W}) out of range; expected 1 to {MAX_W}")
        if not 1 <= self.k <= self.L:
            raise StateError(f"state: k (={self.k}) out of range; expected 1 to L (={self.L})")
        if self.w_now > self.W:
            raise StateError(f"state: w_now (={self.w_now}) above W (={self.W})")
        if len(self.beam) > self.L:
            raise StateError(f"state: beam of {len(self.beam)} entries longer than L (={self.L})")
        if any(explored > 1 or not math.isfinite(dist) for _, dist, explored in self.beam):
            raise StateError("state: bad beam entry")
        keys = [(dist, node) for node, dist, _ in self.beam]
        if any(first >= second for first, second in pairwise(keys)):
            raise StateError("state: beam is not sorted")

    def with_changes(self, **changes) -> Self:
        return replace(self, **changes)


def query_id_of(state: bytes) -> int:
    """The query a checked state belongs to, without parsing the rest."""
    return QUERY_ID.unpack_from(state, 8)[0]


def key_of(state: bytes) -> bytes:
    """Query and attempt of a checked state, ten bytes: what a vector is kept under.

    An ACK of one attempt must not free what the next one has brought.
    """
    return state[8:18]


def history_of(state: bytes) -> bytes:
    """The servers a checked state has visited, one byte each."""
    return state[HEADER.size : HEADER.size + HISTORY.unpack_from(state, 30)[0]]


def client_of(state: bytes) -> int:
    """Client address of a checked state: IPv4 << 16 | port."""
    address, port = struct.unpack_from("<IH", state, 104)
    return address << 16 | port


# Results, as job.h packs them.
RESULT = struct.Struct("<QHBBHHBBIIIIIIQQQQI")
RESULT_FIELDS = (
    *("query_id", "attempt", "status", "reason", "k", "n_history", "server", "gather"),
    *("hops", "reads", "pq_dists", "exact_dists", "bytes_sent", "n_full"),
    *("total_us", "io_us", "queue_us", "cpu_us", "head_us"),
)


@dataclass(frozen=True)
class Answer:
    """What a server sends the client: k ids with exact distances, how it ended, and the work it took."""

    query_id: int
    attempt: int
    status: str
    reason: str
    server: int
    ids: tuple[int, ...]
    dists: tuple[float, ...]
    history: tuple[int, ...]
    full: tuple[tuple[int, float], ...] | None  # explored nodes of the last server, in client-gather mode
    counters: dict[str, int]

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """StateError on bytes that are no result."""
        if len(body) < RESULT.size:
            raise StateError(f"result of {len(body)} bytes: shorter than a header")
        values = dict(zip(RESULT_FIELDS, RESULT.unpack_from(body), strict=True))
        k, n_history, n_full = (values.pop(name) for name in ("k", "n_history", "n_full"))
        gather, status, reason = (values.pop(name) for name in ("gather", "status", "reason"))
        expected = RESULT.size + 8 * k + n_history + 8 * n_full
        if len(body) != expected or status >= len(STATUS) or reason >= len(REASONS):
            raise StateError(f"result of {len(body)} bytes: its header says {expected}, status {status}, {reason}")
        at = RESULT.size
        ids = struct.unpack_from(f"<{k}I", body, at)
        dists = struct.unpack_from(f"<{k}f", body, at + 4 * k)
        at += 8 * k
        history = tuple(body[at : at + n_history])
        full = tuple(FULL.iter_unpack(body[at + n_history :])) if gather else None
        names = {name: values.pop(name) for name in ("query_id", "attempt", "server")}
        return cls(
            **names, status=STATUS[status], reason=REASONS[reason], ids=ids, dists=dists, history=history, full=full,
            counters=values,
        )  # fmt: skip


def refusal(state: bytes, reason: str, server: int) -> bytes:
    """The result of a checked state that a server cannot go on with: failed, with the reason."""
    parsed = QueryState.from_bytes(state)
    return RESULT.pack(
        parsed.query_id, parsed.attempt, STATUS.index("failed"), REASONS.index(reason), 0, len(parsed.history),
        server, 0, parsed.hops, parsed.reads, parsed.pq_dists, parsed.exact_dists, parsed.bytes_sent, 0,
        parsed.total_us, parsed.io_us, parsed.queue_us, parsed.cpu_us, parsed.head_us,
    ) + bytes(parsed.history)  # fmt: skip


PART = struct.Struct("<QHHI")
TRACED = struct.Struct("<QHHBI")
STEP = struct.Struct("<II")


def part_of_answer(body: bytes) -> tuple[int, int, int, list[tuple[int, float]]]:
    """(query, attempt, visit, explored nodes) of a client-gather part."""
    if len(body) < PART.size:
        raise StateError("part: shorter than a header")
    query, attempt, visit, count = PART.unpack_from(body)
    if len(body) != PART.size + FULL.size * count:
        raise StateError(f"part of {len(body)} bytes: its header says {count} entries")
    return query, attempt, visit, list(FULL.iter_unpack(body[PART.size :]))


def trace_steps(body: bytes) -> tuple[int, int, int, int, list[tuple[int, int]]]:
    """(query, attempt, visit, server, [(node, us since it came to the server)]) of a trace."""
    if len(body) < TRACED.size:
        raise StateError("trace: shorter than a header")
    query, attempt, visit, server, count = TRACED.unpack_from(body)
    if len(body) != TRACED.size + STEP.size * count:
        raise StateError(f"trace of {len(body)} bytes: its header says {count} steps")
    return query, attempt, visit, server, list(STEP.iter_unpack(body[TRACED.size :]))
