"""Run a schedule for real: machines are processes, time is scaled, faults are signals, the broker moves waiting tasks.

`execute` drives the pure Broker with what the machines report every interval. A machine that died is lost at once; one
that has not answered for three intervals is declared lost, and what it reports later is discarded. In both cases its
unfinished tasks start from zero on the others (`attempts`). All machines lost is an error, never a wait.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from operators.lab import cluster, faults
from operators.phwsoa.actors import machine_actors
from operators.phwsoa.instance import Instance
from operators.phwsoa.machine import Broker

if TYPE_CHECKING:
    import polars as pl

MISSED = 3  # intervals without an answer after which a machine is lost
PATIENCE_S = 120.0
LEAD_S = 0.3  # between the last message of the set-up and the common start


def execute(
    inst: Instance,
    assign,
    *,
    time_scale: float,
    redistribute: bool = True,
    interval_s: float = 1.0,
    work: Literal["sleep", "burn"] = "sleep",
    kill: Sequence[tuple[float, int]] = (),
    stop: Sequence[tuple[float, int, float]] = (),
    slow: Sequence[tuple[float, int, float, float]] = (),
    speed_noise: float = 0.0,
    seed: int = 0,
    address: Path | None = None,
    ray: Any = None,
) -> "pl.DataFrame":
    """Run `assign` (n,) on machine processes: task, vm, planned_finish, start, finish (s of the instance), attempts.

    `time_scale` is wall seconds per second of the instance. `interval_s` and all times of faults are wall seconds:
    `kill` (t, vm) sends SIGKILL, `stop` (t, vm, for) SIGSTOP and after `for` SIGCONT, `slow` (t, vm, factor, for) makes
    tasks begun within `for` take `factor` times as long; `for` 0 means to the end. `speed_noise` is the spread of each
    task's real duration. `address` is the address file of a Ray head; with `ray` given (a connected module) that
    one is used. Raises AllLost when no machine is left.
    """
    x = inst.check_assignment(assign).astype(np.int64)
    for name, value in (("time_scale", time_scale), ("interval_s", interval_s)):
        if not value > 0:
            raise ValueError(f"{name} (={value}): expected > 0 s")
    if work not in ("sleep", "burn"):
        raise ValueError(f"work (={work!r}): expected 'sleep' or 'burn'")
    events = _events(kill, stop, slow)
    for _, vm, kind, _ in events:
        if not 0 <= vm < inst.m:
            raise ValueError(f"{kind} (vm {vm}): expected a machine, 0 to {inst.m - 1}")
    noise = np.exp(speed_noise * np.random.default_rng([seed, 3]).standard_normal(inst.n))
    with contextlib.nullcontext(ray) if ray else cluster.connect(address) as joined:
        run = _Run(joined, inst, x, time_scale, noise, work == "burn", sorted(events))
        try:
            run.start()
            return run.until_done(interval_s, redistribute)
        finally:
            run.close()


def _events(kill: Sequence, stop: Sequence, slow: Sequence) -> list[tuple[float, int, str, float]]:
    """(time, machine, what, factor) of every fault and of every end of one."""
    events = [(t, vm, "kill", 0.0) for t, vm in kill]
    for t, vm, lasts in stop:
        events += [(t, vm, "stop", 0.0)] + [(t + lasts, vm, "continue", 0.0)] * (lasts > 0)
    for t, vm, factor, lasts in slow:
        events += [(t, vm, "slow", factor)] + [(t + lasts, vm, "slow", 1.0)] * (lasts > 0)
    return events


class _Run:
    """One execution: actors, broker, clock."""

    def __init__(self, ray: Any, inst: Instance, x: np.ndarray, scale: float, noise, burn: bool, events: list):
        self.ray, self.inst, self.x, self.scale, self.noise = ray, inst, x, scale, noise
        self.broker = Broker(x, inst.et() * scale)
        self.actors = machine_actors(ray, inst.m, burn=burn)
        self.pids: list[int] = []
        self.events = events
        self.owed: dict[int, tuple[Any, float]] = {}
        self.waiting: dict[int, list[int]] = {}

    def start(self) -> None:
        """Hand out all queues, then let every machine begin at one moment."""
        self.pids = self.ray.get([actor.hello.remote() for actor in self.actors], timeout=PATIENCE_S)
        queues = [self._queue(np.flatnonzero(self.x == vm), vm) for vm in range(self.inst.m)]
        sent = [actor.enqueue.remote(queue) for actor, queue in zip(self.actors, queues, strict=True)]
        self.ray.get(sent, timeout=PATIENCE_S)
        self.began = time.monotonic() + LEAD_S
        self.ray.get([actor.start.remote(self.began) for actor in self.actors], timeout=PATIENCE_S)

    def _queue(self, tasks, vm: int) -> list[tuple[int, float]]:
        return [(int(task), float(self.broker.seconds[task, vm] * self.noise[task])) for task in tasks]

    def until_done(self, interval_s: float, redistribute: bool) -> "pl.DataFrame":
        """Poll, strike, move until every task is finished; the table."""
        turn, self.interval_s = 0, interval_s
        while not self.broker.done.all():
            turn += 1
            self._strike()
            self._poll(interval_s)
            answered = {vm: tasks for vm, tasks in self.waiting.items() if vm not in self.owed}
            if redistribute and (move := self.broker.tick(answered)):
                self._move(*move)
            self.broker.validate()
            due = min([turn * interval_s, *(event[0] for event in self.events[:1])])
            pause = self.began + due - time.monotonic()
            if not self.broker.done.all():
                time.sleep(max(0.001, min(pause, interval_s)))
        return self._table()

    def _strike(self) -> None:
        while self.events and time.monotonic() - self.began >= self.events[0][0]:
            _, vm, kind, factor = self.events.pop(0)
            if kind == "slow":
                self.actors[vm].slow.remote(factor)
            elif faults.is_alive(self.pids[vm]):
                faults.strike(kind, self.pids[vm])

    def _poll(self, interval_s: float) -> None:
        """Collect reports; machines that died, or owe an answer for too long, are lost."""
        for vm in np.flatnonzero(self.broker.alive):
            if vm not in self.owed:
                self.owed[int(vm)] = (self.actors[vm].status.remote(), time.monotonic())
        self.ray.wait([reference for reference, _ in self.owed.values()], num_returns=len(self.owed),
                      timeout=interval_s)  # fmt: skip
        for vm, (reference, asked) in list(self.owed.items()):
            if self.ray.wait([reference], timeout=0)[0]:
                del self.owed[vm]
                self._answer(vm, reference)
            elif time.monotonic() - asked > MISSED * interval_s:
                del self.owed[vm]
                self._lose(vm)

    def _answer(self, vm: int, reference: Any) -> None:
        try:
            batch, _, waiting = self.ray.get(reference)
        except self.ray.exceptions.RayActorError:
            self._lose(vm)
            return
        self.broker.completed(vm, batch)
        if self.broker.alive[vm]:
            self.waiting[vm] = waiting

    def _lose(self, vm: int) -> None:
        if not self.broker.alive[vm]:
            return
        self.waiting.pop(vm, None)
        for target, tasks in self.broker.lost(vm).items():
            self._send(target, tasks)

    def _send(self, vm: int, tasks: list[int]) -> None:
        """Queue tasks at a machine; when it is dead too, the next poll finds out and hands them on."""
        self.actors[vm].enqueue.remote(self._queue(tasks, vm))

    def _move(self, source: int, target: int, tasks: list[int]) -> None:
        """Withdraw and enqueue; a machine that stops answering just now is lost after as long as a late report."""
        reference = self.actors[source].withdraw.remote(tasks)
        if not self.ray.wait([reference], timeout=MISSED * self.interval_s)[0]:
            self._lose(source)
            return
        try:
            gone = self.ray.get(reference)
        except self.ray.exceptions.RayActorError:
            self._lose(source)
            return
        self.broker.hand_over(gone, target)
        self._send(target, gone)

    def _table(self) -> "pl.DataFrame":
        import polars as pl

        planned = np.zeros(self.inst.n)
        for vm in range(self.inst.m):
            tasks = np.flatnonzero(self.x == vm)
            planned[tasks] = np.cumsum(self.inst.et()[tasks, vm])
        rows = [
            (task, vm, planned[task], (start - self.began) / self.scale, (finish - self.began) / self.scale,
             int(self.broker.attempts[task]))
            for task, vm, start, finish in sorted(self.broker.records)
        ]  # fmt: skip
        names = ("task", "vm", "planned_finish", "start", "finish", "attempts")
        return pl.DataFrame(rows, schema=list(names), orient="row")

    def close(self) -> None:
        """End every machine process; one declared lost may be stopped, and only SIGKILL reaches it."""
        for vm, actor in enumerate(self.actors):
            if vm < len(self.pids) and not self.broker.alive[vm] and faults.is_alive(self.pids[vm]):
                faults.strike("kill", self.pids[vm])
            self.ray.kill(actor)
