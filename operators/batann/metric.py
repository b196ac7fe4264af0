"""Metrics: l2 as it is; inner product and cosine become squared L2 before anything is built (spec 2.5, paper's mips).

    ip      x' = [x / M, sqrt(1 - |x|^2 / M^2)] with M the largest norm; q' = [q / |q|, 0]
    cosine  x' = x / |x|; q' = q / |q|

so inside there is one measure only. `Stored` is what an index keeps; `scores` turns squared distances back. Types other
than float32 become float32 for ip and cosine.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from operators.batann.vectors import check_queries, check_vectors

if TYPE_CHECKING:
    from operators.batann.layout import Meta

METRICS = ("l2", "ip", "cosine")


@dataclass(frozen=True)
class Stored:
    """Vectors `(n, d)` as an index keeps them, the user's dimension and, for ip, the largest norm."""

    vectors: np.ndarray
    metric: str
    dim_in: int
    scale: float = 1.0

    @property
    def dtype(self) -> np.dtype:
        return self.vectors.dtype


def check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric (={metric!r}): expected one of {', '.join(METRICS)}")


def stored(x: np.ndarray, metric: str = "l2") -> Stored:
    """The vectors an index of `metric` keeps for `x (n, dim_in)`."""
    check_metric(metric)
    check_vectors(x, norms=metric == "l2")
    if metric == "l2":
        return Stored(np.ascontiguousarray(x), metric, x.shape[1])
    rows = x.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    if metric == "cosine":
        if not norms.all():
            raise ValueError(f"x: row {int(np.argmin(norms))} is zero; cosine needs a direction")
        return Stored((rows / norms[:, None]).astype(np.float32), metric, x.shape[1])
    scale = float(norms.max()) or 1.0
    rest = np.sqrt(np.maximum(0.0, 1.0 - (norms / scale) ** 2))
    return Stored(np.column_stack([rows / scale, rest]).astype(np.float32), metric, x.shape[1], scale)


def prepare_queries(queries: np.ndarray, meta: "Stored | Meta") -> np.ndarray:
    """Queries `(nq, dim_in)` as the index compares them; ValueError naming both sides for another dimension or dtype.

    `meta`: an index's meta, or what `stored` gave.
    """
    if meta.metric == "l2":
        return check_queries(queries, meta.dim_in, np.dtype(meta.dtype))
    queries = np.atleast_2d(np.asarray(queries))
    check_vectors(queries, "queries", norms=False)
    if queries.shape[1] != meta.dim_in:
        raise ValueError(f"queries: {queries.shape[1]} dimensions; expected the index's {meta.dim_in}")
    rows = queries.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return np.column_stack([rows, np.zeros(len(rows), np.float32)]) if meta.metric == "ip" else rows


def scores(dists: np.ndarray, metric: str, queries: np.ndarray | None = None, scale: float = 1.0) -> np.ndarray:
    """What squared distances `(nq, k)` mean in `metric`: distances, inner products (of `queries`), or cosines."""
    check_metric(metric)
    if metric == "l2":
        return dists
    cosine = 1.0 - dists / 2.0
    if metric == "cosine":
        return cosine
    return cosine * scale * np.linalg.norm(np.asarray(queries, np.float64), axis=1, keepdims=True)
