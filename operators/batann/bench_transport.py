"""What a hand-off costs: one way over sockets, hand-offs a second over sockets and over Ray calls (bars B10, B11).

A partner process receives batons of about 4 KiB, takes them apart, checks and writes each state again (the engine's own
parse and write) and sends it back: a round trip is two hand-offs. Real frames, real sockets, one pair of processes.
Both sides carry the same number of states a message: one, as bar B11 is judged, and as many as the servers are set to.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from operators.batann import transport
from operators.batann.engine import native_core
from operators.batann.messages import pack_states, unpack_states
from operators.batann.state import QueryState
from operators.batann.transport import Hello

STATE_BYTES = 4096
ROUND_TRIPS, PIPELINED, WINDOW = 1500, 24_000, 64
RAY_CALLS = 3000
EPOCH = 7


def state_of(size: int) -> bytes:
    """A checked state of about `size` bytes: a full beam and as many explored nodes as fit."""
    beam = tuple((node, float(node), 1) for node in range(200))
    bare = QueryState(query_id=1, epoch=EPOCH, k=10, L=200, beam=beam, history=(0,))
    room = (size - len(bare.to_bytes())) // 8
    return bare.with_changes(full=tuple((node, float(node)) for node in range(room))).to_bytes()


def again(state: bytes) -> bytes:
    """Parse, check and write a state, as a server does on both ends of a hand-off."""
    core = native_core()
    return core.rewrite_state(state) if core else QueryState.from_bytes(state).to_bytes()


def partner(address: int) -> None:
    """The other process: every baton that comes is checked, written again and sent back, until BYE (an ACK)."""
    tcp = transport.Tcp(Hello(transport.SERVER, EPOCH, 1), lambda _: "")
    tcp.send(address, transport.PONG, tcp.address.to_bytes(8, "little"))
    while True:
        for news in tcp.poll(1.0):
            if isinstance(news, transport.Down) or news.type == transport.ACK:
                tcp.close()
                return
            states = [(again(state), b"") for state, _ in unpack_states(news.body)]
            tcp.send(address, transport.BATON, pack_states(states))


class Pair:
    """This process and its partner, connected."""

    def __enter__(self) -> "Pair":
        self.tcp = transport.Tcp(Hello(transport.SERVER, EPOCH, 0), lambda _: "")
        command = [sys.executable, "-m", "operators.batann.bench_transport", str(self.tcp.address)]
        self._child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        frame = self._next()
        self._other = int.from_bytes(frame.body, "little")
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.tcp.send(self._other, transport.ACK, b"")
        else:  # nothing may be connected yet
            self._child.kill()
        self._child.wait(10)
        self.tcp.close()

    def _next(self) -> transport.Frame:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for news in self.tcp.poll(1.0):
                return news
        raise TimeoutError("the partner process does not answer")

    def one_way_us(self, state: bytes, count: int) -> np.ndarray:
        """Half the round trips `(count,)` of single states, nothing else in flight."""
        found = np.empty(count)
        for number in range(count):
            began = time.perf_counter_ns()
            self.tcp.send(self._other, transport.BATON, pack_states([(again(state), b"")]))
            unpack_states(self._next().body)
            found[number] = (time.perf_counter_ns() - began) / 2000
        return found

    def rate(self, state: bytes, count: int, batch: int) -> float:
        """Hand-offs a second in both directions together, `WINDOW` in flight, `batch` a frame."""
        body = pack_states([(again(state), b"")] * batch)
        sent = back = 0
        began = time.perf_counter()
        while back < count:
            while sent < count and sent - back < WINDOW:
                self.tcp.send(self._other, transport.BATON, body)
                sent += batch
            for news in self.tcp.poll(1.0):
                back += len(unpack_states(news.body))
        return 2 * back / (time.perf_counter() - began)


class Echo:
    """The Ray partner: an actor that checks and writes the states it is given."""

    def deliver(self, body: bytes) -> bytes:
        return pack_states([(again(state), b"") for state, _ in unpack_states(body)])


def ray_rate(ray: Any, state: bytes, count: int, batch: int = 1) -> float:
    """Hand-offs a second through actor calls, `batch` states a call, `WINDOW` states in flight."""
    actor = ray.remote(Echo).options(num_cpus=0).remote()
    body = pack_states([(again(state), b"")] * batch)
    ray.get(actor.deliver.remote(body))
    began, waiting, sent, back = time.perf_counter(), [], 0, 0
    while back < count:
        while sent < count and sent - back < WINDOW:
            waiting.append(actor.deliver.remote(body))
            sent += batch
        ready, waiting = ray.wait(waiting)
        back += sum(len(unpack_states(answer)) for answer in ray.get(ready))
    took = time.perf_counter() - began
    ray.kill(actor)
    return 2 * back / took


if __name__ == "__main__":
    partner(int(sys.argv[1]))
