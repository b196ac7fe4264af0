"""Servers as Ray actors: the same answers, a killed actor, frames over Ray calls, listeners on loopback only."""

import numpy as np
import psutil
import pytest

from operators.batann.actors import Cluster
from operators.batann.engine import native_core
from operators.batann.settings import Fault
from operators.lab import cluster as head
from tests.batann import folders

pytestmark = pytest.mark.skipif(native_core() is None, reason="the native core is not built")


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
