"""PIV over a run's pairs and over re-renders of the items: vectors with their truth, and the measures of each group.

Truth at a window is taken by two rules, the label at its centre and the label's mean over it; absolute errors depend on
the rule, ratios hardly do, so both are reported. A re-render takes the item's flow with the data set's own particles
(point spots, as its generator made them).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.synthpix import catalogue, peers, piv
from operators.synthpix.generator import Generator
from operators.synthpix.settings import Settings
from operators.synthpix.specs import Camera, FlowSpec, ImageSpec

ONE_PASS = (32,)
FIELDS = ("x", "y", "u", "v", "u_true", "v_true", "u_true_window", "v_true_window")


def method_of(settings: Settings) -> tuple[str, tuple[int, ...]]:
    """The analysis this run uses, and its windows."""
    method = settings.piv_method
    if method == "auto":
        method = "openpiv" if peers.available("openpiv") else "fft"
    return method, settings.piv_windows if method == "openpiv" else (settings.piv_windows[0],) if len(
        settings.piv_windows) == 1 else ONE_PASS  # fmt: skip


def compare(vectors: piv.Vectors, label: np.ndarray, window: int) -> dict[str, np.ndarray]:
    """Inner vectors with their truth by both rules, flat (FIELDS)."""
    cut = piv.inner(vectors)
    y, x = vectors.y[cut], vectors.x[cut]
    point, mean = piv.at_points(label, y, x), piv.over_windows(label, y, x, window)
    values = (x, y, vectors.u[cut], vectors.v[cut], *point, *mean)
    return {name: np.ravel(value).astype(np.float64) for name, value in zip(FIELDS, values, strict=True)}


def measures(found: dict[str, np.ndarray], rule: str) -> dict[str, float]:
    """Errors of vectors against the truth of one rule: `point` or `window`."""
    suffix = "" if rule == "point" else "_window"
    u, v = found[f"u_true{suffix}"], found[f"v_true{suffix}"]
    return piv.summary(found["u"] - u, found["v"] - v, u, v)


def together(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in FIELDS}


def run_pairs(settings: Settings, manifest: Any, pairs: dict[int, tuple]) -> Iterator[tuple[dict[str, Any], dict]]:
    """Keys and vectors of the run's own pairs, one by one."""
    method, windows = method_of(settings)
    by_shape: dict[tuple, list[int]] = {}
    for number, (image1, _, _) in pairs.items():
        by_shape.setdefault(image1.shape, []).append(number)
    for numbers in by_shape.values():
        images = [pairs[n][:2] for n in numbers]
        found = piv.analyse(images, method=method, windows=windows, even=settings.label_at == "mid")
        for number, vectors in zip(numbers, found, strict=True):
            row = manifest.row(number, named=True)
            keys = {"pair": number, "source": "render", "method": method, "windows": "/".join(map(str, windows)),
                    "label_at": settings.label_at, "flow": row["flow_id"].rpartition("-")[0], "settings": "run",
                    "seed": settings.seed, "data": row["data"]}  # fmt: skip
            yield keys, compare(vectors, pairs[number][2], windows[-1])


def rerender(settings: Settings, root: Path | None) -> Iterator[tuple[dict[str, Any], dict]]:
    """Keys and vectors of every item: the original pair, and re-renders of its flow by seed; one pass."""
    method, _ = method_of(settings)
    density, sigma = settings.rerender_density, settings.rerender_sigma
    for number, entry in enumerate(catalogue.entries((), settings.items, root)):
        flow = catalogue.item_flow(entry.name, seed=settings.seed, root=root)
        image = ImageSpec(shape=flow.values.shape[:2], density=(density, density), diameter_convention="4sigma",
                          diameter=((4 * sigma[0], 4 * sigma[1]),), intensity=(settings.rerender_intensity,),
                          rho=((0.0, 0.0),), psf="point")  # fmt: skip
        seeds = range(settings.seed, settings.seed + settings.rerender_seeds)
        made = [Generator(image, camera=Camera(), flow=FlowSpec(), seed=seed).pair(flow, number) for seed in seeds]
        original = catalogue.item_images(entry.name, seed=settings.seed, root=root)
        pairs = [original, *((pair.image1, pair.image2) for pair in made)]
        found = piv.analyse(pairs, method=method, windows=ONE_PASS)
        for k, vectors in enumerate(found):
            keys = {"pair": number, "source": "render" if k else "original", "method": method,
                    "windows": str(ONE_PASS[0]), "label_at": "start", "flow": entry.name, "settings": "rerender",
                    "seed": seeds[k - 1] if k else None, "data": entry.data}  # fmt: skip
            yield keys, compare(vectors, flow.values, ONE_PASS[0])
