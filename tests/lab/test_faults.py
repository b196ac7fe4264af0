"""Faults: the schedule hands each out once; signals reach the named process only."""

import os
import subprocess

import psutil
import pytest

from operators.lab.faults import Fault, Schedule, is_alive, strike


def test_each_fault_is_handed_out_once_in_time_order():
    late, early = Fault(kind="kill", rank=1, at_step=5), Fault(kind="stop", rank=0, at_step=2)
    schedule = Schedule((late, early))
    assert schedule.due(1) == []
    assert schedule.due(3) == [early]
    assert schedule.due(9) == [late]
    assert schedule.due(99) == []


@pytest.mark.parametrize("bad", [{"kind": "tickle"}, {"rank": -1}, {"at_step": -1}, {"extra": 1}])
def test_bad_faults_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Fault(**({"kind": "kill", "rank": 0, "at_step": 0} | bad))


def test_stop_continue_and_kill_reach_a_process():
    child = subprocess.Popen(["sleep", "60"])
    try:
        strike("stop", child.pid)
        psutil.wait_procs([], 0)
        while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
            pass
        assert is_alive(child.pid)
        strike("continue", child.pid)
        strike("kill", child.pid)
    finally:
        child.wait(10)
    assert not is_alive(child.pid)


@pytest.mark.parametrize("pid", [0, 1, -1, None], ids=["0", "init", "group", "self"])
def test_nobody_else_is_struck(pid):
    with pytest.raises(ValueError, match="pid"):
        strike("kill", os.getpid() if pid is None else pid)
