"""Proof by trying: sweeps, soaks, a stopped holder, the death of all, in the usual build and with tags of 8 bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from operators.locks import soak, sweep
from operators.locks.errors import LocksError


def measured(found):
    if found.reason:
        pytest.skip(f"{found.kind} sweep: {found.reason}")
    return found


@pytest.mark.parametrize("nest", ["flat", "stacked"])
def test_sweep_of_every_shared_access(nest):
    found = measured(sweep.transfer(nest, kind="shared"))
    assert found.violations == 0
    assert found.end > 15
    assert 0 < sum(point[1] for point in found.points) < len(found.points)


def test_sweep_of_some_instructions():
    found = measured(sweep.transfer("flat", kind="instruction", stride=41))
    assert found.violations == 0
    assert len(found.points) > 10
    assert 0 < sum(point[1] for point in found.points) < len(found.points)


@pytest.mark.slow
@pytest.mark.parametrize("nest", ["flat", "stacked"])
def test_sweep_of_every_instruction(nest):
    found = measured(sweep.transfer(nest, kind="instruction"))
    assert found.violations == 0
    assert len(found.points) > 500
    assert any(point[2] for point in found.points)


USER = """
from operators.locks import Region, section
region = Region.open({path!r}, size=2**20, max_procs=2, descriptors_per_proc=2)
cells, locks = region.cells(2), region.locks(1)

@section
def both(tx, amount):
    with tx.lock(locks[0]):
        cells[0] += amount
        cells[1] -= amount
"""


def test_sweep_of_a_users_section(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(USER.format(path=str(tmp_path / "region")))
    words = [
        sys.executable,
        "-m",
        "operators.locks.sweep",
        str(file),
        "--section",
        "both",
        "--args",
        "3",
        "--stride",
        "50",
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "both: shared: " in done.stdout
    assert "0 violations" in done.stdout
    wrong = subprocess.run([*words[:5], "none"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "defines both" in wrong.stderr


def test_bad_sweeps_are_named(tmp_path):
    with pytest.raises(LocksError, match=r"kind \(='line'\)"):
        sweep.sweep(tmp_path, "x", (), kind="line")
    with pytest.raises(LocksError, match=r"stride \(=0\)"):
        sweep.sweep(tmp_path, "x", (), kind="shared", stride=0)


@pytest.mark.parametrize("impl", ["rflock_flat", "rflock_stacked"])
def test_soak_loses_doubles_and_sticks_nothing(impl):
    found = soak.soak(impl, seconds=1.0, kill_rate=20, procs=3)
    assert found.kills > 0
    assert found.ops > 0
    assert found.ok, found


def test_peers_stick_or_go_on():
    found = soak.soak("robust_mutex", seconds=0.5, kill_rate=10, procs=2)
    assert found.stuck == 0
    assert found.lost == found.doubled == 0


@pytest.mark.parametrize("nest", ["flat", "stacked"])
def test_all_die_and_a_new_interpreter_recovers(nest):
    found = soak.all_die(procs=3, nest=nest)
    assert found.ok, found
    assert found.completed + found.rolled_back > 0


def test_a_stopped_holder_stops_nobody_and_doubles_nothing():
    windows, found, note = soak.stop_holder("rflock_flat", procs=3, before_s=0.3, stop_s=1.0, after_s=0.2)
    assert note["inside"]
    stopped = [window.ops for window in windows if window.stopped]
    assert sum(stopped) > 0
    assert found.ok, found
    for impl in ("robust_mutex", "blocking"):
        windows, *_ = soak.stop_holder(impl, procs=3, before_s=0.2, stop_s=0.5, after_s=0.1)
        late = [window.ops for window in windows if window.stopped][-2:]
        assert sum(late) == 0, impl


TAG8 = """
from operators.locks import soak
from operators.locks.core import load
assert load().TAG_BITS == 8
found = soak.soak("rflock_flat", seconds=1.5, kill_rate=20, procs=3)
assert found.ok and found.kills and found.ops > 100_000, found
found = soak.soak("rflock_stacked", seconds=1.0, kill_rate=20, procs=3)
assert found.ok, found
"""


def test_tags_of_8_bits_wrap_and_nothing_is_lost():
    done = subprocess.run(
        [sys.executable, "-c", TAG8], capture_output=True, text=True, env={**os.environ, "LOCKS_TAG_BITS": "8"}
    )
    assert done.returncode == 0, done.stderr


def test_tags_of_8_bits_pass_the_property_tests():
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/locks/test_sections.py"]
    done = subprocess.run(
        [*words, "-k", "random or arithmetic"],
        capture_output=True,
        text=True,
        env={**os.environ, "LOCKS_TAG_BITS": "8"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout


STALLED = """
import atexit, os, signal, sys, time
from pathlib import Path
from operators.locks import Region, section

path = sys.argv[1]

def ground(region):
    cells, locks = region.cells(1, init=1000), region.locks(1)

    @section
    def add(tx, amount):
        with tx.lock(locks[0]):
            cells[0] += amount
    return cells, add

region = Region.create(path, size=2**20, max_procs=2)
cells, add = ground(region)
for _ in range(100):  # into the middle of a segment of tags
    add.call(region, 0)
child = os.fork()
if child == 0:
    mine = Region.attach(path)
    _, add = ground(mine)
    number, _ = mine.core.section(add.compile().words())
    mine.core.set_points(0, int(sys.argv[2]))  # SIGSTOP just before its update is swapped in
    mine.core.bound_counted(number, 1, 0)(1000, (5,))
    os._exit(0)
atexit.register(lambda: os.kill(child, signal.SIGKILL))  # a zombie by then, unless something went wrong
while "T" != Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]:
    time.sleep(0.01)
old = region.core.word(cells.place[0])
assert old & (2**44 - 1) == 1000
add.call(region, -5)  # finishes the stopped one's section first: 1000 again
assert cells[0] == 1000 and region.core.word(cells.place[0]) != old
for _ in range(2**19 + 5000):
    if region.core.word(cells.place[0]) == old:
        break
    add.call(region, 0)
os.kill(child, signal.SIGCONT)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(cells[0])
"""


def test_a_runner_that_sleeps_through_a_wrap_of_the_tags_does_nothing(tmp_path):
    file = tmp_path / "stalled.py"
    file.write_text(STALLED)
    words = [sys.executable, str(file), str(tmp_path / "region"), "7"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1000\n"


@pytest.mark.slow
def test_soak_of_a_minute():
    found = soak.soak("rflock_flat", seconds=60, kill_rate=25, procs=4)
    assert found.ok, found
    assert found.kills > 300


def test_the_core_waits_for_nobody():
    native = Path(__file__).parents[2] / "operators" / "locks" / "native"
    for name in ("core.c", "interpret.h", "recover.h", "mem_real.h"):
        text = (native / name).read_text()
        for word in ("mutex", "futex", "semaphore", "sem_", "flock(", "sleep", "sched_yield", "pause"):
            assert word not in text, f"{name}: {word}"
