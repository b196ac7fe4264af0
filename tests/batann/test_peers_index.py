"""The index half beside its peers: differences that decide (slow), and the bars that only print (perf).

Without a peers' environment the tests are skipped, visibly; rows then say `not measured`, which is tested by default.
"""

import numpy as np
import pytest

from operators.batann import bench_index, rivals, sift
from operators.batann.memory_search import MemoryIndex
from operators.batann.pq import train_pq
from operators.batann.rivals import row
from operators.batann.settings import Settings
from operators.batann.truth import recall
from operators.batann.vamana import build_vamana
from operators.lab import datasets
from operators.lab.peers import Peer, PeerError
from tests.conftest import REPOSITORY

TINY = Settings(profile="ci", n=1500, pq_chunks=16)


def root():
    found = datasets.find_root(base=REPOSITORY)
    return found if datasets.present(sift.SET, found) else None


@pytest.fixture(scope="module")
def some():
    return sift.load(5000, 4000, root=root())  # enough for a standard error of a thousandth


@pytest.fixture
def ask(some, tmp_path):
    """Start a peer on the files of `some`; skip where its environment is missing."""
    files = bench_index._files(tmp_path, some)
    started = []

    def start(script: str, environment: str) -> Peer:
        try:
            started.append(rivals.peer(bench_index.HERE / script, *files, environment=environment))
        except PeerError as error:
            pytest.skip(str(error))
        return started[-1]

    yield start
    for peer in started:
        peer.__exit__()


def test_missing_peers_give_rows_that_say_so(monkeypatch, tmp_path):
    for variable in ("PG_PEERS_BATANN_PYTHON", "PG_PEERS_BATANN_DISKANN_PYTHON"):
        monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    monkeypatch.setitem(bench_index.SIZES, "ci", 1500)
    monkeypatch.setitem(bench_index.QUERIES, "ci", 50)
    rows = bench_index.rows(TINY)
    assert all(list(found) == list(rivals.schema()) for found in rows)
    outside = [found for found in rows if found["peer"] not in ("kmeans", "random")]
    assert {found["status"] for found in outside} == {"not measured"}
    assert all("no peers' interpreter" in found["reason"] for found in outside)
    inside = [found for found in rows if found["peer"] in ("kmeans", "random")]
    assert {found["status"] for found in inside} == {"measured"}


def test_above_one_means_ours_is_better():
    common = {"bench": "x", "case": "x", "ours": "a", "peer": "b", "unit": "u"}
    assert row(**common, ours_samples=[1, 2], peer_samples=[4, 4])["ratio"] == 3
    assert row(**common, ours_samples=[1, 2], peer_samples=[4], higher_is_better=True)["ratio_high"] == 0.5
    assert row(**common)["status"] == "not measured"


@pytest.mark.slow
def test_recall_is_within_half_a_percent_of_diskann_at_equal_beams(some, ask):
    peer = ask("peer_diskann.py", "diskann")
    peer.ask(op="build_memory", R=64, L=128, alpha=1.2)
    index = MemoryIndex(some.base, build_vamana(some.base))
    for beam in (10, 20, 40, 80):
        mine = recall(index.search(some.queries, 10, beam).ids, some.truth_ids)
        assert mine >= peer.ask(op="search_memory", L=beam)["recall"] - 0.005, beam


@pytest.mark.slow
def test_the_codes_error_is_within_two_percent_of_faiss(some, ask):
    theirs = ask("peer_others.py", "main").ask(op="faiss_pq", chunks=32)["error"]
    made = train_pq(some.base)
    mine = float(((made.decode(made.encode(some.base)) - some.base) ** 2).sum(axis=1).mean())
    assert mine <= 1.02 * theirs


@pytest.mark.slow
@pytest.mark.parametrize("parts", [3, 10])
def test_our_cut_is_within_fifteen_percent_of_kaminpar_and_metis(some, ask, tmp_path, parts):
    from operators.batann import graph_partition as graphs
    from operators.batann.knn import knn_graph

    starts, ends = graphs.symmetrised(knn_graph(some.base))
    np.savez(tmp_path / "graph.npz", starts=starts, ends=ends)
    mine = graphs.cut(starts, ends, graphs.own(starts, ends, parts, 0.05, 0)) / (len(ends) / 2)
    peer = ask("peer_others.py", "main")
    for method in ("kaminpar", "metis"):
        message = {"graph": str(tmp_path / "graph.npz"), "parts": parts, "eps": 0.05, "seed": 0}
        theirs = peer.ask(op="cut", method=method, **message)
        assert mine <= 1.15 * theirs["cut"], method


@pytest.mark.perf
def test_print_the_bars_of_the_index_half():
    for found in bench_index.rows(Settings(profile="laptop"), root()):
        value = "not measured" if found["ratio"] is None else f"{found['ratio']:.2f} (bar {found['bar']:.2f})"
        print(f"{found['bench']:6} {found['case']:45} {found['peer']:22} {value} {found['reason']}")
