"""Blessed hashes of SynthPix. They may change only when a decision changes what a pair is: the order of draws, a
formula of a spot, the sensor or the motion. They hold on every processor and for both kernels (no fused multiply-add).

One hash per image size of the ci settings over the pairs of a shard, one with full physics.
"""

import hashlib

import numpy as np
import pytest

from operators.synthpix import Camera, Flow, FlowSpec, Generator, ImageSpec, Sheet, rendering
from operators.synthpix.settings import Settings

pytestmark = pytest.mark.golden

SHARDS = {0: "67cabda9239b1189c1e0a63f", 1: "c3dab5c6fddcef02f4cc86f1"}
PHYSICS = "bf66cbf95c8eafd8e44ddfab"


def coarse(shape: tuple[int, int]) -> Flow:
    """A flow whose values are exact in single precision, whatever library computes sines."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return Flow(np.stack([(y % 16) / 8 - 1, (x % 32) / 16 - 0.5], axis=-1))


def digest(batch) -> str:
    found = hashlib.sha256()
    for array in (batch.images1, batch.images2, batch.flow):
        found.update(array.tobytes())
    return found.hexdigest()[:24]


@pytest.mark.parametrize("size", SHARDS)
def test_shards_of_the_ci_size(size, repository):
    settings = Settings.from_config({"profile": "ci"}, repository / "workflows/synthpix/profiles.yaml")
    generator = rendering.generator(settings, size)
    assert digest(generator.batch(coarse(generator.image.shape), range(settings.shard_pairs))) == SHARDS[size]


@pytest.mark.parametrize("backend", [None, "numba"])
def test_full_physics(backend):
    image = ImageSpec(shape=(48, 50), diameter=((0.5, 1.0), (2.0, 3.0)), diameter_var=0.1, p_hide=(0.1, 0.1))
    camera = Camera(bit_depth=12, qe=0.7, gain=2.0, baseline=10, dark_sigma=2, shot_noise=True, noise_uniform=1.5)
    sheet, spec = Sheet(width_px=8, out_of_plane=1.5), FlowSpec(integrator="rk4")
    generator = Generator(image, sheet, camera, spec, seed=2**40, backend=backend)
    assert digest(generator.batch(coarse((48, 50)), range(8))) == PHYSICS
