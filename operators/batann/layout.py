"""An index on disk: one folder, complete or not there, checked when opened and down to the sector when asked.

    meta.json       parameters, size and sha256 of every file, `epoch`: the fingerprint of all of it (16 hex digits)
    part-NN.index   4 KiB sectors of DiskANN records: vector, uint32 degree, R x uint32 ids; a record never crosses a
                    sector; slot s lies in sector s // per_sector at byte (s % per_sector) * record_bytes
    part-NN.ids     uint32 node ids, ascending; the position is the slot
    part-NN.crc     uint32 CRC-32 of each sector
    pq.npz          centroids (256, d) float32, offsets (chunks + 1,) int32;  codes.bin  (n, chunks) uint8
    map.u8          partition of each node
    head.ids .adj .deg .vec   the head index (head.py);  ids.u32  global ids, in a shard's folder only

Departure from DiskANN's file: no header sector (meta.json has what it would hold), one file a partition. The folder is
written under another name and renamed. What is not here: who reads the sectors (native/disk.cpp).
"""

import hashlib
import json
import os
import shutil
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from operators.batann.head import Head
from operators.batann.pq import PQ
from operators.batann.vamana import Graph
from operators.batann.vectors import DTYPES, check_vectors

FORMAT = "batann-index"
VERSION = 1
SECTOR = 4096
MOST_PARTS = 256
BLOCK = 32_768  # records written at once


class IndexCorrupt(ValueError):
    """A file of an index is missing, truncated, foreign or damaged: `path` and, where one is known, byte `offset`."""

    def __init__(self, path: Path, offset: int | None, message: str):
        at = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{path}{at}: {message}")
        self.path, self.offset = Path(path), offset


@dataclass(frozen=True)
class Meta:
    """What meta.json holds; `files` maps a name to [bytes, sha256], `extra` is the writer's own."""

    n: int
    d: int
    dim_in: int
    dtype: str
    metric: str
    scale: float
    R: int
    record_bytes: int
    records_per_sector: int
    parts: int
    sizes: list[int]
    medoid: int
    chunks: int
    head_n: int
    head_R: int
    head_medoid: int
    shard: bool
    data_sha256: str
    files: dict[str, list]
    extra: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    version: int = VERSION
    epoch: str = ""

    def fingerprint(self) -> str:
        """The epoch these values make: sixteen hex digits."""
        values = asdict(self) | {"epoch": ""}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Index:
    """An open index: codes `(n, chunks)` and map `(n,)` are mapped, the sectors are not read."""

    dir: Path
    meta: Meta
    pq: PQ
    codes: np.ndarray
    map: np.ndarray
    head: Head
    global_ids: np.ndarray | None

    @property
    def epoch(self) -> int:
        return int(self.meta.epoch, 16)

    def part_path(self, part: int) -> Path:
        return self.dir / f"{part_name(part)}.index"

    def part_ids(self, part: int) -> np.ndarray:
        """Node ids `(m,)` uint32 of a partition, by slot."""
        return np.fromfile(self.dir / f"{part_name(part)}.ids", "<u4")

    def part_crc(self, part: int) -> np.ndarray:
        """CRC-32 `(sectors,)` uint32 of a partition's sectors."""
        return np.fromfile(self.dir / f"{part_name(part)}.crc", "<u4")

    def record(self, part: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Vector `(d,)` and neighbours of one slot, read from the file; IndexCorrupt when its sector is damaged."""
        sector, inside = divmod(slot, self.meta.records_per_sector)
        path = self.part_path(part)
        with open(path, "rb") as file:
            file.seek(sector * SECTOR)
            body = file.read(SECTOR)
        if len(body) < SECTOR or zlib.crc32(body) != self.part_crc(part)[sector]:
            raise IndexCorrupt(path, sector * SECTOR, f"sector {sector} is damaged")
        return split_record(body[inside * self.meta.record_bytes :], self.meta.d, np.dtype(self.meta.dtype))


def part_name(part: int) -> str:
    return f"part-{part:02d}"


def record_bytes(d: int, dtype: np.dtype, R: int) -> int:
    """Bytes of one record; ValueError when it does not fit a sector."""
    size = d * np.dtype(dtype).itemsize + 4 + 4 * R
    if size > SECTOR:
        raise ValueError(f"record: {size} bytes (d={d} {np.dtype(dtype)}, R={R}); expected at most {SECTOR}, a sector")
    return size


def split_record(body: bytes, d: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Vector and neighbour ids of a record's bytes, as any reader of the DiskANN layout takes them apart."""
    width = d * dtype.itemsize
    degree = int(np.frombuffer(body, "<u4", 1, width)[0])
    return np.frombuffer(body, dtype, d), np.frombuffer(body, "<u4", degree, width + 4)


def write_index(
    dir: Path | str,
    x: np.ndarray,
    graph: Graph,
    pq: PQ,
    codes: np.ndarray,
    part: np.ndarray,
    head: Head,
    *,
    metric: str = "l2",
    ids: np.ndarray | None = None,
    parts: int | None = None,
    dim_in: int | None = None,
    scale: float = 1.0,
    extra: dict[str, Any] | None = None,
) -> Meta:
    """Write an index folder; nothing half-written stays, an older one is replaced.

    Args:
        x: vectors `(n, d)` as they are compared inside (metric.stored), uint8, int8 or float32
        part: partition of each vector `(n,)` uint8
        ids: global ids `(n,)` uint32 of the vectors, when this is one shard of a larger set
        parts: number of partitions (default: the largest of `part` + 1)
        dim_in, scale: what metric.stored says of the user's vectors
        extra: anything JSON holds, kept in meta.json and part of the fingerprint
    """
    dir = Path(dir)
    parts = _checked(x, graph, pq, codes, part, ids, parts)
    temporary = dir.with_name(f".{dir.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        sizes = [_write_part(temporary, number, x, graph, part) for number in range(parts)]
        _write_shared(temporary, pq, codes, part, head, ids)
        files = {path.name: [path.stat().st_size, sha256_of(path)] for path in sorted(temporary.iterdir())}
        R, size = graph.adj.shape[1], record_bytes(x.shape[1], x.dtype, graph.adj.shape[1])
        values = {
            "n": len(x), "d": x.shape[1], "dim_in": dim_in or x.shape[1], "dtype": x.dtype.name, "metric": metric,
            "scale": scale, "R": R, "record_bytes": size, "records_per_sector": SECTOR // size, "parts": parts,
            "sizes": sizes, "medoid": graph.medoid, "chunks": pq.chunks, "head_n": len(head.ids),
            "head_R": head.graph.adj.shape[1], "head_medoid": head.graph.medoid, "shard": ids is not None,
            "data_sha256": hashlib.sha256(x.data).hexdigest(), "files": files, "extra": extra or {},
        }  # fmt: skip
        meta = Meta(**values)
        meta = Meta(**values, epoch=meta.fingerprint())
        (temporary / "meta.json").write_text(json.dumps(asdict(meta), indent=1) + "\n")
        _into_place(temporary, dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return meta


def _checked(x, graph, pq, codes, part, ids, parts) -> int:
    check_vectors(x)
    if not x.flags.c_contiguous:
        raise ValueError("x: expected a contiguous array")
    n, d = x.shape
    record_bytes(d, x.dtype, graph.adj.shape[1])
    for name, array, shape in (
        ("graph", graph.deg, (n,)),
        ("codes", codes, (n, pq.chunks)),
        ("part", part, (n,)),
        ("ids", part if ids is None else ids, (n,)),
    ):
        if np.shape(array) != shape:
            raise ValueError(f"{name}: shape {np.shape(array)}; expected {shape} for {n} vectors")
    if pq.centroids.shape[1] != d:
        raise ValueError(f"pq: {pq.centroids.shape[1]} dimensions; expected the vectors' {d}")
    most = int(part.max()) + 1
    if most > MOST_PARTS or (parts or 1) > MOST_PARTS:
        raise ValueError(
            f"part: {max(most, parts or 1)} partitions; expected at most {MOST_PARTS}: the map is one byte"
        )
    if parts is not None and most > parts:
        raise ValueError(f"part: partition {most - 1}; expected below parts (={parts})")
    return parts or most


def _write_part(folder: Path, number: int, x: np.ndarray, graph: Graph, part: np.ndarray) -> int:
    ids = np.flatnonzero(part == number).astype("<u4")
    R, width = graph.adj.shape[1], x.shape[1] * x.itemsize
    size = record_bytes(x.shape[1], x.dtype, R)
    per_sector = SECTOR // size
    sums = []
    with open(folder / f"{part_name(number)}.index", "wb") as file:
        for at in range(0, len(ids), BLOCK // per_sector * per_sector):
            some = ids[at : at + BLOCK // per_sector * per_sector]
            records = np.zeros((-(-len(some) // per_sector) * per_sector, size), np.uint8)
            records[: len(some), :width] = np.ascontiguousarray(x[some]).view(np.uint8).reshape(len(some), width)
            records[: len(some), width : width + 4] = graph.deg[some].astype("<u4")[:, None].view(np.uint8)
            records[: len(some), width + 4 :] = graph.adj[some].astype("<u4").view(np.uint8).reshape(len(some), -1)
            sectors = np.zeros((len(records) // per_sector, SECTOR), np.uint8)
            sectors[:, : per_sector * size] = records.reshape(len(sectors), -1)
            sums += [zlib.crc32(sector.data) for sector in sectors]
            file.write(sectors.data)
    ids.tofile(folder / f"{part_name(number)}.ids")
    np.array(sums, "<u4").tofile(folder / f"{part_name(number)}.crc")
    return len(ids)


def _write_shared(
    folder: Path, pq: PQ, codes: np.ndarray, part: np.ndarray, head: Head, ids: np.ndarray | None
) -> None:
    np.savez(folder / "pq.npz", centroids=pq.centroids, offsets=pq.offsets)
    np.ascontiguousarray(codes, np.uint8).tofile(folder / "codes.bin")
    part.astype(np.uint8).tofile(folder / "map.u8")
    head.ids.astype("<u4").tofile(folder / "head.ids")
    head.graph.adj.astype("<u4").tofile(folder / "head.adj")
    head.graph.deg.astype("<u2").tofile(folder / "head.deg")
    np.ascontiguousarray(head.vectors).tofile(folder / "head.vec")
    if ids is not None:
        np.asarray(ids, "<u4").tofile(folder / "ids.u32")


def _into_place(temporary: Path, dir: Path) -> None:
    old = dir.with_name(f".{dir.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if dir.exists():
        os.rename(dir, old)
    os.rename(temporary, dir)
    shutil.rmtree(old, ignore_errors=True)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_meta(dir: Path | str) -> Meta:
    """The checked meta.json of an index folder; IndexCorrupt when missing, foreign, of another version, edited."""
    path = Path(dir) / "meta.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise IndexCorrupt(path, None, "no such file; expected an index folder written by write_index") from None
    except (ValueError, OSError) as error:
        raise IndexCorrupt(path, getattr(error, "pos", None), f"not readable: {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise IndexCorrupt(path, None, f"not an index of this library (format is not {FORMAT!r})")
    if values.get("version") != VERSION:
        raise IndexCorrupt(path, None, f"version {values.get('version')}; expected {VERSION}: build the index again")
    try:
        meta = Meta(**values)
    except TypeError as error:
        raise IndexCorrupt(path, None, f"fields differ: {error}") from None
    if meta.fingerprint() != meta.epoch or np.dtype(meta.dtype) not in DTYPES:
        raise IndexCorrupt(path, None, f"epoch {meta.epoch} does not fit the values (they make {meta.fingerprint()})")
    return meta


def open_index(dir: Path | str) -> Index:
    """Open an index folder: every file there and of its size, meta.json whole. Contents are verify_index's business."""
    dir = Path(dir)
    meta = read_meta(dir)
    for name, (size, _) in meta.files.items():
        path = dir / name
        if not path.is_file():
            raise IndexCorrupt(path, None, "missing; build the index again")
        if path.stat().st_size != size:
            found = path.stat().st_size
            raise IndexCorrupt(path, min(found, size), f"{found} bytes; expected {size}: truncated or foreign")
    pq = _read_pq(dir / "pq.npz")
    dtype = np.dtype(meta.dtype)
    head = Head(
        np.fromfile(dir / "head.ids", "<u4"),
        Graph(
            np.fromfile(dir / "head.adj", "<u4").reshape(meta.head_n, meta.head_R),
            np.fromfile(dir / "head.deg", "<u2"),
            meta.head_medoid,
        ),
        np.fromfile(dir / "head.vec", dtype).reshape(meta.head_n, meta.d),
    )
    codes = np.memmap(dir / "codes.bin", np.uint8, "r", shape=(meta.n, meta.chunks))
    places = np.memmap(dir / "map.u8", np.uint8, "r", shape=(meta.n,))
    return Index(dir, meta, pq, codes, places, head, np.fromfile(dir / "ids.u32", "<u4") if meta.shard else None)


def _read_pq(path: Path) -> PQ:
    try:
        with np.load(path) as file:
            return PQ(file["centroids"], file["offsets"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise IndexCorrupt(path, None, f"not readable: {error}") from None
