"""SwiGLU experts: weights from a seed, their memory layout, and the dense layer everything is checked against.

An expert is `w2 (silu(w1 x) * (w3 x))` with w1, w3 `(width, hidden)` and w2 `(hidden, width)`, all float32. In memory
it is one block `(width, 3, hidden)`: w1[j], w3[j] and w2[:, j] side by side, so that one pass over the bytes does all
the work (native/swiglu.c). Weights are uniform, of standard deviation 1/sqrt(hidden), and depend on (seed, layer,
expert) alone: a copy made again on any rank, after a restart or a move, is the same to the bit. Values do not matter
to the experiment, only that they are real bytes that must be read.
"""

import mmap
from collections.abc import Callable

import numpy as np

from operators.metro import kernel


class ExpertError(ValueError):
    """Sizes or arrays of experts do not fit; the message names argument, value and expectation."""


def empty_slab(slots: int, width: int, hidden: int) -> np.ndarray:
    """Zeroed room for `slots` experts `(slots, width, 3, hidden)` f32, page-aligned, on huge pages where allowed."""
    if slots < 0 or width < 1 or hidden < 16 or hidden % 16:
        raise ExpertError(f"slots, width, hidden (={slots}, {width}, {hidden}): expected >= 0, >= 1, a multiple of 16")
    block = mmap.mmap(-1, max(1, slots * width * 3 * hidden * 4), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(block, np.float32, slots * width * 3 * hidden).reshape(slots, width, 3, hidden)


def fill(out: np.ndarray, *, seed: int, layer: int, expert: int) -> None:
    """Write the weights of one expert into `out (width, 3, hidden)`."""
    key0, key1 = np.random.SeedSequence([seed, layer, expert]).generate_state(2).tolist()
    kernel.core().fill_weights(out, key0, key1, (3 / out.shape[-1]) ** 0.5 / 2**31)


def generate(expert: int, *, seed: int, layer: int, width: int, hidden: int) -> np.ndarray:
    """The weights of one expert `(width, 3, hidden)`."""
    out = empty_slab(1, width, hidden)[0]
    fill(out, seed=seed, layer=layer, expert=expert)
    return out


def pack(w1: np.ndarray, w3: np.ndarray, w2: np.ndarray) -> np.ndarray:
    """The layout `(width, 3, hidden)` of an expert given as w1, w3 `(width, hidden)` and w2 `(hidden, width)`."""
    if not w1.shape == w3.shape == w2.shape[::-1]:
        raise ExpertError(f"w1, w3, w2 (shapes {w1.shape}, {w3.shape}, {w2.shape}): expected (f, d), (f, d), (d, f)")
    return np.ascontiguousarray(np.stack([w1, w3, w2.T], axis=1), np.float32)


def unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w1, w3, w2 of a packed expert, as views."""
    return packed[:, 0], packed[:, 1], packed[:, 2].T


def dense(
    x: np.ndarray,
    topk: np.ndarray,
    gates: np.ndarray,
    weights_of: Callable[[int], np.ndarray],
    *,
    dtype: type = np.float64,
) -> np.ndarray:
    """The mixture-of-experts layer without ranks or copies, `(T, d)` in `dtype`: the reference.

    x `(T, d)`, topk and gates `(T, k)`; `weights_of(expert)` is a packed expert.
    """
    x = np.asarray(x, dtype)
    y = np.zeros_like(x)
    for expert in np.unique(topk):
        token, k = np.nonzero(topk == expert)
        w1, w3, w2 = (part.astype(dtype, copy=False) for part in unpack(weights_of(int(expert))))
        gate = x[token] @ w1.T
        inner = gate / (1 + np.exp(-gate)) * (x[token] @ w3.T)
        np.add.at(y, token, gates[token, k, None].astype(dtype) * (inner @ w2.T))
    return y
