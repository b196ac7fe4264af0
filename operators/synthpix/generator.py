"""Pairs of particle images with their exact label: the one place where specs, flow and kernel come together.

A pair is a pure function of (specs, flow, seed, epoch, index): no state, so batches, order, threads and processes
cannot change a byte. What depends on the flow alone (its place, the seeding rectangle, the label) is worked out once
per flow. Section 2.5 of the specification.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.synthpix import camera as optics
from operators.synthpix import geometry, kernel, matching, rng
from operators.synthpix import sheet as light
from operators.synthpix.buffers import Pool
from operators.synthpix.errors import ConfigError
from operators.synthpix.flows import Flow
from operators.synthpix.specs import Camera, FlowSpec, ImageSpec, Sheet

if TYPE_CHECKING:
    import polars as pl

REMEMBERED = 128  # flows whose label and bounds are kept
NO_MASK = np.zeros((0, 0), np.uint8)
META = (
    *("pair", "density", "diameter_lo", "diameter_hi", "intensity_lo", "intensity_hi", "rho_lo", "rho_hi"),
    *("n_particles", "ppp_effective", "visible_1", "visible_2", "loss_of_pair", "saturated_1", "saturated_2"),
    *("grey_mean_1", "grey_mean_2", "snr", "label_failed"),
)
_COUNTS = {"pair", "n_particles", "visible_1", "visible_2", "saturated_1", "saturated_2", "label_failed"}
_INDEX = {name: i for i, name in enumerate(kernel.STATISTICS)}


@dataclass(frozen=True)
class Pair:
    """One pair: images `(H, W)`, flow `(h, w, 2)` f32 as (u, v), what was drawn and counted."""

    image1: np.ndarray
    image2: np.ndarray
    flow: np.ndarray
    meta: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """B pairs: images1, images2 `(B, H, W)`, flow `(B, h, w, 2)` f32, meta with one row per pair (META)."""

    images1: np.ndarray
    images2: np.ndarray
    flow: np.ndarray
    columns: dict[str, np.ndarray] = field(repr=False)

    @cached_property
    def meta(self) -> "pl.DataFrame":
        """The columns as a table; made when it is first asked for (it takes as long as a pair)."""
        import polars as pl

        kinds = {name: pl.Int64 if name in _COUNTS else pl.Float64 for name in META}
        return pl.DataFrame({name: self.columns[name] for name in META}).cast(kinds)


@dataclass(frozen=True)
class _Prepared:
    flow: Flow
    place: np.ndarray
    parameters: np.ndarray
    label: np.ndarray
    failed: int


class Generator:
    """Makes pairs and batches. `threads` render side by side (the core drops the interpreter lock); `backend`: None
    for the native core (else numba), "native", "numba" (same bytes), or "jax" (same statistics, other bytes).

    >>> from operators.synthpix import FlowSpec, Generator, ImageSpec, analytic
    >>> pair = Generator(ImageSpec(shape=(64, 64)), seed=1).pair(analytic.uniform(2.0, 0.0).sample((64, 64)), 0)
    >>> pair.image1.shape, float(pair.flow[5, 5, 0])
    ((64, 64), 2.0)
    """

    def __init__(
        self,
        image: ImageSpec | None = None,
        sheet: Sheet | None = None,
        camera: Camera | None = None,
        flow: FlowSpec | None = None,
        *,
        seed: int,
        epoch: int = 0,
        backend: str | None = None,
        threads: int = 1,
    ):
        self.image, self.sheet = image or ImageSpec(), sheet or Sheet()
        self.camera, self.flow_spec = camera or Camera(), flow or FlowSpec()
        if self.image.histogram is not None and self.camera.bit_depth not in (None, 8):
            raise ConfigError("histogram", "needs bit_depth 8 or None", self.camera.bit_depth)
        if threads < 1:
            raise ConfigError("threads", "expected >= 1", threads)
        self.seed, self.epoch, self.threads = seed, epoch, threads
        self._key = rng.key_of(seed, epoch)
        self._jax = backend == "jax"
        self._core = kernel.core(None if self._jax else backend)
        self._ranges = [np.array(r, np.float64) for r in (self.image.diameter, self.image.intensity, self.image.rho)]
        mask = self.image.mask
        self._mask = NO_MASK if mask is None else np.ascontiguousarray(mask, np.uint8)
        self._known: OrderedDict[Flow, _Prepared] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self._buffers = Pool()

    @property
    def backend(self) -> str:
        return "jax" if self._jax else kernel.name_of(self._core)

    def pair(self, flow: Flow, index: int) -> Pair:
        """Pair number `index` of this seed and epoch, moved by `flow`."""
        batch = self.batch(flow, [index])
        return Pair(batch.images1[0], batch.images2[0], batch.flow[0], batch.meta.row(0, named=True))

    def batch(self, flows: Flow | Sequence[Flow], indices: Sequence[int], out: tuple | None = None) -> Batch:
        """Pairs `indices`; the k-th uses flows[k mod len(flows)]. `out`: (images1, images2, flow) arrays to write into.

        Raises ConfigError for a flow that does not fit the specs or an `out` of another shape or type.
        """
        flows = [flows] if isinstance(flows, Flow) else list(flows)
        indices = [int(i) for i in indices]
        prepared = [self._prepare(flow) for flow in flows]
        images1, images2, labels = self._outputs(len(indices), out)
        if self._jax:
            stats = self._render_jax(prepared, indices, images1, images2)
        else:
            stats = np.zeros((len(indices), len(kernel.STATISTICS)))
            self._render(prepared, indices, images1, images2, stats)
        for k in range(len(indices)):
            labels[k] = prepared[k % len(prepared)].label
        if self.image.histogram is not None:
            for images in (images1, images2):
                for k in range(len(indices)):
                    images[k] = matching.matched(images[k], self.image.histogram)
        return Batch(images1, images2, labels, self._columns(prepared, indices, stats))

    def label(self, flow: Flow) -> np.ndarray:
        """The label of a flow `(h, w, 2)` f32."""
        return self._prepare(flow).label

    def _outputs(self, count: int, out: tuple | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = geometry.label_shape(self.flow_spec, self.image.shape)
        if min(rows) < 1:
            raise ConfigError("velocities_per_pixel", "gives an empty label", self.flow_spec.velocities_per_pixel)
        kinds = [((count, *self.image.shape), self.camera.dtype)] * 2 + [((count, *rows, 2), np.dtype(np.float32))]
        if out is None:
            return tuple(self._buffers.take(shape, dtype) for shape, dtype in kinds)
        for name, array, (shape, dtype) in zip(("images1", "images2", "flow"), out, kinds, strict=True):
            if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
                raise ConfigError(f"out.{name}", f"expected a contiguous {dtype} array {shape}", (array.shape,
                                  str(array.dtype)))  # fmt: skip
        return out

    def _render(self, prepared, indices, images1, images2, stats) -> None:
        def one(k: int) -> None:
            p = prepared[k % len(prepared)]
            self._core.render(p.flow.values, p.place, p.parameters, *self._ranges, self._mask, *self._key,
                              indices[k], images1[k], images2[k], stats[k])  # fmt: skip

        if self.threads == 1 or len(indices) == 1:
            for k in range(len(indices)):
                one(k)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="synthpix")
        list(self._pool.map(one, range(len(indices))))

    def _render_jax(self, prepared, indices, images1, images2) -> np.ndarray:
        from operators.synthpix import backend_jax

        return backend_jax.render(prepared, indices, self._ranges, self._mask, self._key, images1, images2)

    def _prepare(self, flow: Flow) -> _Prepared:
        if flow in self._known:
            self._known.move_to_end(flow)
            return self._known[flow]
        spec, shape = self.flow_spec, tuple(self.image.shape)
        dz = light.largest_dz(self.sheet, flow, spec.scale)
        where = geometry.seeded(flow, spec, self.image)
        parameters = self._parameters(where, dz)
        label, failed = geometry.label(flow, spec=spec, shape=shape, core=self._core)
        made = _Prepared(flow, geometry.place(flow, spec, shape), parameters, label, failed)
        self._known[flow] = made
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return made

    def _parameters(self, where: geometry.Rectangle, dz: float) -> np.ndarray:
        image, sheet, camera = self.image, self.sheet, self.camera
        fixed = sheet.out_of_plane if sheet.out_of_plane != "flow" else 0.0
        values = {
            **{"seed_y": where.y, "seed_x": where.x, "extent_y": where.height, "extent_x": where.width},
            **{"area": where.area, "density_lo": image.density[0], "density_hi": image.density[1]},
            **{"sigma_per_diameter": image.sigma_per_diameter, "diameter_std": image.diameter_var**0.5},
            **{"intensity_std": image.intensity_var**0.5, "rho_std": image.rho_var**0.5},
            **{"hide_1": image.p_hide[0], "hide_2": image.p_hide[1], "integrated": image.psf == "integrated"},
            **{"fill_y": image.fill[0], "fill_x": image.fill[1], "cut": image.cut},
            **{"sheet": sheet.width_px is not None, "sheet_width": sheet.width_px or 1.0, "sheet_shape": sheet.shape},
            **{"sheet_profile": sheet.profile == "synpivimage", "dz": fixed, "slab": light.slab(sheet, dz)},
            **{"dz_from_flow": sheet.out_of_plane == "flow", "bits": camera.bit_depth or 0, "qe": camera.qe},
            **{"gain": camera.gain, "baseline": camera.baseline, "shot_noise": camera.shot_noise},
            **{"noise_uniform": camera.noise_uniform, "noise_mean": camera.noise_mean},
            "noise_sigma": (camera.noise_sigma**2 + camera.dark_sigma**2) ** 0.5,  # a sum of two normals is one
        }
        return np.array([float(values[name]) for name in kernel.PARAMETERS])

    def _columns(self, prepared: list[_Prepared], indices: list[int], stats: np.ndarray) -> dict[str, np.ndarray]:
        def column(name: str) -> np.ndarray:
            return stats[:, _INDEX[name]]

        picked = [self._ranges[k][column(name).astype(int)] for k, name in enumerate(("diameter", "intensity", "rho"))]
        pixels = self.image.shape[0] * self.image.shape[1]
        seen = np.maximum(column("visible_1"), 1)
        data: dict[str, Any] = {"pair": np.array(indices, np.int64), "density": column("density")}
        for name, rows in zip(("diameter", "intensity", "rho"), picked, strict=True):
            data[f"{name}_lo"], data[f"{name}_hi"] = rows[:, 0], rows[:, 1]
        data |= {"ppp_effective": column("visible_1") / pixels, "loss_of_pair": column("lost") / seen}
        data["snr"] = optics.snr(self.camera, column("peak"), column("signal"))
        data["label_failed"] = [prepared[k % len(prepared)].failed for k in range(len(indices))]
        for name in META:
            if name not in data:
                data[name] = column(name)
        return {name: np.asarray(data[name]) for name in META}
