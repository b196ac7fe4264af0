"""The quality loop: a PIV code analyses pairs, its vectors are compared with the label.

`method="openpiv"` runs OpenPIV 0.26 (GPL-3, never imported here) in the peers' interpreter; `method="fft"` is a small
correlator of our own, so that the gate runs anywhere: one pass, window of 3/4 of the search area (as OpenPIV's extended
search), circular correlation, three-point Gauss fit. Results carry the method. Windows tile from the image's corner,
the overlap is half a window: other overlaps shift OpenPIV's coordinates (section 11 of the specification).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from operators.synthpix.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from operators.synthpix.generator import Batch

OUTLIER_PX = 1.0
METHODS = ("openpiv", "fft")
TINY = 1e-6


@dataclass(frozen=True)
class Vectors:
    """Vectors of one pair on a grid: centres y, x and displacements u, v, all `(rows, columns)` px."""

    y: np.ndarray
    x: np.ndarray
    u: np.ndarray
    v: np.ndarray


def analyse(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, method: str, windows: Sequence[int], even: bool = False
) -> list[Vectors]:
    """Vectors of every pair. `windows` are search areas, one per pass (one pass only for "fft", `even`: correlate()).

    Raises ConfigError for an unknown method, PeerError where OpenPIV is not installed.
    """
    if method == "fft":
        if len(windows) != 1:
            raise ConfigError("windows", "method 'fft' makes one pass", list(windows))
        return [correlate(*pair, search=windows[0], even=even) for pair in pairs]
    if method != "openpiv":
        raise ConfigError("method", f"expected one of {', '.join(METHODS)}", method)
    from operators.synthpix import peers

    return [Vectors(*fields) for fields in peers.openpiv(pairs, windows)]


def centres(size: int, window: int) -> np.ndarray:
    """Centres of windows that overlap by half, in pixel coordinates."""
    return np.arange(0, size - window + 1, window // 2) + (window - 1) / 2


def correlate(image1: np.ndarray, image2: np.ndarray, *, search: int = 32, even: bool = False) -> Vectors:
    """One pass: windows of 3/4 `search` of image 1 against areas of `search` of image 2.

    `even` takes whole areas of both images: noisier, but symmetric in time, so that it measures the middle of the path;
    a fixed window in image 1 measures what its particles do, the start.
    """
    if min(image1.shape) < search:
        raise ConfigError("windows", f"larger than the image {image1.shape}", search)
    areas = _windows(image2, search)
    inner = _windows(image1, search)
    edge = 0 if even else search // 8
    inner = inner[..., edge : search - edge, edge : search - edge]
    inner = inner - inner.mean(axis=(-2, -1), keepdims=True)
    areas = areas - areas.mean(axis=(-2, -1), keepdims=True)
    padded = np.zeros_like(areas)
    padded[..., edge : search - edge, edge : search - edge] = inner
    spectrum = np.conj(np.fft.rfft2(padded)) * np.fft.rfft2(areas)
    plane = np.fft.fftshift(np.fft.irfft2(spectrum, s=(search, search)), axes=(-2, -1))
    v, u = _peaks(plane)
    y, x = np.meshgrid(centres(image1.shape[0], search), centres(image1.shape[1], search), indexing="ij")
    return Vectors(y, x, u, v)


def _windows(image: np.ndarray, size: int) -> np.ndarray:
    view = np.lib.stride_tricks.sliding_window_view(np.asarray(image, np.float64), (size, size))
    return view[:: size // 2, :: size // 2]


def _peaks(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sub-pixel position of the highest correlation against the centre `(…, n, n)`: (dy, dx)."""
    n = plane.shape[-1]
    flat = plane[..., 1:-1, 1:-1].reshape(*plane.shape[:-2], -1).argmax(-1)
    row, column = flat // (n - 2) + 1, flat % (n - 2) + 1
    grid = np.ogrid[tuple(slice(s) for s in row.shape)]

    def at(dy: int, dx: int) -> np.ndarray:
        return np.log(np.maximum(plane[(*grid, row + dy, column + dx)], TINY))

    middle = at(0, 0)
    fits = []
    for low, high in ((at(-1, 0), at(1, 0)), (at(0, -1), at(0, 1))):
        bend = 2 * low - 4 * middle + 2 * high
        fits.append(np.where(np.abs(bend) > TINY, (low - high) / np.where(bend == 0, 1, bend), 0.0))
    return row - n // 2 + fits[0], column - n // 2 + fits[1]


def at_points(label: np.ndarray, y: np.ndarray, x: np.ndarray, per_pixel: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The label (u, v) at points, bilinear, edge values beyond."""
    place = [np.clip(c * per_pixel, 0, n - 1) for c, n in zip((y, x), label.shape[:2], strict=True)]
    low = [np.minimum(p.astype(int), max(n - 2, 0)) for p, n in zip(place, label.shape[:2], strict=True)]
    ty, tx = (p - i for p, i in zip(place, low, strict=True))
    high = [np.minimum(i + 1, n - 1) for i, n in zip(low, label.shape[:2], strict=True)]
    ty, tx = ty[..., None], tx[..., None]
    top = label[low[0], low[1]] * (1 - tx) + label[low[0], high[1]] * tx
    bottom = label[high[0], low[1]] * (1 - tx) + label[high[0], high[1]] * tx
    value = top * (1 - ty) + bottom * ty
    return value[..., 0], value[..., 1]


def over_windows(label: np.ndarray, y: np.ndarray, x: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The label's mean over each window (one label point per pixel)."""
    total = np.zeros((label.shape[0] + 1, label.shape[1] + 1, 2))
    total[1:, 1:] = np.nan_to_num(label).cumsum(0).cumsum(1)
    top, left = (np.clip(np.rint(c - (window - 1) / 2).astype(int), 0, n - window)
                 for c, n in zip((y, x), label.shape[:2], strict=True))  # fmt: skip
    bottom, right = top + window, left + window
    mean = (total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]) / window**2
    return mean[..., 0], mean[..., 1]


def inner(vectors: Vectors, ring: int = 1) -> tuple[slice, slice]:
    """The vectors without the outer `ring`, where there are enough."""
    rows, columns = vectors.u.shape
    cut = [slice(ring, n - ring) if n > 2 * ring + 1 else slice(None) for n in (rows, columns)]
    return cut[0], cut[1]


def summary(du: np.ndarray, dv: np.ndarray, u_true: np.ndarray, v_true: np.ndarray) -> dict[str, float]:
    """Measures of errors (measured - true): bias_u, bias_v, rms, median, p90, outlier_share, peak_lock_px, n.

    rms per component; median and p90 of the vector error; outliers differ by more than 1 px and do not count in bias
    and rms. peak_lock_px: amplitude of the error's first harmonic over the fraction of the true displacement, both
    components pooled; needs displacements spread evenly over a pixel.
    """
    du, dv, u_true, v_true = (np.ravel(a).astype(np.float64) for a in (du, dv, u_true, v_true))
    good = np.isfinite(du) & np.isfinite(dv) & np.isfinite(u_true) & np.isfinite(v_true)
    du, dv, u_true, v_true = du[good], dv[good], u_true[good], v_true[good]
    far = np.hypot(du, dv)
    kept = far <= OUTLIER_PX
    e, f = np.concatenate([du[kept], dv[kept]]), np.concatenate([u_true[kept], v_true[kept]])
    return {
        **{"bias_u": float(du[kept].mean()), "bias_v": float(dv[kept].mean()), "rms": float(np.sqrt(np.mean(e**2)))},
        **{"median": float(np.median(far)), "p90": float(np.quantile(far, 0.9))},
        "outlier_share": float(1 - kept.mean()),
        **{"peak_lock_px": float(abs(2 * np.mean(e * np.sin(2 * np.pi * f)))), "n": int(far.size)},
    }  # fmt: skip


def evaluate(
    batch: "Batch", method: str = "openpiv", windows: Sequence[int] = (64, 32, 16), label: str = "mid"
) -> "pl.DataFrame":
    """One row per pair of a batch: bias_u, bias_v, rms, median, p90, outliers, peak_lock_px, n, method, label.

    `label` names where the batch's label was taken (it is not recomputed); outer vectors do not count.
    """
    import polars as pl

    if method == "fft" and len(windows) > 1:
        windows = (windows[min(1, len(windows) - 1)],)
    rows = []
    found = analyse(list(zip(batch.images1, batch.images2, strict=True)), method=method, windows=windows)
    for pair, vectors in enumerate(found):
        cut = inner(vectors)
        per_pixel = batch.flow.shape[1] / batch.images1.shape[1]
        u, v = at_points(batch.flow[pair], vectors.y[cut], vectors.x[cut], per_pixel)
        row = summary(vectors.u[cut] - u, vectors.v[cut] - v, u, v)
        row["outliers"] = row.pop("outlier_share")
        rows.append({"pair": int(batch.meta["pair"][pair]), **row, "method": method, "label": label})
    return pl.DataFrame(rows)
