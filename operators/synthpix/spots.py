"""Particle images, plainly: direct exponentials and error functions in double precision, beside the fast kernel.

`reference` is what the kernel must match to 1e-4 of the amplitude; it is slow and used in tests and on small jobs only.
The window (pixels within ceil(cut * sigma) of the centre's pixel) is part of the definition and shared.
"""

import math

import numpy as np

from operators.synthpix import kernel

COLUMNS = ("y", "x", "sigma_y", "sigma_x", "rho", "intensity")
NODES = 24  # Gauss-Legendre points a pixel and axis of the reference of correlated integrated spots


def add(
    spots: np.ndarray,
    shape: tuple[int, int],
    *,
    psf: str = "integrated",
    fill: tuple[float, float] = (1.0, 1.0),
    cut: float = 4.0,
    core=None,
) -> np.ndarray:
    """The image `(H, W)` f32 of spots `(n, 6)` (COLUMNS), by the fast kernel."""
    out = np.zeros(shape, np.float32)
    table = np.ascontiguousarray(spots, np.float64).reshape(-1, 6)
    (core or kernel.core()).add_spots(table, psf == "integrated", fill[0], fill[1], cut, out)
    return out


def energy(spots: np.ndarray) -> np.ndarray:
    """Sum over all pixels of each integrated spot at fill 1: 2 pi I sy sx sqrt(1 - rho^2)."""
    _, _, sy, sx, rho, intensity = np.asarray(spots, np.float64).reshape(-1, 6).T
    return 2 * np.pi * intensity * sy * sx * np.sqrt(1 - rho**2)


def reference(
    spots: np.ndarray,
    shape: tuple[int, int],
    *,
    psf: str = "integrated",
    fill: tuple[float, float] = (1.0, 1.0),
    cut: float = 4.0,
    nodes: int = NODES,
) -> np.ndarray:
    """The same image in double precision, pixel by pixel; `nodes` Gauss-Legendre points for correlated integrals."""
    out = np.zeros(shape)
    for spot in np.asarray(spots, np.float64).reshape(-1, 6):
        _add_one(out, spot, psf, fill, cut, nodes)
    return out


def _add_one(out: np.ndarray, spot: np.ndarray, psf: str, fill: tuple[float, float], cut: float, n: int) -> None:
    y, x, sy, sx, rho, intensity = spot
    sides = []
    for centre, sigma, size in ((y, sy, out.shape[0]), (x, sx, out.shape[1])):
        pixel, reach = math.floor(centre + 0.5), math.ceil(np.float32(cut) * np.float32(sigma))
        sides.append(np.arange(max(pixel - reach, 0), min(pixel + reach + 1, size)))
    rows, columns = sides
    if len(rows) == 0 or len(columns) == 0:
        return
    dy, dx = rows - y, columns - x
    if psf == "point":
        value = gaussian(dy[:, None], dx[None, :], sy, sx, rho)
    elif rho == 0:
        value = np.pi / 2 * sy * sx * np.outer(_step(dy, fill[0], sy), _step(dx, fill[1], sx))
    else:
        value = _quadrature(dy, dx, sy, sx, rho, fill, n)
    out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += intensity * value


def gaussian(dy: np.ndarray, dx: np.ndarray, sy: float, sx: float, rho: float) -> np.ndarray:
    """The spot's shape, 1 at its centre."""
    square = (dy / sy) ** 2 + (dx / sx) ** 2 - 2 * rho * dy * dx / (sy * sx)
    return np.exp(-square / (2 * (1 - rho**2)))


def _step(d: np.ndarray, fill: float, sigma: float) -> np.ndarray:
    scale = 1 / (math.sqrt(2) * sigma)
    return np.array([math.erf((z + fill / 2) * scale) - math.erf((z - fill / 2) * scale) for z in d])


def _quadrature(dy, dx, sy, sx, rho, fill, n) -> np.ndarray:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    total = np.zeros((len(dy), len(dx)))
    for ny, wy in zip(nodes, weights, strict=True):
        for nx, wx in zip(nodes, weights, strict=True):
            shifted = gaussian((dy + ny * fill[0] / 2)[:, None], (dx + nx * fill[1] / 2)[None, :], sy, sx, rho)
            total += wy * wx * shifted
    return total * fill[0] * fill[1] / 4
