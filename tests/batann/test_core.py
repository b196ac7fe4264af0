"""The native core and its stand-in give the same bits; AVX2 and scalar distances too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.batann.core import core
from operators.batann.head import build_head
from operators.batann.knn import knn_graph
from operators.batann.memory_search import MemoryIndex
from operators.batann.pq import train_pq
from operators.batann.vamana import build_vamana
from tests.batann.sets import vectors

native = pytest.mark.skipif(core() is core("numba"), reason="the native core is not built here")


def everything(x: np.ndarray, implementation: str) -> dict[str, np.ndarray]:
    """What each function of the core computes for `x`."""
    use = {"implementation": implementation}
    graph = build_vamana(x, R=16, L=24, threads=1, **use)
    found = MemoryIndex(x, graph, **use).search(x[:40], 5, 12)
    pq = train_pq(x, 27, iters=3, **use)
    codes = pq.encode(x, **use)
    return {
        "adj": graph.adj,
        "deg": graph.deg,
        "ids": found.ids,
        "dists": found.dists,
        "hops": found.hops,
        "counted": found.distances,
        "knn": knn_graph(x, 5, repetitions=2, **use),
        "centroids": pq.centroids,
        "codes": codes,
        "lut": pq.lut(x[3], **use),
        "pq": pq.distances(x[3], codes, **use),
        "head": build_head(x, 0.05, 8, 16, **use).graph.adj,
    }


def typed(kind: str) -> np.ndarray:
    x = vectors(700)[:, :100]
    return {
        "uint8": x,
        "int8": (x.astype(np.int16) - 60).clip(-128, 127).astype(np.int8),
        "float32": x / np.float32(7),
    }[kind]


@native
@pytest.mark.parametrize(
    "kind", ["uint8", pytest.param("int8", marks=pytest.mark.slow), pytest.param("float32", marks=pytest.mark.slow)]
)
def test_native_and_stand_in_agree_bit_for_bit(kind):
    x = np.ascontiguousarray(typed(kind))
    mine, theirs = everything(x, "native"), everything(x, "numba")
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@native
@given(st.integers(1, 200), st.sampled_from(["uint8", "int8", "float32"]), st.integers(0, 2**32))
def test_vector_and_scalar_distances_are_the_same_bits(d, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "float32":
        a, b = rng.standard_normal((2, 3, d)).astype(np.float32)
    else:
        info = np.iinfo(kind)
        a, b = rng.integers(info.min, info.max + 1, (2, 3, d), kind)
    found, plain = np.empty(3, np.float32), np.empty(3, np.float32)
    core("native").distances(a, b, False, found)
    core("native").distances(a, b, True, plain)
    np.testing.assert_array_equal(found, plain)
    exact = ((a.astype(np.float64) - b) ** 2).sum(axis=1)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    if kind != "float32":
        np.testing.assert_array_equal(found, exact.astype(np.float32))


@native
def test_the_core_names_what_is_wrong_with_its_arguments():
    x = vectors(50)
    adj, deg = np.full((50, 4), 77, np.uint32), np.ones(50, np.uint16)
    with pytest.raises(ValueError, match=r"adj\[0\]: id 77 is no node"):
        core("native").Searcher(x, adj, deg)
    with pytest.raises(ValueError, match=r"deg\[0\]: more than the columns"):
        core("native").Searcher(x, adj, np.full(50, 9, np.uint16))
    with pytest.raises(ValueError, match="x: expected uint8, int8 or float32"):
        core("native").Searcher(x.astype(np.int32), adj, deg)
    with pytest.raises(ValueError, match="ends: no such node"):
        core("native").multilevel(np.array([0, 1]), np.array([5], np.int32), 2, 0.1, 0, 1, np.empty(1, np.int32))


def test_unknown_implementations_are_refused():
    with pytest.raises(ValueError, match="expected 'native' or 'numba'"):
        core("rust")
