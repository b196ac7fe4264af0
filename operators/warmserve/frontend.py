"""The front end: holds every request until it is answered, whatever dies behind it; HTTP with JSON on 127.0.0.1.

A request whose worker dies is queued once more, at the front, its clock still running from its first arrival; when that
happens a second time it fails with a named error. When the manager dies a new one is told what is in flight.
"""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from operators.warmserve.actors import Control, remote_worker
from operators.warmserve.settings import Settings

MOST_BODY = 2**20
MOST_TOKENS = 4096
PATIENCE_S = 60.0


class WorkerLost(RuntimeError):
    """The worker of a request died twice."""


@dataclass
class Answer:
    """One request's life, times on the monotonic clock."""

    request_id: str
    model: str
    prompt: int
    arrival_s: float
    tokens: list[int]
    engine: int = -1
    start_kind: str = ""
    sent_s: float = 0.0
    first_s: float = 0.0
    finish_s: float = 0.0
    restarts: int = 0
    error: str = ""


class FrontEnd:
    """Owns the workers and the manager; answers requests from any thread."""

    def __init__(self, ray: Any, settings: Settings, manifest: dict[str, dict], block_bytes: int):
        self._ray, self.settings = ray, settings
        self._arguments = (settings, manifest)
        self._block_bytes = block_bytes
        self.workers = [remote_worker(ray, gpu, 0, settings.real_blocks) for gpu in range(settings.workers)]
        self.epochs = [0] * settings.workers
        self.pids = [ray.get(worker.hello.remote(), timeout=120)[0] for worker in self.workers]
        self.past_pids: list[int] = []
        self.in_flight: dict[int, int] = {}
        self.answers: list[Answer] = []
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._control_lock, self._number = threading.RLock(), 0
        self.control = self._new_control()
        self.manager_pid = ray.get(self.control.hello.remote(), timeout=120)
        self._pump = threading.Thread(target=self._run, name="warmserve-pump", daemon=True)
        self._pump.start()

    def _new_control(self) -> Any:
        shell = self._ray.remote(Control).options(num_cpus=0, max_restarts=0)
        return shell.remote(*self._arguments, self.workers, self._block_bytes)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call the manager; a dead one is replaced and asked again."""
        until = time.monotonic() + PATIENCE_S
        while True:
            control = self.control
            try:
                return self._ray.get(getattr(control, method).remote(*arguments), timeout=PATIENCE_S)
            except self._ray.exceptions.RayActorError:
                if time.monotonic() > until or self._closed.is_set():
                    raise
                self._replace_control(control)

    def _replace_control(self, old: Any) -> None:
        with self._control_lock:
            if self.control is not old:
                return
            fresh = self._new_control()
            with self._lock:
                in_flight = dict(self.in_flight)
            self._ray.get(fresh.rebuild.remote(in_flight, self.epochs), timeout=PATIENCE_S)
            self.past_pids.append(self.manager_pid)
            self.manager_pid = self._ray.get(fresh.hello.remote(), timeout=PATIENCE_S)
            self.control = fresh

    def _run(self) -> None:
        """Let the manager work, and start workers again that died."""
        while not self._closed.is_set():
            with contextlib.suppress(Exception):  # a manager that just died is replaced by whoever asks next
                for gpu in self.ask("tick"):
                    self._restart(gpu)
            time.sleep(0.002)

    def _restart(self, gpu: int) -> None:
        epoch = self.epochs[gpu] + 1
        worker = remote_worker(self._ray, gpu, epoch, self.settings.real_blocks)
        pid = self._ray.get(worker.hello.remote(), timeout=PATIENCE_S)[0]
        with self._control_lock:
            self.past_pids.append(self.pids[gpu])
            self.workers[gpu], self.epochs[gpu], self.pids[gpu] = worker, epoch, pid
        self.ask("restarted", gpu, worker, epoch)

    def complete(self, model: str, prompt: int, tokens: int) -> Answer:
        """Serve one request; waits for an instance, survives one loss of its worker."""
        with self._lock:
            self._number += 1
            answer = Answer(f"r{self._number}", model, prompt, time.monotonic(), [])
        try:
            while True:
                try:
                    self._try(answer, tokens)
                    break
                except WorkerLost:
                    answer.restarts += 1
                    if answer.restarts > 1:
                        answer.error = f"WorkerLost: the worker of {answer.request_id} died twice"
                        break
        finally:
            answer.finish_s = answer.finish_s or time.monotonic()
            with self._lock:
                self.answers.append(answer)
        return answer

    def _try(self, answer: Answer, tokens: int) -> None:
        place, until = None, time.monotonic() + PATIENCE_S
        while place is None:
            place = self.ask("route", answer.model)
            if place is None:
                if time.monotonic() > until:
                    raise TimeoutError(f"{answer.request_id}: no instance of {answer.model} within {PATIENCE_S:g} s")
                time.sleep(0.003)
        instance, gpus, kind = place
        answer.engine, answer.sent_s = instance, time.monotonic()
        answer.start_kind = answer.start_kind or kind
        with self._lock:
            self.in_flight[instance] = self.in_flight.get(instance, 0) + 1
        epochs = [self.epochs[gpu] for gpu in gpus]
        lost = (self._ray.exceptions.RayActorError, self._ray.exceptions.RayTaskError)
        try:
            found = self._ray.get(
                [self.workers[gpu].serve.remote(self.epochs[gpu], instance, answer.prompt, tokens) for gpu in gpus],
                timeout=PATIENCE_S,
            )
        except lost as error:
            self.ask("lost", gpus, epochs)
            raise WorkerLost(str(error)[:200]) from None
        finally:
            with self._lock:
                self.in_flight[instance] -= 1
            self.ask("done", instance)
        answer.tokens = found[0]["tokens"]
        answer.first_s = max(one["first_s"] for one in found)
        answer.finish_s = max(one["finish_s"] for one in found)

    def close(self) -> dict[str, Any]:
        """End every process; the manager's tables."""
        self._closed.set()
        self._pump.join(PATIENCE_S)
        tables = self._ray.get(self.control.tables.remote(), timeout=PATIENCE_S)
        for actor in (*self.workers, self.control):
            self._ray.kill(actor)
        return tables


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on standard error per request."""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._send(200, {"states": self.server.front.ask("states")})
        else:
            self._send(404, {"error": f"path {self.path}: expected /healthz or POST /v1/completions"})

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", -1))
            if not 0 <= length <= MOST_BODY:
                self._send(413, {"error": f"body: {length} bytes; expected at most {MOST_BODY}"}, close=True)
                return
            body = json.loads(self.rfile.read(length))
            model, prompt, tokens = body["model"], int(body["prompt_tokens"]), int(body["max_tokens"])
            if not (isinstance(model, str) and 0 < prompt < 2**31 and 0 < tokens <= MOST_TOKENS):
                raise ValueError(f"max_tokens (={tokens}): expected 1 to {MOST_TOKENS}, prompt_tokens > 0")
        except (ValueError, KeyError, TypeError) as error:
            self._send(400, {"error": f"body: {error}; expected model, prompt_tokens, max_tokens"})
            return
        try:
            answer = self.server.front.complete(model, prompt, tokens)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            self._send(
                400 if isinstance(cause, ValueError) else 500, {"error": f"{type(cause).__name__}: {cause}"[:300]}
            )
            return
        status = 500 if answer.error else 200
        self._send(status, {"id": answer.request_id, "tokens": answer.tokens, "error": answer.error})

    def _send(self, status: int, content: dict, *, close: bool = False) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def http(front: FrontEnd):
    """Serve `front` on a free port of 127.0.0.1; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads, server.front = True, front
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="warmserve-http", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE_S)


def post(port: int, model: str, prompt: int, tokens: int, timeout_s: float = PATIENCE_S) -> tuple[int, dict]:
    """One request over HTTP: (status, body)."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        body = json.dumps({"model": model, "prompt_tokens": prompt, "max_tokens": tokens})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def post_many(port: int, asks: list[tuple[str, int, int]], at_once: int = 8) -> list[tuple[int, dict]]:
    """Several requests, `at_once` in parallel, answers in order."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda ask: post(port, *ask), asks))
