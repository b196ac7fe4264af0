"""What the real run does: starts of every kind, a recorded stream of requests, and each fault in the state it names.

Every scenario waits for facts (a report, a pid that is gone), never for a length of time, and checks the bytes behind
each answer against the weight files.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from operators.lab import faults
from operators.warmserve import weightfiles
from operators.warmserve.frontend import FrontEnd, post, post_many
from operators.warmserve.settings import Failure

PATIENCE_S = 60.0
MODEL, OTHER = "one", "two"
SLOW_TOKEN_S = 0.02
TOKENS = 4
FORECAST = ([8.0, 4.0, 4.0], [40.0, 8.0, 8.0])  # mean and peak load of one, two, wide


class ScenarioError(RuntimeError):
    """Something that must come about did not."""


@dataclass
class Outcome:
    """What became of one scenario."""

    name: str
    ok: bool
    seconds: float
    answered: int
    restarts: int
    reason: str = ""


def until(fact: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until `fact` holds; ScenarioError naming what did not come."""
    limit = time.monotonic() + patience_s
    while not fact():
        if time.monotonic() > limit:
            raise ScenarioError(f"{what}: not within {patience_s:g} s")
        time.sleep(0.005)


class Stage:
    """A front end with its port, and the reference decoder."""

    def __init__(self, front: FrontEnd, port: int, manifest: dict[str, dict]):
        self.front, self.port = front, port
        self._weights = {name: np.fromfile(spec["path"], np.uint8) for name, spec in manifest.items()}

    def expected(self, model: str, prompt: int, tokens: int) -> list[int]:
        """What the weights of rank 0 answer."""
        return [weightfiles.token(self._weights[f"{model}-0"], prompt, position) for position in range(tokens)]

    def report(self, gpu: int) -> dict:
        """A worker's own word."""
        return self.front._ray.get(self.front.workers[gpu].report.remote(), timeout=PATIENCE_S)

    def tell(self, gpu: int, method: str, *arguments) -> None:
        """A fault or a gate for a worker."""
        self.front._ray.get(getattr(self.front.workers[gpu], method).remote(*arguments), timeout=PATIENCE_S)

    def clear(self) -> None:
        """Bring every worker to idle."""
        front = self.front
        for gpu in range(len(front.workers)):
            self.tell(gpu, "hold", None)
            self.tell(gpu, "slow", 0.0)
        front.ask("configure", False, 0)
        for model in ("one", "two", "wide"):
            front.ask("stop", model)

        def idle() -> bool:
            front.ask("clear")
            states = front.ask("states")
            return all(state == "idle" for state in states) and all(
                self.report(gpu)["state"] == "idle" for gpu in range(len(front.workers))
            )

        until(idle, "all workers idle")

    def start(self, kind: str, prompt: int) -> float:
        """Seconds from asking to the first token of a start: hit, loading (half way) or ondemand."""
        self.clear()
        half = max(next(iter(self._weights.values())).size // 2**21 // 2, 1)
        if kind == "hit":
            self.front.ask("prewarm", MODEL, [0])
            until(lambda: self.report(0)["state"] == "universal", "weights complete")
            until(lambda: self.front.ask("states")[0] == "universal", "the manager knows")
        elif kind == "loading":
            self.tell(0, "hold", half)
            self.front.ask("prewarm", MODEL, [0])
            until(lambda: any(held["done"] >= half for held in self.report(0)["held"].values()), "half loaded")
            self.tell(0, "hold", None)
        answer = self.front.complete(MODEL, prompt, TOKENS)
        if answer.error or answer.tokens != self.expected(MODEL, prompt, TOKENS):
            raise ScenarioError(f"{kind}: {answer.error or 'tokens are not those of the weights'}")
        return answer.first_s - answer.arrival_s

    def stream(self, count: int, seed: int) -> int:
        """`count` requests over HTTP to all models while the planner works; how many answers were right."""
        self.clear()
        rng = np.random.default_rng([seed, 7])
        names = rng.choice(["one", "two", "wide"], count, p=(0.5, 0.3, 0.2)).tolist()
        asks = [(name, int(prompt), TOKENS) for name, prompt in zip(names, rng.integers(1, 1000, count), strict=True)]
        self.front.ask("forecast", *FORECAST)
        self.front.ask("configure", True)
        right = 0
        for name in ("one", "two", "wide"):  # one after the other: they do not fit at once
            mine = [ask for ask in asks if ask[0] == name]
            answers = post_many(self.port, mine)
            right += sum(
                status == 200 and body["tokens"] == self.expected(*ask)
                for (status, body), ask in zip(answers, mine, strict=True)
            )
            self.front.ask("stop", name)
        return right

    def fault(self, failure: Failure) -> Outcome:
        """Bring worker 0 into the state, strike, and see every request answered and the worker back."""
        began, before = time.monotonic(), len(self.front.answers)
        name = f"{failure.target} {failure.state} {failure.action}"
        try:
            self.clear()
            with ThreadPoolExecutor(8) as pool:
                running = self._enter(failure.state, pool)
                self._strike(failure)
                running += [pool.submit(post, self.port, MODEL, 11 + i, TOKENS) for i in range(4)]
                self._recovered(failure)
                wrong = [body for status, body in (one.result(PATIENCE_S) for one in running) if status != 200]
            self.clear()
            self.front.ask("validate")
        except ScenarioError as error:
            return Outcome(name, False, time.monotonic() - began, 0, 0, str(error))
        mine = self.front.answers[before:]
        restarts = sum(answer.restarts for answer in mine)
        bad = [
            a.request_id for a in mine if not a.error and a.tokens != self.expected(a.model, a.prompt, len(a.tokens))
        ]
        reason = f"{wrong[0]}" if wrong else f"wrong tokens: {bad[0]}" if bad else ""
        return Outcome(name, not reason, time.monotonic() - began, len(mine), restarts, reason)

    def _enter(self, state: str, pool: ThreadPoolExecutor) -> list:
        """Worker 0 in the wanted state; requests under way."""
        if state == "idle":
            return []
        if state == "loading":
            self.tell(0, "hold", 2)
            self.front.ask("prewarm", MODEL, [0])
            until(lambda: any(held["done"] >= 2 for held in self.report(0)["held"].values()), "in the middle of a load")
            return []
        self.front.ask("prewarm", MODEL, [0])
        until(lambda: self.front.ask("states")[0] == "universal", "universal")
        if state == "universal":
            return []
        if state == "promoting":
            self.front.ask("configure", None, 20_000)
        self.tell(0, "slow", SLOW_TOKEN_S)
        running = [pool.submit(post, self.port, MODEL, 5 + i, 50) for i in range(2)]
        if state == "promoting":
            until(lambda: self.report(0)["state"] == "promoting", "promoting")
            return running
        until(lambda: self.report(0)["active"] >= 1, "requests in decode")
        if state == "draining":
            self.front.ask("stop", MODEL)
            until(lambda: self.report(0)["state"] == "draining", "draining")
        return running

    def _strike(self, failure: Failure) -> None:
        self._struck = self.front.manager_pid if failure.target == "manager" else self.front.pids[0]
        self._epoch = self.front.epochs[0]
        if failure.action == "kill":
            faults.strike("kill", self._struck)
        elif failure.action == "stop":
            faults.strike("stop", self._struck)
            time.sleep(failure.seconds)
            faults.strike("continue", self._struck)
            self.tell(0, "hold", None)
        elif failure.action == "slow":
            self.tell(0, "slow", SLOW_TOKEN_S)
            self.tell(0, "hold", None)
        else:
            self.front.ask("clear")
            self.tell(0, "hold", None)
            until(lambda: self.report(0)["state"] == "idle", "idle")
            self.tell(0, "lie")
            self.front.ask("prewarm", MODEL, [0])

    def _recovered(self, failure: Failure) -> None:
        if failure.action != "kill":
            return
        until(lambda: not faults.is_alive(self._struck), f"pid {self._struck} gone")
        if failure.target == "worker":
            until(lambda: self.front.epochs[0] > self._epoch, "worker started again")
        else:
            until(lambda: self.front.manager_pid != self._struck, "manager started again")
