"""Configurations and small flows the tests share."""

from pathlib import Path
from typing import Any

import numpy as np

from operators.synthpix import analytic
from operators.synthpix.flows import Flow

# The keys and values of release 0.1.1's Jassal configuration, on a 64 px image.
JASSAL = """
seed: 0
batch_size: 4
flow_fields_per_batch: 2
batches_per_flow_batch: 3
image_shape: [64, 64]
dt: 1
seeding_density_range: [0.03, 0.04]
p_hide_img1: 0.0001
p_hide_img2: 0.0001
diameter_ranges: [[1.5, 2.5]]
diameter_var: 0.03
intensity_ranges: [[150, 230]]
intensity_var: 0.01
rho_ranges: [[-0.1, 0.1]]
rho_var: 0.1
noise_uniform: 0.001
noise_gaussian_mean: 0.0
noise_gaussian_std: 0.0
velocities_per_pixel: 1.0
resolution: 1
flow_field_size: [64, 64]
img_offset: [0, 0]
min_speed_x: 0
max_speed_x: 0
min_speed_y: 0
max_speed_y: 0
output_units: "pixels"
scheduler_class: ".npy"
file_list: FILES
"""


def configuration(folder: Path, flows: int = 5, **changes: Any) -> dict[str, Any]:
    """The configuration above over `flows` files in `folder`."""
    import yaml

    for t in range(flows):
        np.save(folder / f"flow_{t}.npy", small_flow(t).values)
    return {**yaml.safe_load(JASSAL.replace("FILES", f"[{folder}]")), **changes}


def small_flow(t: int = 0, size: int = 64) -> Flow:
    """One of a few smooth flows of 64 px."""
    return Flow(analytic.taylor_green(2.0, 64.0, phase=0.3 * t).sample((size, size)).values, name=f"flow {t}")


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
