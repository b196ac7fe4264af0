"""Where nodes lie, where particles are seeded, and the one displacement that particles and labels share.

Section 2.1 to 2.3 of the specification. The official code resamples the label by another rule than the particles'
(defect D1); here both call `displacement` in the kernel. `margin="auto"` is ours: the image grown on each side by the
largest displacement in that direction and the spot's reach, so that image 2 is as evenly filled as image 1.
"""

from dataclasses import dataclass

import numpy as np

from operators.synthpix import kernel
from operators.synthpix.errors import ConfigError
from operators.synthpix.flows import Flow
from operators.synthpix.specs import FlowSpec, ImageSpec


@dataclass(frozen=True)
class Rectangle:
    """Where particles start: corner and extent in image pixels, and the area their number is counted from."""

    y: float
    x: float
    height: float
    width: float

    @property
    def area(self) -> float:
        return self.height * self.width


def place(flow: Flow, spec: FlowSpec, shape: tuple[int, int]) -> np.ndarray:
    """The kernel's PLACE vector of a flow over an image of `shape`."""
    steps = []
    for axis in range(2):
        nodes = flow.values.shape[axis]
        per_length = flow.nodes_per_length[axis] if flow.nodes_per_length else nodes / field_size(spec, shape)[axis]
        shift = 0.5 if spec.grid == "cell" else 0.0
        steps += [per_length / spec.resolution, spec.offset[axis] * per_length - shift]
    return np.array([*steps, spec.scale, spec.substeps if spec.integrator == "rk4" else 0], np.float64)


def field_size(spec: FlowSpec, shape: tuple[int, int]) -> tuple[float, float]:
    """Size of the flow field in lengths; the image's own where none is given."""
    return spec.size or (shape[0] / spec.resolution, shape[1] / spec.resolution)


def displacement(
    flow: Flow, y: np.ndarray, x: np.ndarray, *, spec: FlowSpec, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(dy, dx) in pixels of particles that start at pixels (y, x), any shape, f64."""
    y, x = np.broadcast_arrays(np.asarray(y, np.float64), np.asarray(x, np.float64))
    out = np.empty((y.size, 2))
    kernel.core().displace(
        flow.values, place(flow, spec, shape), np.ascontiguousarray(y).ravel(), np.ascontiguousarray(x).ravel(), out
    )
    return out[:, 0].reshape(y.shape), out[:, 1].reshape(y.shape)


def label_shape(spec: FlowSpec, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the label."""
    return int(shape[0] * spec.velocities_per_pixel), int(shape[1] * spec.velocities_per_pixel)


def label(flow: Flow, *, spec: FlowSpec, shape: tuple[int, int], core=None) -> tuple[np.ndarray, int]:
    """The label `(h, w, 2)` f32 as (u, v) in `output_units`, and how many of its points did not converge (NaN)."""
    out = np.empty((*label_shape(spec, shape), 2), np.float32)
    mode = kernel.LABEL_MODES[spec.label_at]
    where = place(flow, spec, shape)
    failed = (core or kernel.core()).label(flow.values, where, spec.velocities_per_pixel, mode, spec.label_scale, out)
    return out, int(failed)


def seeded(flow: Flow, spec: FlowSpec, image: ImageSpec) -> Rectangle:
    """Where particles of image 1 are seeded. Raises ConfigError naming the size needed (margin "config")."""
    if image.margin == "config":
        return configured(spec, image)
    u, v = flow.values[..., 0], flow.values[..., 1]
    far = [(float(c.min()) * spec.scale, float(c.max()) * spec.scale) for c in (v, u)]
    widest = max(high for _, high in image.diameter) * image.sigma_per_diameter
    reach = float(np.ceil(image.cut * widest)) + 0.5
    before = [reach + max(0.0, high) for _, high in far]
    after = [reach + max(0.0, -low) for low, _ in far]
    sides = [before[axis] + image.shape[axis] + after[axis] - 1.0 for axis in range(2)]
    return Rectangle(-before[0], -before[1], sides[0], sides[1])


def configured(spec: FlowSpec, image: ImageSpec) -> Rectangle:
    """The official code's bounds (section 2.3), integer truncation included.

    Raises ConfigError where the image lies too near to the field's edge, naming the size needed.
    """
    size = field_size(spec, image.shape)
    fast = [max(0.0, speed) * spec.dt for speed in spec.max_speed]
    slow = [min(0.0, speed) * spec.dt for speed in spec.min_speed]
    offset = [spec.offset[axis] - fast[axis] for axis in range(2)]
    bounds = [image.shape[axis] / spec.resolution + fast[axis] - slow[axis] for axis in range(2)]
    if min(offset) < 0:
        raise ConfigError("offset", f"the image is too close to the field's top or left edge; needs >= {tuple(fast)}",
                          tuple(spec.offset))  # fmt: skip
    needed = tuple(bounds[axis] + offset[axis] for axis in range(2))
    if any(need > have * (1 + 1e-12) for need, have in zip(needed, size, strict=True)):
        raise ConfigError("size", f"the flow field is too small; it must be at least {needed}", tuple(size))
    varies = max(image.p_hide) > 0 or image.density[0] != image.density[1]
    particle = (2 * int(3 * max(high for _, high in image.diameter) / 2) + 1) / spec.resolution
    if varies and any(particle > f for f in fast):
        extra = [max(0.0, particle - f) for f in fast]
        bounds = [bounds[axis] + extra[axis] for axis in range(2)]
        offset = [offset[axis] - extra[axis] for axis in range(2)]
    corner = [-float(int((spec.offset[axis] - offset[axis]) * spec.resolution)) for axis in range(2)]
    sides = [float(int(bounds[axis] * spec.resolution)) for axis in range(2)]
    return Rectangle(corner[0], corner[1], sides[0], sides[1])
