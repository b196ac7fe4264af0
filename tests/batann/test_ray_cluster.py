"""Servers as Ray actors: the same answers, a killed actor, frames over Ray calls, listeners on loopback only."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from operators.batann import bench, bench_transport
from operators.batann.actors import Cluster
from operators.batann.engine import native_core
from operators.batann.settings import Fault, Settings
from operators.lab import claims
from operators.lab import cluster as head
from tests.batann import folders

pytestmark = pytest.mark.skipif(native_core() is None, reason="the native core is not built")


def test_sockets_and_ray_calls_carry_as_many_states_a_message_and_the_bar_is_judged_at_one(ray_head, monkeypatch):
    asked = []
    monkeypatch.setattr(bench_transport.Pair, "rate", lambda _, state, count, batch: asked.append(batch) or 40.0)
    monkeypatch.setattr(bench_transport, "ray_rate", lambda ray, state, count, batch: asked.append(batch) or 2.0)
    rows = bench._transport(Settings(profile="ci", batch=8), ray_head)[1:]
    assert asked == [1] * 4 + [8] * 4
    assert [(row["case"], row["bar"]) for row in rows] == [
        ("hand-offs a second, batch 1", 10.0),
        ("hand-offs a second, batch 8", None),
    ]
    book = claims.load(Path(__file__).parents[2] / "workflows/batann/claims.yaml").claims
    judged = {claim.id: claim.conditions["case"] for claim in book if claim.id in ("batann-b11-ray", "batann-b10-rate")}
    assert judged == {"batann-b11-ray": rows[0]["case"], "batann-b10-rate": rows[1]["case"]}


@pytest.fixture(scope="module")
def ray(ray_head):
    with head.connect(ray_head) as joined:
        yield joined


@pytest.fixture(scope="module")
def alone():
    with Cluster.start(folders.index(1), 1, launch="process") as cluster:
        return cluster.search(folders.queries(), 10, 30, 1, timeout_s=30)


def test_actors_answer_as_one_server_and_survive_a_kill(ray, alone):
    queries = np.tile(folders.queries(), (3, 1))
    with Cluster.start(folders.index(3), 3, ray=ray, replicas=2) as cluster:
        for pid in cluster.pids:
            listening = [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
            assert {connection.laddr.ip.removeprefix("::ffff:") for connection in listening} == {"127.0.0.1"}
        result = cluster.search(folders.queries(), 10, 30, 1, timeout_s=30)
        assert result.ids.tolist() == alone.ids.tolist()
        assert result.stats["hops"].to_list() == alone.stats["hops"].to_list()
        fault = Fault(kind="kill", server=2, at_query=100)
        after = cluster.search(queries, 10, 30, 1, schedule=[fault], timeout_s=3.0)
        assert after.ids.tolist() == alone.ids.tolist() * 3
        assert set(after.stats["status"]) == {"ok"}
        pids = cluster.pids
    for pid in pids:
        try:
            psutil.Process(pid).wait(30)
        except psutil.NoSuchProcess:
            continue


def test_frames_may_go_by_ray(ray, alone):
    with Cluster.start(folders.index(3), 3, transport="ray", ray=ray) as cluster:
        result = cluster.search(folders.queries(30), 10, 30, 1, timeout_s=60)
    assert result.ids.tolist() == alone.ids[:30].tolist()
    assert result.stats["handoffs"].sum() > 0


def test_a_ray_call_carries_its_batch_there_and_back(ray):
    state = bench_transport.state_of(600)
    assert bench_transport.ray_rate(ray, state, 24, 8) > 0
