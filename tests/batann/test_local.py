"""One graph over any number of servers: at W = 1 nothing but the servers' names may differ."""

import numpy as np
import pytest

from operators.batann.engine import native_core
from operators.batann.layout import open_index
from operators.batann.local import LocalCluster
from operators.batann.partitioner import partition
from operators.batann.sharded import ShardedSearch, merged
from operators.batann.truth import exact_neighbours, recall
from tests.batann import folders
from tests.batann.sets import vectors

NAMES = ("hops", "reads", "pq_dists", "exact_dists")
MODES = ("baton", "rpc", "baton_client_gather")


def facts(result):
    return result.ids.tolist(), result.dists.tolist(), [[a.counters[n] for n in NAMES] for a in result.answers]


def parts(method: str, S: int) -> np.ndarray | None:
    if S == 1:
        return None
    if method == "shuffled":
        return np.random.default_rng(1).permutation(partition(vectors(2000), S, method="random"))
    return partition(vectors(2000), S, method=method)


@pytest.fixture(scope="module")
def alone():
    return facts(LocalCluster(open_index(folders.index(1))).search(folders.queries(), 10, 30, 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("S", [1, 2, 5, 10])
@pytest.mark.parametrize("method", ["gp", "kmeans", "random", "shuffled"])
def test_at_w_1_answers_and_work_are_those_of_one_server(alone, mode, S, method):
    if native_core() is None:
        pytest.skip("the native core is not built: remote reads and gp need it")
    cluster = LocalCluster(open_index(folders.index(1)), part_of=parts(method, S))
    found = cluster.search(folders.queries(), 10, 30, 1, mode=mode)
    assert facts(found) == alone
    reads = sum(counters["reads"] for counters in cluster.counters())
    assert reads == sum(answer.counters["exact_dists"] for answer in found.answers)  # every read is an explored node
    for counters in cluster.counters():  # a state is alive once: what came has ended or left
        assert counters["submitted"] == counters["finished"] + counters["left"]


def test_the_python_engine_takes_the_same_steps(alone):
    cluster = LocalCluster(open_index(folders.index(3)), native=False)
    found = cluster.search(folders.queries(), 10, 30, 1)
    assert facts(found) == alone
    assert found.handoffs > 0
    wide = cluster.search(folders.queries(20), 10, 30, 4)
    if native_core() is not None:
        other = LocalCluster(open_index(folders.index(3))).search(folders.queries(20), 10, 30, 4)
        assert facts(other) == facts(wide)
        assert [a.history for a in other.answers] == [a.history for a in wide.answers]


def test_replicas_change_nothing_at_w_1(alone):
    cluster = LocalCluster(open_index(folders.index(3)), [(0, 2), (0, 1), (1, 2)])
    found = cluster.search(folders.queries(), 10, 30, 1)
    assert facts(found) == alone


def test_rpc_takes_the_path_of_one_server_at_any_width():
    if native_core() is None:
        pytest.skip("the native core is not built: remote reads need it")
    one = LocalCluster(open_index(folders.index(1))).search(folders.queries(), 10, 30, 4)
    three = LocalCluster(open_index(folders.index(3))).search(folders.queries(), 10, 30, 4, mode="rpc")
    assert facts(one) == facts(three)


def test_scatter_gather_merges_its_shards():
    queries = folders.queries()
    truth, _ = exact_neighbours(vectors(2000), queries, 10)
    sharded = ShardedSearch(folders.shards())
    ids, means = sharded.search(queries, 10, 30, 4)
    assert recall(ids, truth) >= 0.95
    few, less = sharded.search(queries, 10, 30, 4, topn=1)
    assert recall(few, truth) < recall(ids, truth)
    assert less["reads"] < means["reads"]


def test_merged_takes_the_nearest_and_breaks_ties_by_id():
    ids, dists = merged([np.array([[5, 9]]), np.array([[2, 7]])], [np.array([[1.0, 4.0]]), np.array([[1.0, 2.0]])], 3)
    assert ids.tolist() == [[2, 5, 7]]
    assert dists.tolist() == [[1.0, 1.0, 2.0]]
