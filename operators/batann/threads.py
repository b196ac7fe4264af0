"""Several search threads of one server: an engine each, with the methods of one.

States are dealt to the engine with the fewest; each engine is polled by its own thread (the native poll leaves Python's
lock alone), and what leaves is handed to the server's loop through one queue and one descriptor. A meter's rate is
shared evenly. Remote reads come back to the engine that asked: its number is the top byte of the ticket.
"""

import contextlib
import os
import queue
import select
import struct
import threading
import weakref
from typing import Any

TICKET = struct.Struct("<Q")
TICKET_SHIFT = 56


class _Shared:
    """What a thread shares with its group; the thread never holds the group, so that a forgotten group ends."""

    def __init__(self, engine: Any, events: queue.SimpleQueue, done: int):
        self.engine, self.events, self.done = engine, events, done
        self.lock, self.kick, self.running = threading.Lock(), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), True
        self.failed: BaseException | None = None

    def serve(self) -> None:
        """Poll the engine whenever it or somebody else says so, until told to stop."""
        with select.epoll() as poller:
            poller.register(self.kick, select.EPOLLIN)
            poller.register(self.engine.fileno(), select.EPOLLIN)
            while self.running:
                for descriptor, _ in poller.poll():
                    if descriptor == self.kick:
                        os.eventfd_read(self.kick)
                try:
                    with self.lock:
                        events = self.engine.poll(False)
                except BaseException as error:  # the server's loop raises it
                    self.failed, self.running, events = error, False, []
                self.events.put(events)
                os.eventfd_write(self.done, 1)


def _stop(shared: list[_Shared], threads: list[threading.Thread]) -> None:
    for one, thread in zip(shared, threads, strict=True):
        one.running = False
        os.eventfd_write(one.kick, 1)
        thread.join()
        os.close(one.kick)
    os.close(shared[0].done)
    shared.clear()


class EngineGroup:
    """Engines of one server, each polled by a thread; the same methods as one engine."""

    def __init__(self, engines: list[Any]):
        self._engines, self._turn = engines, 0
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._events: queue.SimpleQueue[list[tuple]] = queue.SimpleQueue()
        self._shared = [_Shared(engine, self._events, self._done) for engine in engines]
        threads = [
            threading.Thread(target=one.serve, name=f"batann-search-{number}", daemon=True)
            for number, one in enumerate(self._shared)
        ]
        for thread in threads:
            thread.start()
        self.close = weakref.finalize(self, _stop, list(self._shared), threads)

    def _with(self, number: int, method: str, *args: Any) -> Any:
        with self._shared[number].lock:
            result = getattr(self._engines[number], method)(*args)
        os.eventfd_write(self._shared[number].kick, 1)
        return result

    def _least(self) -> int:
        """The engine with the fewest states; read without its lock, so it may be a moment old."""
        loads = [engine.waiting() for engine in self._engines]
        least = min(loads)
        self._turn = (self._turn + 1) % len(loads)
        order = [(self._turn + step) % len(loads) for step in range(len(loads))]
        return next(number for number in order if loads[number] == least)

    def submit(self, state: bytes, query: bytes) -> str:
        return self._with(self._least(), "submit", state, query)

    def submit_rpc(self, body: bytes, query: bytes) -> str:
        return self._with(self._least(), "submit_rpc", body, query)

    def rpc_reply(self, body: bytes) -> str:
        """Refuses a ticket that names no engine here."""
        number = TICKET.unpack_from(body)[0] >> TICKET_SHIFT if len(body) >= TICKET.size else len(self._engines)
        if number >= len(self._engines):
            return "ticket of no thread here"
        return self._with(number, "rpc_reply", body)

    def poll(self, wait: bool = False) -> list[tuple]:
        """Events of all engines; with `wait` blocks for the first."""
        for one in self._shared:
            if one.failed is not None:
                raise one.failed
        if wait and self._events.empty():
            select.select([self._done], [], [], 0.1)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._done)
        found: list[tuple] = []
        while not self._events.empty():
            found += self._events.get()
        return found

    def counters(self) -> dict[str, int]:
        """Sums over the threads; `live_max` is the largest."""
        each = [self._with(number, "counters") for number in range(len(self._engines))]
        return {name: (max if name == "live_max" else sum)(one[name] for one in each) for name in each[0]}

    def fileno(self) -> int:
        return self._done

    def wake_at(self, monotonic_ns: int) -> None:
        self._with(0, "wake_at", monotonic_ns)

    def idle(self) -> bool:
        return all(self._with(number, "idle") for number in range(len(self._engines))) and self._events.empty()

    def waiting(self) -> int:
        return sum(engine.waiting() for engine in self._engines)

    def owns(self, part: int) -> bool:
        return self._engines[0].owns(part)

    def set_cap(self, iops_cap: float) -> None:
        for number in range(len(self._engines)):
            self._with(number, "set_cap", iops_cap / len(self._engines))

    def last_error(self) -> str:
        return next((text for text in (engine.last_error() for engine in self._engines) if text), "")

    def validate(self) -> str:
        """The first invariant that is broken in any engine; an empty string when none is."""
        broken = (self._with(number, "validate") for number in range(len(self._engines)))
        return next((text for text in broken if text), "")
