"""Bounds: the rank by hand, coverage that holds, and what a drift does with and without adapting."""

import math

import numpy as np
import pytest

from operators.odma import ConfigError, Conformal, split


@pytest.mark.parametrize(("n", "place"), [(9, 9), (10, 10), (19, 18)])
def test_the_rank_at_ninety_percent(n, place):
    assert split(np.random.default_rng(n).permutation(np.arange(1.0, n + 1)), 0.9) == place


def test_too_few_residuals_have_no_bound():
    with pytest.raises(ValueError, match=r"8 values; level 0.9 needs at least 9"):
        split(np.zeros(8), 0.9)
    with pytest.raises(ValueError, match=r"residuals\[1\] is NaN"):
        split(np.array([0.0, np.nan]), 0.5)
    for level in (0, 1, 1.5):
        with pytest.raises(ConfigError, match="level"):
            split(np.zeros(20), level)
        with pytest.raises(ConfigError, match="level"):
            Conformal(level)


def stream(rng, n, shift=0.0):
    return np.exp(rng.normal(4 + shift, 0.7, n))


def test_coverage_in_a_stream_that_stays():
    rng = np.random.default_rng(1)
    for level in (0.7, 0.9, 0.99):
        bound = Conformal(level, start=np.log(stream(rng, 1000) / 55))
        for length in stream(rng, 4000):
            bound.observe(55.0, max(1.0, length))
            bound.validate() if length < 5 else None
        assert bound.coverage() == pytest.approx(level, abs=0.015)


def test_after_a_drift_the_adaptive_bound_returns_and_the_frozen_does_not():
    rng = np.random.default_rng(2)
    start = np.log(stream(rng, 1000) / 55)
    adaptive, q = Conformal(0.9, start=start), split(start, 0.9)
    frozen_hits, hits = [], []
    for length in np.concatenate([stream(rng, 1000), stream(rng, 3000, 1.0)]):
        hits.append(adaptive.observe(55.0, max(1.0, length)))
        frozen_hits.append(length <= 55 * math.exp(q))
    assert np.mean(hits[1500:2500]) == pytest.approx(0.9, abs=0.03)
    assert np.mean(frozen_hits[1500:2500]) < 0.7


def test_a_predictor_that_lies_is_caught():
    rng = np.random.default_rng(3)
    bound = Conformal(0.9, start=rng.normal(0, 0.5, 1000))
    hits = [bound.observe(1.0, length) for length in np.clip(stream(rng, 600), 1, None)]
    assert not any(hits[:5])
    assert np.mean(hits[-200:]) > 0.85


def test_impossible_observations_are_refused():
    for mean, length in ((0, 5), (5, 0), (5, math.nan)):
        with pytest.raises(ValueError, match="mean, length, scale"):
            Conformal(0.9).observe(mean, length)
    assert math.isnan(Conformal(0.9).coverage())
    assert Conformal(0.9).q == math.inf
