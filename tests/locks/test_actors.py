"""Actors: pure classes, then Ray: killed workers come back, nothing is lost or doubled, the history is linearizable."""

import os
import signal
import subprocess
import sys

import pytest

from operators.lab import cluster
from operators.lab.faults import Fault
from operators.locks import actors
from operators.locks.check import linearizable
from operators.locks.errors import LocksError
from operators.locks.region import Region
from tests.locks.regions import small


def test_a_worker_records_and_a_new_one_closes_what_was_open(tmp_path):
    with small(tmp_path) as region:
        log = tmp_path / "calls"
        script = (
            "import sys\nfrom operators.locks.actors import Worker\n"
            "worker = Worker(sys.argv[1], 2, sys.argv[2])\nworker.run([5, 7])\nworker.crash_at(int(sys.argv[3]), 11)\n"
        )
        fates = set()
        for step in (2, 8, 30):
            subprocess.run([sys.executable, "-c", script, str(region.path), str(log), str(step)], check=False)
            worker = actors.Worker(region.path, 2, log)
            worker.validate()
            fates.add(worker.recovered)
            worker.region.close()
        ops = actors.Collector([str(log)]).collect()
        cells = region.cells(2, name=actors.CELLS)
        assert {"done", "not_started"} <= fates
        assert linearizable(ops, "counter").ok
        assert len(ops) == cells[1]
        assert sum(op.args[0] for op in ops) == cells[0]


def test_the_monkey_strikes_only_what_it_was_given():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkey = actors.Monkey([child.pid])
    monkey.validate()
    with pytest.raises(LocksError, match=r"rank \(=1\): expected 0 to 0"):
        monkey.strike("kill", 1)
    assert monkey.strike("stop", 0)
    assert monkey.strike("continue", 0)
    assert monkey.strike("kill", 0)
    assert child.wait() == -signal.SIGKILL
    assert not monkey.strike("kill", 0)
    with pytest.raises(ValueError, match="expected a process this run started"):
        actors.Monkey([os.getpid()]).strike("kill", 0)


def test_ray_workers_come_back(tmp_path, ray_head):
    schedule = (Fault(kind="kill", rank=0, at_step=0), Fault(kind="kill", rank=1, at_step=1))
    with cluster.connect(ray_head) as ray:
        found = actors.record(ray, tmp_path, calls=12, schedule=schedule, procs=2, seed=3)
    assert len(found["events"]) == 2
    assert linearizable(found["ops"], "counter").ok
    assert len(found["ops"]) == found["calls"]
    assert sum(op.args[0] for op in found["ops"]) == found["total"]
    with Region.attach(tmp_path / "region") as region:
        assert region.recover_all().completed == 0
