"""Load forecasts per model and window: the corrected seasonal predictor (CSP), what it is compared with, and a blend.

CSP (paper, prediction; official code for the constants): the mean of the same window of past days, plus a weighted mean
of how much the last windows of today lay off that mean. Departures: the newest window weighs most (`newest`), as in the
official code; the formula as printed in digests (`printed`) weighs the oldest most and is kept as an option. Negative
forecasts are clipped to 0. Missing windows (NaN) are left out. Lags do not cross the start of a day.

`Blend` is ours: ridge regression of today's deviations on the last ones and on the season, fitted on past days, with
weights that fade with each day. `band` is ours too: an upper quantile of past errors.
"""

import numpy as np

RIDGE_LAGS = 3
RIDGE = 0.02
NEW_DAYS = 7


def seasonal(history: np.ndarray, *, model: str = "") -> np.ndarray:
    """Mean of past days f64[days, windows] per window; ValueError for no day or a window that no day has."""
    history = np.asarray(history, float)
    if history.ndim != 2 or not len(history):
        raise ValueError(f"history of {model or 'the model'} (shape {history.shape}): expected (days >= 1, windows)")
    known = ~np.isnan(history)
    empty = np.flatnonzero(~known.any(axis=0))
    if len(empty):
        raise ValueError(f"history of {model or 'the model'}: window {empty[0]} has no value on any past day")
    return np.where(known, history, 0.0).sum(axis=0) / known.sum(axis=0)


def weights(n: int, order: str = "newest") -> np.ndarray:
    """Weights of the last n windows, newest first; they sum to 1."""
    if order not in ("newest", "printed"):
        raise ValueError(f"order (={order!r}): expected 'newest' or 'printed'")
    w = 2.0 ** -np.arange(n)
    return (w if order == "newest" else w[::-1]) / w.sum()


def correction(season: np.ndarray, today: np.ndarray, n: int = 10, order: str = "newest") -> float:
    """Weighted mean deviation of today's windows f64[i] from the season; 0 when none is known."""
    last = min(len(today), n)
    if not last:
        return 0.0
    off = (np.asarray(today[-last:], float) - season[len(today) - last : len(today)])[::-1]
    known = ~np.isnan(off)
    w = weights(last, order)[known]
    return float((off[known] * w).sum() / w.sum()) if known.any() else 0.0


def csp_forecast(
    history: np.ndarray,
    today: np.ndarray,
    *,
    ahead: int = 1,
    n_recent: int = 10,
    order: str = "newest",
    model: str = "",
) -> float:
    """Forecast of window `len(today) + ahead - 1` from past days f64[days, windows] and today's windows so far.

    >>> round(csp_forecast([[1, 2, 3], [3, 4, 5]], [4.0]), 3)  # season 2, 3, 4; today is 2 above it
    5.0
    """
    season = seasonal(history, model=model)
    window = len(today) + ahead - 1
    if not 0 <= window < len(season):
        raise ValueError(f"today of {model or 'the model'}: window {window} is outside a day of {len(season)} windows")
    return max(float(season[window]) + correction(season, np.asarray(today, float), n_recent, order), 0.0)


def last_window(season: np.ndarray, today: np.ndarray, window: int) -> float:
    """The newest known window of today, or the season's value where there is none."""
    known = np.asarray(today, float)
    known = known[~np.isnan(known)]
    return float(known[-1]) if len(known) else float(season[window])


def band(errors: np.ndarray, level: float) -> float:
    """Upper `level` quantile of past errors (actual less forecast); 0 when there are none."""
    if not 0 < level < 1:
        raise ValueError(f"level (={level}): expected between 0 and 1")
    known = np.asarray(errors, float)
    known = known[~np.isnan(known)]
    return float(np.quantile(known, level)) if len(known) else 0.0


class Blend:
    """Ridge regression of a window's deviation from the season on the last deviations and steps of that season.

    `fit` takes whole past days f64[days, windows]; a day's own season is that of the days before it.
    """

    def __init__(self, *, lags: int = RIDGE_LAGS, ridge: float = RIDGE, ahead: int = 1, fade: float = 0.9):
        if lags < 1 or ahead < 1 or ridge <= 0:
            raise ValueError(f"lags (={lags}), ahead (={ahead}), ridge (={ridge}): expected >= 1, >= 1, > 0")
        self.lags, self.ridge, self.ahead, self.fade = lags, ridge, ahead, fade
        self.coefficients: np.ndarray | None = None

    def _features(
        self, season: np.ndarray, today: np.ndarray, before: np.ndarray, window: int, scale: float
    ) -> np.ndarray:
        """Deviations of the last known windows (0 where missing) and how the season moves up to `window`.

        Windows before the first of today are yesterday's last (`before`).
        """
        at = window - self.ahead
        days = [today[at - lag] if at >= lag else before[at - lag] for lag in range(self.lags)]
        off = [0.0 if np.isnan(day) else (day - season[at - lag]) / scale for lag, day in enumerate(days)]
        move = [(season[window] - season[at - lag]) / scale for lag in range(2)]
        return np.array([*off, *move, season[window] / scale - 1.0])

    def fit(self, days: np.ndarray) -> "Blend":
        """Learn from past days; the first one only as a season."""
        days = np.asarray(days, float)
        scale = self._scale(days)
        rows, targets, mass = [], [], []
        for day in range(1, len(days)):
            season = _filled(seasonal_or_nan(days[max(0, day - NEW_DAYS) : day]))
            for window in np.flatnonzero(~np.isnan(days[day])):
                rows.append(self._features(season, days[day], days[day - 1], int(window), scale))
                targets.append((days[day, window] - season[window]) / scale)
                mass.append(self.fade ** (len(days) - 1 - day))
        width = self.lags + 3
        prior = np.zeros(width)
        prior[: min(self.lags, 2)] = (0.6, 0.3)[: min(self.lags, 2)]  # towards a faded last deviation
        if not rows:
            self.coefficients = prior
            return self
        self.coefficients = _least_absolute(np.array(rows), np.array(targets), np.array(mass), self.ridge, prior)
        return self

    def forecast(self, history: np.ndarray, today: np.ndarray, window: int | None = None) -> float:
        """Forecast of `window` (default: `len(today) + ahead - 1`), as csp_forecast."""
        if self.coefficients is None:
            raise ValueError("coefficients (=None): call fit first")
        history = np.asarray(history, float)
        season, scale = seasonal(history), self._scale(history)
        today = np.asarray(today, float)
        window = len(today) + self.ahead - 1 if window is None else window
        padded = np.concatenate([today, np.full(len(season) - len(today), np.nan)])
        off = self._features(season, padded, history[-1], window, scale) @ self.coefficients
        return max(float(season[window] + off * scale), 0.0)

    @staticmethod
    def _scale(days: np.ndarray) -> float:
        mean = float(np.nanmean(days)) if np.isfinite(days).any() else 0.0
        return mean if mean > 0 else 1.0


def seasonal_or_nan(history: np.ndarray) -> np.ndarray:
    """Season of past days, NaN for a window that no day has."""
    known = ~np.isnan(history)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, history, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _filled(season: np.ndarray) -> np.ndarray:
    """A season with gaps bridged by straight lines."""
    known = np.flatnonzero(~np.isnan(season))
    return np.interp(np.arange(len(season)), known, season[known]) if len(known) else np.zeros(len(season))


def _least_absolute(x, y, mass, ridge, prior, rounds: int = 12):
    """Weighted least absolute deviations with a ridge towards `prior`, by reweighted least squares."""
    w, found = mass.copy(), prior
    for _ in range(rounds):
        xw = x * w[:, None]
        total = w.sum()
        found = np.linalg.solve(
            xw.T @ x / total + ridge * 0.05 * np.eye(x.shape[1]), xw.T @ y / total + ridge * 0.05 * prior
        )
        w = mass / np.maximum(np.abs(y - x @ found), 0.01)
    return found


def wape(actual: np.ndarray, forecast: np.ndarray) -> float:
    """Weighted absolute percentage error as a share; windows without an actual value are left out."""
    actual, forecast = np.asarray(actual, float), np.asarray(forecast, float)
    known = ~np.isnan(actual) & ~np.isnan(forecast)
    total = np.abs(actual[known]).sum()
    return float(np.abs(actual[known] - forecast[known]).sum() / total) if total > 0 else float("nan")
