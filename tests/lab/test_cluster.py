"""The Ray head: loopback only, with a token, gone with its run, its own log when it fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from operators.lab import cluster, faults


def descendants(pid):
    return [process for process in psutil.process_iter() if pid in {parent.pid for parent in process.parents()}]


def test_a_run_joins_its_head_and_leaves_it_running(ray_head):
    for _ in range(2):
        with cluster.connect(ray_head) as ray:
            assert ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote()) != os.getpid()


def test_every_listener_is_on_loopback(ray_head):
    family = [psutil.Process(json.loads(ray_head.read_text())["pid"])]
    family += family[0].children(recursive=True)
    listening = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that ended since listens to nobody
            found = process.net_connections()
            listening += [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_the_address_file_is_private(ray_head):
    assert ray_head.stat().st_mode & 0o077 == 0


@pytest.mark.slow  # Ray tries a wrong token for a while before it gives up
def test_a_wrong_token_is_refused(ray_head, tmp_path):
    found = json.loads(ray_head.read_text()) | {"token": "0" * 64}
    (tmp_path / "head.json").write_text(json.dumps(found))
    code = f"from operators.lab import cluster\nwith cluster.connect({str(tmp_path / 'head.json')!r}): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0


def test_a_head_dies_with_a_killed_run(tmp_path):
    address_file = tmp_path / "head.json"
    code = (
        "import signal\nfrom operators.lab import cluster\n"
        f"cluster.start({str(address_file)!r}, cpus=1)\nprint('started', flush=True)\nsignal.pause()"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "started\n"
    found = cluster._wait_for(address_file, 120)
    family = [found["pid"]] + [process.pid for process in psutil.Process(found["pid"]).children(recursive=True)]
    assert len(family) >= 3
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 60
    while any(map(faults.is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in family if faults.is_alive(pid)]


def test_a_head_that_fails_shows_rays_own_log(tmp_path, monkeypatch):
    log = tmp_path / "0" / "session_x" / "logs"
    log.mkdir(parents=True)
    (log / "raylet.err").write_text("first line\nnot enough file descriptors")
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(RuntimeError("timed out")))
    with pytest.raises(cluster.ClusterError) as caught:
        cluster._bring_up(tmp_path, None)
    assert str(caught.value).count("timed out") == cluster.ATTEMPTS
    assert "not enough file descriptors" in str(caught.value)


def test_a_reported_failure_reaches_whoever_waits(tmp_path):
    (tmp_path / "head.json").write_text(json.dumps({"error": "Ray did not start. raylet.err: boom"}))
    with pytest.raises(cluster.ClusterError, match="boom"), cluster.connect(tmp_path / "head.json"):
        pass


def test_waiting_for_a_head_that_is_gone_ends(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "head.json").write_text(json.dumps({"address": "127.0.0.1:1", "token": "", "pid": gone.pid}))
    with (
        pytest.raises(cluster.ClusterError, match="no Ray head"),
        cluster.connect(tmp_path / "head.json", patience_s=0.2),
    ):
        pass


def test_with_ray_address_set_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cluster.start(tmp_path / "head.json") is None
    assert not list(Path(tmp_path).iterdir())
