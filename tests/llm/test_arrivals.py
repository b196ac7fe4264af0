"""Arrivals and the load they make: exact sums, wanted burstiness, and the sweep against sampling and brute force."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.llm import arrivals
from operators.llm.workloads import TraceError


def rng(seed=0):
    return np.random.default_rng(seed)


def test_popularity_sums_to_one_and_follows_the_exponent():
    share = arrivals.popularity(4, 0.5)
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(share / share[0], [1, 2**-0.5, 3**-0.5, 0.5])
    np.testing.assert_allclose(arrivals.popularity(3, 0), 1 / 3)
    with pytest.raises(ValueError, match=r"models \(=0\)"):
        arrivals.popularity(0, 1)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_total_and_the_burstiness(cv):
    gaps = arrivals.gamma_gaps(40_000, 1000.0, cv, rng())
    assert gaps.sum() == pytest.approx(1000)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06, abs=1e-9)


def test_rebursting_keeps_ends_and_count():
    times = np.sort(rng().random(500)) * 60
    made = arrivals.rebursted(times, 2.0, rng(1))
    assert len(made) == 500
    assert made[[0, -1]] == pytest.approx(times[[0, -1]])
    np.testing.assert_array_equal(arrivals.rebursted(times, -1, rng(1)), times)


def test_a_rate_profile_is_followed_window_by_window():
    rates = np.array([50.0, 0.0, 200.0, 10.0])
    made = arrivals.from_rates(rates, 100.0, 1.0, rng())
    assert (np.diff(made) >= 0).all()
    counts = np.histogram(made, np.arange(5) * 100.0)[0]
    assert counts[1] == 0
    for count, rate in zip(counts, rates, strict=True):
        assert abs(count - rate * 100) < 5 * np.sqrt(rate * 100) + 1
    assert len(arrivals.from_rates(np.zeros(3), 1.0, 1.0, rng())) == 0
    regular = arrivals.from_rates(np.array([10.0]), 10.0, 0.0, rng())
    assert len(regular) in (100, 101)
    np.testing.assert_allclose(np.diff(regular), 0.1)


@pytest.mark.parametrize("rates", [[1.0, np.nan], [1.0, -2.0]])
def test_a_gap_in_a_profile_must_be_filled_first(rates):
    with pytest.raises(ValueError, match=r"rates_rps\[1\]"):
        arrivals.from_rates(np.array(rates), 1.0, 1.0, rng())
    with pytest.raises(ValueError, match=r"cv \(=-1"):
        arrivals.from_rates(np.array([1.0]), 1.0, -1.0, rng())


def requests(prefix, times):
    ids = [f"{prefix}{i}" for i in range(len(times))]
    return pl.DataFrame({"request_id": ids, "arrival_s": times, "input_tokens": 1, "output_tokens": 1})


def test_rescaling_sets_the_mean_rate():
    made = arrivals.rescale(requests("a", [0.0, 1.0, 4.0]), 8.0)
    np.testing.assert_allclose(made["arrival_s"], [0, 1 / 16, 4 / 16])
    with pytest.raises(ValueError, match="no rate"):
        arrivals.rescale(requests("a", [2.0]), 8.0)
    with pytest.raises(ValueError, match="rps"):
        arrivals.rescale(requests("a", [0.0, 1.0]), 0)


def test_merging_keeps_input_order_at_equal_times():
    made = arrivals.merge([requests("a", [0.0, 2.0]), requests("b", [0.0, 1.0, 2.0])])
    assert made["request_id"].to_list() == ["a0", "b0", "b1", "a1", "b2"]
    with pytest.raises(TraceError, match="'a0' occurs twice"):
        arrivals.merge([requests("a", [0.0]), requests("a", [1.0])])


def test_load_by_hand():
    # two requests at 0 for 3 s and at 2 s for 2 s; windows of 2 s
    mean, peak = arrivals.load_windows(np.array([0.0, 2.0]), np.array([3.0, 2.0]), 2.0, windows=3)
    np.testing.assert_allclose(mean, [1.0, 1.5, 0.0])
    np.testing.assert_array_equal(peak, [1, 2, 0])
    # one ends as the next comes
    assert arrivals.load_windows(np.array([0.0, 1.0]), np.array([1.0, 1.0]), 10.0)[1][0] == 1


def test_load_against_a_sweep_sampled_every_millisecond():
    arrival = np.sort(rng(3).random(300) * 20).round(3)
    hold = (rng(4).exponential(0.8, 300) + 0.001).round(3)
    mean, peak = arrivals.load_windows(arrival, hold, 2.5, windows=8)
    middle = (np.arange(20_000) + 0.5) * 1e-3
    load = (arrival <= middle[:, None]).sum(1) - (arrival + hold <= middle[:, None]).sum(1)
    np.testing.assert_allclose(mean, load.reshape(8, 2500).mean(1), atol=1e-9)
    ends = np.rint((arrival + hold) * 1000)
    seen = [
        (np.rint(arrival[: i + 1] * 1000) <= t).sum() - (ends[: i + 1] <= t).sum()
        for i, t in enumerate(np.rint(arrival * 1000))
    ]
    wanted = [max(n for n, t in zip(seen, arrival, strict=True) if t // 2.5 == w) for w in range(8)]
    np.testing.assert_allclose(peak, wanted, atol=1)  # a float end may fall a rounding before or after an arrival


@given(
    st.lists(st.tuples(st.integers(0, 640), st.integers(1, 400)), min_size=1, max_size=40),
    st.sampled_from([0.5, 1.0, 2.5]),
)
@settings(max_examples=60, deadline=None)
def test_load_against_brute_force(pairs, window):
    pairs.sort()
    arrival, hold = np.array(pairs, float).T / 64  # binary fractions: sums are exact
    mean, peak = arrivals.load_windows(arrival, hold, window)
    for w in range(len(mean)):
        low, high = w * window, (w + 1) * window
        inside = np.clip(np.minimum(arrival + hold, high) - np.maximum(arrival, low), 0, None).sum() / window
        assert mean[w] == pytest.approx(inside)
        at = [i for i, t in enumerate(arrival) if low <= t < high]
        assert peak[w] == max((((arrival + hold)[: i + 1] > arrival[i]).sum() for i in at), default=0)


@pytest.mark.parametrize(
    ("arrival", "hold", "message"),
    [([1.0, 0.0], [1.0, 1.0], r"arrival_s\[1\]"), ([0.0], [0.0], r"hold_s\[0\]"), ([0.0], [1.0, 1.0], "shape")],
)
def test_impossible_times_are_refused(arrival, hold, message):
    with pytest.raises(ValueError, match=message):
        arrivals.load_windows(np.array(arrival), np.array(hold), 1.0)
