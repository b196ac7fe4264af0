"""The SIFT sets of spec section 4: real descriptors of photographs, larger tiers from the images, and the twin.

Tiers up to 100,000 are the first vectors of base_100k; larger ones add the descriptors of `images/` in file-name order
that are not in it, which needs OpenCV 4.11 (`pip install opencv-python-headless==4.11.0.86`). The twin has the same
statistics from a seed; its known departure is that it is a little less clustered, so that partitions cut more of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operators.batann.truth import exact_neighbours
from operators.batann.vectors import BLOCK, read_truth, read_vectors
from operators.lab import datasets

SET = "sift-bsds"
D = 128
OPENCV = "4.11"
TRUTHS = {10_000: "gt10_10k.ibin", 100_000: "gt10_100k.ibin"}
BASE = 100_000


@dataclass(frozen=True)
class SiftData:
    """Base `(n, 128)` and queries `(nq, 128)` uint8, exact neighbours `(nq, k)`, and `real` or `synthetic`."""

    base: np.ndarray
    queries: np.ndarray
    truth_ids: np.ndarray
    truth_dists: np.ndarray
    mark: str


def load(n: int, queries: int, k: int = 10, *, root: Path | None = None, seed: int = 0) -> SiftData:
    """The tier of `n` vectors: real where the set is under `root`, else its twin made from `seed`."""
    if n < 1 or queries < 1 or k < 1:
        raise ValueError(f"n (={n}), queries (={queries}), k (={k}): each must be >= 1")
    if not datasets.present(SET, root):
        base, asked = twin(n, seed), twin(queries, seed, stream=1)
        return SiftData(base, asked, *exact_neighbours(base, asked, k), "synthetic")
    base = read_vectors(datasets.path(SET, "base_100k.u8bin", root), 0, min(n, BASE))
    if n > BASE:
        base = np.concatenate([base, more_than_base(base, Path(root) / SET / "images", n - BASE)])
    all_queries = read_vectors(datasets.path(SET, "query_10k.u8bin", root))
    if queries > len(all_queries):
        raise ValueError(f"queries (={queries}): the real set has {len(all_queries)}")
    asked = all_queries[:queries]
    if n in TRUTHS and k <= 10:
        ids, dists = read_truth(datasets.path(SET, TRUTHS[n], root))
        return SiftData(base, asked, ids[:queries, :k].copy(), dists[:queries, :k].copy(), "real")
    return SiftData(base, asked, *exact_neighbours(base, asked, k), "real")


def more_than_base(base: np.ndarray, images: Path, count: int) -> np.ndarray:
    """`count` descriptors of the images, in file-name order, that are not among `base`."""
    known = {row.tobytes() for row in base}
    found, have = [], 0
    for path in sorted(images.glob("*.jpg")):
        rows = sift_extract(path)
        rows = rows[[row.tobytes() not in known for row in rows]]
        found.append(rows)
        have += len(rows)
        if have >= count:
            return np.concatenate(found)[:count]
    raise ValueError(f"n: {images} gives {have} vectors beyond the first {len(base)}; expected at least {count} more")


def needs(n: int, root: Path | None) -> None:
    """Raise ValueError now if `load` of `n` vectors would find no usable OpenCV later."""
    if n > BASE and datasets.present(SET, root):
        _opencv()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise ValueError(
            "sift_extract: no OpenCV; tiers above 100,000 need `pip install opencv-python-headless==4.11.0.86`"
        ) from None
    if not cv2.__version__.startswith(OPENCV):
        raise ValueError(f"sift_extract: OpenCV {cv2.__version__}; expected {OPENCV}.x, by which the base was made")
    return cv2


def sift_extract(path: Path | str) -> np.ndarray:
    """SIFT descriptors `(m, 128)` uint8 of one image, as the set's were made (OpenCV 4.11)."""
    cv2 = _opencv()
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{path}: not a readable image")
    sift = cv2.SIFT_create(nfeatures=0, nOctaveLayers=3, contrastThreshold=0.0, edgeThreshold=10)
    _, rows = sift.detectAndCompute(image, None)
    return np.empty((0, D), np.uint8) if rows is None else rows.astype(np.uint8)


def twin(n: int, seed: int = 0, *, stream: int = 0) -> np.ndarray:
    """`n` synthetic descriptors `(n, 128)` uint8; `stream` 0 is the base, others are further draws (queries)."""
    shape = np.random.default_rng([seed, 5])
    q, _ = np.linalg.qr(shape.standard_normal((D, D)))
    fixed = 1.6 + 0.4 * shape.standard_normal(D)
    spectrum = (np.arange(1, D + 1) + 10.0) ** -1.6
    mix = np.sqrt(D) * q * (spectrum / np.linalg.norm(spectrum))
    out = np.empty((n, D), np.uint8)
    for at in range(0, n, BLOCK):
        draws = np.random.default_rng([seed, 6, stream, at]).standard_normal((min(BLOCK, n - at), D))
        rows = np.maximum(draws @ mix.T + fixed, 0.0) ** 3.3
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.minimum(rows, 0.2)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        out[at : at + BLOCK] = np.minimum(255, np.round(512 * rows))
    return out
