"""Files of vectors: every format there and back, piece by piece, and an error to act on for each way to fail."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.batann import index
from operators.batann.metric import prepare_queries, stored
from operators.batann.settings import Settings
from operators.batann.vectors import (
    MOST_SQUARED_NORM,
    VectorFileError,
    check_queries,
    check_vectors,
    open_vectors,
    read_truth,
    read_vectors,
    write_bin,
    write_truth,
)

RNG = np.random.default_rng(0)
ROWS = {
    "u8bin": RNG.integers(0, 256, (100, 12), np.uint8),
    "i8bin": RNG.integers(-128, 128, (100, 12), np.int8),
    "fbin": RNG.standard_normal((100, 12)).astype(np.float32),
}


def write(path, x: np.ndarray):
    """Write `x` in the format the suffix names, by the plainest means."""
    kind = path.suffix
    if kind == ".npy":
        np.save(path, x)
    elif kind == ".parquet":
        pq.write_table(pa.table({"id": range(len(x)), "vector": [list(row) for row in x.tolist()]}), path)
    elif kind in (".fvecs", ".bvecs"):
        with open(path, "wb") as file:
            for row in x:
                file.write(np.int32(len(row)).tobytes() + row.tobytes())
    else:
        write_bin(path, x)
    return path


def typed_parquet(path, x: np.ndarray):
    column = pa.array(list(x), pa.list_(pa.from_numpy_dtype(x.dtype)))
    pq.write_table(pa.table({"id": range(len(x)), "vector": column}), path, row_group_size=37)
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.u8bin", "u8bin"), ("a.i8bin", "i8bin"), ("a.fbin", "fbin"), ("a.fvecs", "fbin"), ("a.bvecs", "u8bin"),
     ("a.npy", "i8bin"), ("a.parquet", "fbin"), ("a.parquet", "u8bin")],
)  # fmt: skip
def test_every_format_there_and_back_whole_and_in_pieces(tmp_path, name, kind):
    x = ROWS[kind]
    path = typed_parquet(tmp_path / name, x) if name.endswith("parquet") else write(tmp_path / name, x)
    file = open_vectors(path)
    assert (file.n, file.d, file.dtype) == (100, 12, x.dtype)
    np.testing.assert_array_equal(read_vectors(path), x)
    np.testing.assert_array_equal(file.rows(30, 41), x[30:71])
    np.testing.assert_array_equal(np.concatenate(list(file.blocks(33))), x)
    assert file.rows(98, 10).shape == (2, 12)
    with pytest.raises(ValueError, match=r"start \(=101\)"):
        file.rows(101)


@pytest.mark.parametrize("name", ["a.u8bin", "a.fvecs", "a.npy", "a.parquet"])
def test_a_truncated_file_is_named_with_what_was_expected(tmp_path, name):
    path = write(tmp_path / name, ROWS["fbin"] if name != "a.u8bin" else ROWS["u8bin"])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(VectorFileError, match=name.replace(".", r"\.")):
        open_vectors(path)


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(VectorFileError, match=r"unknown format '.txt'; expected one of \.u8bin"):
        open_vectors(tmp_path / "a.txt")
    with pytest.raises(VectorFileError, match="no such file"):
        open_vectors(tmp_path / "none.fbin")
    (tmp_path / "short.u8bin").write_bytes(b"abc")
    with pytest.raises(VectorFileError, match="3 bytes; expected a header"):
        open_vectors(tmp_path / "short.u8bin")
    np.save(tmp_path / "wide.npy", np.zeros((3, 4)))
    with pytest.raises(VectorFileError, match="float64; expected uint8, int8 or float32"):
        open_vectors(tmp_path / "wide.npy")
    np.save(tmp_path / "cube.npy", np.zeros((3, 4, 5), np.float32))
    with pytest.raises(VectorFileError, match=r"\(3, 4, 5\); expected \(n, d\)"):
        open_vectors(tmp_path / "cube.npy")
    pq.write_table(pa.table({"id": [1, 2]}), tmp_path / "flat.parquet")
    with pytest.raises(VectorFileError, match=r"\['id'\]; expected one that holds lists"):
        open_vectors(tmp_path / "flat.parquet")
    write_bin(tmp_path / "empty.u8bin", np.empty((0, 4), np.uint8))
    with pytest.raises(VectorFileError, match="0 vectors of 4 dimensions"):
        open_vectors(tmp_path / "empty.u8bin")
    with pytest.raises(VectorFileError, match="cannot hold float32"):
        write_bin(tmp_path / "b.u8bin", ROWS["fbin"])


def test_rows_of_other_widths_are_found(tmp_path):
    ragged = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"v": ragged}), tmp_path / "r.parquet")
    with pytest.raises(VectorFileError, match="expected 2 in every row"):
        read_vectors(tmp_path / "r.parquet")
    rows = np.zeros(3, np.dtype([("d", "<i4"), ("values", "<f4", (4,))]))
    rows["d"] = [4, 7, 4]
    rows.tofile(tmp_path / "r.fvecs")
    with pytest.raises(VectorFileError, match="row 1 has 7 dimensions; expected 4"):
        read_vectors(tmp_path / "r.fvecs")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_named_by_place(tmp_path, bad):
    x = ROWS["fbin"].copy()
    x[70, 3] = bad
    write_bin(tmp_path / "a.fbin", x)
    with pytest.raises(ValueError, match="row 70, dimension 3"):
        read_vectors(tmp_path / "a.fbin")


def test_arrays_are_checked_with_both_sides_named():
    for wrong, text in [
        ([1, 2], "list; expected an array"),
        (np.zeros(3, np.uint8), r"\(3,\); expected an array \(n, d\)"),
        (np.zeros((2, 2)), "float64; expected uint8"),
        (np.empty((0, 4), np.int8), "at least one vector"),
    ]:
        with pytest.raises(ValueError, match=text):
            check_vectors(wrong)
    with pytest.raises(ValueError, match="queries: 3 dimensions; expected the index's 4"):
        check_queries(np.zeros((1, 3), np.uint8), 4, np.dtype(np.uint8))
    with pytest.raises(ValueError, match="queries: values are int8; expected the index's uint8"):
        check_queries(np.zeros((1, 4), np.int8), 4, np.dtype(np.uint8))
    assert check_queries(np.zeros(4, np.uint8), 4, np.dtype(np.uint8)).shape == (1, 4)


def test_neighbour_files_there_and_back(tmp_path):
    ids, dists = RNG.integers(0, 99, (7, 5)).astype(np.uint32), RNG.random((7, 5), np.float32)
    write_truth(tmp_path / "t.ibin", ids, dists)
    found = read_truth(tmp_path / "t.ibin")
    np.testing.assert_array_equal(found[0], ids)
    np.testing.assert_array_equal(found[1], dists)
    (tmp_path / "t.ibin").write_bytes((tmp_path / "t.ibin").read_bytes() + b"x")
    with pytest.raises(VectorFileError, match="expected 288 for 7 x 5 neighbours"):
        read_truth(tmp_path / "t.ibin")


def test_a_vector_whose_distances_overflow_is_refused_by_its_row():
    x = np.ones((5, 12), np.float32)
    x[3] = 1e25
    for check in (check_vectors, stored, lambda rows: check_queries(rows, 12, np.dtype(np.float32))):
        with pytest.raises(ValueError, match=r"row 3 has a squared norm of 1.2e\+51; expected at most 8.49e\+37"):
            check(x)
    for metric in ("cosine", "ip"):  # these are scaled first
        assert np.isfinite(stored(x, metric).vectors).all()
        assert np.isfinite(prepare_queries(x, stored(x, metric))).all()


def test_the_longest_vectors_that_pass_have_finite_distances_to_each_other():
    x = np.zeros((2, 12), np.float32)
    x[0], x[1] = 0.999 * (MOST_SQUARED_NORM / 12) ** 0.5, -0.999 * (MOST_SQUARED_NORM / 12) ** 0.5
    check_vectors(x)
    assert np.isfinite(((x[0] - x[1]) ** 2).sum(dtype=np.float32))


def test_the_command_that_indexes_names_the_row(tmp_path):
    x = np.ones((300, 12), np.float32)
    x[299, 5] = -1e25
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match="row 299 has a squared norm"):
        index.main(settings=Settings(), base=tmp_path / "x.npy", dir=tmp_path / "index")
    assert not (tmp_path / "index").exists()
