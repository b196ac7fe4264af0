"""The optional JAX back end: the same statistics as the core, a clear error where jax is not installed."""

import importlib.util

import numpy as np
import pytest

from operators.synthpix import Camera, ConfigError, FlowSpec, Generator, ImageSpec, Sheet
from operators.synthpix.twins import sigma_eff
from tests.synthpix.configurations import same, small_flow

THERE = importlib.util.find_spec("jax") is not None
CASES = {
    "jassal": (ImageSpec(shape=(96, 96), psf="point", diameter_var=0.03, rho_var=0.1), Sheet(), Camera(bit_depth=None)),
    "integrated": (
        ImageSpec(shape=(96, 96), rho=((0, 0),)),
        Sheet(),
        Camera(shot_noise=True, baseline=10, dark_sigma=2),
    ),
    "sheet": (ImageSpec(shape=(96, 96)), Sheet(width_px=10, out_of_plane=2.0), Camera(bit_depth=16, qe=0.5)),
}


@pytest.mark.skipif(THERE, reason="jax is installed")
def test_without_jax_the_error_says_what_to_install():
    with pytest.raises(ConfigError, match=r"backend: 'jax'; needs the package jax, which is optional"):
        Generator(ImageSpec(shape=(16, 16)), seed=0, backend="jax").pair(small_flow(), 0)


@pytest.mark.skipif(not THERE, reason="jax is not installed (optional back end): its statistics are not compared")
@pytest.mark.parametrize("case", CASES)
def test_statistics_are_those_of_the_core(case):
    image, sheet, camera = CASES[case]
    spec = FlowSpec(integrator="rk4", label_at="mid")
    ours, theirs = (Generator(image, sheet, camera, spec, seed=4, backend=b).batch(small_flow(size=96), range(48))
                    for b in (None, "jax"))  # fmt: skip
    assert same(ours.flow, theirs.flow)
    for name in ("density", "n_particles", "diameter_lo"):
        assert ours.meta[name].to_list() == pytest.approx(theirs.meta[name].to_list())
    for a, b in ((ours.images1, theirs.images1), (ours.images2, theirs.images2)):
        assert a.dtype == b.dtype
        assert np.mean(b) == pytest.approx(np.mean(a), rel=0.03)
        assert np.std(b) == pytest.approx(np.std(a), rel=0.03)
        assert sigma_eff(b[0]) == pytest.approx(sigma_eff(a[0]), rel=0.1)
    for name in ("visible_1", "visible_2", "grey_mean_2"):
        assert theirs.meta[name].mean() == pytest.approx(ours.meta[name].mean(), rel=0.03)
    assert theirs.meta["loss_of_pair"].mean() == pytest.approx(ours.meta["loss_of_pair"].mean(), abs=0.02)
