"""Shards on disk: blocks of finished pairs in one Parquet file, its manifest beside it, both whole or not there.

A shard is known by (render key, number); the key hashes everything its bytes depend on, so that a rerun finds exactly
the shards it may keep. `ShardPlanner` is the pure state: which ranges are pending, given out, done.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.lab import stage

DICTIONARY_BYTES = 1 << 28

if TYPE_CHECKING:
    import polars as pl

    from operators.synthpix.generator import Batch


@dataclass(frozen=True)
class Shard:
    """Pairs [first, first + count) of one image size."""

    number: int
    size: int  # index of the run's sizes
    first: int
    count: int


class ShardPlanner:
    """Gives out shards once each, takes lost ones back, knows when all are done. Pure: no files, no clock."""

    def __init__(self, shards: list[Shard]):
        self._shards = {shard.number: shard for shard in shards}
        self._pending = [shard.number for shard in shards]
        self._given: dict[int, int] = {}
        self._done: dict[int, str] = {}

    def next(self, worker: int) -> Shard | None:
        """The next pending shard, now given to `worker`; None when nothing is pending."""
        if not self._pending:
            return None
        number = self._pending.pop(0)
        self._given[number] = worker
        return self._shards[number]

    def done(self, number: int, sha256: str) -> None:
        """A shard is written. The same shard twice must be the same bytes: ValueError otherwise."""
        if number not in self._shards:
            raise ValueError(f"shard: {number}; there are {len(self._shards)}")
        if self._done.get(number, sha256) != sha256:
            raise ValueError(f"shard {number}: written as {sha256[:12]}, before as {self._done[number][:12]}")
        self._done[number] = sha256
        self._given.pop(number, None)
        if number in self._pending:
            self._pending.remove(number)

    def lost(self, worker: int) -> list[int]:
        """The worker is gone: what it had is pending again, first in line."""
        back = sorted(number for number, holder in self._given.items() if holder == worker)
        for number in back:
            del self._given[number]
        self._pending = back + self._pending
        return back

    def state(self) -> dict[str, Any]:
        """Pending, given and done shards."""
        return {"pending": list(self._pending), "given": dict(self._given), "done": dict(self._done)}

    @property
    def finished(self) -> bool:
        return len(self._done) == len(self._shards)

    def validate(self) -> None:
        """Every shard is in exactly one place. AssertionError otherwise."""
        places = [*self._pending, *self._given, *self._done]
        assert sorted(places) == sorted(self._shards), f"shards in {sorted(places)}; expected {sorted(self._shards)}"


def pair_hash(image1: np.ndarray, image2: np.ndarray, label: np.ndarray) -> str:
    """SHA-256 of a pair's bytes."""
    digest = hashlib.sha256()
    for array in (image1, image2, label):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def write(
    folder: Path, shard: Shard, batches: list["Batch"], manifest: "pl.DataFrame", *, full_disk: bool = False
) -> str:
    """Write one shard and its manifest; the SHA-256 over its pairs. `full_disk` fails as a full disk does (faults)."""
    import polars as pl
    import pyarrow.parquet as parquet

    columns: dict[str, list] = {"pair": [], "image1": [], "image2": [], "label": []}
    for batch in batches:
        columns["pair"] += batch.meta["pair"].to_list()
        for name, arrays in (("image1", batch.images1), ("image2", batch.images2), ("label", batch.flow)):
            columns[name] += [array.tobytes() for array in arrays]
    height, width = batches[0].images1.shape[1:]
    frame = pl.DataFrame(
        columns, schema={"pair": pl.Int64, "image1": pl.Binary, "image2": pl.Binary, "label": pl.Binary}
    )
    frame = frame.with_columns(height=pl.lit(height, pl.Int64), width=pl.lit(width, pl.Int64))
    target = path(folder, shard.number)
    with stage.atomic(target.with_suffix(".manifest")) as temporary:
        manifest.write_parquet(temporary)
    with stage.atomic(target) as temporary:
        # Pairs of one flow share their label: a dictionary holds each once.
        parquet.write_table(frame.to_arrow(), temporary, compression="none", use_dictionary=["label"],
                            dictionary_pagesize_limit=DICTIONARY_BYTES, write_statistics=False)  # fmt: skip
        if full_disk:
            raise OSError(28, f"No space left on device (injected): {target.name}")
    return hashlib.sha256("".join(manifest["sha256"]).encode()).hexdigest()


def kept(folder: Path, shard: Shard) -> "pl.DataFrame | None":
    """The manifest of a shard that is there whole: every pair's bytes are those of its hash."""
    import polars as pl

    target = path(folder, shard.number)
    if not target.is_file() or not target.with_suffix(".manifest").is_file():
        return None
    try:
        manifest, frame = pl.read_parquet(target.with_suffix(".manifest")), pl.read_parquet(target)
    except (pl.exceptions.ComputeError, OSError):
        return None
    if manifest["pair"].to_list() != list(range(shard.first, shard.first + shard.count)) or len(frame) != shard.count:
        return None
    for row, wanted in zip(frame.iter_rows(named=True), manifest["sha256"], strict=True):
        digest = hashlib.sha256(row["image1"] + row["image2"] + row["label"]).hexdigest()
        if digest != wanted:
            return None
    return manifest


def plan(sizes: list[int], per_shard: int) -> list[Shard]:
    """Shards of at most `per_shard` pairs; pairs are numbered through all sizes."""
    shards, first = [], 0
    for size, pairs in enumerate(sizes):
        for start in range(0, pairs, per_shard):
            count = min(per_shard, pairs - start)
            shards.append(Shard(len(shards), size, first + start, count))
        first += pairs
    return shards


def unpack(row: dict[str, Any], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """image1, image2 and label of one row of a shard (labels of one value per pixel)."""
    shape = (row["height"], row["width"])
    images = [np.frombuffer(row[name], dtype).reshape(shape) for name in ("image1", "image2")]
    return images[0], images[1], np.frombuffer(row["label"], np.float32).reshape(*shape, 2)
