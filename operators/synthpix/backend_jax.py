"""The optional JAX back end: the same draws and statistics as the core, other bytes (JAX's own random numbers).

For machines with a GPU. A pair's density and ranges come from our counters, so both back ends agree on them; particles,
looks and noise come from `jax.random`, keyed by (seed, epoch, pair). Spots are scattered as windows; integrated
correlated spots take 4 x 4 Gauss-Legendre points a pixel. Labels are the core's. Needs the package jax (not in the lock
file). Not tested on a GPU here.
"""

import functools
from typing import Any

import numpy as np

from operators.synthpix import kernel, rng
from operators.synthpix.errors import ConfigError

SLOTS = 1024  # particle slots come in multiples of this, so that few sizes are compiled
_AT = {name: k for k, name in enumerate(kernel.PARAMETERS)}
_OUT = {name: k for k, name in enumerate(kernel.STATISTICS)}


@functools.cache
def library() -> Any:
    """The jax module. Raises ConfigError saying how to get it."""
    try:
        import jax
    except ImportError:
        raise ConfigError("backend", "needs the package jax, which is optional: pip install jax", "jax") from None
    return jax


def render(prepared: list, indices: list[int], ranges: list[np.ndarray], mask: np.ndarray, key: tuple[int, int],
           images1: np.ndarray, images2: np.ndarray) -> np.ndarray:  # fmt: skip
    """Fill images1 and images2 `(B, H, W)`; the statistics `(B, len(STATISTICS))` of kernel.py."""
    jax = library()
    stats = np.zeros((len(indices), len(kernel.STATISTICS)))
    base = jax.random.PRNGKey((key[0] << 32 | key[1]) & (2**63 - 1))
    for k, index in enumerate(indices):
        made = prepared[k % len(prepared)]
        par = made.parameters
        words = rng.words(key, 0, index, 0, 1)[0].astype(np.float64)
        density = par[_AT["density_lo"]] + (words[0] + 0.5) / 2**32 * (par[_AT["density_hi"]] - par[_AT["density_lo"]])
        picks = [int(w / 2**32 * len(r)) for w, r in zip(words[1:], ranges, strict=True)]
        depth = par[_AT["slab"]] / par[_AT["sheet_width"]] if par[_AT["sheet"]] else 1.0
        count = int(par[_AT["area"]] * density * depth)
        reach = int(np.ceil(par[_AT["cut"]] * par[_AT["sigma_per_diameter"]] * ranges[0][:, 1].max()))
        integrated = bool(par[_AT["integrated"]]) + bool(par[_AT["integrated"]] and ranges[2].any())
        size = (*images1.shape[1:], -(-max(count, 1) // SLOTS) * SLOTS, reach, integrated, int(par[_AT["sheet_shape"]]))
        where = (base, index & 0xFFFFFFFF)
        chosen = [r[p] for r, p in zip(ranges, picks, strict=True)]
        light, counts = _compiled(size)(*where, made.flow.values, made.place, par, *chosen, count)
        for image, target in enumerate((images1, images2)):
            values, above = _sensor(jax, jax.random.fold_in(base, 2**31 + image), index, light[image], par, mask)
            target[k] = values.astype(target.dtype)
            stats[k, _OUT["saturated_1"] + image] = above
            stats[k, _OUT["grey_mean_1"] + image] = values.mean()
        stats[k, :5] = density, *picks, count
        stats[k, _OUT["visible_1"] : _OUT["lost"] + 1] = np.asarray(counts)[:3]
        stats[k, _OUT["peak"]], stats[k, _OUT["signal"]] = float(counts[3]), float(light[0].mean())
    return stats


@functools.cache
def _compiled(size: tuple) -> Any:
    """The jitted function of one (height, width, slots, reach, spot kind, sheet shape)."""
    return library().jit(functools.partial(_pair, size))


def _displacement(jnp: Any, flow: Any, place: Any, y: Any, x: Any) -> Any:
    """(dy, dx, dz) of one velocity evaluation, px."""
    place_y = jnp.clip(y * place[0] + place[1], 0, flow.shape[0] - 1)
    place_x = jnp.clip(x * place[2] + place[3], 0, flow.shape[1] - 1)
    row = jnp.clip(jnp.floor(place_y).astype(int), 0, max(flow.shape[0] - 2, 0))
    column = jnp.clip(jnp.floor(place_x).astype(int), 0, max(flow.shape[1] - 2, 0))
    down, right = jnp.minimum(row + 1, flow.shape[0] - 1), jnp.minimum(column + 1, flow.shape[1] - 1)
    ty, tx = (place_y - row)[:, None], (place_x - column)[:, None]
    top = flow[row, column] * (1 - tx) + flow[row, right] * tx
    low = flow[down, column] * (1 - tx) + flow[down, right] * tx
    v = (top * (1 - ty) + low * ty) * place[4]
    return v[:, 1], v[:, 0], (v[:, 2] if flow.shape[2] > 2 else jnp.zeros_like(y))


def _moved(jax: Any, flow: Any, place: Any, y: Any, x: Any) -> Any:
    """Euler's step, or Runge-Kutta 4 in place[5] sub-steps."""
    jnp = jax.numpy
    velocity = functools.partial(_displacement, jnp, flow, place)
    h = 1.0 / jnp.maximum(place[5], 1)

    def step(_: int, total: Any) -> Any:
        sy, sx, _ = total
        a = velocity(y + sy, x + sx)
        b = velocity(y + sy + a[0] * h / 2, x + sx + a[1] * h / 2)
        c = velocity(y + sy + b[0] * h / 2, x + sx + b[1] * h / 2)
        d = velocity(y + sy + c[0] * h, x + sx + c[1] * h)
        return tuple(s + (p + 2 * q + 2 * r + t) * h / 6 for s, p, q, r, t in zip(total, a, b, c, d, strict=True))

    zero = jnp.zeros_like(y)
    curved = jax.lax.fori_loop(0, jnp.maximum(place[5], 1).astype(int), step, (zero, zero, zero))
    straight = velocity(y, x)
    return tuple(jnp.where(place[5] > 0, c, s) for c, s in zip(curved, straight, strict=True))


def _lit(jnp: Any, par: Any, shape: int, z: Any) -> Any:
    square = (2 * z / par[_AT["sheet_width"]]) ** 2
    fall = jnp.where(par[_AT["sheet_profile"]] > 0, 0.3989422804, 2.0)
    profile = jnp.ones_like(z) if shape == 0 or shape > 100 else jnp.exp(-fall * square**shape)
    return jnp.where(par[_AT["sheet"]] > 0, profile * (square <= 1), 1.0)


def _pair(
    size: tuple, base: Any, index: Any, flow: Any, place: Any, par: Any, d: Any, i: Any, r: Any, count: Any
) -> Any:
    """Light of both images, and (visible 1, visible 2, lost, mean peak)."""
    jax = library()
    jnp, (height, width, slots, reach, kind, shape) = jax.numpy, size
    keys = jax.random.split(jax.random.fold_in(base, index), 12)

    def uniform(k: int) -> Any:
        return jax.random.uniform(keys[k], (slots,))

    y = par[_AT["seed_y"]] + uniform(0) * par[_AT["extent_y"]]
    x = par[_AT["seed_x"]] + uniform(1) * par[_AT["extent_x"]]
    z = (uniform(2) - 0.5) * par[_AT["slab"]]
    dx = d[0] + uniform(3) * (d[1] - d[0])
    look = [jnp.clip(dx + 2 * uniform(4) - 1, d[0], d[1]), dx, r[0] + uniform(5) * (r[1] - r[0]),
            i[0] + uniform(6) * (i[1] - i[0])]  # fmt: skip
    noise = jax.random.normal(keys[7], (4, slots))
    spread = [par[_AT[name]] for name in ("diameter_std", "diameter_std", "rho_std", "intensity_std")]
    later = [jnp.clip(v + n * s, *limits) for v, n, s, limits in zip(look, noise, spread, (d, d, r, i), strict=True)]
    my, mx, mz = _moved(jax, flow, place, y, x)
    mz = jnp.where(par[_AT["dz_from_flow"]] > 0, mz, par[_AT["dz"]])
    there = jnp.arange(slots) < count
    images, seen = [], []
    for k, (py, px, pz, (sy, sx, rho, peak)) in enumerate(((y, x, z, look), (y + my, x + mx, z + mz, later))):
        hidden = jax.random.uniform(keys[8 + k], (slots,)) < par[_AT["hide_1"] + k]
        amplitude = peak * _lit(jnp, par, shape, pz) * (there & ~hidden)
        inside = (py >= -0.5) & (py < height - 0.5) & (px >= -0.5) & (px < width - 0.5)
        seen.append((amplitude > 0, inside, amplitude))
        factor = par[_AT["sigma_per_diameter"]]
        images.append(
            _scattered(jax, (height, width, reach, kind), py, px, sy * factor, sx * factor, rho, amplitude, par)
        )
    (lit1, in1, a1), (lit2, in2, _) = seen
    visible1, visible2 = jnp.sum(lit1 & in1), jnp.sum(lit2 & in2)
    mean_peak = jnp.sum(a1 * in1) / jnp.maximum(visible1, 1)
    return jnp.stack(images), jnp.array([visible1, visible2, jnp.sum(lit1 & in1 & ~lit2), mean_peak])


def _scattered(jax: Any, size: tuple, y: Any, x: Any, sy: Any, sx: Any, rho: Any, amplitude: Any, par: Any) -> Any:
    """Windows of (2 reach + 1)^2 pixels added up; each spot is cut at its own ceil(cut * sigma)."""
    jnp, (height, width, reach, kind) = jax.numpy, size
    cy, cx = jnp.floor(y + 0.5), jnp.floor(x + 0.5)
    offset = jnp.arange(-reach, reach + 1)
    dy, dx = (cy - y)[:, None] + offset, (cx - x)[:, None] + offset
    far_y = jnp.abs(offset) <= jnp.ceil(par[_AT["cut"]] * sy)[:, None]
    far_x = jnp.abs(offset) <= jnp.ceil(par[_AT["cut"]] * sx)[:, None]
    fill_y, fill_x = par[_AT["fill_y"]], par[_AT["fill_x"]]

    def gaussian(ey: Any, ex: Any) -> Any:
        ty, tx, q = (ey / sy[:, None])[:, :, None], (ex / sx[:, None])[:, None, :], rho[:, None, None]
        return jnp.exp(-(ty**2 + tx**2 - 2 * q * ty * tx) / (2 * (1 - q**2)))

    def steps(e: Any, sigma: Any, fill: Any) -> Any:
        scale = 1 / (jnp.sqrt(2.0) * sigma[:, None])
        return jax.scipy.special.erf((e + fill / 2) * scale) - jax.scipy.special.erf((e - fill / 2) * scale)

    if kind == 0:
        value = gaussian(dy, dx)
    elif kind == 1:
        value = (
            jnp.pi
            / 2
            * (sy * sx)[:, None, None]
            * steps(dy, sy, fill_y)[:, :, None]
            * steps(dx, sx, fill_x)[:, None, :]
        )
    else:
        nodes, weights = np.polynomial.legendre.leggauss(4)
        value = sum(wy * wx * gaussian(dy + ny * fill_y / 2, dx + nx * fill_x / 2)
                    for ny, wy in zip(nodes, weights, strict=True)
                    for nx, wx in zip(nodes, weights, strict=True)) * fill_y * fill_x / 4  # fmt: skip
    value = value * amplitude[:, None, None] * (far_y[:, :, None] & far_x[:, None, :])
    rows, columns = cy.astype(int)[:, None] + offset, cx.astype(int)[:, None] + offset
    rows = jnp.where((rows >= 0) & (rows < height), rows, height)  # out of range: dropped
    columns = jnp.where((columns >= 0) & (columns < width), columns, width)
    return jnp.zeros((height, width)).at[rows[:, :, None], columns[:, None, :]].add(value, mode="drop")


def _sensor(jax: Any, base: Any, index: int, light: Any, par: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Counts of one image, and how many were above the largest."""
    keys = jax.random.split(jax.random.fold_in(base, index & 0xFFFFFFFF), 3)
    counts = light * par[_AT["qe"]]
    if par[_AT["shot_noise"]] > 0:
        counts = jax.random.poisson(keys[0], counts).astype(light.dtype)
    counts = counts * par[_AT["gain"]] + par[_AT["baseline"]] + par[_AT["noise_mean"]]
    counts = counts + jax.random.normal(keys[1], light.shape) * par[_AT["noise_sigma"]]
    counts = np.array(counts + jax.random.uniform(keys[2], light.shape) * par[_AT["noise_uniform"]])
    if mask.shape[0]:
        counts = counts * mask
    highest = 2 ** int(par[_AT["bits"]]) - 1 if par[_AT["bits"]] else 255
    counts = np.rint(counts) if par[_AT["bits"]] else counts
    return np.clip(counts, 0, highest), int((counts > highest).sum())
