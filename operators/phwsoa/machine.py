"""A virtual machine and the broker of the executor as pure state machines: no Ray, no clock, no sleeping.

Whoever drives them says what time it is. A machine runs one task at a time; only waiting tasks can be withdrawn. The
broker knows who has which task, counts attempts, decides moves from the fullest to the emptiest machine by observed
speeds, and gives a lost machine's unfinished tasks to the others. Promise: every task finishes exactly once; what a
lost machine reports late is discarded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


class AllLost(ConnectionError):
    """No machine is left to run the unfinished tasks."""


@dataclass
class VirtualMachine:
    """One machine: waiting tasks in order, the running one, completions not yet collected."""

    seconds: dict[int, float] = field(default_factory=dict)  # of each task it was given, on this machine
    waiting: list[int] = field(default_factory=list)
    running: tuple[int, float] | None = None
    finished: list[tuple[int, float, float]] = field(default_factory=list)
    slowdown: float = 1.0

    def enqueue(self, tasks: Iterable[tuple[int, float]]) -> None:
        """Append tasks, each with its seconds on this machine."""
        for task, seconds in tasks:
            if task in self.waiting or (self.running and self.running[0] == task):
                raise ValueError(f"task {task}: is here already")
            self.seconds[task] = seconds
            self.waiting.append(task)

    def withdraw(self, tasks: Iterable[int]) -> list[int]:
        """Take back those of `tasks` that still wait."""
        wanted = set(tasks)
        gone = [task for task in self.waiting if task in wanted]
        self.waiting = [task for task in self.waiting if task not in wanted]
        return gone

    def begin(self, now: float) -> tuple[int, float] | None:
        """Start the next waiting task; it and its seconds, None when there is none."""
        if self.running is not None:
            raise ValueError(f"task {self.running[0]}: still running; one at a time")
        if not self.waiting:
            return None
        task = self.waiting.pop(0)
        self.running = (task, now)
        return task, self.seconds[task] * self.slowdown

    def complete(self, now: float) -> None:
        """The running task is done."""
        if self.running is None:
            raise ValueError("complete: no task is running")
        self.finished.append((*self.running, now))
        self.running = None

    def collect(self) -> tuple[list[tuple[int, float, float]], int | None, list[int]]:
        """Completions since the last call (task, start, finish), the running task, the waiting ones."""
        batch, self.finished = self.finished, []
        return batch, self.running[0] if self.running else None, list(self.waiting)

    def validate(self) -> None:
        """Raise ValueError when a task is in two places."""
        here = [*self.waiting, *([self.running[0]] if self.running else [])]
        if len(here) != len(set(here)):
            raise ValueError(f"machine: a task stands twice in {here}")


class Broker:
    """Who has which task; `seconds` (n, m) are each task's on each machine, inf where it does not fit."""

    def __init__(self, assign: np.ndarray, seconds: np.ndarray):
        self.seconds, n = seconds, len(assign)
        self.owner = np.array(assign, np.int64)
        self.attempts, self.done = np.ones(n, np.int64), np.zeros(n, bool)
        self.alive = np.ones(seconds.shape[1], bool)
        self.speed = np.ones(seconds.shape[1])  # planned over observed seconds
        self.records: list[tuple[int, int, float, float]] = []

    def completed(self, vm: int, batch: Iterable[tuple[int, float, float]]) -> None:
        """Take a machine's completions; those of a lost machine, or of a task it no longer owns, do not count."""
        if not self.alive[vm]:
            return
        for task, start, finish in batch:
            if self.done[task] or self.owner[task] != vm:
                continue
            self.done[task] = True
            self.records.append((task, vm, start, finish))
            observed = self.seconds[task, vm] / max(finish - start, 1e-9)
            self.speed[vm] = 0.5 * self.speed[vm] + 0.5 * observed

    def left(self, vm: int) -> np.ndarray:
        """Unfinished tasks of a machine."""
        return np.flatnonzero((self.owner == vm) & ~self.done)

    def loads(self) -> np.ndarray:
        """Seconds of unfinished work per machine at observed speeds; inf for lost ones."""
        work = np.zeros(len(self.alive))
        for task in np.flatnonzero(~self.done):
            work[self.owner[task]] += self.seconds[task, self.owner[task]]
        return np.where(self.alive, work / self.speed, np.inf)

    def tick(self, waiting: Mapping[int, list[int]], *, theta: float = 0.1) -> tuple[int, int, list[int]] | None:
        """The move to make now, (from, to, tasks), or None: waiting tasks go while that lowers the larger load."""
        loads = self.loads()
        known = [vm for vm in waiting if self.alive[vm]]
        if len(known) < 2:
            return None
        full, empty = max(known, key=lambda vm: loads[vm]), min(known, key=lambda vm: loads[vm])
        mean = float(np.mean([loads[vm] for vm in known]))
        moved = []
        for task in reversed(waiting[full]):
            if loads[full] <= (1 + theta) * mean:
                break
            less = self.seconds[task, full] / self.speed[full]
            more = self.seconds[task, empty] / self.speed[empty]
            if loads[empty] + more < loads[full]:
                moved.append(int(task))
                loads[full] -= less
                loads[empty] += more
        return (full, empty, moved) if moved else None

    def hand_over(self, tasks: Iterable[int], vm: int) -> None:
        """Note that `vm` has these tasks now."""
        self.owner[list(tasks)] = vm

    def lost(self, vm: int) -> dict[int, list[int]]:
        """Declare a machine lost; its unfinished tasks by their new machine. AllLost when none is left."""
        self.alive[vm] = False
        orphans = self.left(vm)
        if not self.alive.any() and not self.done.all():
            raise AllLost(f"no machine is left; {int((~self.done).sum())} tasks are unfinished")
        loads, given = self.loads(), {}
        for task in sorted(orphans, key=lambda t: -self.seconds[t, vm]):
            target = int(np.argmin(np.where(self.alive, loads + self.seconds[task] / self.speed, np.inf)))
            loads[target] += self.seconds[task, target] / self.speed[target]
            self.owner[task] = target
            self.attempts[task] += 1
            given.setdefault(target, []).append(int(task))
        return given

    def validate(self) -> None:
        """Raise ValueError when a task finished twice or an unfinished one has no live owner."""
        tasks = [record[0] for record in self.records]
        if len(tasks) != len(set(tasks)):
            raise ValueError("broker: a task finished twice")
        stranded = np.flatnonzero(~self.done & ~self.alive[self.owner])
        if len(stranded):
            raise ValueError(f"task {stranded[0]}: its machine {self.owner[stranded[0]]} is lost")
