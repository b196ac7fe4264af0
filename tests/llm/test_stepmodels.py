"""Step models by hand: DistServe's two phases at the threshold, rooflines, tables, and what they refuse."""

import json

import numpy as np
import pytest
from numba import njit

from operators.llm import stepmodels
from operators.llm.engine_core import leap, march
from operators.llm.stepmodels import ConstStep, LinearStep, RooflineStep, TableStep, TwoPhaseStep

MARCH, LEAP = njit(march.py_func), njit(leap.py_func)  # the engine's own have no way in from Python
PROFILE = {
    "some/model": {
        "2": {
            "decoding_large_small_bs_threshold": 95,
            "prefill": [18.0, 0.1, 7e-6],
            "decoding_smallbs": [20.0, 6e-4, 0.04],
            "decoding_largebs": [7.0, 5e-4, 0.16],
        }
    }
}


def test_linear_by_hand():
    step = LinearStep(0.01, 1e-5, 2e-5, 3e-8, 4e-9)
    assert step.step_s(p=100, n=3, k=900, q=5000.0) == pytest.approx(0.01 + 1e-3 + 6e-5 + 2.7e-5 + 2e-5)
    np.testing.assert_allclose(step.step_s(n=[1, 2], k=[10, 20]), [0.0100203, 0.0100406])


def test_distserve_changes_its_decode_at_95(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE))
    step = TwoPhaseStep.from_distserve(path, "some/model", 2)
    # k is the sum of (context + 1): 94 requests with 300 tokens in the cache each
    assert step.step_s(n=94, k=94 * 301) == pytest.approx((20 + 6e-4 * 94 * 301 + 0.04 * 94) / 1000)
    assert step.step_s(n=95, k=95 * 301) == pytest.approx((7 + 5e-4 * 95 * 301 + 0.16 * 95) / 1000)
    # two prompts of 100 and 200 tokens: q is half the sum of squares
    assert step.step_s(p=300, q=(100**2 + 200**2) / 2, m=2) == pytest.approx((18 + 30 + 7e-6 * 50_000) / 1000)
    with pytest.raises(KeyError, match="some/model"):
        TwoPhaseStep.from_distserve(PROFILE, "other", 2)
    with pytest.raises(KeyError, match="known: 2"):
        TwoPhaseStep.from_distserve(PROFILE, "some/model", 1)


def test_the_real_profiles_at_94_and_95(real_data):
    path = real_data / "distserve-profiles" / "profiler-a100-80g.distserve.json"
    found = json.loads(path.read_text())["facebook/opt-13b"]["1"]
    step = TwoPhaseStep.from_distserve(path, "facebook/opt-13b", 1)
    for n, name in ((94, "decoding_smallbs"), (95, "decoding_largebs")):
        a, b, c = found[name]
        assert step.step_s(n=n, k=n * 513) == pytest.approx((a + b * n * 513 + c * n) / 1000, rel=1e-12)


def test_constants_count_prompts_and_steps():
    step = ConstStep(0.035, 0.015)
    assert step.step_s(p=700, m=2) == pytest.approx(0.07)
    assert step.step_s(n=32, k=9999) == 0.015
    assert step.step_s(p=700, m=1, n=4, k=10) == pytest.approx(0.05)


def test_roofline_takes_the_slower_side():
    step = RooflineStep(weight_bytes=10e9, kv_bytes=1e5, params=5e9, stream_Bps=1e12, flops=1e14, alpha=0.5)
    assert step.step_s(n=10, k=10_000) == pytest.approx((10e9 + 2e5 * 10_000) / 1e12)
    assert step.step_s(p=2000, n=10, k=10) == pytest.approx(2 * 5e9 * 2010 / 1e14)


def test_tables_are_bilinear_inside_and_linear_outside():
    step = TableStep(np.array([1, 11]), np.array([0, 100, 300]), np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 5.0]]))
    assert step.step_s(n=1, k=50) == pytest.approx(1.5)
    assert step.step_s(n=6, k=6 * 200) == pytest.approx((2.5 + 4.0) / 2)
    assert step.step_s(n=1, k=500) == pytest.approx(4.0)
    assert step.step_s(n=21, k=0) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "step",
    [
        LinearStep(0.01, 1e-5, 2e-5, 3e-8),
        TwoPhaseStep.from_distserve(PROFILE, "some/model", 2),
        ConstStep(0.035, 0.015),
        RooflineStep(weight_bytes=1e9, kv_bytes=1e6, params=5e9, stream_Bps=1e12, flops=1e13),
        TableStep(
            np.array([1, 64]), np.array([1, 50, 300, 900]), np.array([[1.0, 2.0, 3.0, 9.0], [2.0, 3.0, 5.0, 11.0]])
        ),
    ],
    ids=lambda step: type(step).__name__,
)
@pytest.mark.parametrize("n", [1, 7, 60])
def test_a_leap_takes_as_long_as_its_steps(step, n):
    c, grid, k = step.coeffs(), step.grid(), n * 40
    for most, left in ((1, 1e9), (700, 1e9), (700, 0.3), (700, 1e-6)):
        one, by_one = MARCH(c, *grid, n, k, most, left)
        other, at_once = LEAP(c, *grid, n, k, most, left)
        assert one == other
        assert by_one == pytest.approx(at_once, rel=1e-12)


def test_times_that_are_not_above_zero_are_refused_where_they_are_met():
    step = TwoPhaseStep((0.01, 1e-5, -1e-8), (0.01, 0, 0), (0.01, 0, 0))
    assert step.step_s(p=1000, q=500_000.0) > 0
    with pytest.raises(ValueError, match=r"TwoPhaseStep: a step of p=2000.*must be > 0"):
        step.step_s(p=2000, q=2e6)
    with pytest.raises(ValueError, match="finite"):
        LinearStep(float("nan"), 0, 0, 0).coeffs()
    with pytest.raises(ValueError, match=r"alpha \(=0\)"):
        RooflineStep(1, 1, 1, 1, 1, alpha=0)
    with pytest.raises(ValueError, match="strictly rising"):
        TableStep(np.array([1, 1]), np.array([1, 2]), np.ones((2, 2)))
    with pytest.raises(ValueError, match="seconds"):
        TableStep(np.array([1, 2]), np.array([1, 2]), np.ones((2, 3)))


def test_every_model_fits_its_row():
    assert len(LinearStep(1, 2, 3, 4, 5).coeffs()) == stepmodels.WIDTH
