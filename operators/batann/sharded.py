"""Scatter-gather on the same partition: the shards' folders, which of them to ask, and the merge of their answers."""

from pathlib import Path

import numpy as np

from operators.batann.layout import open_index
from operators.batann.local import LocalCluster

NOBODY = 2**32 - 1
SECTOR = 4096


def shard_folders(folder: Path | str) -> list[Path]:
    """The shards of a scatter-gather index, in order."""
    found = sorted(path for path in Path(folder).glob("shard-*") if path.is_dir())
    if not found:
        raise ValueError(f"index_dir (={folder}): holds no shard-NN folders; expected what write_shards writes")
    return found


def medoid_vector(folder: Path) -> np.ndarray:
    """The vector of a shard's medoid, read from its file."""
    index = open_index(folder)
    place = int(np.searchsorted(np.asarray(index.part_ids(0)), index.meta.medoid))
    return index.record(0, place)[0]


def nearest(centres: np.ndarray, vector: np.ndarray, n: int) -> list[int]:
    """The n shards whose centres `(S, d)` are nearest to the vector `(d,)`."""
    difference = centres.astype(np.float64) - vector.astype(np.float64)
    return np.argsort((difference**2).sum(1), kind="stable")[:n].tolist()


def merged(ids: list[np.ndarray], dists: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best `(nq, k)` of every shard's answers (global ids, distances), by (distance, id)."""
    all_ids, all_dists = np.concatenate(ids, axis=1), np.concatenate(dists, axis=1)
    order = np.lexsort((all_ids, all_dists), axis=1)[:, :k]
    return np.take_along_axis(all_ids, order, 1), np.take_along_axis(all_dists, order, 1)


class ShardedSearch:
    """Scatter-gather without sockets, for counts of work and beams; no figure of time comes from here."""

    def __init__(self, folder: Path | str):
        self._indexes = [open_index(path) for path in shard_folders(folder)]
        self._clusters = [LocalCluster(index) for index in self._indexes]
        self._centres = np.stack([medoid_vector(path) for path in shard_folders(folder)])

    def search(
        self, queries: np.ndarray, k: int, L: int, W: int, *, mem_l: int = 10, topn: int | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Ids `(nq, k)` and means: reads and pq_dists summed over the shards asked, hops a shard.

        `topn`: only the shards whose medoids are nearest.
        """
        asked = np.ones((len(queries), len(self._clusters)), bool)
        if topn is not None:
            asked[:] = False
            for row, query in enumerate(queries):
                asked[row, nearest(self._centres, query, topn)] = True
        ids, dists, sums = [], [], dict.fromkeys(("reads", "pq_dists", "hops"), 0.0)
        for shard, (index, cluster) in enumerate(zip(self._indexes, self._clusters, strict=True)):
            rows = np.flatnonzero(asked[:, shard])
            found = np.full((len(queries), k), NOBODY, np.uint32)
            far = np.full((len(queries), k), np.inf, np.float32)
            if len(rows):
                result = cluster.search(queries[rows], k, L, W, mem_l=mem_l)
                places = np.minimum(result.ids, index.meta.n - 1)
                found[rows] = np.where(result.ids == NOBODY, NOBODY, index.global_ids[places])
                far[rows] = result.dists
                for name in sums:
                    sums[name] += result.mean(name) * len(rows)
            ids.append(found)
            dists.append(far)
        means = {name: total / len(queries) for name, total in sums.items()}
        return merged(ids, dists, k)[0], means | {"hops": means["hops"] / asked.sum(1).mean()}
