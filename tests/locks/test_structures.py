"""Structures: each behaves like Python's own set or dict, whoever dies, and no node is lost."""

import random
import subprocess
import sys
import textwrap

import pytest

from operators.locks.errors import LocksError
from operators.locks.region import MiB, Region
from operators.locks.structures import Bank, DList, HashMap, LeafTree, SortedList
from tests.locks.regions import small

SETS = {SortedList: 1, DList: 2, HashMap: 0, LeafTree: 3}  # nodes that sentinels take


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("nest", ["flat", "stacked"])
def test_sets_are_sets(tmp_path, kind, nest):
    with small(tmp_path) as region:
        made, plain, rng = kind(region, 60, nest=nest), set(), random.Random(7)
        for _ in range(1500):
            key, op = rng.randrange(-20, 40), rng.choice(["find", "insert", "remove"])
            assert (
                getattr(made, op)(key)
                == {
                    "find": key in plain,
                    "insert": key not in plain,
                    "remove": key in plain,
                }[op]
            )
            plain |= {key} if op == "insert" else set()
            plain -= {key} if op == "remove" else set()
        assert sorted(made.keys()) == sorted(plain)
        assert len(made) == len(plain)
        if kind is DList:
            assert made.keys_backwards() == sorted(plain, reverse=True)
        used = SETS[kind] + len(plain) * (2 if kind is LeafTree else 1)
        assert made.nodes.free_nodes() == len(made.nodes) - used
        with pytest.raises(OverflowError, match="key"):
            made.insert(2**43)


def test_a_map_maps(tmp_path):
    with small(tmp_path) as region:
        made = HashMap(region, 50, buckets=4)
        assert made.put(3, 30)
        assert not made.put(3, 31)
        assert made.put(-5, 2)
        assert (made.get(3), made.get(-5), made.get(4)) == (31, 2, None)
        assert made.remove(3)
        assert made.items() == {-5: 2}


def test_a_full_set_says_so_and_stays_whole(tmp_path):
    with small(tmp_path) as region:
        made = SortedList(region, 5)
        with pytest.raises(LocksError, match="no free node left; its capacity is 5"):
            for key in range(20):
                made.insert(key)
        kept = len(made)
        assert kept >= 5
        assert made.remove(0)
        assert made.insert(100)
        assert len(made) == kept


def test_a_bank_keeps_its_total(tmp_path):
    with small(tmp_path) as region:
        bank = Bank(region, 3, 10)
        assert bank.transfer(0, 2, 4) == (6, 14)
        assert bank[1] == 10
        assert bank.total() == 30


WORK = """
import random, sys
from operators.locks.region import Region
from operators.locks.structures import {kind}
region = Region.attach(sys.argv[1], slot=int(sys.argv[2]))
made, rng = {kind}(region, 400), random.Random(int(sys.argv[3]))
print("ready", flush=True)
while True:
    key = rng.randrange(100)
    (made.insert if rng.random() < 0.5 else made.remove)(key)
"""


@pytest.mark.parametrize("kind", [DList, LeafTree])
def test_killed_writers_leave_a_whole_structure_and_lose_no_node(tmp_path, kind):
    path = tmp_path / "region"
    with Region.create(path, size=4 * MiB, max_procs=4, descriptors_per_proc=2) as region:
        region.close()
        region = Region.attach(path, slot=3)
        made, script = kind(region, 400), textwrap.dedent(WORK.format(kind=kind.__name__))
        for rounds in range(3):
            workers = [
                subprocess.Popen(
                    [sys.executable, "-c", script, str(path), str(slot), str(rounds * 2 + slot)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for slot in range(2)
            ]
            for worker in workers:
                assert worker.stdout.readline() == "ready\n"
            for key in range(0, 100, 3):  # work among them, helping what they leave
                made.insert(key)
                made.remove(key)
            for worker in workers:
                worker.kill()
                worker.communicate()
        region.recover_all()
        keys = made.keys()
        assert keys == sorted(set(keys))
        if kind is DList:
            assert made.keys_backwards() == keys[::-1]
        used = SETS[kind] + len(keys) * (2 if kind is LeafTree else 1)
        assert made.nodes.free_nodes() == len(made.nodes) - used
        region.close()
