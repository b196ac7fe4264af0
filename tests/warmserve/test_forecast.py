"""Forecasts: CSP by hand, gaps, properties; blend and bands."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.warmserve import forecast
from operators.warmserve.errors import ConfigError
from operators.warmserve.oracle import Forecaster, gather
from tests.warmserve.traces import history


def test_csp_by_hand():
    past = np.array([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]])  # season 2 3 4 5
    assert forecast.csp_forecast(past, []) == 2.0
    assert forecast.csp_forecast(past, [5.0]) == pytest.approx(3 + 3)
    # two windows: the newest is off by 1, the older by 3; weights 2/3 and 1/3
    assert forecast.csp_forecast(past, [5.0, 4.0]) == pytest.approx(4 + 1 * 2 / 3 + 3 / 3)
    assert forecast.csp_forecast(past, [5.0, 4.0], order="printed") == pytest.approx(4 + 1 / 3 + 3 * 2 / 3)
    assert forecast.csp_forecast(past, [5.0, 4.0], n_recent=1) == pytest.approx(4 + 1)
    assert forecast.csp_forecast(past, [5.0, 4.0], ahead=2) == pytest.approx(5 + 1 * 2 / 3 + 3 / 3)


def test_gaps_are_left_out_and_no_forecast_is_negative():
    past = np.array([[1.0, np.nan, 3.0], [3.0, 4.0, 5.0]])
    assert forecast.seasonal(past).tolist() == [2.0, 4.0, 4.0]
    assert forecast.csp_forecast(past, [np.nan, 5.0]) == pytest.approx(4 + 1)
    assert forecast.csp_forecast(past, [np.nan, np.nan]) == 4.0
    assert forecast.csp_forecast(past, [-50.0, -50.0]) == 0.0


@pytest.mark.parametrize(
    ("past", "words"),
    [
        (np.zeros((0, 3)), "history of m"),
        (np.array([[1.0, np.nan], [2.0, np.nan]]), "history of m: window 1"),
        (np.zeros(3), "expected"),
    ],
)
def test_a_history_that_says_nothing_is_refused(past, words):
    with pytest.raises(ValueError, match=words):
        forecast.csp_forecast(past, [], model="m")


def test_more_windows_than_a_day_are_refused():
    with pytest.raises(ValueError, match="window 2 is outside a day of 2 windows"):
        forecast.csp_forecast(np.ones((1, 2)), [1.0, 1.0])
    with pytest.raises(ValueError, match="order"):
        forecast.weights(3, "newset")


series = st.lists(st.floats(0.1, 100.0), min_size=2, max_size=12)


@given(series, st.integers(0, 11), st.sampled_from(["newest", "printed"]))
def test_a_perfectly_periodic_series_is_told_exactly(day, at, order):
    at = min(at, len(day) - 1)
    past = np.array([day, day, day])
    assert forecast.csp_forecast(past, day[:at], order=order) == pytest.approx(day[at], rel=1e-9)


@given(series, st.floats(0, 50), st.integers(1, 11))
def test_adding_a_constant_shifts_the_forecast_by_it(day, more, at):
    at = min(at, len(day) - 1)
    past, today = np.array([day, day[::-1]]), np.array(day[:at]) * 1.3
    shifted = forecast.csp_forecast(past + more, today + more)
    plain = forecast.csp_forecast(past + 500, today + 500) - 500  # away from the clip at 0
    assert forecast.csp_forecast(past + 500 + more, today + 500 + more) - 500 == pytest.approx(plain + more, abs=1e-6)
    assert shifted >= 0


def test_the_band_is_a_quantile_of_past_errors():
    assert forecast.band(np.arange(101.0), 0.9) == pytest.approx(90.0)
    assert forecast.band(np.array([np.nan]), 0.9) == 0.0
    with pytest.raises(ValueError, match="level"):
        forecast.band(np.zeros(3), 1.0)


def test_the_blend_learns_that_deviations_last():
    rng = np.random.default_rng(0)
    season = 100 + 30 * np.sin(np.arange(48) / 48 * 2 * np.pi)
    noise = np.zeros((12, 48))
    for day in range(12):
        for w in range(1, 48):
            noise[day, w] = 0.95 * noise[day, w - 1] + rng.normal(0, 4)
    grid = season + noise
    made, csp, last, actual = [], [], [], []
    for day in range(8, 12):
        blend = forecast.Blend().fit(grid[:day])
        for w in range(1, 48):
            made.append(blend.forecast(grid[day - 7 : day], grid[day, :w]))
            csp.append(forecast.csp_forecast(grid[day - 7 : day], grid[day, :w]))
            last.append(grid[day, w - 1])
            actual.append(grid[day, w])
    errors = [forecast.wape(actual, values) for values in (made, csp, last)]
    assert errors[0] <= 1.02 * min(errors[1:])
    with pytest.raises(ValueError, match="call fit first"):
        forecast.Blend().forecast(grid[:7], [])


def test_windows_are_gathered_from_minutes():
    mean, peak = gather(np.arange(10.0), np.arange(10.0), 240.0)
    assert mean.tolist() == [1.5, 5.5, 8.5]
    assert peak.tolist() == [3.0, 7.0, 9.0]
    with pytest.raises(ConfigError, match="multiple of 60"):
        gather(np.ones(4), np.ones(4), 100.0)


def test_the_forecaster_tells_truth_when_asked_and_nothing_after_the_end():
    past = history(2, mean=3.0, peak=9.0, windows=5)
    oracle = Forecaster(past, ["a", "b"], window_s=300.0, truth=True)
    assert oracle.next()[0].tolist() == [3.0, 3.0]
    oracle.observe(np.ones(2), np.ones(2))
    assert oracle.next()[1].tolist() == [0.0, 0.0]
    assert [row[3] for row in oracle.record()][:2] == [3.0, 9.0]
    banded = Forecaster(past, ["a", "b"], window_s=300.0, burst="band", band_level=0.5)
    assert banded.next()[1].tolist() == [9.0, 9.0]


def test_serve_gen_errors_are_those_of_the_prototype(real_data):
    from operators.warmserve import errors_of_forecasts, workload

    source = workload.sources(real_data, 0)
    if source.data != "real":
        pytest.skip("servegen or azure-llm-2023 is not among the data")
    names = ["model", "day", "window", "horizon", "method", "actual", "forecast"]
    rows = errors_of_forecasts.rows(source.rates, horizons=(1,))
    frame = pl.DataFrame(rows, schema=names, orient="row").filter(pl.col("forecast").is_not_nan())
    error = 100 * (pl.col("actual") - pl.col("forecast")).abs().sum() / pl.col("actual").sum()
    found = {row[:2]: row[2] for row in frame.group_by("model", "method").agg(error).iter_rows()}
    seen = {  # csp, printed, season, yesterday, measured with a prototype
        "m-large": (14.5, 28.4, 38.0, 44.7),
        "m-mid": (10.9, 19.4, 24.6, 24.8),
        "m-small": (9.8, 16.0, 18.5, 18.0),
    }
    for model, values in seen.items():
        for method, value in zip(("csp", "csp_printed", "seasonal", "yesterday"), values, strict=True):
            assert found[model, method] == pytest.approx(value, abs=0.3), (model, method)
        assert found[model, "blend"] <= min(found[model, "csp"], found[model, "last"])
