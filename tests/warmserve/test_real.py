"""The real run: processes killed in every state, the manager killed, stopped and lying workers; nothing stays."""

import os
import socket
from pathlib import Path

import pytest

from operators.lab import cluster, faults
from operators.warmserve import pool as module
from operators.warmserve import run, scenarios, weightfiles
from operators.warmserve.catalogue import BLOCK_BYTES
from operators.warmserve.frontend import FrontEnd, http, post
from operators.warmserve.settings import Failure
from tests.warmserve.replayed import Replay
from tests.warmserve.traces import settings

pytestmark = pytest.mark.skipif(module._native is None, reason="the native core is not built")


@pytest.fixture
def play(ray_head, tmp_path):
    small = settings(workers=2, real_blocks=32, real_weight_blocks=16)
    manifest = weightfiles.write(tmp_path, {"one": 1, "two": 1, "wide": 2}, 8, BLOCK_BYTES, seed=1)
    with cluster.connect(ray_head) as ray:
        front = FrontEnd(ray, small, manifest, BLOCK_BYTES)
        with http(front) as port:
            yield scenarios.Stage(front, port, manifest)
        tables = front.close()
        assert run._left_behind(front)[0]
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        tables["cluster"].ledger.validate()


def outcomes(play) -> list[str]:
    """Outcomes in the manager's ledger so far, by its own tables."""
    return [event[1] for event in play.front.ask("events")]


def test_a_worker_killed_in_the_middle_of_a_load_and_the_rest_of_the_service(play):
    assert play.stream(9, seed=0) == 9
    found = play.fault(Failure(state="loading"))
    assert found.ok, found.reason
    assert "crash" in outcomes(play)
    assert "crashed" in play.front.ask("outcomes")
    status, body = post(play.port, "nobody", 5, 2)
    assert status in (400, 500), body
    assert post(play.port, "one", 5, 10**9)[0] == 400
    assert post(play.port, "one", -1, 2)[0] == 400


def test_real_workers_and_the_pure_policy_decide_alike(play):
    assert [play.stream(6, seed=seed) for seed in (3, 4)] == [6, 6]
    play.start("loading", 9)
    play.clear()
    recorded = play.front.ask("events")
    kinds = {event[1] for event in recorded}
    assert {"plan", "load_start", "load_end", "promote", "evict", "stop", "end"} <= kinds
    pairs = Replay(play.front.settings, BLOCK_BYTES, scenarios.FORECAST).against(recorded)
    assert len(pairs) == len(recorded) > 30
    for real, pure in pairs:
        assert real == pure


@pytest.mark.slow
@pytest.mark.parametrize("state", ["idle", "universal", "promoting", "dedicated", "draining"])
def test_a_worker_killed_in_any_state(play, state):
    found = play.fault(Failure(state=state))
    assert found.ok, found.reason
    assert not faults.is_alive(play.front.past_pids[0])


@pytest.mark.slow
def test_the_manager_is_killed_while_requests_run(play):
    found = play.fault(Failure(target="manager", state="dedicated"))
    assert found.ok, found.reason
    assert found.restarts == 0  # the workers went on serving


@pytest.mark.slow
@pytest.mark.parametrize("action", ["stop", "slow", "lie"])
def test_a_worker_stops_slows_or_lies(play, action):
    found = play.fault(Failure(state="loading", action=action, seconds=3.0 if action == "stop" else 1.0))
    assert found.ok, found.reason


@pytest.mark.slow
def test_the_whole_stage_leaves_no_process_and_no_segment(ray_head, tmp_path):
    before = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    made = settings(real_blocks=32, real_weight_blocks=16, real_starts=1, real_requests=6, faults=[])
    run.main(settings=made, out_folder=tmp_path, address=ray_head)
    after = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    assert not [name for name in after - before if "warmserve" in name]
    assert (tmp_path / "starts.parquet").is_file()
