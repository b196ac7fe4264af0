"""Displacement and labels for numba: the same operations as native/motion.cpp, same arguments, same bits."""

import math

import numpy as np

from operators.lab.compiled import inner, kernel

CLOSE, ROUNDS = 1e-6, 50  # px, fixed-point iterations


@inner
def _cell(position, nodes):
    position = min(max(position, 0.0), float(nodes - 1))
    index = max(min(int(position), nodes - 2), 0)
    return index, position - index


@inner
def _between(values, row, column, component, ty, tx):
    down, right = min(row + 1, values.shape[0] - 1), min(column + 1, values.shape[1] - 1)
    a, b = np.float64(values[row, column, component]), np.float64(values[row, right, component])
    c, d = np.float64(values[down, column, component]), np.float64(values[down, right, component])
    top, low = a + (b - a) * tx, c + (d - c) * tx
    return top + (low - top) * ty


@inner
def _velocity(values, place, y, x):
    row, ty = _cell(y * place[0] + place[1], values.shape[0])
    column, tx = _cell(x * place[2] + place[3], values.shape[1])
    vx = _between(values, row, column, 0, ty, tx) * place[4]
    vy = _between(values, row, column, 1, ty, tx) * place[4]
    vz = _between(values, row, column, 2, ty, tx) * place[4] if values.shape[2] > 2 else 0.0
    return vy, vx, vz


@inner
def displacement(values, place, y, x):
    """(dy, dx, dz) in pixels of a particle that starts at pixel (y, x)."""
    substeps = int(place[5])
    if substeps == 0:
        return _velocity(values, place, y, x)
    h = 1.0 / substeps
    sy, sx, sz = 0.0, 0.0, 0.0
    for _ in range(substeps):
        py, px = y + sy, x + sx
        ay, ax, az = _velocity(values, place, py, px)
        by, bx, bz = _velocity(values, place, py + ay * (0.5 * h), px + ax * (0.5 * h))
        cy, cx, cz = _velocity(values, place, py + by * (0.5 * h), px + bx * (0.5 * h))
        dy, dx, dz = _velocity(values, place, py + cy * h, px + cx * h)
        sy += (ay + 2.0 * by + 2.0 * cy + dy) * (h / 6.0)
        sx += (ax + 2.0 * bx + 2.0 * cx + dx) * (h / 6.0)
        sz += (az + 2.0 * bz + 2.0 * cz + dz) * (h / 6.0)
    return sy, sx, sz


@kernel
def displace(values, place, ys, xs, out):
    """Displacements (dy, dx) of many points into out `(n, 2)`."""
    for i in range(len(ys)):
        dy, dx, _ = displacement(values, place, ys[i], xs[i])
        out[i, 0], out[i, 1] = dy, dx


@kernel
def label(values, place, per_pixel, mode, scale, out):
    """Labels (dx, dy) * scale into out `(h, w, 2)`; how many did not converge. mode: 0 start, 1 middle, 2 end."""
    part = 0.5 if mode == 1 else 1.0
    failed = 0
    for r in range(out.shape[0]):
        y = float(r) / per_pixel
        for c in range(out.shape[1]):
            x = float(c) / per_pixel
            my, mx, _ = displacement(values, place, y, x)
            found = mode == 0
            for _ in range(ROUNDS):
                if found:
                    break
                ny, nx, _ = displacement(values, place, y - part * my, x - part * mx)
                found = math.fabs(ny - my) <= CLOSE and math.fabs(nx - mx) <= CLOSE
                my, mx = ny, nx
            out[r, c, 0] = np.float32(mx * scale) if found else np.float32(np.nan)
            out[r, c, 1] = np.float32(my * scale) if found else np.float32(np.nan)
            failed += 0 if found else 1
    return failed
