"""Exact neighbours against the plainest computation, recall, statistics; the twin against what is known of the set."""

import sys

import numpy as np
import pytest

from operators.batann import sift
from operators.batann.memory_search import MemoryIndex
from operators.batann.truth import exact_neighbours, local_dimension, recall, statistics
from operators.batann.vamana import build_vamana
from operators.batann.vectors import read_vectors
from operators.lab import datasets
from tests.batann.sets import vectors

RNG = np.random.default_rng(1)


def plainly(x, queries, k):
    dists = ((x[None].astype(np.float64) - queries[:, None]) ** 2).sum(axis=2)
    order = np.lexsort((np.broadcast_to(np.arange(len(x)), dists.shape), dists), axis=1)[:, :k]
    return order, np.take_along_axis(dists, order, axis=1)


@pytest.mark.parametrize(
    "x",
    [
        RNG.integers(0, 4, (900, 5), np.uint8),  # many ties
        RNG.integers(-128, 128, (900, 33), np.int8),
        RNG.standard_normal((900, 20)).astype(np.float32),
    ],
    ids=["uint8", "int8", "float32"],
)
def test_exact_neighbours_are_exact_with_ties_by_id(x, monkeypatch):
    monkeypatch.setattr("operators.batann.truth.COLUMNS", 256)  # several blocks
    monkeypatch.setattr("operators.batann.truth.ROWS", 16)
    ids, dists = exact_neighbours(x, x[:40], 10)
    want_ids, want = plainly(x, x[:40], 10)
    np.testing.assert_allclose(dists, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ids, want_ids)
    mine, _ = exact_neighbours(x, x[:40], 10, skip_self=True)
    assert not (mine == np.arange(40)[:, None]).any()


def test_fewer_vectors_than_k_are_padded():
    ids, dists = exact_neighbours(vectors(3), vectors(2, stream=1), 5)
    assert (ids[:, 3:] == 2**32 - 1).all()
    assert np.isinf(dists[:, 3:]).all()
    assert sorted(ids[0, :3]) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"k \(=0\)"):
        exact_neighbours(vectors(3), vectors(2, stream=1), 0)


def test_recall_counts_true_neighbours_once():
    truth = np.array([[1, 2], [3, 4]], np.uint32)
    assert recall(np.array([[2, 1, 9], [4, 7, 7]]), truth) == 0.75
    assert recall(np.array([[2**32 - 1] * 2] * 2), np.array([[5, 2**32 - 1], [6, 2**32 - 1]])) == 0
    with pytest.raises(ValueError, match="1 queries; expected the truth's 2"):
        recall(truth[:1], truth)


@pytest.mark.parametrize("d", [2, 6])
def test_local_dimension_is_that_of_a_uniform_cube(d):
    x = RNG.random((4000, d), np.float32)
    _, dists = exact_neighbours(x, x[:300], 21)
    assert local_dimension(dists[:, 1:]) == pytest.approx(d, rel=0.15)
    with pytest.raises(ValueError, match="not defined"):
        local_dimension(np.zeros((3, 4), np.float32))


def test_the_twin_has_the_statistics_the_set_is_known_for():
    """Bounds of spec section 4; figures of the real set at 10,000: see the comparison below."""
    found = statistics(vectors(10_000))
    assert found["norm"] == pytest.approx(512, abs=3)
    assert 0.13 < found["zeros"] < 0.21
    assert 15 < found["lid_20"] < 25
    assert 470 < found["random_pair"] < 590
    assert not np.array_equal(vectors(500), vectors(500, seed=1))
    assert not np.array_equal(vectors(500), vectors(500, stream=1))


def test_the_twin_is_like_the_real_set(real_data):
    if not datasets.present(sift.SET, real_data):
        pytest.skip("no sift-bsds in the data folder")
    real = sift.load(10_000, 10, root=real_data)
    assert real.mark == "real"
    mine, theirs = statistics(vectors(10_000)), statistics(real.base)
    assert mine["zeros"] == pytest.approx(theirs["zeros"], abs=0.03)
    for name, within in {"lid_20": 0.15, "lid_100": 0.15, "nn_1": 0.1, "nn_10": 0.1, "random_pair": 0.1}.items():
        assert mine[name] == pytest.approx(theirs[name], rel=within), name
    ids, dists = exact_neighbours(real.base, real.queries, 10)
    np.testing.assert_array_equal(ids, real.truth_ids)
    np.testing.assert_array_equal(dists, real.truth_dists)


def test_sizes_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"n \(=0\), queries \(=1\)"):
        sift.load(0, 1)
    with pytest.raises(ValueError, match="gives 0 vectors beyond the first 5; expected at least 3 more"):
        sift.more_than_base(vectors(5), tmp_path, 3)


@pytest.mark.slow
def test_the_twin_is_as_hard_to_search_as_the_real_set(real_data):
    """Recall within .02 at equal beams (spec 4), on the ci tier."""
    if not datasets.present(sift.SET, real_data):
        pytest.skip("no sift-bsds in the data folder")
    found = {}
    for root in (real_data, None):
        data = sift.load(10_000, 2000, root=root)
        index = MemoryIndex(data.base, build_vamana(data.base))
        found[data.mark] = [recall(index.search(data.queries, 10, beam).ids, data.truth_ids) for beam in (10, 20, 40)]
    np.testing.assert_allclose(found["real"], found["synthetic"], atol=0.02)


def test_the_images_give_the_sets_descriptors(real_data):
    """Four images against the counts the set was made with, and the share of their descriptors in the base."""
    if not datasets.present(sift.SET, real_data):
        pytest.skip("no sift-bsds in the data folder")
    pytest.importorskip("cv2", reason="needs opencv-python-headless==4.11.0.86", exc_type=ImportError)
    images = sorted((real_data / sift.SET / "images").glob("*.jpg"))[:4]
    rows = [sift.sift_extract(path) for path in images]
    assert [len(some) for some in rows] == [2032, 2942, 2948, 1460]
    known = {row.tobytes() for row in read_vectors(real_data / sift.SET / "base_100k.u8bin")}
    share = np.mean([row.tobytes() in known for some in rows for row in some])
    assert share == pytest.approx(0.1, abs=0.02)
    more = sift.load(100_500, 5, root=real_data)
    assert len(more.base) == 100_500
    assert not {row.tobytes() for row in more.base[100_000:]} & known


def test_without_opencv_larger_tiers_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pip install opencv-python-headless==4\.11"):
        sift.more_than_base(vectors(5), tmp_path, 3)
