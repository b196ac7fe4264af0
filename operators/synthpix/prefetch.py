"""Read-ahead: one thread fills a queue of blocks, so that reading hides behind rendering.

Departures from the official code, whose stream ends silently when one read is slow (defect D3) and can lose the last
batch (D8): a late block raises SourceTimeout and is served by the next call; the queue is only ever given up when the
reader has said that it is done; whatever the reader raises is raised here.
"""

import contextlib
import queue
import threading
from typing import Any, Protocol

from operators.synthpix.errors import ConfigError, SourceTimeout
from operators.synthpix.stream import Block

POLL_S = 0.1
CLOSE_S = 10.0


class BlockStream(Protocol):
    """What can be read ahead: Stream or Episodic."""

    def state(self) -> dict[str, int]: ...

    def restore(self, state: dict[str, int]) -> None: ...

    def upcoming(self) -> str: ...

    def __next__(self) -> Block: ...


class Prefetch:
    """At most `depth` blocks of `stream` read ahead. `startup_s` is the patience for the first block, `steady_s` for
    the others; `on_timeout`: "raise" SourceTimeout, or "wait" for ever (a dead reader still raises).
    """

    def __init__(self, stream: BlockStream, depth: int, *, startup_s: float = 30.0, steady_s: float = 2.0,
                 on_timeout: str = "raise"):  # fmt: skip
        if depth < 1:
            raise ConfigError("buffer_size", "expected >= 1", depth)
        if on_timeout not in ("raise", "wait"):
            raise ConfigError("on_timeout", "expected 'raise' or 'wait'", on_timeout)
        self.stream, self._depth, self._wait = stream, depth, on_timeout == "wait"
        self._startup_s, self._steady_s = startup_s, steady_s
        self._served = stream.state()
        self._thread: threading.Thread | None = None
        self._over: BaseException | None = None

    def state(self) -> dict[str, int]:
        """State after the last block handed out, whatever was read ahead."""
        return dict(self._served)

    def restore(self, state: dict[str, int]) -> None:
        self.close()
        if self._thread is not None:  # it would move the stream's cursor under us
            raise SourceTimeout(self.upcoming(), CLOSE_S)
        self.stream.restore(state)
        self._served, self._over = dict(state), None

    def upcoming(self) -> str:
        return self.stream.upcoming()

    def next_episode(self) -> None:
        """Drop what was read ahead and begin new episodes."""
        state = self.state()
        self.restore(state)
        self.stream.next_episode()
        self._served = self.stream.state()

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Block:
        if self._over is not None:
            raise self._over
        first = self._thread is None
        if first:
            self._start()
        kind, value, state = self._take(self._startup_s if first or not self._begun else self._steady_s)
        self._begun = True
        if kind == "error":
            self._over = value
            raise value
        self._served = state
        return value

    def _start(self) -> None:
        self._queue: queue.Queue[tuple[str, Any, dict]] = queue.Queue(self._depth)
        self._stop, self._begun = threading.Event(), False
        arguments = (self.stream, self._queue, self._stop)
        self._thread = threading.Thread(target=_read, args=arguments, name="synthpix-reader", daemon=True)
        self._thread.start()

    def _take(self, patience_s: float) -> tuple[str, Any, dict]:
        waited = 0.0
        while True:
            try:
                return self._queue.get(timeout=min(POLL_S, patience_s))
            except queue.Empty:
                waited += min(POLL_S, patience_s)
            if not self._thread.is_alive() and self._queue.empty():
                self._over = SourceTimeout(self.upcoming(), waited)
                raise self._over
            if waited >= patience_s - 1e-9 and not self._wait:
                raise SourceTimeout(self.upcoming(), patience_s)

    def close(self) -> None:
        """End the reader; what it has read is dropped. A read in progress is left to itself after CLOSE_S."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._thread = None


def _read(stream: BlockStream, out: queue.Queue, stop: threading.Event) -> None:
    def put(item: tuple[str, Any, dict]) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                out.put(item, timeout=POLL_S)
                return

    while not stop.is_set():
        try:
            block = next(stream)
        except BaseException as error:  # the consumer raises it: an error, the end of the stream, a thread's exit
            put(("error", error, stream.state()))
            return
        put(("block", block, stream.state()))
