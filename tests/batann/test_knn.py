"""Neighbour sketches: how much they find, order, duplicates, threads."""

import numpy as np
import pytest

from operators.batann.knn import knn_graph, merge
from operators.batann.truth import exact_neighbours
from tests.batann.sets import vectors


def test_most_neighbours_are_found_nearest_first():
    x = vectors(4000)
    found = knn_graph(x, 10)
    ids, dists = exact_neighbours(x, x, 10, skip_self=True)
    assert (found[:, :, None] == ids[:, None]).any(axis=2).mean() > 0.9
    assert not (found == np.arange(len(x))[:, None]).any()
    mine = ((x[found].astype(int) - x[:, None]) ** 2).sum(axis=2)
    assert (np.diff(mine, axis=1) >= 0).all()
    assert (mine >= dists).all()
    assert all(len(set(row)) == 10 for row in found.tolist())


def test_threads_do_not_change_it_and_seeds_do():
    x = vectors(3000)
    one = knn_graph(x, 6, threads=1)
    np.testing.assert_array_equal(one, knn_graph(x, 6, threads=3))
    assert not np.array_equal(one, knn_graph(x, 6, seed=1))


def test_duplicates_end_and_small_sets_are_exact(monkeypatch):
    x = np.repeat(vectors(2), 700, axis=0)
    monkeypatch.setattr("operators.batann.knn.BUCKET", 100)  # far more equal points than a bucket holds
    found = knn_graph(x, 3)
    assert ((x[found] == x[:, None]).all(axis=2)).mean() > 0.9
    small = knn_graph(vectors(40), 5)
    np.testing.assert_array_equal(small, exact_neighbours(vectors(40), vectors(40), 5, skip_self=True)[0])
    assert (knn_graph(vectors(3), 5)[:, 2:] == -1).all()
    assert (knn_graph(vectors(1), 5) == -1).all()


def test_merging_keeps_the_smallest_different_keys():
    left = np.array([[1, 5, 9]], np.uint64)
    right = np.array([[1, 4, 2**64 - 1]], np.uint64)
    assert merge(left, right).tolist() == [[1, 4, 5]]


@pytest.mark.parametrize("change", [{"k": 0}, {"repetitions": 0}, {"fanout": 0}])
def test_bad_input_is_named(change):
    name = next(iter(change))
    with pytest.raises(ValueError, match=rf"{name} \(=0\)"):
        knn_graph(vectors(20), **change)
