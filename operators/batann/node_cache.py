"""Sectors of a server's most visited nodes, kept in memory (DiskANN's static node cache).

Every search starts at nodes of the head index and goes on to their neighbours, so those of the server's own partitions
are kept, layer by layer, until `count` nodes are there. A sector holds several records and is kept whole; memory is at
most `count` times 4 KiB. Answers and logical reads do not change; the counter `cached` tells reads the disk was spared.
"""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from operators.batann.layout import SECTOR, IndexCorrupt

if TYPE_CHECKING:
    from operators.batann.layout import Index

Kept = dict[int, tuple[np.ndarray, np.ndarray]]


def load(index: "Index", parts: Sequence[int], count: int) -> Kept:
    """By partition: numbers `(s,)` uint64 ascending and bytes `(s, 4096)` of the sectors kept for `count` nodes.

    Raises ValueError for a negative count, IndexCorrupt when a sector is damaged.
    """
    if count < 0:
        raise ValueError(f"cache_nodes (={count}): expected >= 0")
    files = {part: _Records(index, part) for part in parts}
    wanted = nearest_to_start(index, files, count)
    return {part: file.sectors(wanted[index.map[wanted] == part]) for part, file in files.items()}


def nearest_to_start(index: "Index", files: dict[int, "_Records"], count: int) -> np.ndarray:
    """The first `count` node ids of these partitions, breadth first from the head index (or the medoid)."""
    here = np.zeros(index.meta.n, bool)
    for part in files:
        here |= index.map == part
    layer = index.head.ids if index.head is not None and len(index.head.ids) else np.array([index.meta.medoid])
    found: list[np.ndarray] = []
    while count > 0 and len(layer := np.unique(layer[here[layer]])):
        layer = layer[:count]
        count -= len(layer)
        found.append(layer)
        here[layer] = False
        layer = np.concatenate([file.neighbours(layer[index.map[layer] == part]) for part, file in files.items()])
    return np.concatenate(found) if found else np.zeros(0, np.int64)


class _Records:
    """The records of one partition, mapped."""

    def __init__(self, index: "Index", part: int):
        self._meta, self._path = index.meta, index.part_path(part)
        self._ids, self._crc = index.part_ids(part), index.part_crc(part)
        empty = not self._path.stat().st_size
        mapped = np.zeros(0, np.uint8) if empty else np.memmap(self._path, np.uint8, "r")
        self._sectors = mapped.reshape(-1, SECTOR)

    def neighbours(self, nodes: np.ndarray) -> np.ndarray:
        """All neighbours of `nodes`, one after the other."""
        meta = self._meta
        sector, inside = divmod(np.searchsorted(self._ids, nodes), meta.records_per_sector)
        width = meta.d * np.dtype(meta.dtype).itemsize
        at = inside[:, None] * meta.record_bytes + np.arange(width, meta.record_bytes)
        words = np.ascontiguousarray(self._sectors[sector[:, None], at]).view("<u4")
        return words[:, 1:][np.arange(meta.R) < words[:, :1]].astype(np.int64)

    def sectors(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers `(s,)` and bytes `(s, 4096)` of the sectors `nodes` lie in, checked."""
        numbers = np.unique(np.searchsorted(self._ids, nodes) // self._meta.records_per_sector)
        kept = np.ascontiguousarray(self._sectors[numbers])
        for number, sector in zip(numbers, kept, strict=True):
            if zlib.crc32(sector.data) != self._crc[number]:
                raise IndexCorrupt(self._path, int(number) * SECTOR, f"sector {number} is damaged")
        return numbers.astype(np.uint64), kept
