"""The run lock: one holder, released with its process."""

import subprocess
import sys

import pytest

from operators.lab import runlock


def test_one_holder_at_a_time_and_no_stale_lock(tmp_path):
    path = tmp_path / "results" / ".lock"
    code = (
        "import signal, sys\nfrom operators.lab import runlock\n"
        f"held = runlock.acquire({str(path)!r})\nprint('held', flush=True)\nsignal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(runlock.RunLockError, match=f"pid {holder.pid}"):
        runlock.acquire(path)
    holder.kill()
    holder.wait()
    runlock.acquire(path).close()
    runlock.acquire(path).close()
