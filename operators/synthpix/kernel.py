"""The renderer: the compiled core (native/) where it is built, numba's stand-in where it is not; the same bytes.

    render(flow, place, parameters, diameters, intensities, rhos, mask, k0, k1, pair, first, second, stats)
        one image pair: flow `(h, w, 2 or 3)` f32, component 0 along x; place f64 (PLACE); parameters f64 (PARAMETERS);
        lists of ranges `(n, 2)` f64; mask `(H, W)` u8 or `(0, 0)`; key words and pair number; images `(H, W)` u8, u16
        or f32, written; stats f64 (STATISTICS), written
    displace(flow, place, y, x, out)           displacements (dy, dx) px of points, f64, out `(n, 2)`
    label(flow, place, per_pixel, mode, scale, out) -> failed
        out `(h, w, 2)` f32, (dx, dy) * scale, NaN where it does not converge
    add_spots(spots, integrated, fill_y, fill_x, cut, out)         spots `(n, 6)` f64: y, x, sigma y, x, rho, intensity
    expose(light, parameters, k0, k1, pair, image, out, stats)     the sensor alone; stats: saturated pixels, mean
    words(k0, k1, stream, pair, first, out)                        Philox words, out `(n, 4)` u32

`render` and `label` release the interpreter lock in the native core. What is not here: where particles are seeded
(geometry.py) and what the parameters mean (specs.py).
"""

import functools
import logging
from types import ModuleType

PLACE = ("step_y", "start_y", "step_x", "start_x", "scale", "substeps")
PARAMETERS = (
    *("seed_y", "seed_x", "extent_y", "extent_x", "area", "density_lo", "density_hi", "sigma_per_diameter"),
    *("diameter_std", "intensity_std", "rho_std", "hide_1", "hide_2"),
    *("integrated", "fill_y", "fill_x", "cut"),
    *("sheet", "sheet_width", "sheet_shape", "sheet_profile", "dz", "dz_from_flow", "slab"),
    *("bits", "qe", "gain", "baseline", "shot_noise", "noise_uniform", "noise_mean", "noise_sigma"),
)
STATISTICS = (
    *("density", "diameter", "intensity", "rho", "n_particles", "visible_1", "visible_2", "lost"),
    *("saturated_1", "saturated_2", "grey_mean_1", "grey_mean_2", "peak", "signal"),
)
LABEL_MODES = {"start": 0, "mid": 1, "end": 2}
LARGEST_REACH = 120.0  # px: cut * sigma of the widest spot
BACKENDS = ("native", "numba", "jax")
log = logging.getLogger("synthpix.kernel")


@functools.cache
def core(name: str | None = None) -> ModuleType:
    """The implementation called `native` or `numba`; without a name the native one, else numba with a warning."""
    if name == "numba":
        from operators.synthpix import standin

        return standin
    if name not in (None, "native"):
        raise ValueError(f"backend: {name!r}; expected one of {', '.join(BACKENDS)}")
    try:
        from operators.synthpix import _native
    except ImportError as error:
        if name == "native":
            raise ValueError(f"backend: 'native'; not built here ({error}); run `make native`") from None
        log.warning("the native renderer is not built (run `make native`): numba stands in, four times slower")
        return core("numba")
    return _native


def name_of(module: ModuleType) -> str:
    """`native` or `numba`, as results name it."""
    return "numba" if module.__name__.endswith("standin") else "native"
