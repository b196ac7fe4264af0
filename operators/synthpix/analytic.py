"""Flows in closed form: velocity, gradient and (u . grad) u, so that labels and PIV results have something exact beside
them. Units: pixels per frame, coordinates in pixels, y down.

A flow is its stream of three functions of (y, x); the acceleration (u . grad) u follows from velocity and gradient.
`AnalyticSource` samples them on a grid, one flow per name and phase (a phase advances in time).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from operators.synthpix.errors import ConfigError
from operators.synthpix.flows import Flow

Field = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Analytic:
    """A flow in closed form: `velocity(y, x) -> (u, v)`, `gradient(y, x) -> (u_x, u_y, v_x, v_y)`."""

    name: str
    velocity: Field
    gradient: Field

    def acceleration(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u . grad) u, components (x, y)."""
        u, v = self.velocity(y, x)
        ux, uy, vx, vy = self.gradient(y, x)
        return u * ux + v * uy, u * vx + v * vy

    def sample(self, shape: tuple[int, int], step: float = 1.0) -> Flow:
        """The flow on a grid of nodes `step` pixels apart."""
        y, x = np.mgrid[: shape[0], : shape[1]] * float(step)
        u, v = self.velocity(y, x)
        return Flow(np.stack(np.broadcast_arrays(u, v), axis=-1), name=self.name)


def _linear(name: str, matrix: Sequence[float], y0: float, x0: float, u0: float = 0.0, v0: float = 0.0) -> Analytic:
    """u = u0 + a (x - x0) + b (y - y0), v = v0 + c (x - x0) + d (y - y0)."""
    a, b, c, d = matrix

    def velocity(y, x):
        return u0 + a * (x - x0) + b * (y - y0), v0 + c * (x - x0) + d * (y - y0)

    def gradient(y, x):
        one = np.ones(np.broadcast(y, x).shape)
        return a * one, b * one, c * one, d * one

    return Analytic(name, velocity, gradient)


def uniform(u: float = 3.3, v: float = -1.7) -> Analytic:
    """The same displacement everywhere."""
    return _linear("uniform", (0, 0, 0, 0), 0, 0, u, v)


def shear(rate: float = 0.02, y0: float = 0.0) -> Analytic:
    """u = rate (y - y0)."""
    return _linear("shear", (0, rate, 0, 0), y0, 0)


def couette(speed: float = 4.0, height: float = 256.0) -> Analytic:
    """Between a wall at rest and one that moves."""
    return Analytic("couette", *_parts(_linear("couette", (0, speed / height, 0, 0), 0, 0)))


def stagnation(rate: float = 0.02, y0: float = 128.0, x0: float = 128.0) -> Analytic:
    """u = rate (x - x0), v = -rate (y - y0)."""
    return _linear("stagnation", (rate, 0, 0, -rate), y0, x0)


def rotation(omega: float = 0.03, y0: float = 128.0, x0: float = 128.0) -> Analytic:
    """Solid rotation by omega rad per frame (to first order)."""
    return _linear("rotation", (0, -omega, omega, 0), y0, x0)


def _parts(flow: Analytic) -> tuple[Field, Field]:
    return flow.velocity, flow.gradient


def poiseuille(speed: float = 4.0, height: float = 256.0) -> Analytic:
    """u = 4 speed s (1 - s), s = y / height."""

    def velocity(y, x):
        s = y / height
        return 4 * speed * s * (1 - s) + 0 * x, 0 * (y + x)

    def gradient(y, x):
        zero = 0 * (y + x)
        return zero, 4 * speed * (1 - 2 * y / height) / height + 0 * x, zero, zero

    return Analytic("poiseuille", velocity, gradient)


def sine(amplitude: float = 2.0, wavelength: float = 128.0, phase: float = 0.0) -> Analytic:
    """u = amplitude sin(2 pi y / wavelength + phase)."""
    k = 2 * np.pi / wavelength

    def velocity(y, x):
        return amplitude * np.sin(k * y + phase) + 0 * x, 0 * (y + x)

    def gradient(y, x):
        zero = 0 * (y + x)
        return zero, amplitude * k * np.cos(k * y + phase) + 0 * x, zero, zero

    return Analytic("sine", velocity, gradient)


def taylor_green(amplitude: float = 3.0, wavelength: float = 128.0, phase: float = 0.0) -> Analytic:
    """u = a sin(kx + phase) cos(ky), v = -a cos(kx + phase) sin(ky)."""
    k = 2 * np.pi / wavelength

    def velocity(y, x):
        sx, cx, sy, cy = np.sin(k * x + phase), np.cos(k * x + phase), np.sin(k * y), np.cos(k * y)
        return amplitude * sx * cy, -amplitude * cx * sy

    def gradient(y, x):
        sx, cx, sy, cy = np.sin(k * x + phase), np.cos(k * x + phase), np.sin(k * y), np.cos(k * y)
        a = amplitude * k
        return a * cx * cy, -a * sx * sy, a * sx * sy, -a * cx * cy

    return Analytic("taylor_green", velocity, gradient)


def _vortex(name: str, swirl: Callable, y0: float, x0: float) -> Analytic:
    """u = -(y - y0) f(s), v = (x - x0) f(s), s = r^2; `swirl(s)` gives f and f'."""

    def velocity(y, x):
        dy, dx = y - y0, x - x0
        f, _ = swirl(dx * dx + dy * dy)
        return -dy * f, dx * f

    def gradient(y, x):
        dy, dx = y - y0, x - x0
        f, slope = swirl(dx * dx + dy * dy)
        return -2 * dx * dy * slope, -f - 2 * dy * dy * slope, f + 2 * dx * dx * slope, 2 * dx * dy * slope

    return Analytic(name, velocity, gradient)


def rankine(speed: float = 3.0, core: float = 40.0, y0: float = 128.0, x0: float = 128.0) -> Analytic:
    """Solid rotation inside `core`, potential vortex outside; `speed` at the core's edge."""

    def swirl(s):
        s = np.asarray(s, np.float64)
        out = s > core**2
        safe = np.where(out, s, 1.0)
        return np.where(out, speed * core / safe, speed / core), np.where(out, -speed * core / safe**2, 0.0)

    return _vortex("rankine", swirl, y0, x0)


def lamb_oseen(speed: float = 3.0, core: float = 40.0, y0: float = 128.0, x0: float = 128.0) -> Analytic:
    """u_theta = speed core / r (1 - exp(-r^2 / core^2))."""

    def swirl(s):
        s = np.asarray(s, np.float64) / core**2
        safe = np.where(s > 1e-8, s, 1.0)
        f = np.where(s > 1e-8, -np.expm1(-safe) / safe, 1 - s / 2)
        slope = np.where(s > 1e-8, (np.exp(-safe) * (1 + safe) - 1) / safe**2, -0.5)
        return speed / core * f, speed / core**3 * slope

    return _vortex("lamb_oseen", swirl, y0, x0)


def cylinder(speed: float = 3.0, radius: float = 30.0, y0: float = 128.0, x0: float = 128.0) -> Analytic:
    """Potential flow round a disc, 0 inside it: w = speed (1 - radius^2 / z^2), u = Re w, v = -Im w."""

    def complex_of(y, x):
        z = (x - x0) + 1j * (y - y0)
        inside = np.abs(z) < radius
        return np.where(inside, radius + 0j, z), inside

    def velocity(y, x):
        z, inside = complex_of(y, x)
        w = np.where(inside, 0, speed * (1 - radius**2 / z**2))
        return w.real, -w.imag

    def gradient(y, x):
        z, inside = complex_of(y, x)
        slope = np.where(inside, 0, 2 * speed * radius**2 / z**3)
        return slope.real, -slope.imag, -slope.imag, -slope.real

    return Analytic("cylinder", velocity, gradient)


def solenoidal(rms: float = 1.5, modes: int = 64, size: float = 256.0, seed: int = 0, phase: float = 0.0,
               slope: float = -5 / 3) -> Analytic:  # fmt: skip
    """A sum of random plane waves without divergence; energy k^slope between wave numbers 1 and 16 of `size`."""
    rng = np.random.default_rng([seed, 7])
    k = np.exp(rng.uniform(0, np.log(16.0), modes)) * 2 * np.pi / size
    angle, start = rng.uniform(0, 2 * np.pi, (2, modes))
    weight = k ** ((slope + 1) / 2)  # waves are spread evenly in log k
    weight *= rms * np.sqrt(4 / np.sum(weight**2))
    kx, ky = k * np.cos(angle), k * np.sin(angle)
    dx, dy = -np.sin(angle), np.cos(angle)
    start = start + phase * rng.choice([-1.0, 1.0], modes)

    def velocity(y, x):
        wave = weight * np.cos(np.multiply.outer(x, kx) + np.multiply.outer(y, ky) + start)
        return wave @ dx, wave @ dy

    def gradient(y, x):
        wave = -weight * np.sin(np.multiply.outer(x, kx) + np.multiply.outer(y, ky) + start)
        return wave @ (dx * kx), wave @ (dx * ky), wave @ (dy * kx), wave @ (dy * ky)

    return Analytic("solenoidal", in_parts(velocity), in_parts(gradient))


def in_parts(field: Callable, points: int = 1 << 17) -> Callable:
    """`field(y, x)` a part of the points at a time: every wave of a large image at once would take gigabytes."""

    def parts(y, x):
        y, x = np.broadcast_arrays(y, x)
        if y.size <= points:
            return field(y, x)
        flat = y.ravel(), x.ravel()
        found = [field(*(axis[k : k + points] for axis in flat)) for k in range(0, y.size, points)]
        return tuple(np.concatenate(column).reshape(y.shape) for column in zip(*found, strict=True))

    return parts


FLOWS: dict[str, Callable[..., Analytic]] = {
    f.__name__: f
    for f in (
        *(uniform, shear, stagnation, rotation, rankine, lamb_oseen, taylor_green, couette, poiseuille, cylinder),
        *(solenoidal, sine),
    )
}
PHASED = ("taylor_green", "solenoidal", "sine")


class AnalyticSource:
    """Analytic flows on a grid of `shape` nodes `step` px apart; PHASED ones advance by `phase_step` rad a frame."""

    def __init__(self, names: Sequence[str], shape: tuple[int, int] = (256, 256), *, step: float = 1.0,
                 frames: int = 1, phase_step: float = 0.1, **parameters: dict):  # fmt: skip
        for name in names:
            if name not in FLOWS:
                raise ConfigError("analytic", f"unknown flow; known: {', '.join(FLOWS)}", name)
        self._items = [(name, frame) for name in names for frame in range(frames)]
        self._shape, self._step, self._phase, self._parameters = shape, step, phase_step, parameters

    def __len__(self) -> int:
        return len(self._items)

    def path(self, index: int) -> str:
        name, frame = self._items[index]
        return f"analytic:{name}[{frame}]"

    def closed_form(self, index: int) -> Analytic:
        """The flow itself."""
        name, frame = self._items[index]
        moving = {"phase": frame * self._phase} if name in PHASED else {}
        return FLOWS[name](**{**moving, **self._parameters.get(name, {})})

    def get(self, index: int) -> Flow:
        return self.closed_form(index).sample(self._shape, self._step)
