"""Beam search in memory: against brute force, its edges, its counters, its errors."""

import numpy as np
import pytest

from operators.batann.memory_search import MemoryIndex, search_memory
from operators.batann.truth import exact_neighbours
from operators.batann.vamana import build_vamana
from tests.batann.sets import graph, vectors


def test_a_beam_as_wide_as_the_set_is_brute_force():
    x, queries = vectors(150), vectors(30, stream=1)
    ids, dists = exact_neighbours(x, queries, 10)
    found = search_memory(x, build_vamana(x, 8, 16), queries, 10, 150)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.dists, dists)
    assert (found.hops == 150).all()
    assert (found.distances == 150).all()


def test_threads_and_starts_change_nothing_they_should_not():
    index = MemoryIndex(vectors(), graph())
    queries = vectors(90, stream=1)
    one, two = index.search(queries, 10, 20, threads=1), index.search(queries, 10, 20, threads=2)
    for name in ("ids", "dists", "hops", "distances"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    same = index.search(queries, 10, 20, starts=np.full((90, 1), graph().medoid))
    np.testing.assert_array_equal(one.ids, same.ids)
    near = index.search(queries, 10, 20, starts=one.ids[:, :5])
    assert near.hops.mean() <= one.hops.mean()
    assert (near.dists[:, 0] <= one.dists[:, 0]).all()


def test_fewer_vectors_than_k_are_padded():
    found = search_memory(vectors(3), build_vamana(vectors(3)), vectors(2, stream=1), 5, 9)
    assert (found.ids[:, 3:] == 2**32 - 1).all()
    assert np.isinf(found.dists[:, 3:]).all()


@pytest.mark.parametrize(
    ("k", "L", "text"), [(0, 5, r"k \(=0\)"), (-1, 5, r"k \(=-1\)"), (6, 5, r"L \(=5\): must be >= k \(=6\)")]
)
def test_bad_beams_are_named(k, L, text):
    with pytest.raises(ValueError, match=text):
        search_memory(vectors(), graph(), vectors(1), k, L)


def test_queries_of_another_kind_are_refused():
    index = MemoryIndex(vectors(), graph())
    with pytest.raises(ValueError, match="64 dimensions; expected the index's 128"):
        index.search(vectors(2)[:, :64])
    with pytest.raises(ValueError, match="float32; expected the index's uint8"):
        index.search(vectors(2).astype(np.float32))
