"""Lock processes as actors: LockWorker makes recorded calls, ChaosMonkey strikes pids it was given, HistoryCollector
reads what the workers wrote down.

Promise: if a worker is killed at any instruction, its announced call has taken effect exactly once or not at all; the
worker that takes its slot over knows which (`last_call`) and repeats the call only when it has not happened. Calls are
written to a file before and after (write(2) survives SIGKILL); a lost collector costs the history, never the data.

The classes are pure (no Ray); `remote` makes the Ray shells.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from operators.lab import faults
from operators.locks.check import Op
from operators.locks.errors import LocksError
from operators.locks.region import Region
from operators.locks.sections import section

CELLS = "history.cells"


class Worker:
    """Owns one slot of a region: makes `add` calls on one counter under two nested locks, each written to its log.

    A new Worker on the slot of a dead one first finishes the dead one's log: the open call is closed as done with the
    result that `last_call` gives, or struck out as never begun.
    """

    def __init__(self, region: Path | str, slot: int, log: Path | str):
        self.region = Region.attach(region, slot=slot)
        self.slot, self.log = slot, Path(log)
        cells, locks = self.region.cells(2, name=CELLS), self.region.locks(2, name="history.locks")

        @section
        def add(tx, amount):
            with tx.lock(locks[0]), tx.lock(locks[1]):
                cells[0] += amount
                cells[1] += 1
                return cells[0]

        self.section = add
        add.bind(self.region)
        self.recovered = self._close_open_call()
        self._file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _close_open_call(self) -> str:
        """What became of the call that was open when the last worker of this slot died."""
        events = read_log(self.log)
        if not events or events[-1]["kind"] != "invoke":
            return "nothing open"
        status = self.region.last_call()
        calls = sum(event["kind"] == "invoke" for event in events) - sum(event["kind"] == "never" for event in events)
        done = status.done and status.seq == calls
        with open(self.log, "a") as stream:
            event = {"kind": "return", "result": status.result[0]} if done else {"kind": "never"}
            stream.write(json.dumps(event | {"t": time.monotonic_ns()}) + "\n")
        return "done" if done else "not_started"

    def _note(self, **event: Any) -> None:
        os.write(self._file, (json.dumps(event | {"t": time.monotonic_ns()}) + "\n").encode())

    def run(self, amounts: list[int]) -> int:
        """Make one call per amount; how many were made."""
        for amount in amounts:
            self._note(kind="invoke", amount=amount)
            self._note(kind="return", result=self.section.call(self.region, amount))
        return len(amounts)

    def crash_at(self, step: int, amount: int = 1) -> None:
        """Make one call in the build that counts, and die by SIGKILL at its `step`-th shared access."""
        core = self.region.core
        self._note(kind="invoke", amount=amount)
        core.set_points(step, 0)
        bound = core.bound_counted(core.section_id("add"), 1, 1)
        self._note(kind="return", result=bound(1_000_000, (amount,)))

    def stats(self) -> dict[str, int]:
        """Counters of the core, pid and slot."""
        return {**self.region.core.stats(), "pid": os.getpid(), "slot": self.slot}

    def hello(self) -> tuple[int, str]:
        """Pid, and what became of the call that was open before."""
        return os.getpid(), self.recovered

    def validate(self) -> None:
        """Every call counted once: the second cell counts calls of all slots."""
        status = self.region.last_call()
        if status.seq < 0 or self.region.slot != self.slot:
            raise LocksError(f"slot (={self.region.slot}): expected {self.slot}")


class Monkey:
    """Strikes processes, only those it was given by pid."""

    def __init__(self, pids: list[int]):
        self.pids = list(pids)
        self.done: list[tuple[str, int]] = []

    def replace(self, rank: int, pid: int) -> None:
        """Rank `rank` is another process now."""
        self.pids[rank] = pid

    def strike(self, kind: str, rank: int) -> bool:
        """kill, stop or continue process number `rank`; False when it was gone already."""
        if not 0 <= rank < len(self.pids):
            raise LocksError(f"rank (={rank}): expected 0 to {len(self.pids) - 1}")
        try:
            faults.strike(kind, self.pids[rank])
        except ProcessLookupError:
            return False
        self.done.append((kind, rank))
        return True

    def validate(self) -> None:
        if any(pid <= 1 for pid in self.pids):
            raise LocksError(f"pids (={self.pids}): expected processes of this run")


class Collector:
    """Reads the workers' logs into one history."""

    def __init__(self, logs: list[str]):
        self.logs = [Path(log) for log in logs]

    def collect(self) -> list[Op]:
        """All calls; one that never began is left out, one still open has no return."""
        ops = []
        for process, log in enumerate(self.logs):
            began: dict[str, Any] | None = None
            for event in read_log(log):
                if event["kind"] == "invoke":
                    began = event
                    continue
                if event["kind"] == "return" and began is not None:
                    ops.append(Op(process, "add", (began["amount"],), event["result"], began["t"], event["t"]))
                began = None
            if began is not None:
                ops.append(Op(process, "add", (began["amount"],), None, began["t"], None))
        return sorted(ops, key=lambda op: op.t_invoke)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Events of a worker's log; a last line that was cut by a kill is left out."""
    if not Path(path).exists():
        return []
    text = Path(path).read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def remote(ray: Any, pure: type, **options: Any) -> Any:
    """The Ray shell of a pure class; a LockWorker comes back by itself and recovers in its constructor."""
    return ray.remote(pure).options(num_cpus=0, **options)


def record(ray: Any, folder: Path, *, calls: int, schedule: tuple[faults.Fault, ...], procs: int, seed: int) -> dict:
    """Workers make calls in batches while faults strike; {"ops", "events", "total", "calls"} with nothing lost.

    Each worker's step is a batch. A `kill` of the schedule lets the worker die inside a section (`crash_at`).
    """
    import random

    path = folder / "region"
    with Region.create(path, size=2**20, max_procs=procs + 1, descriptors_per_proc=2) as region:
        if region.slot != procs:
            region.close()
            region = Region.attach(path, slot=procs)
        cells = region.cells(2, name=CELLS)
        logs = [str(folder / f"calls-{slot}") for slot in range(procs)]
        shell = remote(ray, Worker, max_restarts=-1)
        workers = [shell.remote(str(path), slot, logs[slot]) for slot in range(procs)]
        hello = ray.get([worker.hello.remote() for worker in workers], timeout=120)
        monkey = remote(ray, Monkey).remote([pid for pid, _ in hello])
        due, rng, events = faults.Schedule(schedule), random.Random(seed), []
        steps = max([fault.at_step for fault in schedule], default=0) + 2
        for step in range(steps):
            now = due.due(step)
            victims = {fault.rank for fault in now if fault.kind == "kill"}
            batch = [rng.randrange(1, 100) for _ in range(max(1, calls // steps))]
            running = {
                rank: worker.crash_at.remote(3 + 2 * step + rank) if rank in victims else worker.run.remote(batch)
                for rank, worker in enumerate(workers)
            }
            for fault in now:
                if fault.kind != "kill":
                    ray.get(monkey.strike.remote(fault.kind, fault.rank), timeout=60)
            for rank, reference in running.items():
                try:
                    ray.get(reference, timeout=120)
                except ray.exceptions.RayActorError:
                    pid, outcome = _again(ray, workers[rank])
                    ray.get(monkey.replace.remote(rank, pid), timeout=60)
                    events.append((step, rank, outcome))
        collector = remote(ray, Collector).remote(logs)
        ops = ray.get(collector.collect.remote(), timeout=60)
        for actor in (*workers, monkey, collector):
            ray.kill(actor)
        total, counted = cells[0], cells[1]
        region.close()
    return {"ops": ops, "events": events, "total": total, "calls": counted}


def _again(ray: Any, worker: Any, patience_s: float = 120.0) -> tuple[int, str]:
    """Pid and recovery of an actor that is coming back."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return ray.get(worker.hello.remote(), timeout=patience_s)
        except ray.exceptions.RayActorError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
