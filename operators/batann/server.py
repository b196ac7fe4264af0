"""The loop of one ANN server: sockets, a clock and a life for the pure machine of server_core.py."""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from operators.batann import engine as engines
from operators.batann import transport
from operators.batann.messages import MessageError
from operators.batann.peers import PING_S, Peers
from operators.batann.server_core import QUEUE_LIMIT, Out, ServerCore
from operators.batann.transport import Down, Frame, Hello

log = logging.getLogger("batann.server")


class Server:
    """A server over `parts` of the index in `index_dir`: its engine, its listener and its loop.

    `start` binds the listener and returns its address; `configure` gives it the table of peers; `run` serves until
    `stop`. Everything else is asked of the loop through `call`, from any thread.
    """

    def __init__(
        self,
        index_dir: Path | str,
        parts: Sequence[int],
        *,
        server_id: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        threads: int = 1,
        live: int = 8,
        refill: str = "one",
        batch: int = 8,
        iops_cap: float = 0,
        read_latency_us: float = 0,
        link_delay_us: float = 0,
        io: str = "uring",
        queue_limit: int = QUEUE_LIMIT,
        epoch: int | None = None,
        cache_nodes: int = 0,
    ):
        from operators.batann.layout import open_index

        self.index = open_index(index_dir)
        self.id, self.parts = server_id, tuple(parts)
        self.epoch = self.index.epoch if epoch is None else epoch
        options = {"threads": threads, "live": live, "refill": refill, "iops_cap": iops_cap, "io": io}
        options |= {"read_latency_us": read_latency_us, "cache_nodes": cache_nodes}
        self._opened = engines.make_engine(self.index, self.parts, server_id=server_id, **options)
        self.core = ServerCore(
            server_id,
            self._opened.engine,
            Peers(),
            batch=batch,
            queue_limit=queue_limit,
            global_ids=self.index.global_ids,
        )
        self.core.part_of = self.index.map
        hello = Hello(transport.SERVER, self.epoch, server_id, self.parts)
        self.tcp = transport.Tcp(hello, self._welcome, host=host, port=port, delay_us=link_delay_us)
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._running = True
        self.tcp.watch(self._opened.engine.fileno())
        self.tcp.watch(self._wake_read)
        self.send: Callable[[Out], None] = self._send_tcp
        self._foreign: queue.SimpleQueue[Frame] = queue.SimpleQueue()

    def _welcome(self, hello: Hello) -> str:
        if hello.role == transport.SERVER and hello.epoch != self.epoch:  # a client's states are checked one by one
            return f"epoch {hello.epoch:016x}: server {self.id} serves {self.epoch:016x}"
        return ""

    def _send_tcp(self, out: Out) -> None:
        self.tcp.send(out.address, out.type, out.body, out.flags)

    def run(self) -> None:
        """Serve until `stop`."""
        engine, ticked = self._opened.engine, time.monotonic()
        while self._running:
            outs: list[Out] = []
            for news in self.tcp.poll(PING_S):
                outs += self._on_news(news)
            self._do_calls()
            while not self._foreign.empty():
                outs += self._on_news(self._foreign.get())
            now = time.monotonic()
            outs += self.core.on_events(engine.poll(False), now)
            if now - ticked > PING_S:
                self.core.forget_old_vectors(now)
                outs += self.core.pings(self.tcp.address, now)
                ticked = now
            for out in outs:
                self.send(out)
            engine.wake_at(self.tcp.next_due_ns)
        self.tcp.close()
        if hasattr(engine, "close"):
            engine.close()
        self._refuse_calls()

    def _on_news(self, news: Frame | Down) -> list[Out]:
        now = time.monotonic()
        if isinstance(news, Down):
            return self.core.on_down(news, now)
        try:
            return self.core.on_frame(news, now)
        except MessageError:
            self.tcp.counters["malformed"] += 1
            return []

    def _do_calls(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while not self._calls.empty():
            function, future = self._calls.get()
            try:
                future.set_result(function())
            except Exception as error:  # goes to whoever asked
                future.set_exception(error)

    def _refuse_calls(self) -> None:
        while not self._calls.empty():
            self._calls.get()[1].set_exception(ConnectionError("server has stopped"))

    def call(self, function: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Run `function` in the loop's thread and return its result."""
        future: Future = Future()
        self._calls.put((function, future))
        self.wake()
        return future.result(timeout_s)

    def deliver(self, frame: Frame) -> None:
        """A frame that came by another way than TCP."""
        self._foreign.put(frame)
        self.wake()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def configure(self, rows: list[list[Any]]) -> None:
        """The table of servers (`Peers.to_list`)."""
        self.call(lambda: self.core.peers.update(list(Peers.from_list(rows).by_id.values())))

    def stats(self) -> dict[str, Any]:
        """Counters of the engine, the core and the transport, after checking the invariants."""

        def collect() -> dict[str, Any]:
            self.core.validate()
            return {
                "server": self.id,
                **self._opened.engine.counters(),
                **self.core.counters,
                **self.tcp.counters,
                "loop_s": time.thread_time(),
                "vectors_held": self.core.vectors_held,
                "page_cache": self._opened.page_cache,
                "io": self._opened.io,
                "last_error": self._opened.engine.last_error(),
            }

        return self.call(collect)

    def set_cap(self, iops_cap: float) -> None:
        """Change the meter's reads a second."""
        self.call(lambda: self._opened.engine.set_cap(iops_cap))

    def drop_connections(self) -> int:
        """Close every connection (a fault)."""
        return self.call(self.tcp.disconnect)

    def stop(self) -> None:
        """End the loop."""
        self._running = False
        self.wake()

    def start_thread(self, failed: Callable[[], None] = lambda: None) -> threading.Thread:
        """Run the loop in a thread of its own; `failed` is called when an error ends it."""

        def loop() -> None:
            try:
                self.run()
            except BaseException:
                log.exception("server %d: its loop has ended", self.id)
                failed()

        thread = threading.Thread(target=loop, name=f"batann-server-{self.id}", daemon=True)
        thread.start()
        return thread
