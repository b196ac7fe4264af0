"""Histogram matching as the official code does it: 256 bins, cumulative sums, `searchsorted`; after clipping."""

import numpy as np

BINS = 256


def matched(image: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    """`image` (values 0..255) with its grey values mapped so that their distribution follows `histogram` `(256,)`."""
    levels = np.clip(np.floor(image), 0, BINS - 1).astype(np.int64)
    have = np.cumsum(np.bincount(levels.ravel(), minlength=BINS)) / image.size
    want = np.cumsum(histogram) / np.sum(histogram)
    table = np.minimum(np.searchsorted(want, have - 1e-12), BINS - 1)
    return table[levels].astype(image.dtype)
