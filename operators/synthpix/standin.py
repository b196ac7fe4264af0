"""The renderer for numba: where no compiler was found, the same functions with the same bytes as the native core.

Interface: kernel.py. Operations and their order follow native/particles.cpp and native/sensor.cpp line by line; a test
compares the bytes over many settings.
"""

import math

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.synthpix.standin_math import (
    F,
    exp32,
    normals32,
    philox,
    quantile32,
    rounded32,
    unit32,
)
from operators.synthpix.standin_motion import displace, displacement, label
from operators.synthpix.standin_spots import add_spot

__all__ = ["add_spots", "displace", "expose", "label", "render", "words"]

_UNIT, _WORD, _BAND = 1.0 / 4294967296.0, 4294967296.0, 16
_RARE, _TAIL, _STEPS = F(10.0), F(3.0e-8), 64
_INVERSE = np.array([0.0] + [np.float32(1.0) / np.float32(k) for k in range(1, 65)], F)
# Positions in the parameter vector (kernel.PARAMETERS).
(_SEED_Y, _SEED_X, _EXTENT_Y, _EXTENT_X, _AREA, _DENSITY_LO, _DENSITY_HI, _SIGMA, _D_STD, _I_STD, _R_STD, _HIDE_1,
 _HIDE_2, _INTEGRATED, _FILL_Y, _FILL_X, _CUT, _SHEET, _SHEET_WIDTH, _SHEET_SHAPE, _SHEET_PROFILE, _DZ, _DZ_FLOW,
 _SLAB, _BITS, _QE, _GAIN, _BASELINE, _SHOT, _NOISE_UNIFORM, _NOISE_MEAN, _NOISE_SIGMA) = range(32)  # fmt: skip


@inner
def _words(k0, k1, pair, stream, index):
    low, high = np.uint32(pair & np.uint64(0xFFFFFFFF)), np.uint32(pair >> np.uint64(32))
    return philox(np.uint32(index), np.uint32(stream), low, high, k0, k1)


@inner
def _poisson(mean, word):
    if mean >= _RARE:
        z = quantile32(word)
        width = F(math.sqrt(mean))
        zz = z * z
        k = mean + width * z
        k = k + (zz * F(0.16666667) + F(0.33333333))
        k = k - (zz + F(2.0)) * z * F(0.013888889) / width
        k = k + (zz * zz * F(0.0037037037) + zz * F(0.0086419753) - F(0.019753086)) / mean
        return max(rounded32(k - F(0.5)), F(0.0))
    few = max(mean, F(0.0))
    u = unit32(word) + F(2.98023223876953125e-8)
    p = exp32(few * F(-1.0))
    total, count = p, 0
    while u > total and p >= _TAIL and count < _STEPS - 1:
        count += 1
        p = p * few * _INVERSE[count]
        total = total + p
    return F(count)


@inner
def _noisy(par, k0, k1, pair, image, group, i, light):
    """Counts before rounding of pixel i of a group of 64."""
    v = light * F(par[_QE])
    index, k = group * 16 + (i >> 5) * 8 + (i & 7), (i >> 3) & 3
    if par[_SHOT] > 0.0:
        v = _poisson(v, _words(k0, k1, pair, 9 + image, index)[k])
    v = v * F(par[_GAIN]) + F(par[_BASELINE]) + F(par[_NOISE_MEAN])
    if par[_NOISE_SIGMA] > 0.0:
        w = _words(k0, k1, pair, 7 + image, index)
        first, second = normals32(w[0], w[1]) if k < 2 else normals32(w[2], w[3])
        v = v + (second if k & 1 else first) * F(par[_NOISE_SIGMA])
    if par[_NOISE_UNIFORM] > 0.0:
        word = _words(k0, k1, pair, 5 + image, group * 8 + (i & 7))[k]
        part = word >> np.uint32(16) if i >= 32 else word & np.uint32(65535)
        v = v + (F(np.int64(part)) + F(0.5)) * F(par[_NOISE_UNIFORM] / 65536.0)
    return v


@inner
def _expose(canvas, par, k0, k1, pair, image, mask, out):
    height, width = canvas.shape
    groups = (width + 63) // 64
    whole = par[_BITS] > 0.0
    highest = F((1 << int(par[_BITS])) - 1) if whole else F(255.0)
    saturated, grey, masked = 0, np.zeros(8), mask.shape[0] > 0
    for y in range(height):
        for x in range(width):
            v = _noisy(par, k0, k1, pair, image, y * groups + x // 64, x & 63, canvas[y, x])
            if masked and mask[y, x] == 0:
                v = F(0.0)
            if whole:
                v = rounded32(max(min(v, highest + F(4.0)), F(-4.0)))
            saturated += 1 if v > highest else 0
            v = max(min(v, highest), F(0.0))
            out[y, x] = v
            grey[x & 7] += v
    total = 0.0
    for i in range(8):
        total += grey[i]
    return saturated, total


@inner
def _lit(par, z):
    if not par[_SHEET] > 0.0:
        return F(1.0)
    far = 2.0 * z / par[_SHEET_WIDTH]
    if math.fabs(far) > 1.0:
        return F(0.0)
    shape = int(par[_SHEET_SHAPE])
    if shape == 0 or shape > 100:
        return F(1.0)
    square = F(far * far)
    power = square
    for _ in range(1, shape):
        power = power * square
    return exp32(power * (F(-0.39894228) if par[_SHEET_PROFILE] > 0.0 else F(-2.0)))


@inner
def _clipped(v, low, high):
    return min(max(v, low), high)


@inner
def _draw(par, d, i_range, r, k0, k1, pair, particle, looks, hidden):
    """Position, depth and look in both images of one particle; looks `(2, 4)`: sigma y, x, rho, intensity."""
    place = _words(k0, k1, pair, 1, particle)
    light = _words(k0, k1, pair, 2, particle)
    y = par[_SEED_Y] + (float(place[0]) + 0.5) * _UNIT * par[_EXTENT_Y]
    x = par[_SEED_X] + (float(place[1]) + 0.5) * _UNIT * par[_EXTENT_X]
    hidden[0] = float(light[2]) < par[_HIDE_1] * _WORD
    hidden[1] = float(light[3]) < par[_HIDE_2] * _WORD
    factor = F(par[_SIGMA])
    dx = unit32(place[2]) * (d[1] - d[0]) + d[0]
    dy = _clipped(dx + (unit32(place[3]) * F(2.0) - F(1.0)), d[0], d[1])
    rho = unit32(light[0]) * (r[1] - r[0]) + r[0]
    peak = unit32(light[1]) * (i_range[1] - i_range[0]) + i_range[0]
    changes = par[_D_STD] > 0.0 or par[_I_STD] > 0.0 or par[_R_STD] > 0.0
    for image in range(2):
        if image == 1 and changes:
            w = _words(k0, k1, pair, 3, particle)
            n0, n1 = normals32(w[0], w[1])
            n2, n3 = normals32(w[2], w[3])
            dx = _clipped(dx + n0 * F(par[_D_STD]), d[0], d[1])
            dy = _clipped(dy + n1 * F(par[_D_STD]), d[0], d[1])
            rho = _clipped(rho + n2 * F(par[_R_STD]), r[0], r[1])
            peak = _clipped(peak + n3 * F(par[_I_STD]), i_range[0], i_range[1])
        looks[image, 0], looks[image, 1] = dy * factor, dx * factor
        looks[image, 2], looks[image, 3] = rho, peak
    z = 0.0
    if par[_SHEET] > 0.0:
        z = ((float(_words(k0, k1, pair, 4, particle)[0]) + 0.5) * _UNIT - 0.5) * par[_SLAB]
    return y, x, z


@inner
def _add_in_bands(canvas, many, where, looks, par):
    """Add spots band by band of rows, keeping their order within a band."""
    height = canvas.shape[0]
    bands = (height + _BAND - 1) // _BAND
    start = np.zeros(bands + 1, np.int64)
    order = np.empty(many, np.int64)
    for turn in range(2):
        for i in range(many):
            band = int(min(max(where[i, 0], 0.0), float(height - 1))) // _BAND
            if turn == 0:
                start[band + 1] += 1
            else:
                order[start[band]] = i
                start[band] += 1
        if turn == 0:
            for band in range(bands):
                start[band + 1] += start[band]
    for i in order:
        add_spot(canvas, where[i, 0], where[i, 1], looks[i], par[_INTEGRATED] > 0.0, F(par[_FILL_Y]),
                 F(par[_FILL_X]), F(par[_CUT]))  # fmt: skip


@inner
def _populate(values, place, par, d, i_range, r, k0, k1, pair, particles, canvas, stats):
    height, width = canvas.shape[1:]
    where, looks = np.empty((2, particles, 2)), np.empty((2, particles, 4), F)
    many, visible = np.zeros(2, np.int64), np.zeros(2, np.int64)
    look, hidden, seen, inside = (
        np.empty((2, 4), F),
        np.zeros(2, np.bool_),
        np.zeros(2, np.bool_),
        np.zeros(2, np.bool_),
    )
    lost, peak = 0, 0.0
    for particle in range(particles):
        y, x, z = _draw(par, d, i_range, r, k0, k1, pair, particle, look, hidden)
        dy, dx, dz = displacement(values, place, y, x)
        if not par[_DZ_FLOW] > 0.0:
            dz = par[_DZ]
        for image in range(2):
            if image == 1:
                y, x, z = y + dy, x + dx, z + dz
            amplitude = F(0.0) if hidden[image] else _lit(par, z)
            seen[image] = amplitude > F(0.0)
            inside[image] = y >= -0.5 and y < height - 0.5 and x >= -0.5 and x < width - 0.5
            if not seen[image]:
                continue
            at = many[image]
            many[image] += 1
            where[image, at, 0], where[image, at, 1] = y, x
            for k in range(4):
                looks[image, at, k] = look[image, k]
            looks[image, at, 3] = look[image, 3] * amplitude
            if inside[image]:
                visible[image] += 1
                if image == 0:
                    peak += looks[image, at, 3]
        lost += 1 if seen[0] and inside[0] and not seen[1] else 0
    for image in range(2):
        _add_in_bands(canvas[image], many[image], where[image], looks[image], par)
    stats[4], stats[5], stats[6], stats[7] = particles, visible[0], visible[1], lost
    stats[12] = peak / visible[0] if visible[0] else 0.0


@kernel
def _render(values, place, par, diameters, intensities, rhos, mask, k0, k1, pair, first, second, stats):
    height, width = first.shape
    w = _words(k0, k1, pair, 0, 0)
    density = par[_DENSITY_LO] + (float(w[0]) + 0.5) * _UNIT * (par[_DENSITY_HI] - par[_DENSITY_LO])
    a = int(float(w[1]) * _UNIT * len(diameters))
    b = int(float(w[2]) * _UNIT * len(intensities))
    c = int(float(w[3]) * _UNIT * len(rhos))
    stats[0], stats[1], stats[2], stats[3] = density, a, b, c
    depth = par[_SLAB] / par[_SHEET_WIDTH] if par[_SHEET] > 0.0 else 1.0
    particles = int(par[_AREA] * density * depth)
    canvas = np.zeros((2, height, width), F)
    d, i_range, r = diameters[a].astype(F), intensities[b].astype(F), rhos[c].astype(F)
    _populate(values, place, par, d, i_range, r, k0, k1, pair, particles, canvas, stats)
    stats[13] = 0.0
    if par[_SHOT] > 0.0:
        sums = np.zeros(8)
        for y in range(height):
            for x in range(width):
                sums[x & 7] += canvas[0, y, x]
        total = 0.0
        for i in range(8):
            total += sums[i]
        stats[13] = total / (height * width)
    saturated, total = _expose(canvas[0], par, k0, k1, pair, 0, mask, first)
    stats[8], stats[10] = saturated, total / (height * width)
    saturated, total = _expose(canvas[1], par, k0, k1, pair, 1, mask, second)
    stats[9], stats[11] = saturated, total / (height * width)


def render(values, place, par, diameters, intensities, rhos, mask, k0, k1, pair, first, second, stats):
    """Render one pair (see kernel.py)."""
    _render(values, place, par, diameters, intensities, rhos, mask, np.uint32(k0), np.uint32(k1), np.uint64(pair),
            first, second, stats)  # fmt: skip


@kernel
def _add_spots(spots, integrated, fill_y, fill_x, cut, out):
    for i in range(len(spots)):
        add_spot(out, spots[i, 0], spots[i, 1], spots[i, 2:].astype(F), integrated, fill_y, fill_x, cut)


def add_spots(spots, integrated, fill_y, fill_x, cut, out):
    """Add spots `(n, 6)` to out `(H, W)` f32, which is overwritten (see kernel.py)."""
    out[:] = 0.0
    _add_spots(spots, integrated, F(fill_y), F(fill_x), F(cut), out)


@kernel
def _expose_light(light, par, k0, k1, pair, image, mask, out, stats):
    saturated, total = _expose(light, par, k0, k1, pair, image, mask, out)
    stats[0], stats[1] = saturated, total / light.size


def expose(light, par, k0, k1, pair, image, out, stats):
    """The sensor alone: light `(H, W)` f32 to counts (see kernel.py)."""
    _expose_light(
        light, par, np.uint32(k0), np.uint32(k1), np.uint64(pair), image, np.zeros((0, 0), np.uint8), out, stats
    )


@kernel
def _many_words(k0, k1, stream, pair, first, out):
    for i in range(len(out)):
        w = _words(k0, k1, pair, stream, first + i)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = w[0], w[1], w[2], w[3]


def words(k0, k1, stream, pair, first, out):
    """Philox words of counters first, first + 1, ... into out `(n, 4)` u32."""
    _many_words(np.uint32(k0), np.uint32(k1), stream, np.uint64(pair), first, out)
