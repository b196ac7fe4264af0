"""Probes of the generator's quality, each a small experiment with an exact answer beside it.

- registration: particles of a single-particle-per-cell image move as the label says, on grids of every kind;
- border: brightness of columns and rows against the centre, in both images of a moving flow;
- peak locking: error of a one-pass correlation over displacements spread evenly over one pixel;
- second order: error against the label, regressed on (u . grad) u / 2 in a solid rotation (three centres).
Every function returns rows for measures.parquet (evaluate.py) and, where a figure needs them, the raw numbers.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from operators.synthpix import analytic, geometry, piv
from operators.synthpix.flows import Flow
from operators.synthpix.generator import Generator
from operators.synthpix.specs import Camera, FlowSpec, ImageSpec

PIV_LOOK = {"density": (0.05, 0.05), "diameter": ((2.0, 3.0),), "intensity": ((200.0, 255.0),), "rho": ((0.0, 0.0),)}
LOCK_SIGMA = 0.4  # px: narrow spots lock
OMEGA = 0.03  # rad per frame
CENTRES = ((64.0, 64.0), (128.0, 128.0), (128.0, 64.0))
PATH_PART = {"start": 0.0, "mid": 0.5, "end": 1.0}


def registration_cases() -> Iterator[tuple[str, Flow, FlowSpec, tuple[int, int]]]:
    """Name, flow, spec and image shape: coarse, fine, oblong, shifted, scaled grids, both grid rules, every label."""
    rng = np.random.default_rng([0, 5])
    shapes = {"coarse": ((16, 16), (64, 64)), "fine": ((96, 80), (32, 48)), "oblong": ((20, 50), (64, 40))}
    for name, (nodes, shape) in shapes.items():
        smooth = rng.normal(0, 0.6, (*nodes, 2)).cumsum(0).cumsum(1) / 8
        for grid in ("origin", "cell"):
            for label_at in PATH_PART:
                for integrator in ("euler", "rk4"):
                    for scaled in (False, True):
                        extra = {"offset": (2.0, 1.5), "resolution": 2.0, "dt": 0.5,
                                 "units": "measure units per second"} if scaled else {}  # fmt: skip
                        size = (shape[0] / 2 + 4.0, shape[1] / 2 + 4.0) if scaled else None
                        spec = FlowSpec(grid=grid, label_at=label_at, integrator=integrator, size=size, **extra)
                        yield f"{name}-{grid}-{label_at}-{integrator}-{scaled}", Flow(smooth), spec, shape


def registration_error(flow: Flow, spec: FlowSpec, shape: tuple[int, int], core: Any = None) -> float:
    """Largest distance, px, between the label and the motion of the particle that passes the label's point.

    For every label point the particle is set at the start of its path (label subtracted) and moved by the generator's
    own displacement; the point at `label_at` of its path must be the label's point, and the motion the label.
    """
    label, _ = geometry.label(flow, spec=spec, shape=shape, core=core)
    rows, columns = label.shape[:2]
    y, x = np.mgrid[:rows, :columns] / spec.velocities_per_pixel
    shift = label.astype(np.float64) / spec.label_scale
    good = np.isfinite(shift[..., 0])
    part = PATH_PART[spec.label_at]
    dy, dx = geometry.displacement(
        flow, (y - part * shift[..., 1])[good], (x - part * shift[..., 0])[good], spec=spec, shape=shape
    )
    return float(np.hypot(dy - shift[good][:, 1], dx - shift[good][:, 0]).max())


def registration() -> list[dict[str, Any]]:
    """Rows with `label_error_px`, one per case."""
    return [
        {"policy": "ours", "method": "registration", "flow": name, "label_at": spec.label_at, "n": shape[0] * shape[1],
         "label_error_px": registration_error(flow, spec, shape)}
        for name, flow, spec, shape in registration_cases()
    ]  # fmt: skip


def border(pairs: int, seed: int, size: int = 256) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows with `border_flatness` (largest |mean / centre - 1| of columns and rows), and the profiles."""
    camera = Camera(bit_depth=None)
    generator = Generator(ImageSpec(shape=(size, size)), camera=camera, seed=seed)
    flow = analytic.uniform(5.0, 0.0).sample((size, size))
    totals = np.zeros((2, size, size))
    for first in range(0, pairs, 32):
        batch = generator.batch(flow, range(first, min(first + 32, pairs)))
        totals[0] += batch.images1.sum(0)
        totals[1] += batch.images2.sum(0)
    profiles, rows = {}, []
    for image in range(2):
        for axis, name in ((0, "columns"), (1, "rows")):
            profile = totals[image].mean(axis)
            centre = profile[size // 4 : -size // 4].mean()
            profiles[f"image {image + 1}, {name}"] = profile / centre
            flatness = float(np.abs(profile / centre - 1).max())
            rows.append({"policy": "ours", "method": "border", "flow": "uniform", "seed": seed, "n": pairs,
                         "label_at": f"image {image + 1}, {name}", "border_flatness": flatness})  # fmt: skip
    return rows, profiles


def peak_lock(count: int, seed: int, size: int = 128) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows with `peak_lock_px` for both spot models, and (fraction, measured u, error) per displacement."""
    rows, raw = [], {}
    for psf in ("integrated", "point"):
        look = {**PIV_LOOK, "diameter": ((2 * LOCK_SIGMA, 2 * LOCK_SIGMA),)}
        generator = Generator(ImageSpec(shape=(size, size), psf=psf, **look), camera=Camera(bit_depth=8), seed=seed)
        found = []
        for i in range(count):
            true = 2.0 + (i + 0.5) / count
            pair = generator.pair(analytic.uniform(true, 0.0).sample((size, size)), i)
            vectors = piv.correlate(pair.image1, pair.image2, search=32)
            u = vectors.u[piv.inner(vectors)].ravel()
            u = u[np.abs(u - true) < piv.OUTLIER_PX]
            found.append((np.full(len(u), true), u))
        true, u = (np.concatenate(side) for side in zip(*found, strict=True))
        error = u - true
        lock = float(abs(2 * np.mean(error * np.sin(2 * np.pi * true))))
        rows.append({"policy": psf, "method": "peak_lock", "flow": "uniform", "label_at": "start", "seed": seed,
                     "peak_lock_px": lock, "rms": float(np.sqrt(np.mean(error**2))), "bias_u": float(error.mean()),
                     "n": len(u)})  # fmt: skip
        raw[psf] = np.stack([true, u, error])
    return rows, raw


def second_order(method: str, seed: int, pairs: int = 1, size: int = 256) -> list[dict[str, Any]]:
    """Rows with `slope_second_order` for the start and the mid label, three centres pooled.

    OpenPIV works symmetrically in time (three passes, window deformation); our own correlator takes even windows.
    """
    image = ImageSpec(shape=(size, size), **PIV_LOOK)
    spec = FlowSpec(label_at="start", integrator="rk4")
    pairs = pairs if method == "openpiv" else 2 * pairs  # fewer and noisier vectors
    pooled: dict[str, list[np.ndarray]] = {"start": [], "mid": []}
    along = []
    for number, centre in enumerate(CENTRES):
        form = analytic.rotation(OMEGA, *(c * size / 256 for c in centre))
        flow = form.sample((size, size))
        batch = Generator(image, flow=spec, seed=seed, epoch=number).batch(flow, range(pairs))
        images = list(zip(batch.images1, batch.images2, strict=True))
        if method == "openpiv":
            found = piv.analyse(images, method=method, windows=(64, 32, 16))
        else:
            found = [piv.correlate(*pair, search=32, even=True) for pair in images]
        labels = {at: geometry.label(flow, spec=replace(spec, label_at=at), shape=(size, size))[0] for at in pooled}
        for vectors in found:
            cut = piv.inner(vectors)
            y, x = vectors.y[cut], vectors.x[cut]
            ax, ay = form.acceleration(y, x)
            u, v = piv.at_points(labels["mid"], y, x)
            near = np.hypot(vectors.u[cut] - u, vectors.v[cut] - v) < piv.OUTLIER_PX
            along.append(np.concatenate([ax[near], ay[near]]) / 2)
            for at, errors in pooled.items():
                u, v = piv.at_points(labels[at], y, x)
                errors.append(np.concatenate([(vectors.u[cut] - u)[near], (vectors.v[cut] - v)[near]]))
    a = np.concatenate(along)
    rows = []
    for at, errors in pooled.items():
        e = np.concatenate(errors)
        slope = float(e @ a / (a @ a))
        rows.append({"policy": "ours", "method": "second_order", "flow": "rotation", "label_at": at, "seed": seed,
                     "settings": method, "slope_second_order": slope, "slope_size": abs(slope), "n": len(e),
                     "rms": float(np.sqrt(np.mean(e**2)))})  # fmt: skip
    return rows
