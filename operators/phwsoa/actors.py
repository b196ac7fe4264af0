"""Ray shells: a process per virtual machine, which really sleeps or burns each task's scaled time.

A machine's thread runs tasks back to back; the actor's methods only touch the pure VirtualMachine under a lock, and
carry batches (queues, withdrawals, completions), never single tasks' events. Times are the machine's monotonic clock,
the same for all processes of one host, so faults and time stamps need all actors on one host.
"""

import os
import threading
import time
from typing import Any

from operators.phwsoa.machine import VirtualMachine

SPIN_S = 0.0005  # the last half millisecond is waited for actively: a sleep ends late by that much


def work_until(deadline: float, burn: bool) -> None:
    """Sleep (or burn a core) until the monotonic clock shows `deadline`."""
    while not burn:
        left = deadline - time.monotonic()
        if left <= SPIN_S:
            break
        time.sleep(left - SPIN_S)
    while time.monotonic() < deadline:
        pass


class MachineActor:
    """What runs in a machine's process."""

    def __init__(self, burn: bool):
        self._machine, self._burn = VirtualMachine(), burn
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()
        self._start_at = float("inf")

    def hello(self) -> int:
        """This process's id."""
        return os.getpid()

    def start(self, at: float) -> None:
        """Begin at this monotonic time."""
        with self._changed:
            self._start_at = at
            self._changed.notify()

    def enqueue(self, tasks: list[tuple[int, float]]) -> None:
        """Append tasks with their seconds here."""
        with self._changed:
            self._machine.enqueue(tasks)
            self._changed.notify()

    def withdraw(self, tasks: list[int]) -> list[int]:
        """Take back waiting tasks."""
        with self._changed:
            gone = self._machine.withdraw(tasks)
            self._machine.validate()
            return gone

    def slow(self, factor: float) -> None:
        """From the next task on, take `factor` times as long."""
        with self._changed:
            self._machine.slowdown = factor

    def status(self) -> tuple[list[tuple[int, float, float]], int | None, list[int]]:
        """Completions since the last call, the running task, the waiting ones."""
        with self._changed:
            return self._machine.collect()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._machine.waiting or time.monotonic() < self._start_at:
                    wait = self._start_at - time.monotonic() if self._machine.waiting else None
                    self._changed.wait(min(wait, 1.0) if wait is not None else None)
                now = time.monotonic()
                _, seconds = self._machine.begin(now)
            work_until(now + seconds, self._burn)
            with self._changed:
                self._machine.complete(time.monotonic())


def machine_actors(ray: Any, count: int, *, burn: bool) -> list[Any]:
    """`count` machine processes; never restarted, since a lost machine's state is lost."""
    remote = ray.remote(MachineActor).options(num_cpus=0, max_restarts=0, max_concurrency=4)
    return [remote.remote(burn) for _ in range(count)]
