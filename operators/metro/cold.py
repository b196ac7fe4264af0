"""Cold, timed runs of one rank: what a decode step sees, weights that are not in any cache.

Before every run the rank reads a buffer larger than the last-level cache. That evicts the experts of the run before,
and its rate is the memory bandwidth of this very moment on this very thread: the ceiling the run is compared with.
"""

from pathlib import Path
from typing import Any

import numpy as np

from operators.metro import kernel
from operators.metro.expert_rank import ExpertRank

LARGEST_BUFFER = 512 * 2**20


def l3_bytes() -> int:
    """Size of the last-level cache seen by processor 0; 0 when the system does not say."""
    sizes = []
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        text = (index / "size").read_text().strip()
        sizes.append(int(text.rstrip("KMG")) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1))
    return max(sizes, default=0)


def evict_bytes(cache: int) -> int:
    """Bytes to read between runs so that a cache of `cache` bytes forgets: twice its size, within a limit of memory."""
    wanted = min(max(2 * cache, 32 * 2**20), LARGEST_BUFFER)
    step = kernel.STREAM_UNIT * 4
    return -(-wanted // step) * step


class ColdTimer:
    """Timed runs of `rank`, each after `evict_bytes` of other memory were read."""

    def __init__(self, rank: ExpertRank, evict_bytes: int):
        self._rank = rank
        self._buffer = np.ones(evict_bytes // 4, np.float32)
        rates = {count: kernel.stream_rate(self._buffer, streams=(count,)) for count in kernel.STREAMS for _ in (0, 1)}
        self._streams = max(rates, key=rates.__getitem__)

    def run(self, layer: int, x: np.ndarray, topk: np.ndarray, weights: np.ndarray, slot: np.ndarray) -> dict[str, Any]:
        """What `ExpertRank.forward` reports, and `stream_GBps` measured just before; the output is dropped."""
        rate = kernel.stream_rate(self._buffer, streams=(self._streams,))
        _, stats = self._rank.forward(layer, x, topk, weights, slot)
        return {**stats, "stream_GBps": rate}
