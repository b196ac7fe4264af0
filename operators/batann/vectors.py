"""Vectors in files, and what every entry of the library checks of an array.

Formats: `u8bin`, `i8bin`, `fbin` (uint32 n, uint32 d, then n x d values, little endian; big-ann-benchmarks), `fvecs`,
`bvecs` (int32 d before every row), `npy`, Parquet (one column of lists), and `ibin` for exact neighbours (uint32 n,
uint32 k, n x k uint32 ids, n x k float32 squared distances). Files are mapped or read block by block, never whole
unless asked for. What is not here: exact search (truth.py), the SIFT sets and their twin (sift.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DTYPES = tuple(np.dtype(kind) for kind in ("uint8", "int8", "float32"))
BIN = {".u8bin": "uint8", ".i8bin": "int8", ".fbin": "<f4"}
VECS = {".fvecs": "<f4", ".bvecs": "uint8"}
SUFFIXES = (*BIN, *VECS, ".npy", ".parquet")
BLOCK = 65_536
HEADER = 8
MOST_SQUARED_NORM = float(np.finfo(np.float32).max) / 4.01  # two such vectors are at most four times that apart


class VectorFileError(ValueError):
    """A file of vectors is missing, truncated, or of another format; the message says what was expected."""


@dataclass(frozen=True)
class VectorFile:
    """A file of `n` vectors of `d` values: `rows(start, count)` and `blocks(size)` read pieces of it."""

    path: Path
    n: int
    d: int
    dtype: np.dtype

    def rows(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Vectors `start` to `start + count` (default: all that follow) as `(count, d)` in the file's type."""
        stop = self.n if count is None else min(self.n, start + count)
        if not 0 <= start <= stop:
            raise ValueError(f"start (={start}), count (={count}): expected a range within the {self.n} vectors")
        return _READERS[self.path.suffix](self, start, stop)

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """All vectors in order, `size` at a time."""
        for start in range(0, self.n, size):
            yield self.rows(start, size)


def open_vectors(path: Path | str) -> VectorFile:
    """Look at a file's header and size; VectorFileError when they do not fit its format."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise VectorFileError(f"{path}: unknown format {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise VectorFileError(f"{path}: no such file")
    n, d, dtype = _OPENERS[path.suffix](path)
    if n < 1 or d < 1:
        raise VectorFileError(f"{path}: {n} vectors of {d} dimensions; expected at least one of each")
    if dtype.newbyteorder("=") not in DTYPES:
        raise VectorFileError(f"{path}: values are {dtype}; expected uint8, int8 or float32")
    return VectorFile(path, n, d, dtype.newbyteorder("="))


def read_vectors(path: Path | str, start: int = 0, count: int | None = None) -> np.ndarray:
    """`open_vectors(path).rows(start, count)`, checked for NaN and infinity; norms are the metric's to judge."""
    rows = open_vectors(path).rows(start, count)
    check_vectors(rows, str(path), norms=False)
    return rows


def write_bin(path: Path | str, x: np.ndarray) -> None:
    """Write `x (n, d)` as u8bin, i8bin or fbin, whichever the name says; the array must be of that type."""
    from operators.lab.stage import atomic

    path = Path(path)
    if path.suffix not in BIN or np.dtype(BIN[path.suffix]) != x.dtype:
        raise VectorFileError(f"{path}: cannot hold {x.dtype}; expected {BIN} by suffix")
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(np.array(x.shape, "<u4").tobytes())
        file.write(np.ascontiguousarray(x).data)


def read_truth(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Ids `(nq, k)` uint32 and squared distances `(nq, k)` float32 of an ibin file."""
    path = Path(path)
    count, k = _header(path)
    _expect_size(path, HEADER + 8 * count * k, f"{count} x {k} neighbours")
    body = np.fromfile(path, "<u4", offset=HEADER)
    return body[: count * k].reshape(count, k), body[count * k :].view("<f4").reshape(count, k)


def write_truth(path: Path | str, ids: np.ndarray, dists: np.ndarray) -> None:
    """Write exact neighbours as ibin."""
    from operators.lab.stage import atomic

    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(np.array(ids.shape, "<u4").tobytes())
        file.write(np.ascontiguousarray(ids, "<u4").data)
        file.write(np.ascontiguousarray(dists, "<f4").data)


def check_vectors(x: np.ndarray, name: str = "x", *, norms: bool = True) -> None:
    """ValueError unless `x` is a non-empty `(n, d)` array of uint8, int8 or finite float32.

    `norms`: also refuse a float32 row so long that squared distances to it overflow float32; cosine and inner product
    scale the rows first and need no such limit.
    """
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        shape = getattr(x, "shape", type(x).__name__)
        raise ValueError(f"{name}: {shape}; expected an array (n, d)")
    if x.dtype not in DTYPES:
        raise ValueError(f"{name}: values are {x.dtype}; expected uint8, int8 or float32")
    if not x.shape[0] or not x.shape[1]:
        raise ValueError(f"{name}: shape {x.shape}; expected at least one vector and one dimension")
    if x.dtype.kind == "f":
        for at in range(0, len(x), BLOCK):
            finite = np.isfinite(x[at : at + BLOCK])
            if not finite.all():
                row, column = np.argwhere(~finite)[0]
                value = x[at + row, column]
                raise ValueError(f"{name}: row {at + row}, dimension {column} is {value}; expected finite values")
        if norms:
            _check_norms(x, name)


def _check_norms(x: np.ndarray, name: str) -> None:
    """ValueError naming the first row whose squared norm is above `MOST_SQUARED_NORM`."""
    largest = max(float(x.max()), -float(x.min()))
    if largest**2 * x.shape[1] <= MOST_SQUARED_NORM:
        return
    for at in range(0, len(x), BLOCK):
        rows = x[at : at + BLOCK].astype(np.float64)
        squared = np.einsum("ij,ij->i", rows, rows)
        if (squared > MOST_SQUARED_NORM).any():
            row = int(np.argmax(squared > MOST_SQUARED_NORM))
            raise ValueError(
                f"{name}: row {at + row} has a squared norm of {squared[row]:.3g}; expected at most"
                f" {MOST_SQUARED_NORM:.3g}, as squared distances overflow float32 above"
            )


def check_queries(queries: np.ndarray, d: int, dtype: np.dtype) -> np.ndarray:
    """Queries `(nq, d)`, or one of them `(d,)`, in the index's type; ValueError naming both sides where they differ."""
    queries = np.asarray(queries)
    if queries.ndim == 1:
        queries = queries[None]
    check_vectors(queries, "queries")
    if queries.shape[1] != d:
        raise ValueError(f"queries: {queries.shape[1]} dimensions; expected the index's {d}")
    if queries.dtype != dtype:
        raise ValueError(f"queries: values are {queries.dtype}; expected the index's {np.dtype(dtype)}")
    return np.ascontiguousarray(queries)


def _header(path: Path) -> tuple[int, int]:
    if not path.is_file():
        raise VectorFileError(f"{path}: no such file")
    found = np.fromfile(path, "<u4", count=2)
    if len(found) < 2:
        raise VectorFileError(f"{path}: {path.stat().st_size} bytes; expected a header of {HEADER} bytes")
    return int(found[0]), int(found[1])


def _expect_size(path: Path, size: int, what: str) -> None:
    if path.stat().st_size != size:
        raise VectorFileError(f"{path}: {path.stat().st_size} bytes; expected {size} for {what}: truncated or foreign")


def _open_bin(path: Path) -> tuple[int, int, np.dtype]:
    n, d = _header(path)
    dtype = np.dtype(BIN[path.suffix])
    _expect_size(path, HEADER + n * d * dtype.itemsize, f"{n} vectors of {d} {dtype.name}")
    return n, d, dtype


def _read_bin(file: VectorFile, start: int, stop: int) -> np.ndarray:
    dtype = np.dtype(BIN[file.path.suffix])
    offset = HEADER + start * file.d * dtype.itemsize
    body = np.fromfile(file.path, dtype, (stop - start) * file.d, offset=offset)
    return body.astype(file.dtype, copy=False).reshape(-1, file.d)


def _open_vecs(path: Path) -> tuple[int, int, np.dtype]:
    dtype, size = np.dtype(VECS[path.suffix]), path.stat().st_size
    head = np.fromfile(path, "<i4", count=1)
    d = int(head[0]) if len(head) else 0
    record = 4 + d * dtype.itemsize
    if d < 1 or size % record:
        raise VectorFileError(
            f"{path}: {size} bytes, first row of {d} dimensions; expected whole rows of {record} bytes"
        )
    return size // record, d, dtype


def _read_vecs(file: VectorFile, start: int, stop: int) -> np.ndarray:
    kind = np.dtype([("d", "<i4"), ("values", VECS[file.path.suffix], (file.d,))])
    rows = np.fromfile(file.path, kind, stop - start, offset=start * kind.itemsize)
    other = np.flatnonzero(rows["d"] != file.d)
    if len(other):
        found = rows["d"][other[0]]
        raise VectorFileError(f"{file.path}: row {start + other[0]} has {found} dimensions; expected {file.d}")
    return np.ascontiguousarray(rows["values"].astype(file.dtype, copy=False))


def _open_npy(path: Path) -> tuple[int, int, np.dtype]:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise VectorFileError(f"{path}: not a readable npy file ({error})") from None
    if array.ndim != 2:
        raise VectorFileError(f"{path}: shape {array.shape}; expected (n, d)")
    return *array.shape, array.dtype


def _read_npy(file: VectorFile, start: int, stop: int) -> np.ndarray:
    return np.ascontiguousarray(np.load(file.path, mmap_mode="r")[start:stop], file.dtype)


def _parquet(path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise VectorFileError(f"{path}: not a readable Parquet file ({error})") from None
    for index, column in enumerate(table.schema_arrow):
        if (
            pa.types.is_list(column.type)
            or pa.types.is_large_list(column.type)
            or pa.types.is_fixed_size_list(column.type)
        ):
            return table, column.name, np.dtype(column.type.value_type.to_pandas_dtype()), index
    raise VectorFileError(f"{path}: columns {table.schema_arrow.names}; expected one that holds lists of numbers")


def _open_parquet(path: Path) -> tuple[int, int, np.dtype]:
    table, name, dtype, _ = _parquet(path)
    first = next(table.iter_batches(batch_size=1, columns=[name]), None)
    return table.metadata.num_rows, len(first[name][0]) if first else 0, dtype


def _read_parquet(file: VectorFile, start: int, stop: int) -> np.ndarray:
    table, name, _, _ = _parquet(file.path)
    out, at = np.empty((stop - start, file.d), file.dtype), 0
    for batch in table.iter_batches(batch_size=BLOCK, columns=[name]):
        low, high = max(start, at), min(stop, at + len(batch))
        if low < high:
            column = batch[name].slice(low - at, high - low)
            values = column.flatten().to_numpy(zero_copy_only=False)
            widths = np.unique([len(row) for row in column])
            if column.null_count or list(widths) != [file.d]:
                raise VectorFileError(f"{file.path}: rows of {list(widths)} values; expected {file.d} in every row")
            out[low - start : high - start] = values.reshape(-1, file.d)
        at += len(batch)
    return out


_OPENERS = {
    **dict.fromkeys(BIN, _open_bin),
    **dict.fromkeys(VECS, _open_vecs),
    ".npy": _open_npy,
    ".parquet": _open_parquet,
}
_READERS = {
    **dict.fromkeys(BIN, _read_bin),
    **dict.fromkeys(VECS, _read_vecs),
    ".npy": _read_npy,
    ".parquet": _read_parquet,
}
