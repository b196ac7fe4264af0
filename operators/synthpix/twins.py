"""Synthetic twins of the five PIV items of Cai et al. (2019): same names and shape, statistics matched, from a seed.

DNS, JHTDB and SQG are random stream functions with isotropic phases; the ring-summed velocity spectrum is flat below a
knee and falls with the measured slope above it, component deviations are matched exactly by an anisotropy of the stream
function. backstep and cylinder are stream functions in closed form. All are free of divergence in central differences.
Images are rendered by our generator with a density and a spot size that match grey mean and width of the
autocorrelation. A test compares the statistics with the real set where that is present.
"""

from dataclasses import dataclass

import numpy as np

from operators.synthpix.flows import Flow
from operators.synthpix.generator import Generator
from operators.synthpix.specs import Camera, FlowSpec, ImageSpec

SIZE = 256


@dataclass(frozen=True)
class Statistics:
    """What is matched of an item: deviations of u and v px, slope of the velocity spectrum, its knee, density per px,
    spot sigma px, baseline of the sensor (counts)."""

    std_u: float
    std_v: float
    slope: float
    knee: float
    density: float
    sigma: tuple[float, float]
    baseline: float = 0.0


# Deviations, slopes and image statistics: measured on the real items (SHA256SUMS of the set); knee, density and sigma:
# chosen so that gradients, grey mean and autocorrelation of the twin match them.
ITEMS = {
    "DNS": Statistics(0.747, 0.669, -4.8, 6.0, 0.033, (0.6, 1.15), 10.0),
    "JHTDB": Statistics(1.474, 1.347, -4.0, 4.0, 0.094, (0.25, 0.6)),
    "SQG": Statistics(1.107, 1.328, -4.3, 6.0, 0.058, (0.4, 0.82)),
    "backstep": Statistics(2.357, 0.084, -5.0, 4.0, 0.053, (0.25, 0.6)),
    "cylinder": Statistics(0.793, 0.079, -4.8, 4.0, 0.033, (0.3, 0.7)),
}
PEAK = (200.0, 255.0)  # counts


def flow(name: str, seed: int = 0) -> Flow:
    """The twin of one item's flow, 256x256, px per frame."""
    if name in ("backstep", "cylinder"):
        psi = _backstep(seed) if name == "backstep" else _cylinder(seed)
    else:
        psi = _random(ITEMS[name], np.random.default_rng([seed, sorted(ITEMS).index(name)]))
    u = (psi[2:, 1:-1] - psi[:-2, 1:-1]) / 2
    v = -(psi[1:-1, 2:] - psi[1:-1, :-2]) / 2
    return Flow(np.stack([u, v], axis=-1), name=f"twin:{name}")


def images(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The twin's pair of images `(256, 256)` uint8, moved by its flow."""
    item = ITEMS[name]
    spec = ImageSpec(shape=(SIZE, SIZE), density=(item.density, item.density), diameter_convention="4sigma",
                     diameter=((4 * item.sigma[0], 4 * item.sigma[1]),), intensity=(PEAK,), rho=((0.0, 0.0),),
                     psf="point")  # fmt: skip
    camera = Camera(bit_depth=8, baseline=item.baseline)
    pair = Generator(spec, camera=camera, flow=FlowSpec(), seed=seed, epoch=sorted(ITEMS).index(name)).pair(
        flow(name, seed), 0
    )
    return pair.image1, pair.image2


def _random(item: Statistics, rng: np.random.Generator) -> np.ndarray:
    """A periodic stream function `(258, 258)` (one node of margin) with the item's spectrum and deviations."""
    n = SIZE
    ky, kx = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(n, 1 / n), indexing="ij")
    k = np.hypot(ky, kx)
    safe = np.maximum(k, 1e-9)
    ring = np.where(k < item.knee, item.knee**item.slope, safe**item.slope) * (k > 0.5) * (k < n / 3)
    amplitude = np.sqrt(ring / safe) / safe  # per mode, from velocity to stream function
    noise = np.fft.fft2(rng.standard_normal((n, n)))
    wanted = (item.std_u / item.std_v) ** 2
    low, high = -0.999, 0.999  # anisotropy: more of the waves along y makes more u
    for _ in range(60):
        middle = (low + high) / 2
        lean = np.sqrt(1 + middle * (ky**2 - kx**2) / safe**2)
        psi = np.real(np.fft.ifft2(noise * amplitude * lean))
        u = (np.roll(psi, -1, 0) - np.roll(psi, 1, 0)) / 2
        v = (np.roll(psi, -1, 1) - np.roll(psi, 1, 1)) / 2
        low, high = (middle, high) if u.var() / v.var() < wanted else (low, middle)
    return np.pad(psi * item.std_u / u.std(), 1, mode="wrap")


def _grid() -> tuple[np.ndarray, np.ndarray]:
    return np.mgrid[-1 : SIZE + 1, -1 : SIZE + 1].astype(np.float64)


def _backstep(seed: int) -> np.ndarray:
    """A stream over fluid at rest, its edge leaning across the field, and a small recirculation patch."""
    y, x = _grid()
    shift = np.random.default_rng([seed, 11]).uniform(-2, 2)
    edge, w = 163.4 + shift + 9.07 * (x - 128) / 256, 32.9
    z = (y - edge) / w
    psi = 2.9 * (y - edge + w * np.logaddexp(z, -z))
    return psi - 5.44 * np.exp(-(((x - 246.9) / 20.1) ** 2) - ((y - 129.4 - shift) / 5.46) ** 2)


def _cylinder(seed: int) -> np.ndarray:
    """Potential flow round a small disc in a stream with a wide Gaussian deficit."""
    y, x = _grid()
    y0 = 128.0 + np.random.default_rng([seed, 12]).uniform(-2, 2)
    from scipy.special import erf

    speed, depth, width, radius = 2.25, 1.03, 66.0, 18.4
    dy, dx = y - y0, x - 20.0
    square = np.maximum(dy**2 + dx**2, radius**2)
    deficit = depth * width * np.sqrt(np.pi / 2) * erf(dy / (np.sqrt(2) * width))
    return speed * (dy - deficit) - speed * 0.5 * radius**2 * dy / square


def statistics(values: np.ndarray) -> dict[str, float]:
    """Deviations, ranges, gradient and divergence rms of a field `(H, W, 2)` px."""
    u, v = values[..., 0].astype(np.float64), values[..., 1].astype(np.float64)
    uy, ux = np.gradient(u)
    vy, vx = np.gradient(v)
    inner = (slice(1, -1), slice(1, -1))
    return {
        **{"u_min": u.min(), "u_max": u.max(), "v_min": v.min(), "v_max": v.max(), "std_u": u.std(), "std_v": v.std()},
        "grad_rms": float(np.sqrt(np.mean([ux**2, uy**2, vx**2, vy**2]))),
        "div_rms": float(np.sqrt(np.mean((ux + vy)[inner] ** 2))),
    }  # fmt: skip


def sigma_eff(image: np.ndarray) -> float:
    """Width of the autocorrelation, as a spot's sigma: sqrt(-1 / (4 ln r)), r the mean correlation at lag 1."""
    a = image.astype(np.float64) - image.mean()
    r = np.mean([np.mean(a[1:] * a[:-1]), np.mean(a[:, 1:] * a[:, :-1])]) / a.var()
    return float(np.sqrt(-1 / (4 * np.log(r))))
