"""Partitions: balance for any sizes, few edges cut, determinism, degenerate graphs, bad input."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.batann import partition
from operators.batann.core import core
from operators.batann.graph_partition import capacity, cut, own, symmetrised, write_metis
from operators.batann.knn import knn_graph
from tests.batann.sets import vectors

METHODS = ("gp", "kmeans", "random")
gp = pytest.mark.skipif(not hasattr(core(), "multilevel"), reason="the native core is not built here")


def ring_of_cliques(cliques: int, size: int) -> np.ndarray:
    """Each node tied to its whole clique, the first of a clique also to the next clique's first."""
    nodes = np.arange(cliques * size).reshape(cliques, size)
    out = np.stack([np.roll(nodes, step, axis=1) for step in range(1, size)], axis=2).reshape(-1, size - 1)
    bridges = np.full(len(out), -1)
    bridges[nodes[:, 0]] = np.roll(nodes[:, 0], -1)
    return np.column_stack([out, bridges]).astype(np.int32)


@gp
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.integers(1, 40), st.sampled_from([0.0, 0.03, 0.05, 0.5]), st.integers(0, 99))
def test_every_method_balances_any_sizes(n, parts, eps, seed):
    x = vectors(400)[:n]
    knn = knn_graph(x, 4, repetitions=1)
    for method in METHODS:
        found = partition(knn if method == "gp" else x, parts, method, eps, seed)
        assert found.dtype == np.uint8
        assert len(found) == n
        assert np.bincount(found, minlength=parts).max() <= capacity(n, parts, eps)
        assert found.max() < parts


@gp
def test_planted_blocks_are_found():
    knn = ring_of_cliques(30, 12)
    starts, ends = symmetrised(knn)
    found = own(starts, ends, 5, 0.05, seed=0)
    assert cut(starts, ends, found) == 5  # six cliques a block, one bridge between neighbours


@gp
@pytest.mark.parametrize(
    "knn",
    [
        np.full((50, 3), -1, np.int32),  # no edges at all
        np.repeat(np.arange(50, dtype=np.int32)[:, None], 2, axis=1),  # only loops
        np.column_stack([np.r_[0, np.zeros(49, int)]]).astype(np.int32),  # a star
    ],
    ids=["empty", "loops", "star"],
)
def test_degenerate_graphs_are_balanced_too(knn):
    sizes = np.bincount(partition(knn, 4, "gp"), minlength=4)
    assert sizes.max() <= capacity(50, 4, 0.05)


@gp
def test_a_seed_gives_one_partition_and_gp_cuts_least():
    x = vectors(4000)
    knn = knn_graph(x)
    starts, ends = symmetrised(knn)
    cuts = {}
    for method in METHODS:
        found = partition(knn if method != "kmeans" else x, 5, method)
        np.testing.assert_array_equal(found, partition(knn if method != "kmeans" else x, 5, method))
        cuts[method] = cut(starts, ends, found) / (len(ends) / 2)
    assert cuts["gp"] < cuts["kmeans"] < cuts["random"]
    assert cuts["random"] == pytest.approx(0.8, abs=0.02)
    assert not np.array_equal(partition(knn, 5, seed=0), partition(knn, 5, seed=1))
    np.testing.assert_array_equal(partition(x, 5), partition(knn, 5))


def test_a_graph_is_made_symmetric_without_loops_or_doubles(tmp_path):
    starts, ends = symmetrised(np.array([[1, 2], [0, -1], [2, 0], [1, 1]], np.int32))
    lists = [ends[a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert lists == [[1, 2], [0, 3], [0], [1]]
    write_metis(tmp_path / "g", starts, ends)
    assert (tmp_path / "g").read_text() == "4 3\n2 3\n1 4\n1\n2\n"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "spectral"}, "expected one of gp, kmeans, random, kaminpar, metis"),
        ({"parts": 257}, r"parts \(=257\): expected 1 to 256"),
        ({"parts": 0}, r"parts \(=0\)"),
        ({"eps": -0.1}, r"eps \(=-0.1\)"),
        ({"x": np.zeros((9, 2), np.int32), "method": "kmeans"}, "kmeans needs the vectors"),
    ],
)
def test_bad_input_is_named(change, text):
    with pytest.raises(ValueError, match=text):
        partition(**{"x": vectors(30), "parts": 3, **change})


@pytest.mark.parametrize(("method", "package"), [("kaminpar", "kaminpar"), ("metis", "pymetis")])
def test_a_missing_package_is_named(method, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ValueError, match=f"package {package} is not installed"):
        partition(vectors(60), 3, method)


def test_without_the_native_core_gp_says_what_else_there_is(monkeypatch):
    monkeypatch.setattr("operators.batann.graph_partition.core", lambda: object())
    with pytest.raises(ValueError, match="native core is not built; run `make native`, or use kmeans"):
        own(np.zeros(3, np.int64), np.zeros(0, np.int32), 2, 0.05, 0)
