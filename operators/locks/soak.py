"""The kill soak: native workers make transfers, a driver that is never killed sends SIGKILL to random ones and starts
them again, and at the end every call must count exactly once.

Three independent accounts are compared: the counters in cells (updated by the sections), the calls each slot's
announcement says were done (`last_call`), and the balances, which the driver computes from the seed: call k of a slot
always has row k of the workload, so the exact balance of every account is known. Peers keep no announcements; their
calls are what they counted, and what the balances do not agree with is `torn`.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.locks import workload
from operators.locks.core import load, program
from operators.locks.errors import LocksError
from operators.locks.region import MiB, Region

if TYPE_CHECKING:
    import numpy as np

PEERS = ("robust_mutex", "pshared_mutex", "spin", "mp_lock", "flock2")
PATIENCE_S = 30.0


def fast_folder() -> str | None:
    """Where a region lives in memory, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Soaked:
    """What a soak found; `recovery_us` are the recoveries the driver did itself, one dead slot each."""

    impl: str
    kills: int = 0
    seconds: float = 0.0
    ops: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    torn: int = 0
    completed: int = 0
    rolled_back: int = 0
    recovery_us: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.stuck or self.torn)


class Crew:
    """Native workers on one file, one per slot; knows only the pids it started."""

    def __init__(self, impl: str, path: Path, rows: Path, procs: int):
        self.impl, self.path, self.rows = impl, path, rows
        self.program = program("worker")
        self.processes: list[subprocess.Popen] = [self._start(slot) for slot in range(procs)]

    def _start(self, slot: int) -> subprocess.Popen:
        kind = self.impl if self.impl in PEERS else "ours"
        words = [str(self.program), kind, str(self.path), str(slot), str(self.rows), "0"]
        if kind == "ours":
            words += ["transfer", "nohelp" if self.impl == "blocking" else "help"]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=False)

    def kill(self, slot: int) -> None:
        """SIGKILL one worker and wait for its end."""
        self.processes[slot].kill()
        self.processes[slot].wait()

    def restart(self, slot: int) -> None:
        self.processes[slot] = self._start(slot)

    def send(self, slot: int, number: int) -> None:
        self.processes[slot].send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL everybody before waiting for anybody."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def stop(self) -> list[int]:
        """Ask everybody to end; slots that did not in time are killed and returned."""
        late = []
        for process in self.processes:
            process.terminate()
        until = time.monotonic() + PATIENCE_S
        for slot, process in enumerate(self.processes):
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(slot)
                process.kill()
                process.wait()
        return late


class Ground:
    """The file a soak works on: a region with the transfer, or a peer's plain file."""

    def __init__(self, folder: Path, impl: str, *, seed: int, procs: int, n_rows: int = 4096, **sizes: Any):
        self.impl, self.procs = impl, procs
        self.seen: dict[int, int] = {}
        self.path = folder / "ground"
        self.table = workload.rows(seed, n_rows)
        self.rows = workload.write_rows(self.table, folder / "rows")
        if impl in PEERS:
            if not load().create_peer(str(self.path), impl, workload.ACCOUNTS, procs, workload.INITIAL):
                raise LocksError(f"{impl}: cannot create {self.path}")
            self.peer = load().Peer(str(self.path))
        else:
            nest = "stacked" if impl == "rflock_stacked" else "flat"
            self.region = Region.create(self.path, size=8 * MiB, max_procs=procs + 1, descriptors_per_proc=2, **sizes)
            if self.region.slot != procs:  # the driver leaves the slots 0.. to the workers
                self.region.close()
                self.region = Region.attach(self.path, slot=procs)
            _, self.balances, self.counts = workload.transfer_on(self.region, nest=nest)

    def ops(self, slot: int) -> int:
        """Calls of a slot counted so far."""
        return self.peer.count(slot) if self.impl in PEERS else self.counts[slot]

    def held(self) -> int:
        """Locks held now."""
        locks = self.region.core.layout()[-1]
        return sum(1 for i in range(locks) if self.region.core.lock(i) & 0xFFFF)

    def close(self) -> None:
        if self.impl in PEERS:
            self.peer = None
        else:
            self.region.close()

    def settle(self, found: Soaked) -> None:
        """Compare the three accounts; nobody may be working."""
        counted = {slot: self.ops(slot) for slot in range(self.procs)}
        found.ops = sum(counted.values())
        if self.impl in PEERS:
            balances = self.peer.balances()
        else:
            balances = self.balances.to_list()
            for slot, count in counted.items():
                last = self.region.last_call(slot)
                said = last.seq if last.done else max(last.seq - 1, 0)
                found.lost += max(0, said - count)
                found.doubled += max(0, count - said)
            found.stuck += self.held()
        right = workload.expected(self.table, counted)
        found.torn += int((right != balances).sum())


def soak(
    impl: str, *, seconds: float, kill_rate: float, procs: int = 4, seed: int = 0, folder: Path | None = None
) -> Soaked:
    """Kill and restart random workers about `kill_rate` times a second for `seconds`, then settle.

    A peer's workers that wait for ever after a kill are `stuck`. Every other dead slot of ours is recovered by the
    driver (timed), the rest by the worker that takes the slot over.
    """
    with tempfile.TemporaryDirectory(prefix="pg-soak-", dir=folder or fast_folder()) as name:
        ground = Ground(Path(name), impl, seed=seed, procs=procs)
        crew = Crew(impl, ground.path, ground.rows, procs)
        found = Soaked(impl)
        try:
            _kill_for(ground, crew, found, seconds, kill_rate, random.Random(seed))
            found.stuck += _standing(ground, crew) if impl in PEERS else 0
        finally:
            late = crew.stop()
        if impl not in PEERS:
            _count(found, ground.region.recover_all())
            found.stuck += len(late)
        ground.settle(found)
        ground.close()
    return found


def _kill_for(ground: Ground, crew: Crew, found: Soaked, seconds: float, rate: float, rng: random.Random) -> None:
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        due = (found.kills + 1) / rate if rate else seconds
        if now < due:
            time.sleep(min(due, seconds) - now)
            continue
        slot = rng.randrange(crew_size := len(crew.processes))
        crew.kill(slot)
        found.kills += 1
        if ground.impl not in PEERS and found.kills % 2:
            _count(found, report := ground.region.recover_all())
            found.recovery_us.append(report.seconds * 1e6)
        crew.restart(slot % crew_size)
    found.seconds = time.monotonic() - began


def _count(found: Soaked, report: Any) -> None:
    found.completed += report.completed
    found.rolled_back += report.rolled_back


def _standing(ground: Ground, crew: Crew, window_s: float = 0.5) -> int:
    """How many workers make no call within a window."""
    before = [ground.ops(slot) for slot in range(len(crew.processes))]
    time.sleep(window_s)
    return sum(ground.ops(slot) == before[slot] for slot in range(len(crew.processes)))


def all_die(*, procs: int = 4, seed: int = 0, tries: int = 20, run_s: float = 0.05, nest: str = "flat") -> Soaked:
    """Kill every process at once, recover in a new interpreter, settle; again until a try has hit an open section."""
    impl = "rflock_stacked" if nest == "stacked" else "rflock_flat"
    with tempfile.TemporaryDirectory(prefix="pg-soak-", dir=fast_folder()) as name:
        ground = Ground(Path(name), impl, seed=seed, procs=procs)
        ground.region.close()
        found = Soaked(impl)
        for _ in range(tries):
            crew = Crew(impl, ground.path, ground.rows, procs)
            time.sleep(run_s)
            crew.kill_all()
            found.kills += procs
            completed, rolled_back, seconds = _recover_elsewhere(ground.path)
            found.completed, found.rolled_back = found.completed + completed, found.rolled_back + rolled_back
            found.recovery_us.append(seconds * 1e6 / procs)
            if found.completed + found.rolled_back:
                break
        ground.region = Region.attach(ground.path, slot=procs)
        _, ground.balances, ground.counts = workload.transfer_on(ground.region, nest=nest)
        ground.settle(found)
        ground.close()
    return found


def _recover_elsewhere(path: Path) -> tuple[int, int, float]:
    """`recover_all` in a new interpreter."""
    script = (
        "import sys; from operators.locks.region import Region; r = Region.attach(sys.argv[1]).recover_all(); "
        "print(r.completed, r.rolled_back, r.seconds)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    completed, rolled_back, seconds = done.stdout.split()
    return int(completed), int(rolled_back), float(seconds)


@dataclass(frozen=True)
class Window:
    """Calls of one worker in one time window of a SIGSTOP test."""

    impl: str
    t_s: float
    proc: int
    ops: int
    stopped: bool


def stop_holder(
    impl: str, *, procs: int = 4, before_s: float = 1.0, stop_s: float = 2.0, after_s: float = 0.5, seed: int = 0
) -> tuple[list[Window], Soaked, dict[str, int]]:
    """Stop one worker *inside* a section on the hottest lock, and count what the others get done in windows.

    All rows touch account 0. Ours: the last worker stops itself at a shared access after it has its locks (`stop_at`);
    a peer's holder stops itself between two stores. Returns windows, the settled accounts (after SIGCONT), and a note:
    the access at which it stopped, and whether its lock was seen held by it.
    """
    window = 0.1
    with tempfile.TemporaryDirectory(prefix="pg-stop-", dir=fast_folder()) as name:
        ground = Ground(Path(name), impl, seed=seed, procs=procs)
        hot = _hot(ground.table)
        ground.table = hot
        workload.write_rows(hot, ground.rows)
        crew = Crew(impl, ground.path, ground.rows, procs - 1)
        windows: list[Window] = []
        holder, note = None, {}
        began = time.monotonic()
        try:
            _watch(ground, windows, impl, procs - 1, began, before_s, window, False)
            holder, note = _holder(ground, impl, procs - 1)
            _watch(ground, windows, impl, procs - 1, began, stop_s, window, True)
            holder.send_signal(signal.SIGCONT)
            _wait(holder)
            _watch(ground, windows, impl, procs - 1, began, after_s, window, False)
        finally:
            if holder is not None and holder.poll() is None:
                holder.kill()
                holder.wait()
            crew.stop()
        found = Soaked(impl, seconds=time.monotonic() - began)
        if impl not in PEERS:
            _count(found, ground.region.recover_all())
        ground.settle(found)
        ground.close()
    return windows, found, note


def _hot(table: "np.ndarray") -> "np.ndarray":
    hot = table.copy()
    hot[:, 0] = 0
    hot[:, 1] = 1 + hot[:, 1] % (workload.ACCOUNTS - 1)
    return hot


def _holder(ground: Ground, impl: str, slot: int) -> tuple[subprocess.Popen, dict[str, int]]:
    """A worker that has stopped itself inside a section; polls until it is seen stopped with its lock held."""
    base = [str(program("worker"))]
    path, rows = str(ground.path), str(ground.rows)
    deadline = time.monotonic() + PATIENCE_S
    for point in STOP_POINTS if impl not in PEERS else (0,):
        ground.seen = {slot: ground.ops(slot)}
        if impl in PEERS:
            words = [*base, impl, path, str(slot), rows, "0", "hold"]
        else:
            mode = "nohelp" if impl == "blocking" else "help"
            words = [*base, "ours", path, str(slot), rows, "0", "transfer", mode, "0", "0", "0", str(point)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=False)
        while process.poll() is None and not _is_stopped(process.pid) and time.monotonic() < deadline:
            time.sleep(0.001)
        if process.poll() is None and (impl in PEERS or _was_inside(ground, slot)):
            return process, {"step": point, "inside": 1}
        if process.poll() is None:  # stopped, but the hot lock was not its: let it finish, try a later access
            process.send_signal(signal.SIGCONT)
            _wait(process)
    raise LocksError(f"{impl}: no holder could be stopped inside a section")


STOP_POINTS = tuple(range(5, 60))
H_DPP, H_LOG, H_DESC, DESCRIPTOR_WORDS, COMMIT, DONE = 5, 6, 16, 24, 2, 3  # native/core.h


def _was_inside(ground: Ground, slot: int) -> bool:
    """Whether the stopped process had its first lock when it stopped: it is still there, or others have finished it."""
    core = ground.region.core
    layout = core.layout()
    _, first, _, _ = core.find("account locks")
    for number in range(slot * layout[H_DPP], (slot + 1) * layout[H_DPP]):
        phase = core.word(layout[H_DESC] + number * (DESCRIPTOR_WORDS + layout[H_LOG])) & 0xFF
        holds = core.lock(first) & 0xFFFF == number + 1
        if holds or (phase in (COMMIT, DONE) and ground.ops(slot) > ground.seen.get(slot, 0)):
            return True
    return False


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False


def _wait(process: subprocess.Popen) -> None:
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _watch(
    ground: Ground,
    windows: list[Window],
    impl: str,
    workers: int,
    began: float,
    for_s: float,
    step: float,
    stopped: bool,
) -> None:
    until = time.monotonic() + for_s
    counts: Sequence[int] = [ground.ops(slot) for slot in range(workers)]
    while time.monotonic() < until:
        time.sleep(step)
        now = [ground.ops(slot) for slot in range(workers)]
        t_s = time.monotonic() - began
        windows += [Window(impl, t_s, slot, now[slot] - counts[slot], stopped) for slot in range(workers)]
        counts = now
