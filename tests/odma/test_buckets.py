"""Size classes: three ways to the same optimum, hand figures, and a manager that follows its stream."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.odma import BucketManager, ConfigError, cutting, expected_reservation, optimal_buckets
from operators.odma.buckets import histogram

masses = st.lists(st.integers(0, 9), min_size=2, max_size=14).filter(any)


def exhaustive(hist, k):
    """The least expected reservation over every choice of k boundaries."""
    m = len(hist)
    return min(
        expected_reservation(hist, np.array([*inner, m])) for inner in itertools.combinations(range(1, m), k - 1)
    )


@given(masses, st.integers(1, 5))
@settings(deadline=None, max_examples=150)
def test_divide_and_conquer_plain_and_exhaustive_search_agree(hist, k):
    hist = np.array(hist, float)
    distinct = np.count_nonzero(hist) + (hist[-1] == 0)
    k = min(k, distinct)
    found = {method: optimal_buckets(hist, k, method=method) for method in ("dnc", "plain")}
    costs = [expected_reservation(hist, bounds) for bounds in found.values()]
    assert costs == pytest.approx([exhaustive(hist, k)] * 2)
    for bounds in found.values():
        assert (np.diff(bounds) > 0).all()
        assert bounds[-1] == len(hist)


def test_large_histograms_agree_and_more_classes_never_cost_more():
    rng = np.random.default_rng(3)
    hist = rng.exponential(1, 600) * (rng.random(600) < 0.7)
    costs = []
    for k in range(1, 12):
        fast, slow, cheap = (optimal_buckets(hist, k, 16, 640, method) for method in ("dnc", "plain", "quantile"))
        costs.append(expected_reservation(hist, fast))
        assert costs[-1] == pytest.approx(expected_reservation(hist, slow))
        assert expected_reservation(hist, cheap) >= costs[-1] - 1e-9
        assert (fast % 16 == 0).all()
        assert fast[-1] == 640
    assert costs == sorted(costs, reverse=True)


def test_more_classes_than_lengths_collapse_with_a_warning():
    with pytest.warns(UserWarning, match="K .=6.: only 3 different lengths"):
        bounds = optimal_buckets(np.array([1.0, 0, 1, 0, 0]), 6)
    assert bounds.tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2), "hist"),
        (([0.0, 0.0], 2), "hist"),
        (([1.0, np.nan], 2), "hist"),
        (([1.0], 0), "K, align"),
        (([1.0], 1, 1, 1, "best"), "method .='best'"),
    ],
)
def test_impossible_cuts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimal_buckets(*arguments)


def test_lengths_that_are_none_are_named():
    for bad in (0, -3, np.nan):
        with pytest.raises(ValueError, match=r"lengths\[1\]"):
            histogram(np.array([5, bad]), 16)


def test_distance_of_histograms_by_hand():
    a, b = np.array([1.0, 1, 2]), np.array([30.0, 0, 10])
    assert cutting.ks_distance(a, b) == pytest.approx(0.5)
    assert cutting.ks_distance(a, 7 * a) == pytest.approx(0)
    assert cutting.ks_distance(a, 0 * b) == 0


def manager(**changed):
    return BucketManager(3, **{"period": 50, "min_samples": 20, "max_len": 320, "tau": 1.0} | changed)


def test_assignment_at_the_edges():
    given_bounds = manager(boundaries=np.array([32, 96, 320]))
    for q, index in ((1, 0), (32, 0), (32.5, 1), (96, 1), (97, 2), (5000, 2)):
        found = given_bounds.assign(20, q, 0.5)
        assert (found.index, found.tokens, found.large) == (index, [32, 96, 320][index], index == 2)
    assert given_bounds.assign(20, 20, 1.5).large
    assert given_bounds.assign(20, 20, float("nan")).large
    assert given_bounds.assign(400, 20, 0.5).large


def test_the_manager_follows_a_drift_and_then_rests():
    follows = manager(drift=0.2)
    rng = np.random.default_rng(0)
    for length in rng.integers(1, 60, 300):
        follows.observe(length)
    first = follows.boundaries()
    adopted = follows.version
    assert first[1] <= 64
    for length in rng.integers(1, 60, 300):
        follows.observe(length)
    assert follows.version == adopted  # nothing more to gain
    for length in rng.integers(200, 320, 400):
        follows.observe(length)
    assert follows.boundaries()[0] > first[0]
    history = follows.history()
    assert history["version"].to_list() == list(range(follows.version + 1))
    assert history["n_done"].is_sorted()
    follows.validate()


def test_no_cut_before_enough_samples_and_none_without_gain():
    early, stubborn = manager(min_samples=200), manager(hysteresis=0.99)
    for length in [10] * 150:
        assert not early.observe(length)
        assert not stubborn.observe(length)


def test_a_saved_manager_goes_on_as_if_nothing_had_happened():
    one = manager()
    for length in range(1, 200):
        one.observe(length)
    other = manager()
    other.restore(one.save())
    for length in (5, 7, 200) * 40:
        assert one.observe(length) == other.observe(length)
    assert one.boundaries().tolist() == other.boundaries().tolist()
    assert one.version == other.version


def test_bad_managers_are_refused():
    for changed in ({"decay": 0}, {"max_len": 100}, {"drift": 0}, {"hysteresis": 1.0}, {"period": 0}):
        with pytest.raises(ConfigError, match=r"expected|divides"):
            manager(**changed)
    with pytest.raises(ValueError, match=r"length .=0."):
        manager().observe(0)
