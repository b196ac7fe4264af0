"""The expert kernel without a compiler: numba functions with the interface of the native core (see kernel.py).

Same numbers within rtol 1e-4 (sums are ordered differently), the same weights to the bit, not the same speed.
"""

import time

import numpy as np
from numba import njit, uint32


def forward(
    slab: np.ndarray,
    slots: np.ndarray,
    start: np.ndarray,
    rows: np.ndarray,
    gates: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[int, int]:
    """Add the experts' outputs to `y`; (cpu_ns, wall_ns). Shapes and meaning: kernel.py."""
    if slab.ndim != 4 or slab.shape[2] != 3 or slab.shape[3] % 16:
        raise ValueError(f"slab (shape {slab.shape}): expected (slots, width, 3, hidden), hidden a multiple of 16")
    if x.shape != y.shape or x.shape[1] != slab.shape[3]:
        raise ValueError(f"x and y (shapes {x.shape}, {y.shape}): expected the same shape (tokens, {slab.shape[3]})")
    if len(start) != len(slots) + 1 or len(gates) != len(rows) or start[0] != 0 or start[-1] != len(rows):
        raise ValueError("start and gates: expected experts + 1 entries from 0 to the number of rows, and a gate a row")
    if (np.diff(start) < 0).any():
        raise ValueError("start: expected to ascend")
    for name, ids, limit in (("slots", slots, len(slab)), ("rows", rows, len(x))):
        if len(ids) and not 0 <= ids.min() <= ids.max() < limit:
            raise ValueError(f"{name} (={ids.min()} to {ids.max()}): must be in [0, {limit})")
    _forward(slab, slots[:0], start, rows, gates, x, y)  # compile or load outside the timed part
    wall, cpu = time.monotonic_ns(), time.thread_time_ns()
    _forward(slab, slots, start, rows, gates, x, y)
    return time.thread_time_ns() - cpu, time.monotonic_ns() - wall


def stream_read(data: np.ndarray, streams: int) -> tuple[int, int]:
    """Read all of `data` once; (cpu_ns, wall_ns)."""
    if streams not in (1, 2, 4, 8):
        raise ValueError(f"streams (={streams}): expected 1, 2, 4 or 8")
    if data.size == 0 or data.size % (8 * 65536):
        raise ValueError("data: expected a multiple of 2 MiB")
    parts = data.reshape(streams, -1)
    _sum(parts[:, :0])
    wall, cpu = time.monotonic_ns(), time.thread_time_ns()
    _sum(parts)
    return time.thread_time_ns() - cpu, time.monotonic_ns() - wall


def fill_weights(out: np.ndarray, key0: int, key1: int, scale: float) -> None:
    """Fill `out` with the expert of two 32-bit keys."""
    _fill(out.reshape(-1), np.uint32(key0), np.uint32(key1), np.float32(scale))


@njit(cache=True, nogil=True, fastmath=True)
def _forward(slab, slots, start, rows, gates, x, y):
    width, hidden = slab.shape[1], slab.shape[3]
    for e in range(len(slots)):
        for j in range(width):
            w1, w3, w2 = slab[slots[e], j, 0], slab[slots[e], j, 1], slab[slots[e], j, 2]
            for i in range(start[e], start[e + 1]):
                token, out = x[rows[i]], y[rows[i]]
                gate = up = np.float32(0)
                for c in range(hidden):
                    gate += w1[c] * token[c]
                    up += w3[c] * token[c]
                a = gates[i] * up * gate / (np.float32(1) + np.exp(-gate))
                for c in range(hidden):
                    out[c] += a * w2[c]


@njit(cache=True, nogil=True, fastmath=True)
def _sum(parts):
    total = np.float32(0)
    for i in range(parts.shape[1]):
        for k in range(parts.shape[0]):
            total += parts[k, i]
    return total


@njit(cache=True, nogil=True)
def _fill(out, key0, key1, scale):
    for i in range(len(out)):
        h = uint32(uint32(i) * uint32(0x9E3779B9) + key0)
        h ^= h >> uint32(16)
        h = uint32(h * uint32(0x7FEB352D))
        h ^= h >> uint32(15)
        h = uint32(uint32(h * uint32(0x846CA68B)) + key1)
        h ^= h >> uint32(16)
        out[i] = np.float32(np.int32(h)) * scale
