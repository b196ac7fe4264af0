"""A process that hosts one server, told what to do by whoever started it: a Ray actor, or lines of JSON on its input.

`Host` is the same for both. As a command (`python -m operators.batann.host`) it reads one JSON object a line,
{"id": ..., "method": ..., "args": [...]}, answers each with one line {"id": ..., "result": ...} or {"id": ...,
"error": ..., "kind": ...}, and ends when its input ends: a server never outlives the process that started it.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from operators.batann.transport import Frame, Hello

START_S = 60.0
CALL_S = 30.0


class HostError(ConnectionError):
    """A server's process did not start, has died, or could not do what it was asked."""


class Host:
    """One server and its loop's thread."""

    def __init__(self) -> None:
        self._server: Any = None
        self._thread: Any = None

    def start(self, index_dir: str, parts: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """Open the index, listen, serve; where the server is and what it serves."""
        from operators.batann.server import Server

        self._server = Server(Path(index_dir), parts, **options)
        # A process whose loop has died looks alive and answers nobody: it ends, and whoever watches starts it again.
        self._thread = self._server.start_thread(failed=lambda: os._exit(70))
        server = self._server
        return {
            "pid": os.getpid(),
            "address": server.tcp.address,
            "epoch": server.epoch,
            "parts": list(server.parts),
            "rss_bytes": resident_bytes(),
        }

    def configure(self, rows: list[list[Any]]) -> None:
        self._server.configure(rows)

    def stats(self) -> dict[str, Any]:
        """The server's counters and the resources of this process."""
        used = os.times()
        return self._server.stats() | {
            "cpu_s": used.user + used.system,
            "rss_bytes": resident_bytes(),
            "private_bytes": resident_bytes(private=True),
        }

    def set_cap(self, iops_cap: float) -> None:
        self._server.set_cap(iops_cap)

    def drop_connections(self) -> int:
        return self._server.drop_connections()

    def stop(self) -> None:
        """End the loop and wait for it."""
        if self._server is not None:
            self._server.stop()
            self._thread.join(10)
            self._server = None

    def send_through(self, carry: Any) -> None:
        """Send frames by `carry(address, hello, type, flags, body)` instead of TCP."""
        hello = Hello(0, self._server.epoch, self._server.id, self._server.parts)
        self._server.send = lambda out: carry(out.address, hello, out.type, out.flags, out.body)

    def deliver(self, hello: tuple, kind: int, flags: int, body: bytes) -> None:
        """A frame that came by another way than TCP."""
        self._server.deliver(Frame(Hello(*hello), kind, flags, body))


def resident_bytes(*, private: bool = False) -> int:
    """Resident memory of this process; without file-backed pages when `private`."""
    wanted = "RssAnon:" if private else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) * 1024
    return 0


class ProcessHandle:
    """A server in a child process, driven over its input and output."""

    def __init__(self, command_prefix: tuple[str, ...] = ()):
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        self._child = subprocess.Popen(
            [*command_prefix, sys.executable, "-m", "operators.batann.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the one who started it, and that one ends it
        )
        self.pid = self._child.pid
        self._buffer = b""
        self._asked = 0

    def ask(self, method: str, *args: Any) -> None:
        """Send a request without waiting for its answer (`answer`)."""
        self._asked += 1
        try:
            request = {"id": self._asked, "method": method, "args": args}
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise HostError(f"server process {self.pid}: has ended ({self._child.poll()})") from None

    def answer(self, timeout_s: float = CALL_S) -> Any:
        """The answer to the last request; HostError, or the error the server raised (ValueError, OSError)."""
        deadline, found = time.monotonic() + timeout_s, {"id": 0}
        while found["id"] != self._asked:  # a stopped process answers late what nobody waits for any more
            found = json.loads(self._line(deadline))
        if "error" in found:
            kind = {"ValueError": ValueError, "OSError": OSError}.get(found["kind"], HostError)
            raise kind(found["error"])
        return found["result"]

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S) -> Any:
        self.ask(method, *args)
        return self.answer(timeout_s)

    def _line(self, deadline: float) -> bytes:
        output = self._child.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise HostError(f"server process {self.pid}: no answer in time")
                if not selector.select(left):
                    continue
                data = os.read(output.fileno(), 1 << 16)
                if not data:
                    raise HostError(f"server process {self.pid}: has ended ({self._child.wait()})")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def is_alive(self) -> bool:
        return self._child.poll() is None

    def end(self) -> None:
        """End the process, however it is."""
        if self.is_alive():
            self._child.send_signal(signal.SIGCONT)  # a stopped process cannot end
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()


def main() -> None:
    """Serve requests from standard input until it ends."""
    host = Host()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what else prints, prints to the log
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(host, request["method"])(*request["args"])}
        except Exception as error:  # goes to whoever asked
            kind = (
                "ValueError" if isinstance(error, ValueError) else "OSError" if isinstance(error, OSError) else "other"
            )
            answer = {"error": f"{error}" or type(error).__name__, "kind": kind}
        answers.write(json.dumps(answer | {"id": request["id"]}) + "\n")
    host.stop()


if __name__ == "__main__":
    main()
