"""Real server processes: every mode, budgets, faults by real signals. What cannot be answered fails with a reason."""

import re
import shutil
import socket
import struct

import numpy as np
import pytest

from operators.batann.actors import Cluster, EpochMismatch
from operators.batann.engine import native_core
from operators.batann.layout import IndexCorrupt
from operators.batann.query import explained
from operators.batann.settings import Fault
from operators.batann.transport import PortInUse
from tests.batann import folders

pytestmark = pytest.mark.skipif(native_core() is None, reason="the native core is not built")
SLOWER = ("drop_connection", "restart", "stale_epoch")
ROUNDS = 4  # the queries of a fault run, so that some come after it


def start(servers: int = 3, **options) -> Cluster:
    mode = options.pop("mode", "baton")
    folder = folders.shards() if mode.startswith("scatter") else folders.index(servers)
    return Cluster.start(folder, servers, mode, launch="process", **options)


def facts(result) -> list:
    table = result.stats
    return [
        result.ids.tolist(),
        result.dists.tolist(),
        *(table[name].to_list() for name in ("hops", "reads", "pq_dists")),
    ]


@pytest.fixture(scope="module")
def alone() -> list:
    with start(1) as cluster:
        return facts(cluster.search(folders.queries(), 10, 30, 1))


@pytest.fixture(scope="module")
def three():
    with start() as cluster:
        yield cluster


@pytest.mark.parametrize("mode", ["baton", "rpc", "baton_client_gather"])
def test_three_servers_answer_as_one(alone, three, mode):
    result = three.search(folders.queries(), 10, 30, 1, mode=mode, timeout_s=30)
    assert facts(result) == alone
    assert set(result.stats["status"]) == {"ok"}
    assert result.client["retries"] == 0


@pytest.mark.parametrize("mode", ["baton", "rpc"])
def test_servers_with_several_threads_answer_as_one(alone, mode):
    with start(threads=2) as cluster:
        result = cluster.search(folders.queries(), 10, 30, 1, mode=mode, timeout_s=30)
        assert facts(result) == alone
        assert sum(row["reads"] for row in cluster.stats()) == result.stats["reads"].sum()


def test_a_client_with_the_head_index_saves_hand_offs(alone, three):
    with start(client_head=True) as cluster:
        found = cluster.search(folders.queries(), 10, 30, 1, timeout_s=30)
    assert found.ids.tolist() == alone[0]
    usual = three.search(folders.queries(), 10, 30, 1, timeout_s=30)
    assert found.stats["handoffs"].sum() < usual.stats["handoffs"].sum()


def test_the_traffic_adds_up(three):
    before = {row["server"]: row for row in [*three.stats(), three.client_stats()]}
    result = three.search(folders.queries(), 10, 30, 2, timeout_s=30)
    after = {row["server"]: row for row in [*three.stats(), three.client_stats()]}
    grown = {
        name: sum(row.get(name, 0) - before[who].get(name, 0) for who, row in after.items())
        for name in ("reads", "batons_in", "batons_out", "submitted", "finished", "left", "malformed")
    }
    assert (
        grown["reads"]
        == result.stats["reads"].sum()
        == sum(a.counters["exact_dists"] for o in result.outcomes for a in o.answers)
    )
    assert grown["batons_in"] == grown["batons_out"] == grown["left"] == result.stats["handoffs"].sum()
    assert grown["submitted"] == grown["finished"] + grown["left"]
    assert grown["finished"] == len(folders.queries())
    assert grown["malformed"] == 0


def test_nothing_is_kept_of_queries_that_are_done(three):
    for _ in range(3):
        three.search(folders.queries(), 10, 20, 2, timeout_s=30)
    held = [row["vectors_held"] for row in three.stats()]
    for _ in range(200):  # ACKs are on their way
        if not any(held):
            break
        held = [row["vectors_held"] for row in three.stats()]
    assert held == [0, 0, 0]


def test_scatter_modes_answer(alone):
    with start(mode="scatter") as cluster:
        result = cluster.search(folders.queries(), 10, 30, 4, timeout_s=30)
        assert (result.ids == np.array(alone[0])).mean() > 0.9
    with start(mode="scatter_topn") as cluster:
        fewer = cluster.search(folders.queries(), 10, 30, 4, topn=1, timeout_s=30)
        assert fewer.stats["reads"].sum() < result.stats["reads"].sum()


def test_explain_names_servers_nodes_and_times(alone, three):
    outcome = three.explain(folders.queries()[0], 10, 30, 1)
    assert outcome.ids == alone[0][0]
    visits = [visit for visit, _, _, _ in outcome.trace]
    assert visits == sorted(visits)
    servers = dict.fromkeys((visit, server) for visit, server, _, _ in outcome.trace)
    assert len(outcome.trace) == alone[2][0] == outcome.answers[0].counters["hops"]
    assert {server for _, server in servers} <= set(outcome.answers[0].history)


def test_explain_shows_every_visit_also_those_that_explored_nothing(three):
    outcomes = [three.explain(query, 10, 30, 1) for query in folders.queries(20)]
    for outcome in outcomes:
        head, *lines = explained(4, outcome)
        history = outcome.answers[0].history
        shown = [re.match(r"  visit (\d+): server (\d+): ", line) for line in lines[:-1]]
        assert [(int(found[1]), int(found[2])) for found in shown] == list(enumerate(history))
        assert (
            f" ms, {len(history)} visit{'s' if len(history) > 1 else ''}, {len(outcome.trace)} nodes explored" in head
        )
    empty = [len({step[0] for step in found.trace}) < len(found.answers[0].history) for found in outcomes]
    assert any(empty)  # a query that begins on a server that owns none of its head's nodes
    idle = next(outcome for outcome, some in zip(outcomes, empty, strict=True) if some)
    assert any("no node explored" in line for line in explained(4, idle))


@pytest.mark.parametrize(
    ("budget", "reason"),
    [({"max_hops": 4}, "hops"), ({"max_handoffs": 0}, "handoffs"), ({"deadline_ms": 0.001}, "deadline")],
)
def test_a_budget_that_runs_out_gives_a_marked_result(three, budget, reason):
    result = three.search(folders.queries(), 10, 30, 1, **budget)
    table = result.stats
    assert set(table["status"]) <= {"ok", "partial"}
    assert reason in set(table["reason"])
    assert set(table["reason"]) <= {"", reason}
    if reason == "hops":
        assert table["hops"].max() == 4


def test_an_open_loop_answers_too(three):
    result = three.search(folders.queries(40), 10, 20, 2, rate=400.0, timeout_s=30)
    assert set(result.stats["status"]) == {"ok"}


@pytest.mark.parametrize("kind", ["kill", "stop", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOWER)])
def test_with_replicas_every_query_has_its_undisturbed_answer(alone, kind):
    queries = np.tile(folders.queries(), (ROUNDS, 1))
    fault = Fault(kind=kind, server=1, at_query=len(queries) // 3)
    with start(replicas=2) as cluster:
        result = cluster.search(queries, 10, 30, 1, schedule=[fault], timeout_s=3.0)
        again = cluster.search(folders.queries(), 10, 30, 1, timeout_s=3.0)
    assert result.ids.tolist() == alone[0] * ROUNDS
    assert again.ids.tolist() == alone[0]
    assert set(result.stats["status"]) == {"ok"}


def test_without_replicas_what_cannot_be_answered_fails_with_a_reason(alone):
    queries = np.tile(folders.queries(), (ROUNDS, 1))
    with start() as cluster:
        fault = Fault(kind="kill", server=1, at_query=len(queries) // 3)
        result = cluster.search(queries, 10, 30, 1, schedule=[fault], timeout_s=3.0)
        table = result.stats
        assert set(table["status"]) == {"ok", "failed"}
        assert set(table.filter(table["status"] == "failed")["reason"]) <= {"partition_down", "deadline", "no_vector"}
        for row, outcome in enumerate(result.outcomes):
            assert outcome.status == "failed" or outcome.ids == alone[0][row % len(alone[0])]
        cluster.restart(1)
        cluster.join_restarts()
        back = cluster.search(folders.queries(), 10, 30, 1, timeout_s=30)
        assert facts(back) == alone


def test_garbage_on_a_port_disturbs_nobody(alone, three):
    for address in three.addresses:
        for garbage in (b"\xff" * 4096, struct.pack("<IHH", 50, 1, 0) + b"half", b""):
            with socket.create_connection(address, timeout=20) as intruder:
                intruder.sendall(garbage)
    result = three.search(folders.queries(), 10, 30, 1, timeout_s=30)
    assert facts(result) == alone
    assert sum(row["malformed"] for row in three.stats()) >= 3


def test_listeners_are_on_loopback(three):
    assert {host for host, _ in three.addresses} == {"127.0.0.1"}


def test_start_refuses_what_cannot_be_served(tmp_path, three):
    with pytest.raises(ValueError, match="servers"):
        Cluster.start(folders.index(3), 4, launch="process")
    with pytest.raises(ValueError, match="replicas"):
        Cluster.start(folders.index(3), 3, replicas=4, launch="process")
    with pytest.raises(ValueError, match="mode"):
        Cluster.start(folders.index(3), 3, "fan", launch="process")
    with pytest.raises(IndexCorrupt, match=r"meta\.json"):
        Cluster.start(tmp_path, 1, launch="process")
    shutil.copytree(folders.index(3), tmp_path / "cut")
    with open(tmp_path / "cut" / "part-01.index", "r+b") as stream:
        stream.truncate(4096)
    with pytest.raises(IndexCorrupt, match=r"part-01\.index"):
        Cluster.start(tmp_path / "cut", 3, launch="process")
    taken = three.addresses[0][1]
    with pytest.raises(OSError, match=str(taken)) as caught:
        Cluster.start(folders.index(1), 1, launch="process", ports=[taken])
    assert isinstance(caught.value, PortInUse | OSError)


def test_queries_of_another_kind_are_refused(three):
    for wrong, word in ((np.zeros((2, 5), np.uint8), "5"), (np.zeros((2, 128), np.float64), "float64")):
        with pytest.raises(ValueError, match=word):
            three.search(wrong)
    with pytest.raises(ValueError, match="mode"):
        three.search(folders.queries(), mode="scatter")


def test_servers_of_different_indexes_do_not_start_together():
    with pytest.raises(EpochMismatch, match="epochs"), start() as cluster:
        cluster._members[1].peer = cluster._members[1].peer.__class__(1, 1, (1,), 5)
        cluster.check_epochs()
