"""Frames over TCP between servers and clients: non-blocking, checked, one connection per ordered pair.

A frame is u32 length of the body, u16 type, u16 flags, body; little endian. HELLO comes first on every connection
(protocol version, role, epoch, id, partitions); whoever does not say it, says it wrongly or sends a frame over the
limit is cut off and counted, and no other connection notices. A party sends on the connection it opened and receives on
those opened to it; REFUSED is the one frame that comes back.

What could not be written when a peer goes down is handed back (`Down.unsent`), so that nothing that never left is lost.
`delay_us` holds every frame back for that long: the declared delay of a link. No pickle, no address but the one given.
"""

import contextlib
import errno
import heapq
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

PROTOCOL = 1
FRAME = struct.Struct("<IHH")
HELLO_HEAD = struct.Struct("<HHQIH")
FRAME_LIMIT = 1 << 20
HELLO, QUERY, BATON, RESULT, ACK, RPC, RPC_REPLY, TRACE, PART, REFUSED, PING, PONG = range(1, 13)
SERVER, CLIENT = 0, 1
ADDRESS_MAX = 2**48 - 1
RETRY_S = 0.2
CHUNK = 1 << 18


class PortInUse(OSError):
    """The port asked for is taken."""


class Hello(NamedTuple):
    """Who opened a connection."""

    role: int
    epoch: int
    id: int
    parts: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        return HELLO_HEAD.pack(PROTOCOL, self.role, self.epoch, self.id, len(self.parts)) + bytes(self.parts)

    @classmethod
    def from_bytes(cls, body: bytes) -> "Hello":
        if len(body) < HELLO_HEAD.size:
            raise ValueError("HELLO: shorter than its head")
        version, role, epoch, who, count = HELLO_HEAD.unpack_from(body)
        if version != PROTOCOL:
            raise ValueError(f"HELLO: protocol version {version}; expected {PROTOCOL}")
        if len(body) != HELLO_HEAD.size + count or role not in (SERVER, CLIENT):
            raise ValueError("HELLO: wrong size or role")
        return cls(role, epoch, who, tuple(body[HELLO_HEAD.size :]))


class Frame(NamedTuple):
    """A frame that arrived, and who sent it."""

    sender: Hello
    type: int
    flags: int
    body: bytes


class Down(NamedTuple):
    """A connection to an address that has failed: why, and the frames that never left: (type, flags, body).

    `kind`: "closed" (it stood; the next frame tries again), "unreachable" (it never stood) or "refused" (the peer
    does not want us, and says why).
    """

    address: int
    kind: str
    reason: str
    unsent: list[tuple[int, int, bytes]]


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    address: int | None = None  # of the peer, for connections we opened
    hello: Hello | None = None  # of the peer, for connections it opened
    read: bytearray = field(default_factory=bytearray)
    frames: deque = field(default_factory=deque)  # (type, flags, body) not written yet; the first may be half written
    written: int = 0  # bytes of the first frame that have left
    connected: bool = False
    watching: int = 0


def pack_address(host: str, port: int) -> int:
    """IPv4 address and port as one number."""
    return int.from_bytes(socket.inet_aton(host), "big") << 16 | port


def unpack_address(address: int) -> tuple[str, int]:
    return socket.inet_ntoa((address >> 16).to_bytes(4, "big")), address & 0xFFFF


class Tcp:
    """One party's listener and connections. `welcome(hello)` returns "" or why the peer is refused."""

    def __init__(
        self,
        hello: Hello,
        welcome: Callable[[Hello], str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        delay_us: float = 0,
    ):
        self._hello, self._welcome, self._delay_ns = hello, welcome, int(delay_us * 1000)
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((host, port))
        except OSError as error:
            self._listener.close()
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"port (={port}) of {host}: already taken by another process") from None
            raise
        self._listener.listen(128)
        self._listener.setblocking(False)
        self.address = pack_address(*self._listener.getsockname())
        self._buffer = bytearray(CHUNK)  # one for all connections: a fresh one a read would cost more than the read
        self._view = memoryview(self._buffer)
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._by_fd: dict[int, _Connection] = {}
        self._to: dict[int, _Connection] = {}
        self._down_until: dict[int, float] = {}
        self._held: list[tuple[int, int, int, tuple]] = []
        self._sequence = 0
        self._news: list[Frame | Down] = []
        self._extra: set[int] = set()
        self.counters = dict.fromkeys(("frames_in", "frames_out", "bytes_in", "bytes_out", "malformed", "refused"), 0)

    def watch(self, descriptor: int) -> None:
        """Wake `poll` also when this descriptor is readable (its owner drains it)."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._extra.add(descriptor)

    def send(self, address: int, kind: int, body: bytes, flags: int = 0) -> None:
        """Queue a frame for `address` and write what can be written now."""
        if self._delay_ns:
            self._sequence += 1
            due = time.monotonic_ns() + self._delay_ns
            heapq.heappush(self._held, (due, self._sequence, address, (kind, flags, body)))
        else:
            self._send(address, (kind, flags, body))

    @property
    def next_due_ns(self) -> int:
        """When the next held frame is due; 0: none is held."""
        return self._held[0][0] if self._held else 0

    def _send(self, address: int, frame: tuple[int, int, bytes]) -> None:
        connection = self._to.get(address)
        if connection is None:
            if self._down_until.get(address, 0) > time.monotonic():
                self._news.append(Down(address, "unreachable", "still down", [frame]))
                return
            try:
                connection = self._connect(address)
            except OSError as error:  # no descriptor left
                self._news.append(Down(address, "unreachable", error.strerror or "no connection", [frame]))
                return
        connection.frames.append(frame)
        self.counters["frames_out"] += 1
        if connection.connected:
            self._flush(connection)

    def _connect(self, address: int) -> _Connection:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.connect_ex(unpack_address(address))
        connection = _Connection(made, address=address)
        connection.frames.append((HELLO, 0, self._hello.to_bytes()))
        self._to[address] = self._by_fd[made.fileno()] = connection
        self._epoll.register(made, select.EPOLLIN | select.EPOLLOUT)
        connection.watching = select.EPOLLIN | select.EPOLLOUT
        return connection

    def poll(self, timeout_s: float) -> list[Frame | Down]:
        """What has arrived and who is down; waits up to `timeout_s` when there is nothing yet."""
        self._release_held()
        for descriptor, happened in self._epoll.poll(0 if self._news else timeout_s):
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._by_fd:
                self._serve(self._by_fd[descriptor], happened)
        self._release_held()
        news, self._news = self._news, []
        return news

    def _release_held(self) -> None:
        now = time.monotonic_ns()
        while self._held and self._held[0][0] <= now:
            _, _, address, frame = heapq.heappop(self._held)
            self._send(address, frame)

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._turn_away()
                return
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._by_fd[made.fileno()] = _Connection(made, connected=True)
            self._epoll.register(made, select.EPOLLIN)

    def _turn_away(self) -> None:
        """No descriptor is left: with the one kept in reserve the next in line is taken and closed."""
        os.close(self._reserve)
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.counters["refused"] += 1

    def _serve(self, connection: _Connection, happened: int) -> None:
        if happened & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self._receive(connection):
            return
        if connection.address is not None and happened & select.EPOLLOUT:
            connection.connected = True
            self._down_until.pop(connection.address, None)
            self._flush(connection)

    def _receive(self, connection: _Connection) -> bool:
        """Read what is there; False when the connection is gone."""
        while True:
            try:
                count = connection.socket.recv_into(self._buffer)
            except BlockingIOError:
                return True
            except OSError as error:
                self._drop(connection, error.strerror or "connection failed")
                return False
            if not count:
                self._drop(connection, "closed by the peer")
                return False
            self.counters["bytes_in"] += count
            connection.read += self._view[:count]
            if not self._parse(connection):
                return False
            if count < CHUNK:
                return True

    def _parse(self, connection: _Connection) -> bool:
        buffer, at = connection.read, 0
        while len(buffer) - at >= FRAME.size:
            length, kind, flags = FRAME.unpack_from(buffer, at)
            if (
                length > FRAME_LIMIT
                or not HELLO <= kind <= PONG
                or (connection.hello is None and kind not in (HELLO, REFUSED))
            ):
                return self._cut_off(connection, "malformed")
            if len(buffer) - at - FRAME.size < length:
                break
            body = bytes(buffer[at + FRAME.size : at + FRAME.size + length])
            at += FRAME.size + length
            if not self._dispatch(connection, kind, flags, body):
                return False
        del buffer[:at]
        return True

    def _dispatch(self, connection: _Connection, kind: int, flags: int, body: bytes) -> bool:
        if kind == REFUSED:
            self._drop(connection, body.decode("utf-8", "replace")[:200], kind="refused")
            return False
        if kind != HELLO:
            self.counters["frames_in"] += 1
            self._news.append(Frame(connection.hello, kind, flags, body))
            return True
        try:
            connection.hello = Hello.from_bytes(body)
        except ValueError:
            return self._cut_off(connection, "malformed")
        reason = self._welcome(connection.hello)
        if not reason:
            return True
        text = reason.encode()[:200]
        with contextlib.suppress(OSError):  # it is being cut off anyway
            connection.socket.send(FRAME.pack(len(text), REFUSED, 0) + text)
        return self._cut_off(connection, "refused")

    def _cut_off(self, connection: _Connection, why: str) -> bool:
        self.counters[why] += 1
        self._drop(connection, why)
        return False

    def _flush(self, connection: _Connection) -> None:
        frames = connection.frames
        while frames:
            kind, flags, body = frames[0]
            data = memoryview(FRAME.pack(len(body), kind, flags) + body)[connection.written :]
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                break
            except OSError as error:
                self._drop(connection, error.strerror or "connection failed")
                return
            self.counters["bytes_out"] += sent
            if sent < len(data):
                connection.written += sent
                break
            frames.popleft()
            connection.written = 0
        wanted = select.EPOLLIN | (select.EPOLLOUT if frames else 0)
        if wanted != connection.watching:
            self._epoll.modify(connection.socket, wanted)
            connection.watching = wanted

    def _drop(self, connection: _Connection, reason: str, *, kind: str = "") -> None:
        descriptor = connection.socket.fileno()
        self._by_fd.pop(descriptor, None)
        self._epoll.unregister(descriptor)
        connection.socket.close()
        if connection.address is not None:
            self._to.pop(connection.address, None)
            kind = kind or ("closed" if connection.connected else "unreachable")
            if kind != "closed":
                self._down_until[connection.address] = time.monotonic() + RETRY_S
            unsent = list(connection.frames)[1 if connection.written else 0 :]
            self._news.append(Down(connection.address, kind, reason, [frame for frame in unsent if frame[0] != HELLO]))

    def disconnect(self) -> int:
        """Close every connection, as a broken switch would; how many there were."""
        connections = list(self._by_fd.values())
        for connection in connections:
            self._drop(connection, "connection dropped")
        return len(connections)

    def close(self) -> None:
        """Close everything, what was queued included."""
        for connection in list(self._by_fd.values()):
            connection.socket.close()
        self._by_fd.clear()
        self._to.clear()
        self._listener.close()
        self._epoll.close()
        os.close(self._reserve)
