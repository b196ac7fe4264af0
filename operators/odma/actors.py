"""Devices, predictor and bucket manager as Ray actors, and the manager that drives them through real faults.

Pure classes do the work (RealDevice, LengthPredictor, BucketManager, Conformal, ClusterState); what is here starts,
asks, times out and replaces. Ray carries rounds of many steps and batches of prompts; the bytes never leave a device.

Promises. A **device** that dies or does not answer within `patience_s` is lost: its requests go to the others once more
(cluster_state.py), a fresh process takes its place. **Predictor** down, stopped or slow: requests get the large class,
counted as doubtful, and a new process is started. **Bucket manager** down: devices keep the boundaries they have; its
successor is given the last saved state and the completions since. A predictor that **lies** (says one token for
everybody) is caught by the adaptive bound: its level falls with every miss until the bound covers again.
"""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.lab import faults
from operators.odma.cluster_state import ClusterState
from operators.odma.conformal import Conformal
from operators.odma.real_device import RealDevice, Report, Request

if TYPE_CHECKING:
    from operators.odma.settings import Fault

START_PATIENCE_S = 120.0
POLL_S = 0.02
ROUND_STEPS = 24
MOST_PER_ROUND = 16
BATCH = 32
SAVE_EVERY = 16  # completions between two saved states of the bucket manager
SLOW_S = 3600.0


class DeviceActor:
    """What runs in a device's process; with two threads, so that it answers while it is held in a phase."""

    def __init__(self, capacity: int, width: int):
        self._device = RealDevice(capacity, width, hold=self._hold)
        self._armed, self._held = "", ""
        self._never = threading.Event()

    def reset(self, *arguments: Any) -> None:
        """Begin anew in the same process."""
        self.__init__(*arguments)

    def hello(self) -> int:
        """Its process id."""
        return os.getpid()

    def arm(self, phase: str) -> None:
        """Stand still for ever at the next moment of `phase`, so that a fault can hit there."""
        self._armed = phase

    def held(self) -> str:
        """The phase it stands in, empty while it runs."""
        return self._held

    def _hold(self, phase: str) -> None:
        if phase == self._armed:
            self._held = phase
            self._never.wait()

    def round(self, requests: list[Request], boundaries: list[int], steps: int) -> Report:
        """See RealDevice.round; invariants are checked after it."""
        report = self._device.round(requests, boundaries, steps)
        self._device.validate()
        return report


class PredictorActor:
    """Predictions of micro-batches; `behave` makes it slow or lie."""

    def __init__(self, folder: str):
        from operators.odma.predictor import LengthPredictor

        self._predictor = LengthPredictor.load(Path(folder))
        self._behaviour = ""

    def reset(self, *arguments: Any) -> None:
        """Begin anew in the same process."""
        self.__init__(*arguments)

    def hello(self) -> int:
        return os.getpid()

    def behave(self, behaviour: str) -> None:
        """`slow`: no answer in time; `lie`: one token for everybody."""
        self._behaviour = behaviour

    def predict(self, texts: list[str], inputs: list[str], column: int) -> tuple[np.ndarray, np.ndarray]:
        """Reservation at a level (by its column) and spread of each prompt."""
        if self._behaviour == "slow":
            time.sleep(SLOW_S)
        if self._behaviour == "lie":
            return np.ones(len(texts)), np.full(len(texts), 0.1)
        found = self._predictor.predict(texts, inputs)
        return self._predictor.needs(found.mean)[:, column], found.u


class BucketManagerActor:
    """The histogram and its boundaries, in a process of its own."""

    def __init__(self, options: dict[str, Any], saved: dict | None, since: list[int]):
        from operators.odma.buckets import BucketManager

        self._manager = BucketManager(**options)
        if saved:
            self._manager.restore(saved)
        for length in since:
            self._manager.observe(length)

    def reset(self, *arguments: Any) -> None:
        """Begin anew in the same process."""
        self.__init__(*arguments)

    def hello(self) -> int:
        return os.getpid()

    def observe(self, lengths: list[int]) -> tuple[int, list[int], dict]:
        """Finished lengths; the version, the boundaries and the state to save."""
        for length in lengths:
            self._manager.observe(length)
        self._manager.validate()
        return self._manager.version, self._manager.boundaries().tolist(), self._manager.save()


class Member:
    """An actor, its process, and the call it owes; `worn` when a fault has hit it."""

    def __init__(self, ray: Any, kind: type, *arguments: Any, threads: int = 1):
        self.ray, self.kind, self.worn = ray, kind, False
        actor = ray.remote(kind).options(num_cpus=0, max_concurrency=threads, max_restarts=0)
        self.actor = actor.remote(*arguments)
        self._hello = self.actor.hello.remote()
        self.pid = 0
        self.call: Any = None
        self.since = 0.0

    def ready(self) -> "Member":
        """Wait until the process is there."""
        self.pid = self.ray.get(self._hello, timeout=START_PATIENCE_S)
        return self

    def ask(self, name: str, *arguments: Any, patience_s: float = START_PATIENCE_S) -> Any:
        """An answer; None when the process is dead or too slow."""
        try:
            return self.ray.get(getattr(self.actor, name).remote(*arguments), timeout=patience_s)
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.GetTimeoutError):
            return None

    def end(self) -> None:
        """Kill the process for good."""
        if self.pid and faults.is_alive(self.pid):
            faults.strike("kill", self.pid)
        self.ray.kill(self.actor)


class Pool:
    """Processes that several runs share: starting one costs more than a short run."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._idle: list[Member] = []

    def get(self, kind: type, *arguments: Any) -> Member:
        """An idle process of this kind, begun anew, or a new one."""
        for member in self._idle:
            if member.kind is kind:
                self._idle.remove(member)
                member.ask("reset", *arguments)
                return member
        return Member(self._ray, kind, *arguments, threads=2 if kind is DeviceActor else 1)

    def put(self, member: Member) -> None:
        """Keep a process that no fault has hit; end any other."""
        if member.worn or not faults.is_alive(member.pid):
            member.end()
        else:
            self._idle.append(member)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: Any) -> None:
        for member in self._idle:
            member.end()


class ClusterManager:
    """Drives the actors until every request has finished or failed. A context manager: actors end with the block."""

    def __init__(self, ray: Any, *, predictor: Path, level: float, devices: int, capacity: int, width: int,
                 longest: int, classes: int, tau: float, patience_s: float = 20.0, pool: Pool | None = None,
                 schedule: "Sequence[Fault]" = ()):  # fmt: skip
        from operators.odma.buckets import BucketManager
        from operators.odma.predictor import LengthPredictor

        self._ray, self._folder, self._pool = ray, str(predictor), pool or Pool(ray)
        self._own = pool is None
        past = LengthPredictor.load(predictor)
        self._column, self._tau, self.longest = past.levels.index(level), tau, longest
        needs = past.train_needs[:, self._column]
        start = np.random.default_rng([len(needs), 3]).permutation(np.log(past.train_lengths / needs))
        self.bound = Conformal(level, start=start)
        self._sizes, self._patience_s = (capacity, width), patience_s
        self._options = {"k": classes, "max_len": longest, "tau": tau, "period": 32, "min_samples": 32}
        self.state = ClusterState(devices)
        self.boundaries, self.version = BucketManager(**self._options).boundaries().tolist(), 0
        self._schedule, self._armed = list(schedule), None
        self.doubtful = 0
        self.struck: list[tuple[str, int]] = []
        self.moves: list[tuple[int, float]] = []
        self.covered: list[bool] = []
        self._needs: dict[int, float] = {}
        self._saved, self._since = None, []

    def __enter__(self) -> "ClusterManager":
        self.devices: list[Member] = []
        self.predictor = self.buckets = None
        try:
            self.devices = [self._device() for _ in range(self.state.devices)]
            self.predictor = self._pool.get(PredictorActor, self._folder)
            self.buckets = self._pool.get(BucketManagerActor, self._options, None, [])
            for member in [*self.devices, self.predictor, self.buckets]:
                member.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End every process, but for those that go back to a shared pool."""
        for member in [*self.devices, self.predictor, self.buckets]:
            if member is not None:
                self._pool.put(member)
        if self._own:
            self._pool.__exit__()

    def _device(self) -> Member:
        return self._pool.get(DeviceActor, *self._sizes)

    def serve(self, prompts: list[tuple[int, str, str, int, int]]) -> ClusterState:
        """Serve (number, instruction, input, input tokens, output tokens) to the end."""
        for first in range(0, len(prompts), BATCH):
            self._faults()
            self.state.submit(self._predicted(prompts[first : first + BATCH]))
            self._rounds(until=min(len(prompts), first + BATCH) - BATCH // 2)
        self._rounds(until=len(prompts))
        return self.state

    def _rounds(self, until: int) -> None:
        """Rounds of all devices until that many requests have ended."""
        state = self.state
        while len(state.finished) + len(state.failed) < until and not state.done:
            self._faults()
            given = state.dispatch(list(range(state.devices)), MOST_PER_ROUND)
            for number, member in enumerate(self.devices):
                member.call = member.actor.round.remote(given[number], self.boundaries, ROUND_STEPS)
                member.since = time.monotonic()
            for number in range(state.devices):
                self._collect(number)
            state.validate()

    def _collect(self, number: int) -> None:
        """The answer of a device's round, or its loss; an armed device is struck as soon as it stands in its phase."""
        member = self.devices[number]
        while True:
            ready, _ = self._ray.wait([member.call], timeout=POLL_S)
            if ready:
                try:
                    report = self._ray.get(member.call)
                except self._ray.exceptions.RayActorError:
                    self._lose(number)
                    return
                break
            if self._armed is not None and self._armed[0] == number and member.ask("held") == self._armed[1]:
                self.struck.append(("device", member.pid))
                faults.strike("kill", member.pid)
                self._armed = None
            elif time.monotonic() - member.since > self._patience_s:
                self._lose(number)
                return
        self.moves += report.moves
        self._completed(self.state.report(number, report))

    def _lose(self, number: int) -> None:
        """A device is gone: its requests are queued again, another process takes its place."""
        self.devices[number].end()
        self.state.lost(number)
        self.state.validate()
        self.devices[number] = self._device().ready()

    def _completed(self, numbers: list[int]) -> None:
        """Lengths go to the adaptive bound and to the bucket manager."""
        lengths = [self.state.records[number].request.output_tokens for number in numbers]
        for number, length in zip(numbers, lengths, strict=True):
            if number in self._needs:
                self.covered.append(self.bound.observe(self._needs[number], length))
        if not lengths:
            return
        self._since += lengths
        answer = self.buckets.ask("observe", lengths, patience_s=self._patience_s)
        if answer is None:  # it is down: keep the boundaries, start its successor from the last saved state
            self.buckets.end()
            self.buckets = self._pool.get(BucketManagerActor, self._options, self._saved, self._since).ready()
            return
        self.version, self.boundaries, saved = answer
        if self._saved is None or len(self._since) >= SAVE_EVERY:
            self._saved, self._since = saved, []

    def _predicted(self, prompts: list[tuple]) -> list[Request]:
        """Reservations of a batch; the large class for all when the predictor gives no answer."""
        texts, inputs = [one[1] for one in prompts], [one[2] for one in prompts]
        found = self.predictor.ask("predict", texts, inputs, self._column, patience_s=self._patience_s / 4)
        if found is None:
            self.predictor.end()
            self.predictor = self._pool.get(PredictorActor, self._folder).ready()
            self.doubtful += len(prompts)
            found = (np.full(len(prompts), np.nan), np.full(len(prompts), np.inf))
        requests = []
        for (number, _, _, inputs_n, outputs_n), need, u in zip(prompts, *found, strict=True):
            size = self.longest
            if u <= self._tau:
                self._needs[number] = max(float(need), 1.0)
                bound = self.bound.upper(self._needs[number])
                size = next((b for b in self.boundaries if b >= bound), self.longest)
            requests.append(Request(number, inputs_n, outputs_n, size))
        return requests

    def _faults(self) -> None:
        """Carry out what is due by the number of finished requests."""
        due = [fault for fault in self._schedule if fault.after <= len(self.state.finished)]
        self._schedule = [fault for fault in self._schedule if fault not in due]
        for fault in due:
            if fault.target == "device" and fault.action == "kill":
                self.devices[0].ask("arm", fault.phase)
                self.devices[0].worn = True
                self._armed = (0, fault.phase)
            elif fault.action in ("slow", "lie"):
                self.predictor.ask("behave", fault.action)
                self.predictor.worn = True
                self.struck.append((fault.target, self.predictor.pid))
            else:
                member = {"device": self.devices[0], "predictor": self.predictor, "buckets": self.buckets}[fault.target]
                faults.strike(fault.action, member.pid)
                member.worn = True
                self.struck.append((fault.target, member.pid))
