"""What an image pair is made of: four frozen descriptions, every rule checked when they are made.

Sections 2.4 to 2.6 of the specification. Where the official code differs it is said: "diameter" is two sigma there
(`diameter_convention`), spots are sampled at pixel centres (`psf="point"`), and there is no sheet and no camera.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from operators.synthpix import kernel
from operators.synthpix.errors import ConfigError

SIGMA = {"2sigma": 0.5, "4sigma": 0.25}  # sigma of a diameter of 1 px
LARGEST_CUT = 6.0


def demand(holds: bool, key: str, value: Any, expected: str) -> None:
    """Raise ConfigError(key, value, expected) unless `holds`."""
    if not holds:
        raise ConfigError(key, f"must satisfy {expected}", value)


def is_number(value: Any) -> bool:
    """A finite real number; booleans are none."""
    return (
        isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) and np.isfinite(value)
    )


def pair_of_numbers(key: str, value: Any) -> tuple[float, float]:
    """`value` as two finite floats."""
    good = isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2 and all(is_number(v) for v in value)
    demand(good, key, value, "two numbers")
    return float(value[0]), float(value[1])


def _one_of(key: str, value: Any, known: tuple[str, ...]) -> None:
    demand(value in known, key, value, f"one of {', '.join(known)}")


def _numbers(owner: Any, keys: Sequence[str], *, low: float | None = None, above: float | None = None) -> None:
    for key in keys:
        value = getattr(owner, key)
        demand(is_number(value), key, value, "a number")
        demand(low is None or value >= low, key, value, f">= {low:g}" if low is not None else "")
        demand(above is None or value > above, key, value, f"> {above:g}" if above is not None else "")


def ranges(key: str, value: Any, *, rule: str) -> np.ndarray:
    """A list of (min, max) as `(n, 2)` f64; `rule`: positive (0 < min) or correlation (-1 < min, max < 1)."""
    demand(isinstance(value, (list, tuple, np.ndarray)) and len(value) > 0, key, value, "a list of (min, max)")
    rows = [pair_of_numbers(f"{key}[{i}]", row) for i, row in enumerate(value)]
    for i, (low, high) in enumerate(rows):
        if rule == "positive":
            demand(0 < low <= high, f"{key}[{i}]", (low, high), "0 < min <= max")
        else:
            demand(-1 < low <= high < 1, f"{key}[{i}]", (low, high), "-1 < min <= max < 1")
    return np.array(rows, np.float64)


@dataclass(frozen=True)
class ImageSpec:
    """Size, particles and spots. Lists of ranges: one is picked per pair, each particle then draws within it.

    shape `(H, W)` px; density particles per px (of the sheet in image 1); diameter px; intensity counts; *_var
    variances of the change from image 1 to 2; p_hide probabilities per image; fill factors (y, x); cut in sigmas.
    `margin="auto"` seeds the image grown by the largest displacement and the spot radius, so both images are filled
    evenly; "config" takes the bounds of the official code. mask `(H, W)` of 0 and 1; histogram: 256 counts, sum H * W.
    """

    shape: tuple[int, int] = (256, 256)
    density: tuple[float, float] = (0.03, 0.04)
    diameter: Sequence[tuple[float, float]] = ((1.5, 2.5),)
    diameter_convention: Literal["2sigma", "4sigma"] = "2sigma"
    intensity: Sequence[tuple[float, float]] = ((150.0, 230.0),)
    rho: Sequence[tuple[float, float]] = ((-0.1, 0.1),)
    diameter_var: float = 0.0
    intensity_var: float = 0.0
    rho_var: float = 0.0
    p_hide: tuple[float, float] = (0.0, 0.0)
    psf: Literal["integrated", "point"] = "integrated"
    fill: tuple[float, float] = (1.0, 1.0)
    cut: float = 4.0
    margin: Literal["auto", "config"] = "auto"
    mask: Any = None
    histogram: Any = None

    def __post_init__(self) -> None:
        shape = self.shape
        whole = isinstance(shape, (tuple, list)) and len(shape) == 2
        whole = whole and all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in shape)
        demand(whole, "shape", shape, "two positive integers (height, width)")
        low, high = pair_of_numbers("density", self.density)
        demand(0 <= low <= high, "density", (low, high), "0 <= min <= max")
        diameters = ranges("diameter", self.diameter, rule="positive")
        ranges("intensity", self.intensity, rule="positive")
        ranges("rho", self.rho, rule="correlation")
        _one_of("diameter_convention", self.diameter_convention, tuple(SIGMA))
        _one_of("psf", self.psf, ("integrated", "point"))
        _one_of("margin", self.margin, ("auto", "config"))
        _numbers(self, ("diameter_var", "intensity_var", "rho_var"), low=0)
        for key, value in zip(("p_hide[0]", "p_hide[1]"), pair_of_numbers("p_hide", self.p_hide), strict=True):
            demand(0 <= value <= 1, key, value, "0 <= p <= 1")
        for key, value in zip(("fill[0]", "fill[1]"), pair_of_numbers("fill", self.fill), strict=True):
            demand(0 < value <= 1, key, value, "0 < fill <= 1")
        demand(is_number(self.cut) and 1 <= self.cut <= LARGEST_CUT, "cut", self.cut, f"1 <= cut <= {LARGEST_CUT:g}")
        reach = self.cut * SIGMA[self.diameter_convention] * float(diameters[:, 1].max())
        expected = f"cut * sigma <= {kernel.LARGEST_REACH:g} px"
        demand(reach <= kernel.LARGEST_REACH, "diameter", tuple(map(tuple, diameters.tolist())), expected)
        self._check_mask()
        self._check_histogram()

    def _check_mask(self) -> None:
        if self.mask is None:
            return
        mask = np.asarray(self.mask)
        demand(mask.shape == tuple(self.shape), "mask", mask.shape, f"the image's shape {tuple(self.shape)}")
        demand(bool(np.isin(mask, (0, 1)).all()), "mask", "values besides 0 and 1", "only 0 and 1")

    def _check_histogram(self) -> None:
        if self.histogram is None:
            return
        histogram = np.asarray(self.histogram)
        demand(histogram.shape == (256,), "histogram", histogram.shape, "256 bins")
        pixels = self.shape[0] * self.shape[1]
        good = bool((histogram >= 0).all()) and bool(np.isclose(histogram.sum(), pixels))
        demand(good, "histogram", float(histogram.sum()), f"counts >= 0 that sum to the {pixels} pixels")

    @property
    def sigma_per_diameter(self) -> float:
        return SIGMA[self.diameter_convention]


@dataclass(frozen=True)
class Sheet:
    """The light sheet: full e^-2 width px (None: everything is lit), shape exponent, motion across it in px per frame.

    Profile `e2`: exp(-2 |2 z / width|^(2 shape)); `synpivimage`: that code's form, whose width is where the light has
    fallen to 0.67. Shape 0 is constant, above 100 a top hat. Particles with |z| > width / 2 do not show. Particles are
    seeded evenly over a slab of width + 2 max |dz|. `out_of_plane="flow"` takes dz from the flow's third component.
    """

    width_px: float | None = None
    shape: int = 1
    out_of_plane: float | Literal["flow"] = 0.0
    profile: Literal["e2", "synpivimage"] = "e2"

    def __post_init__(self) -> None:
        width = self.width_px
        demand(width is None or (is_number(width) and width > 0), "sheet.width_px", width, "> 0, or None")
        whole = isinstance(self.shape, (int, np.integer)) and not isinstance(self.shape, bool)
        demand(whole and 0 <= self.shape <= 10_000, "sheet.shape", self.shape, "an integer from 0 to 10000")
        _one_of("sheet.profile", self.profile, ("e2", "synpivimage"))
        moves = self.out_of_plane
        demand(moves == "flow" or is_number(moves), "sheet.out_of_plane", moves, "a number of px or 'flow'")
        demand(
            width is not None or moves == 0, "sheet.out_of_plane", moves, "0 where there is no sheet (width_px None)"
        )


@dataclass(frozen=True)
class Camera:
    """The sensor. Rendered light counts as photons: electrons = qe * light (Poisson with shot noise), then gain,
    baseline, N(0, dark_sigma), U(0, noise_uniform) and N(noise_mean, noise_sigma); rounded half to even and clipped.

    bit_depth 8 gives uint8, 10, 12 and 16 uint16, None float32 clipped to 0..255 as in SynthPix.
    """

    bit_depth: Literal[8, 10, 12, 16] | None = 8
    qe: float = 1.0
    gain: float = 1.0
    baseline: float = 0.0
    dark_sigma: float = 0.0
    shot_noise: bool = False
    noise_uniform: float = 0.0
    noise_mean: float = 0.0
    noise_sigma: float = 0.0

    def __post_init__(self) -> None:
        depths = (None, 8, 10, 12, 16)
        good = self.bit_depth in depths and not isinstance(self.bit_depth, bool)
        demand(good, "camera.bit_depth", self.bit_depth, "one of 8, 10, 12, 16, None")
        _numbers(self, ("baseline", "dark_sigma", "noise_uniform", "noise_mean", "noise_sigma"), low=0)
        _numbers(self, ("gain",), above=0)
        demand(is_number(self.qe) and 0 < self.qe <= 1, "camera.qe", self.qe, "0 < qe <= 1")
        demand(isinstance(self.shot_noise, bool), "camera.shot_noise", self.shot_noise, "true or false")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype({None: np.float32, 8: np.uint8}.get(self.bit_depth, np.uint16))


@dataclass(frozen=True)
class FlowSpec:
    """How a flow's grid lies over the image, and what its values mean.

    units: "pixels" (per frame) or "measure units per second" (times dt and resolution: pixels). resolution px per
    length; dt s; offset (y, x) of the image's corner and size (y, x) of the field, both lengths (size None: the field
    spans the image). Node k of n sits at k * size / n (grid "origin") or (k + 1/2) * size / n ("cell"). max_speed and
    min_speed (y, x), length per s, count for `margin="config"` only. Label k sits at pixel k / velocities_per_pixel.
    label_at: "start" for SynthPix's label, "mid" for comparison with correlation PIV, "end" for warping image 2 back.
    """

    units: Literal["pixels", "measure units per second"] = "pixels"
    output_units: Literal["pixels", "measure units per second"] = "pixels"
    resolution: float = 1.0
    dt: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    size: tuple[float, float] | None = None
    grid: Literal["origin", "cell"] = "origin"
    integrator: Literal["euler", "rk4"] = "euler"
    substeps: int = 4
    label_at: Literal["start", "mid", "end"] = "start"
    velocities_per_pixel: float = 1.0
    max_speed: tuple[float, float] = (0.0, 0.0)
    min_speed: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        known = ("pixels", "measure units per second")
        _one_of("units", self.units, known)
        _one_of("output_units", self.output_units, known)
        _one_of("grid", self.grid, ("origin", "cell"))
        _one_of("integrator", self.integrator, ("euler", "rk4"))
        _one_of("label_at", self.label_at, tuple(kernel.LABEL_MODES))
        _numbers(self, ("resolution", "dt", "velocities_per_pixel"), above=0)
        whole = isinstance(self.substeps, (int, np.integer)) and not isinstance(self.substeps, bool)
        demand(whole and 1 <= self.substeps <= 1000, "substeps", self.substeps, "an integer from 1 to 1000")
        demand(min(pair_of_numbers("offset", self.offset)) >= 0, "offset", self.offset, ">= 0")
        if self.size is not None:
            demand(min(pair_of_numbers("size", self.size)) > 0, "size", self.size, "> 0")
        high, low = pair_of_numbers("max_speed", self.max_speed), pair_of_numbers("min_speed", self.min_speed)
        demand(high[0] >= low[0] and high[1] >= low[1], "max_speed", high, f">= min_speed {low}")

    @property
    def scale(self) -> float:
        """Pixels per frame of one unit of the flow's values."""
        return 1.0 if self.units == "pixels" else self.dt * self.resolution

    @property
    def label_scale(self) -> float:
        """Label value of one pixel of displacement."""
        return 1.0 if self.output_units == "pixels" else 1.0 / (self.dt * self.resolution)
