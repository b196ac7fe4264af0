"""Regions: objects by name and order, bad files, full disks, slots, sections of other processes, reboot, death."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from operators.locks import workload
from operators.locks.doctor import examine
from operators.locks.errors import (
    ForkedRegion,
    LocksError,
    NoFreeSlot,
    RegionCorrupt,
    RegionExists,
    RegionFull,
    SectionMismatch,
)
from operators.locks.region import Region
from operators.locks.sections import section
from tests.locks.regions import small


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 0}, r"size \(=0\): expected an int from 1"),
        ({"size": 4096}, r"size \(=4096\): too small for max_procs \(=64\)"),
        ({"max_procs": 0}, r"max_procs \(=0\): expected an int from 1"),
        ({"log_len": -8}, r"log_len \(=-8\): expected an int from 16"),
        ({"log_len": 20}, r"log_len \(=20\): expected a multiple of 8"),
        ({"descriptors_per_proc": 1}, r"descriptors_per_proc \(=1\): expected an int from 2"),
        ({"max_procs": 1024, "descriptors_per_proc": 1024}, r"expected at most 65535"),
        ({"persist": "disk"}, r"persist \(='disk'\): expected one of process, clwb, msync"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        Region.create(tmp_path / "region", **given)
    assert list(tmp_path.iterdir()) == []


def test_create_twice_and_attach_to_nothing(tmp_path):
    with small(tmp_path) as region, pytest.raises(RegionExists, match="exists already"):
        Region.create(region.path)
    with pytest.raises(OSError, match="No such file"):
        Region.attach(tmp_path / "nothing")


def test_no_room_leaves_nothing_behind(tmp_path):
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, old[1]))
    try:
        with pytest.raises(OSError, match="no room for 8388608 bytes"):
            Region.create(tmp_path / "region", size=2**23)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "value", "words"),
    [
        (0, 0x1234, "magic is"),
        (1, 99, r"version is 99 \(0x63\); expected 1"),
        (5, 4, "checksum is"),
        (2, 1, "checksum is 1"),
        (13, 7, "checksum is"),
        (64, 2**40, "heap end is"),
    ],
)
def test_damaged_foreign_and_newer_regions_are_refused_by_field(tmp_path, word, value, words):
    with small(tmp_path) as region:
        path = region.path
    with open(path, "r+b") as file:
        file.seek(8 * word)
        file.write(value.to_bytes(8, "little"))
    with pytest.raises(RegionCorrupt, match=words):
        Region.attach(path)


def _set(path, word, value):
    with open(path, "r+b") as file:
        file.seek(8 * word)
        file.write(value.to_bytes(8, "little"))


def _get(path, word):
    with open(path, "rb") as file:
        file.seek(8 * word)
        return int.from_bytes(file.read(8), "little")


DIRECTORY, SECTIONS, LOCKS, DESCRIPTORS = 19, 21, 17, 16  # header words that say where these begin
DAMAGE = {
    "directory": ((DIRECTORY, 0), 2**40, r"directory entry 0: place is 1099511627776 .*; expected at most"),
    "object base": ((DIRECTORY, 0, 11), 2**60, "object 0: base is"),
    "object length": ((DIRECTORY, 0, 9), 2**60, "object 0: n is"),
    "object fields": ((DIRECTORY, 0, 10), 2**63, "object 0: fields of a node is"),
    "object kind": ((DIRECTORY, 0, 8), 77, "object 0: kind is 77"),
    "section": ((SECTIONS, 0), 2**40, "section entry 0: place is"),
    "section length": ((SECTIONS, 0, 20), 2**40, "section 0: length is"),
    "section code": ((SECTIONS, 0, 24), 0xFF, "section 0: .*unknown operation"),
    "owner": ((LOCKS, 2), 4000, "lock 2: owner is 4000 .*; expected at most 8"),
    "updates": ((DESCRIPTORS, 0), 1 << 20 | 4095 << 8 | 2, "descriptor 0: committed updates is 4095"),
    "phase": ((DESCRIPTORS, 0), 1 << 20 | 77, "descriptor 0: state is 77"),
    "locks in use": ((), 2**33, "locks in use is"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_behind_the_header_is_refused_by_name(tmp_path, what):
    place, value, words = DAMAGE[what]
    with small(tmp_path) as region:
        workload.transfer_on(region, accounts=4)[0].call(region, 0, 1, 5, 0)
        path = region.path
    word = 72
    if place:
        word = _get(path, place[0]) + place[1]
        word = _get(path, word) + place[2] if len(place) == 3 else word
    _set(path, word, value)
    with pytest.raises(RegionCorrupt, match=words):
        Region.attach(path)
    with pytest.raises(RegionCorrupt, match=words):
        examine(path)
    done = subprocess.run(
        [sys.executable, "-m", "operators.locks.doctor", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_committed_update_that_leads_nowhere_is_refused(tmp_path):
    with small(tmp_path) as region:
        workload.transfer_on(region, accounts=4)[0].call(region, 0, 1, 5, 0)
        path = region.path
    top = _get(path, DESCRIPTORS) + 2 * (24 + 64)  # the first call uses descriptor 1 of its slot
    state = top - 24 - 64
    assert _get(path, state) & 0xFF == 3
    _set(path, state, _get(path, state) - 1)  # DONE again COMMIT
    Region.attach(path).close()
    _set(path, state, _get(path, state) & ~0xFF | 2)
    _set(path, top - 3, 2**50)
    with pytest.raises(RegionCorrupt, match="descriptor 1: cell of an update is"):
        Region.attach(path)


def test_damage_found_while_helping_ends_the_call_and_not_the_process(tmp_path):
    script = """
        import sys
        from operators.locks import workload
        from operators.locks.region import Region
        from tests.locks.test_region import DESCRIPTORS, LOCKS, _get, _set
        path, what = sys.argv[1:]
        region = Region.attach(path)
        transfer, *_ = workload.transfer_on(region, accounts=4)
        transfer.call(region, 0, 1, 5, 0)
        lock, other = _get(path, LOCKS), _get(path, DESCRIPTORS) + 7 * (24 + 64)  # descriptor 7 belongs to nobody
        owner = 60000 if what == "owner" else 8
        states = {"updates": 4095 << 8 | 2, "cell": 1 << 8 | 2, "section": 1, "owner": 1}
        _set(path, other, 1 << 20 | states[what])
        _set(path, other + 1, 500 if what == "section" else 0)
        _set(path, other + 24 + 64 - 3, 2**50)
        for i in range(4):
            _set(path, lock + i, 9 << 16 | owner)
        assert transfer.try_call(region, 0, 1, 5, 0) == (False, None)
        print("alive")
    """
    for what in ("owner", "updates", "cell", "section"):
        with small(
            tmp_path,
        ) as region:
            path = region.path
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(path), what],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "alive\n", (what, done.returncode, done.stderr)
        path.unlink()


@pytest.mark.parametrize(("field", "value"), [(-1, 2**42), (0, 2**42), (-1, -5 & (2**44 - 1))])
def test_the_doctor_calls_no_impossible_pool_healthy(tmp_path, field, value):
    with small(tmp_path) as region:
        pool = region.pool(3, 10, name="nodes")
        place, n = pool.free.place[0], len(pool.free)
        path = region.path
    assert examine(path).healthy
    _set(path, place + field % n, value)
    found = examine(path)
    assert not found.healthy
    assert "damaged: pool nodes" in str(found)


def test_truncated_regions_are_refused(tmp_path):
    with small(tmp_path) as region:
        path = region.path
    os.truncate(path, 100_000)
    with pytest.raises(RegionCorrupt, match=r"file size is 100000 .*; expected 4194304"):
        Region.attach(path)
    os.truncate(path, 10)
    with pytest.raises(RegionCorrupt, match="file size is 10"):
        Region.attach(path)


def test_slots(tmp_path):
    with small(tmp_path, max_procs=2) as first, Region.attach(first.path) as second:
        assert {first.slot, second.slot} == {0, 1}
        with pytest.raises(NoFreeSlot, match="all 2 slots are taken by live processes"):
            Region.attach(first.path)
        with pytest.raises(NoFreeSlot, match="slot 1 is taken by live process"):
            Region.attach(first.path, slot=1)
        with pytest.raises(LocksError, match=r"slot \(=2\): expected None or an int from 0 to 1"):
            Region.attach(first.path, slot=2)
        for wrong in ("a", 1.0, True, -1):
            with pytest.raises(LocksError, match=rf"slot \(={wrong!r}\): expected None or an int from 0 to 1"):
                Region.attach(first.path, slot=wrong)
        for wrong in (9, "a"):
            with pytest.raises(LocksError, match=rf"slot \(={wrong!r}\)"):
                first.last_call(wrong)


def test_objects_are_found_again_by_name_and_by_order(tmp_path):
    with small(tmp_path) as one, Region.attach(one.path) as two:
        cells = one.cells(3, -7)
        assert two.cells(3, -7).place == cells.place
        assert cells.to_list() == [-7] * 3
        assert one.locks(5, name="mine").place == two.locks(5, name="mine").place
        with pytest.raises(LocksError, match="mine: is there with n = 5"):
            two.locks(6, name="mine")
        with pytest.raises(OverflowError):
            one.cells(1, 2**43)
        with pytest.raises(LocksError, match=r"n \(=0\)"):
            one.cells(0)
        with pytest.raises(RegionFull, match="no room in the region"):
            one.cells(10**7)
        with pytest.raises(RegionFull, match=r"no lock words left for n \(=1000000\)"):
            one.locks(10**6)
        for fields, capacity in ((2**32, 2**32), (2**63 + 1, 2), (1, 2**64), (2**62, 8)):
            words = rf"no room in the region for node_fields \(={fields}\) x capacity \(={capacity}\)"
            with pytest.raises(RegionFull, match=words):
                one.pool(fields, capacity)
        with pytest.raises(RegionFull, match="no lock words left"):
            one.locks(2**63 - 1)
        with pytest.raises(IndexError, match=r"cells-1\[3\]: expected 0 to 2"):
            cells[3]


def test_a_section_of_another_hash_is_refused_while_others_are_there(tmp_path):
    with small(tmp_path) as one:
        cells, locks = one.cells(1, name="c"), one.locks(1, name="l")

        @section
        def change(tx):
            with tx.lock(locks[0]):
                cells[0] += 1

        change.call(one)
        first = change

        @section
        def change(tx):
            with tx.lock(locks[0]):
                cells[0] += 2

        with Region.attach(one.path) as two, pytest.raises(SectionMismatch, match="section change has hash"):
            change.call(two)
        change.call(one)  # alone again: the new code takes the name over
        assert cells[0] == 3
        assert first.__name__ == change.__name__


def test_a_child_must_attach_for_itself(tmp_path):
    with small(tmp_path) as region:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                region.alive()
            except ForkedRegion:
                os.write(write, b"refused")
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read, 10) == b"refused"
        assert region.slot == 0
    with pytest.raises(LocksError, match="closed"):
        region.alive()


CRASH = """
import sys
from operators.locks import workload
from operators.locks.region import Region
region = Region.attach(sys.argv[1], slot=1)
transfer, *_ = workload.transfer_on(region, accounts=4)
region.core.set_points(int(sys.argv[2]), 0)
region.core.bound_counted(region.core.section_id("transfer"), 4, 0)(1000, (1, 2, 7, 1))
"""


@pytest.mark.parametrize("step", [3, 5, 9, 12, 15])
@pytest.mark.parametrize("how", ["attach", "recover_all", "help"])
def test_a_killed_call_has_happened_once_or_not_at_all(tmp_path, step, how):
    with small(tmp_path) as region:
        transfer, balances, counts = workload.transfer_on(region, accounts=4)
        script = textwrap.dedent(CRASH)
        died = subprocess.run([sys.executable, "-c", script, str(region.path), str(step)], check=False)
        assert died.returncode == -signal.SIGKILL
        if how == "help":
            transfer.call(region, 1, 2, 0, region.slot)
        if how == "recover_all":
            region.recover_all()
        with Region.attach(region.path, slot=1) as again:
            status = again.last_call()
        assert status.seq in (0, 1)
        assert counts[1] == int(status.done)
        assert balances.to_list() == [1000, 1000 - 7 * status.done, 1000 + 7 * status.done, 1000]
        found = examine(region.path)
        assert found.healthy
        assert not found.held
        assert not found.pending


def test_after_a_reboot_everything_is_recovered_before_new_work(tmp_path):
    with small(tmp_path, persist="clwb") as region:
        _, balances, _ = workload.transfer_on(region, accounts=4)
        path, script = region.path, textwrap.dedent(CRASH)
        subprocess.run([sys.executable, "-c", script, str(path), "9"], check=False)
        region.core.pretend_reboot()
    assert examine(path).rebooted
    with Region.attach(path) as region:
        _, balances, counts = workload.transfer_on(region, accounts=4)
        assert sum(balances.to_list()) == 4000
        assert counts[1] == int(region.last_call(1).done)
    assert examine(path).healthy


def test_msync_mode_works(tmp_path):
    with Region.create(tmp_path / "disk", size=2**20, max_procs=1, descriptors_per_proc=2, persist="msync") as region:
        transfer, balances, _ = workload.transfer_on(region, accounts=4)
        before = region.core.stats()["fences"]
        transfer.call(region, 0, 1, 5, 0)
        assert balances.to_list() == [995, 1005, 1000, 1000]
        assert region.core.stats()["fences"] - before == 3


def test_the_doctor_names_what_it_sees(tmp_path):
    with small(tmp_path) as region:
        pool = region.pool(3, 10, name="nodes")
        assert pool.free_nodes() == 10
        workload.transfer_on(region, accounts=4)
        script = textwrap.dedent(CRASH)
        subprocess.run([sys.executable, "-c", script, str(region.path), "8"], check=False)
        found = examine(region.path)
        assert ("nodes", 10, 10) in found.pools
        assert dict(found.slots)[1] == "dead"
        assert found.pending
        assert not found.healthy
        assert "its process is dead" in str(found)
        done = subprocess.run(
            [sys.executable, "-m", "operators.locks.doctor", str(region.path), "--repair"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "healthy" in done.stdout
    missing = subprocess.run(
        [sys.executable, "-m", "operators.locks.doctor", str(tmp_path / "no")], capture_output=True, text=True
    )
    assert missing.returncode == 1
    assert "No such file" in missing.stderr


def test_after_a_reboot_one_of_many_recovers_and_all_can_work(tmp_path):
    with small(tmp_path, max_procs=8) as region:
        workload.transfer_on(region, accounts=4)
        path = region.path
        subprocess.run([sys.executable, "-c", textwrap.dedent(CRASH), str(path), "9"], check=False)
        region.core.pretend_reboot()
    script = (
        "import sys\nfrom operators.locks import workload\nfrom operators.locks.region import Region\n"
        "region = Region.attach(sys.argv[1])\ntransfer, *_ = workload.transfer_on(region, accounts=4)\n"
        "for i in range(500): transfer.call(region, i % 4, (i + 1) % 4, 1, region.slot)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    with Region.attach(path) as region:
        _, balances, counts = workload.transfer_on(region, accounts=4)
        assert sum(balances.to_list()) == 4000
        assert sum(counts.to_list()) in (2000, 2001)
    assert examine(path).healthy
