"""Product quantisation: tables and distances by definition, codes by brute force, determinism, degenerate data."""

import numpy as np
import pytest

from operators.batann.pq import PQ, chunk_offsets, train_pq
from tests.batann.sets import vectors

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def pq() -> PQ:
    return train_pq(vectors(), 27, iters=4)


def test_chunks_are_as_even_as_they_can_be():
    assert chunk_offsets(10, 4).tolist() == [0, 3, 6, 8, 10]
    assert chunk_offsets(128, 32).tolist() == list(range(0, 129, 4))
    for chunks in (0, 11):
        with pytest.raises(ValueError, match=rf"chunks \(={chunks}\): expected 1 to the dimension \(=10\)"):
            chunk_offsets(10, chunks)


def test_tables_codes_and_distances_are_what_they_are_defined_to_be(pq):
    x = vectors(300, stream=1)
    query = x[0].astype(np.float32)
    codes, lut = pq.encode(x), pq.lut(x[0])
    for chunk in range(pq.chunks):
        some = slice(pq.offsets[chunk], pq.offsets[chunk + 1])
        table = ((pq.centroids[:, some].astype(np.float64) - query[some]) ** 2).sum(axis=1)
        np.testing.assert_allclose(lut[chunk], table, rtol=1e-5, atol=1e-3)
        rows = x[:, some].astype(np.float64)
        far = ((rows[:, None] - pq.centroids[None, :, some]) ** 2).sum(axis=2)
        mine = far[np.arange(len(x)), codes[:, chunk]]
        np.testing.assert_allclose(mine, far.min(axis=1), rtol=1e-5, atol=1e-3)
    decoded = ((pq.decode(codes).astype(np.float64) - query) ** 2).sum(axis=1)
    np.testing.assert_allclose(pq.distances(query, codes), decoded, rtol=1e-4)


def test_the_codebook_is_good_for_what_it_was_trained_on(pq):
    """Each iteration lowers the error; more bytes lower it further."""
    x = vectors()

    def error(made: PQ) -> float:
        return float(((made.decode(made.encode(x)) - x) ** 2).sum(axis=1).mean())

    assert error(pq) < error(train_pq(x, 27, iters=1))
    assert error(train_pq(x, 64, iters=4)) < error(pq) < error(train_pq(x, 8, iters=4))
    assert error(pq) < 0.2 * float(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())


def test_threads_do_not_change_the_codebook_and_seeds_do(pq):
    two = train_pq(vectors(), 27, iters=4, threads=2)
    np.testing.assert_array_equal(pq.centroids, two.centroids)
    assert not np.array_equal(pq.centroids, train_pq(vectors(), 27, iters=4, seed=1).centroids)
    np.testing.assert_array_equal(pq.encode(vectors(), threads=1), pq.encode(vectors(), threads=2))


def test_few_different_vectors_are_coded_exactly():
    x = RNG.integers(0, 2, (500, 4)).astype(np.float32)
    made = train_pq(x, 2)
    np.testing.assert_allclose(made.decode(made.encode(x)), x, atol=2e-3)  # split clusters sit a thousandth beside
    one = train_pq(x[:1], 4)
    np.testing.assert_allclose(one.decode(one.encode(x[:1])), x[:1], atol=2e-3)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"bits": 4}, r"bits \(=4\)"), ({"sample": 0}, r"sample \(=0\)"), ({"iters": 0}, r"iters \(=0\)"),
     ({"chunks": 129}, r"chunks \(=129\)")],
)  # fmt: skip
def test_bad_input_is_named(change, text):
    with pytest.raises(ValueError, match=text):
        train_pq(vectors(), **change)


def test_vectors_of_another_width_are_refused(pq):
    with pytest.raises(ValueError, match="64 dimensions; expected the codebook's 128"):
        pq.encode(vectors()[:, :64])
    with pytest.raises(ValueError, match="64 dimensions"):
        pq.lut(vectors()[0, :64])
