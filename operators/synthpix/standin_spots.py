"""Particle images for numba: the same operations as native/spots.cpp, pixel by pixel, same bits (see there)."""

import math

import numpy as np

from operators.lab.compiled import inner
from operators.synthpix.standin_math import F, erf32, exp32

_IN_RANGE, _EXACT_BELOW, _ROOT_HALF, _GAUSS_2 = F(80.0), F(0.65), F(0.70710678), F(0.28867513)
_GAUSS_4 = np.array([-0.43056816, -0.16999052, 0.16999052, 0.43056816], F)
_WEIGHT_4 = np.array([0.17392742, 0.32607258, 0.32607258, 0.17392742], F)


@inner
def reach(cut, sigma):
    """Pixels a spot reaches from its centre's pixel."""
    return math.ceil(cut * sigma)


@inner
def _cells(z, half, scale):
    return erf32((z + half) * scale) - erf32((z - half) * scale)


@inner
def _aligned(canvas, top, bottom, left, right, row0, col0, sy0, sx0, s, integrated, fill_y, fill_x):
    sy, sx, peak = s[0], s[1], s[3]
    ay, ax = F(0.5) / (sy * sy), F(0.5) / (sx * sx)
    if integrated:
        scale_y, scale_x = _ROOT_HALF / sy, _ROOT_HALF / sx
        peak = F(1.57079633) * peak * sy * sx
    columns = np.empty(right - left, F)
    for x in range(left, right):
        z = F(x - col0) + sx0
        columns[x - left] = _cells(z, F(0.5) * fill_x, scale_x) if integrated else exp32(z * z * -ax)
    for y in range(top, bottom):
        z = F(y - row0) + sy0
        factor = (_cells(z, F(0.5) * fill_y, scale_y) if integrated else exp32(z * z * -ay)) * peak
        for x in range(left, right):
            canvas[y, x] += columns[x - left] * factor


@inner
def _point_direct(canvas, top, bottom, left, right, row0, col0, sy0, sx0, ay, ax, c, peak):
    for y in range(top, bottom):
        dy = sy0 + F(y - row0)
        of_row, tilt = dy * dy * -ay, c * dy
        for x in range(left, right):
            z = F(x - col0) + sx0
            canvas[y, x] += exp32(z * tilt + z * z * -ax + of_row) * peak


@inner
def _point_carried(canvas, top, bottom, left, right, row0, col0, sy0, sx0, ay, ax, c, peak):
    tilt = c * (sy0 + F(top - row0))
    row, step = np.empty(right - left, F), np.empty(right - left, F)
    for x in range(left, right):
        z = F(x - col0) + sx0
        row[x - left] = exp32(z * tilt + z * z * -ax)
        step[x - left] = exp32(z * c)
    for y in range(top, bottom):
        z = F(y - row0) + sy0
        factor = exp32(z * z * -ay) * peak
        for x in range(left, right):
            canvas[y, x] += row[x - left] * factor
            row[x - left] = row[x - left] * step[x - left]


@inner
def _integrated_carried(canvas, top, bottom, left, right, row0, col0, sy0, sx0, ay, ax, c, peak, fill_y, fill_x):
    apart_y, apart_x = _GAUSS_2 * fill_y, _GAUSS_2 * fill_x
    row, step = np.empty((4, right - left), F), np.empty((2, right - left), F)
    weight = F(0.25) * peak * fill_y * fill_x
    dy = sy0 + F(top - row0)
    tilt_low, tilt_high = c * (dy - apart_y), c * (dy + apart_y)
    for x in range(left, right):
        for a in range(2):
            z = F(x - col0) + sx0 + (apart_x if a else -apart_x)
            of_column = z * z * -ax
            step[a, x - left] = exp32(z * c)
            row[a, x - left] = exp32(z * tilt_low + of_column)
            row[2 + a, x - left] = exp32(z * tilt_high + of_column)
    for y in range(top, bottom):
        z = F(y - row0) + sy0
        below, above = z + -apart_y, z + apart_y
        low, high = exp32(below * below * -ay) * weight, exp32(above * above * -ay) * weight
        for i in range(right - left):
            canvas[y, left + i] += (row[0, i] + row[1, i]) * low + (row[2, i] + row[3, i]) * high
            for p in range(4):
                row[p, i] = row[p, i] * step[p & 1, i]


@inner
def _integrated_exact(canvas, top, bottom, left, right, row0, col0, sy0, sx0, s, fill_y, fill_x):
    sy, sx, rho, intensity = s[0], s[1], s[2], s[3]
    narrow = F(math.sqrt(F(1.0) - rho * rho))
    sc = sx * narrow
    scale, lean = _ROOT_HALF / sc, rho * sx / sy
    slim = sy if sy < sc else sc
    pieces = max(1, math.ceil(F(0.3) * fill_y / slim))
    piece = fill_y / F(pieces)
    peak = F(1.25331414) * intensity * sc * piece
    ay = F(0.5) / (sy * sy)
    for y in range(top, bottom):
        start = sy0 + F(y - row0) - F(0.5) * fill_y + F(0.5) * piece
        for x in range(left, right):
            z = F(x - col0) + sx0
            total = F(0.0)
            for k in range(pieces):
                for g in range(4):
                    dy = start + F(k) * piece + _GAUSS_4[g] * piece
                    weight = _WEIGHT_4[g] * exp32(dy * dy * -ay)
                    total = total + _cells(z - lean * dy, F(0.5) * fill_x, scale) * weight
            canvas[y, x] += total * peak


@inner
def add_spot(canvas, y, x, s, integrated, fill_y, fill_x, cut):
    """Add one spot centred at (y, x); s = (sigma_y, sigma_x, rho, intensity) f32; canvas `(H, W)` f32."""
    height, width = canvas.shape
    sy, sx, rho = s[0], s[1], s[2]
    ry, rx = reach(cut, sy), reach(cut, sx)
    fy, fx = math.floor(y + 0.5), math.floor(x + 0.5)
    if not (fy >= -ry and fy < height + ry and fx >= -rx and fx < width + rx):
        return
    row0, col0 = int(fy) - ry, int(fx) - rx
    top, bottom = max(row0, 0), min(row0 + 2 * ry + 1, height)
    left, right = max(col0, 0), max(min(col0 + 2 * rx + 1, width), max(col0, 0))
    sy0, sx0 = F(-ry) - F(y - fy), F(-rx) - F(x - fx)
    if rho == F(0.0):
        _aligned(canvas, top, bottom, left, right, row0, col0, sy0, sx0, s, integrated, fill_y, fill_x)
        return
    inverse = F(0.5) / (F(1.0) - rho * rho)
    ay, ax = inverse / (sy * sy), inverse / (sx * sx)
    c = F(2.0) * rho * inverse / (sy * sx)
    far_y, far_x = F(ry) + F(1.0), F(rx) + F(1.0)
    carried = ax * far_x * far_x + abs(c) * far_x * far_y < _IN_RANGE
    narrow = F(math.sqrt(F(1.0) - rho * rho))
    wide = sy * narrow >= _EXACT_BELOW and sx * narrow >= _EXACT_BELOW
    frame = (top, bottom, left, right, row0, col0, sy0, sx0)
    if not integrated and carried:
        _point_carried(canvas, *frame, ay, ax, c, s[3])
    elif not integrated:
        _point_direct(canvas, *frame, ay, ax, c, s[3])
    elif wide and carried:
        _integrated_carried(canvas, *frame, ay, ax, c, s[3], fill_y, fill_x)
    else:
        _integrated_exact(canvas, *frame, s, fill_y, fill_x)
