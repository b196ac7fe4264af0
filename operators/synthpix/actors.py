"""Flow server and render workers as Ray actors, and the driver that keeps them busy whatever dies.

Pure classes (FlowServer, RenderWorker, and ShardPlanner in shards.py) know nothing of Ray; the shells are the last
lines of this file. Images never travel: a worker writes its shard itself, blocks of >= 16 pairs at a time, and Ray
carries flows, ranges and reports. Because a pair depends on (seed, epoch, number) alone, a shard lost with its worker
is rendered again by another and is the same bytes.

Promises: a killed worker's shards are given out again; a stopped one is replaced after `deadline_s`; a full disk is an
error and leaves no half shard; a slow read is waited for as long as the source is patient, then
SourceTimeout names the path.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operators.lab import faults
from operators.synthpix import shards
from operators.synthpix.errors import SourceTimeout
from operators.synthpix.flows import Flow
from operators.synthpix.shards import Shard, ShardPlanner

LEAST_BLOCK = 16
START_PATIENCE_S = 120.0
POLL_S = 0.05


class FlowServer:
    """Open flows by (size, number), read once and kept; `load(size, number)` reads one."""

    def __init__(self, load: Callable[[int, int], Flow], *, steady_s: float = 2.0):
        self._load, self._steady_s = load, steady_s
        self._cache: dict[tuple[int, int], Flow] = {}
        self._reads, self._delay_s = 0, 0.0

    def slow_down(self, seconds: float) -> None:
        """Every read takes `seconds` longer (a fault)."""
        self._delay_s = seconds

    def get(self, size: int, numbers: Sequence[int]) -> list[Flow]:
        """A block of flows. Raises SourceTimeout where one takes longer than the patience."""
        for number in numbers:
            if (size, number) in self._cache:
                continue
            began = time.monotonic()
            time.sleep(self._delay_s)
            flow = self._load(size, number)
            self._cache[size, number] = flow
            self._reads += 1
            if time.monotonic() - began > self._steady_s:
                raise SourceTimeout(flow.name, self._steady_s)  # it is kept: the next call has it
        return [self._cache[size, number] for number in numbers]

    def stats(self) -> dict[str, int]:
        return {"reads": self._reads, "kept": len(self._cache)}


class RenderWorker:
    """Renders shards of one run: `make(size)` gives the generator of an image size."""

    def __init__(self, make: Callable[[int], Any], folder: Path, *, block: int = 64, describe: Callable | None = None):
        self._make, self._folder, self._block = make, Path(folder), max(LEAST_BLOCK, block)
        self._describe = describe
        self._generators: dict[int, Any] = {}
        self.rendered = 0

    def render(self, shard: Shard, flows: Sequence[Flow], *, full_disk: bool = False) -> str:
        """Render and write one shard; the hash of its pairs. Pair p is moved by flow p mod len(flows)."""
        generator = self._generators.get(shard.size)
        if generator is None:
            generator = self._generators[shard.size] = self._make(shard.size)
        batches = []
        for first in range(shard.first, shard.first + shard.count, self._block):
            indices = range(first, min(first + self._block, shard.first + shard.count))
            batches.append(generator.batch([flows[i % len(flows)] for i in indices], indices))
            self.rendered += len(indices)
        manifest = self._describe(shard, batches)
        return shards.write(self._folder, shard, batches, manifest, full_disk=full_disk)

    def validate(self) -> None:
        """Counters make sense. AssertionError otherwise."""
        assert self.rendered >= 0
        assert self._block >= LEAST_BLOCK


@dataclass
class Member:
    """A worker's process as the driver sees it."""

    actor: Any
    pid: int
    shard: Shard | None = None
    call: Any = None
    since: float = 0.0
    stopped: bool = False


@dataclass
class Report:
    """What a rendering run went through."""

    lost: list[int] = field(default_factory=list)  # shards given out again
    restarts: int = 0
    struck: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Driver:
    """Hands shards to workers until all are done; replaces workers that die or do not answer within `deadline_s`.

    `start(worker)` gives (actor, pid); `flows(shard)` a reference to its flow block; `schedule` holds faults by shard.
    """

    def __init__(self, ray: Any, planner: ShardPlanner, *, start: Callable[[int], tuple[Any, int]],
                 flows: Callable[[Shard], Any], workers: int, deadline_s: float = 60.0, schedule: Sequence[Any] = (),
                 slow: Callable[[float], None] | None = None):  # fmt: skip
        self._ray, self._planner, self._start, self._flows = ray, planner, start, flows
        self._deadline_s, self._schedule, self._slow = deadline_s, list(schedule), slow
        self._members: dict[int, Member] = {}
        self._workers = workers
        self._resume: list[tuple[float, int]] = []
        self.report = Report()

    def run(self, on_done: Callable[[Shard, str], None] = lambda shard, sha: None) -> Report:
        """Render everything. Errors a worker raised are raised here as they were."""
        began = time.monotonic()
        try:
            for worker in range(self._workers):
                self._members[worker] = Member(*self._start(worker))
            while not self._planner.finished:
                self._give_out()
                self._collect(on_done)
                self._planner.validate()
        finally:
            for member in self._members.values():
                self._end(member)
        self.report.seconds = time.monotonic() - began
        return self.report

    def _give_out(self) -> None:
        for worker, member in self._members.items():
            if member.call is not None:
                continue
            shard = self._planner.next(worker)
            if shard is None:
                return
            full = self._prepare_faults(shard, worker)
            member.shard, member.since = shard, time.monotonic()
            member.call = member.actor.render.remote(shard, self._flows(shard), full)
            self._strike(shard)

    def _prepare_faults(self, shard: Shard, worker: int) -> bool:
        """Faults that must be there before the shard is rendered; whether its disk is full."""
        full = False
        for fault in [f for f in self._schedule if f.at_shard <= shard.number]:
            if fault.kind == "slow_read" and self._slow:
                self._slow(fault.for_s)
            elif fault.kind == "disk_full":
                full = True
            else:
                continue
            self._schedule.remove(fault)
            self.report.struck.append(f"{fault.kind} at shard {shard.number}")
        return full

    def _strike(self, shard: Shard) -> None:
        for fault in [f for f in self._schedule if f.at_shard <= shard.number and f.target in self._members]:
            pid = self._members[fault.target].pid
            faults.strike(fault.kind, pid)
            self._schedule.remove(fault)
            self.report.struck.append(f"{fault.kind} of worker {fault.target} at shard {shard.number}")
            if fault.kind == "stop":
                self._members[fault.target].stopped = True
                self._resume.append((time.monotonic() + fault.for_s, pid))

    def _collect(self, on_done: Callable[[Shard, str], None]) -> None:
        now = time.monotonic()
        for due, pid in [r for r in self._resume if r[0] <= now]:
            if faults.is_alive(pid):
                faults.strike("continue", pid)
            self._resume.remove((due, pid))
        calls = {member.call: worker for worker, member in self._members.items() if member.call is not None}
        ready, _ = self._ray.wait(list(calls), timeout=POLL_S)
        for call in ready:
            worker = calls[call]
            member = self._members[worker]
            try:
                sha256 = self._ray.get(call)
            except self._ray.exceptions.RayActorError:
                self._replace(worker)
                continue
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            shard, member.call, member.shard = member.shard, None, None
            self._planner.done(shard.number, sha256)
            on_done(shard, sha256)
        for worker, member in list(self._members.items()):
            if member.call is not None and time.monotonic() - member.since > self._deadline_s:
                member.stopped = True
                self._replace(worker)

    def _replace(self, worker: int) -> None:
        self._end(self._members[worker])
        self.report.lost += self._planner.lost(worker)
        self.report.restarts += 1
        self._members[worker] = Member(*self._start(worker))

    def _end(self, member: Member) -> None:
        """Ray ends a process that listens; one that was stopped gets SIGKILL, which reaches it anyway."""
        if member.stopped and faults.is_alive(member.pid):
            faults.strike("kill", member.pid)
        self._ray.kill(member.actor)


class WorkerShell:
    """RenderWorker in a process of its own."""

    def __init__(self, settings_json: str, folder: str, seed_data: dict[str, str]):
        from operators.synthpix import rendering

        self._worker = rendering.worker(settings_json, Path(folder), seed_data)

    def pid(self) -> int:
        return os.getpid()

    def render(self, shard: Shard, flows: Sequence[Flow], full_disk: bool) -> str:
        sha256 = self._worker.render(shard, flows, full_disk=full_disk)
        self._worker.validate()
        return sha256


class ServerShell:
    """FlowServer in a process of its own."""

    def __init__(self, settings_json: str, root: str | None):
        from operators.synthpix import rendering

        self._server = rendering.server(settings_json, root)

    def get(self, size: int, numbers: Sequence[int]) -> list[Flow]:
        return self._server.get(size, numbers)

    def slow_down(self, seconds: float) -> None:
        self._server.slow_down(seconds)

    def stats(self) -> dict[str, int]:
        return self._server.stats()
