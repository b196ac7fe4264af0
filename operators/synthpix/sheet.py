"""Closed forms of the light sheet: its profile, the slab particles are seeded in, the expected loss of pairs.

The kernel computes the same per particle (native/particles.cpp: lit); tests compare. Section 2.5 of the specification.
"""

import numpy as np

from operators.synthpix.errors import ConfigError
from operators.synthpix.flows import Flow
from operators.synthpix.specs import Sheet

TOP_HAT_ABOVE = 100


def brightness(sheet: Sheet, z: np.ndarray) -> np.ndarray:
    """Relative light at depth z px, 0 outside the sheet."""
    z = np.asarray(z, np.float64)
    if sheet.width_px is None:
        return np.ones_like(z)
    inside = np.abs(2 * z / sheet.width_px) <= 1
    if sheet.shape == 0 or sheet.shape > TOP_HAT_ABOVE:
        return inside.astype(np.float64)
    power = np.abs(2 * z / sheet.width_px) ** (2 * sheet.shape)
    fall = 2.0 if sheet.profile == "e2" else 1 / np.sqrt(2 * np.pi)
    return np.exp(-fall * power) * inside


def largest_dz(sheet: Sheet, flow: Flow, scale: float) -> float:
    """Largest motion across the sheet, px per frame. Raises ConfigError where flow and sheet do not fit."""
    components = flow.values.shape[2]
    if components == 3 and sheet.out_of_plane != "flow":
        raise ConfigError("flow", "three components need a sheet with out_of_plane 'flow'", flow.name)
    if sheet.out_of_plane == "flow":
        if components != 3:
            raise ConfigError("sheet.out_of_plane", f"needs a flow of three components; {flow.name} has two", "flow")
        return float(np.abs(flow.values[..., 2]).max()) * scale
    return abs(float(sheet.out_of_plane))


def slab(sheet: Sheet, dz: float) -> float:
    """Thickness particles are seeded in, px."""
    return (sheet.width_px or 1.0) + 2 * dz


def expected_loss(sheet: Sheet, dz: float) -> float:
    """Share of the particles seen in image 1 that leave the sheet before image 2, for even seeding."""
    return 0.0 if sheet.width_px is None else min(1.0, abs(dz) / sheet.width_px)
