"""Forecasts as the manager gets them: what was seen so far, past days, and either a predictor or the truth.

History and truth come at a resolution of `BASE_S` and are gathered into windows of the policy's size, so that policies
with different windows see the same past.
"""

from dataclasses import dataclass

import numpy as np

from operators.warmserve import forecast
from operators.warmserve.errors import ConfigError

BASE_S = 60.0


def gather(mean: np.ndarray, peak: np.ndarray, window_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Means and peaks f64[..., bases] of base windows as windows of `window_s` (the last one may be shorter)."""
    step = round(window_s / BASE_S)
    if step < 1 or abs(step * BASE_S - window_s) > 1e-9:
        raise ConfigError(f"window_s (={window_s}): expected a multiple of {BASE_S:g} s")
    starts = np.arange(0, mean.shape[-1], step)
    sums = np.add.reduceat(mean, starts, axis=-1)
    counts = np.diff(np.append(starts, mean.shape[-1]))
    return sums / counts, np.maximum.reduceat(peak, starts, axis=-1)


@dataclass
class History:
    """Load of past days and the truth of today, per model, in base windows: f64[days, bases] and f64[bases]."""

    mean: list[np.ndarray]
    peak: list[np.ndarray]
    true_mean: list[np.ndarray]
    true_peak: list[np.ndarray]


class Forecaster:
    """Mean and peak load of every model for the window that begins."""

    def __init__(
        self,
        history: History,
        names: list[str],
        *,
        window_s: float,
        n_recent: int = 10,
        order: str = "newest",
        burst: str = "forecast",
        band_level: float = 0.9,
        truth: bool = False,
    ):
        self.window_s, self.names, self.truth = window_s, names, truth
        self.n_recent, self.order, self.burst, self.level = n_recent, order, burst, band_level
        past = [gather(mean, peak, window_s) for mean, peak in zip(history.mean, history.peak, strict=True)]
        self.past_mean, self.past_peak = [one[0] for one in past], [one[1] for one in past]
        real = [gather(mean, peak, window_s) for mean, peak in zip(history.true_mean, history.true_peak, strict=True)]
        self.true_mean, self.true_peak = [one[0] for one in real], [one[1] for one in real]
        self.seen_mean: list[list[float]] = [[] for _ in names]
        self.seen_peak: list[list[float]] = [[] for _ in names]
        self.made: list[tuple] = []  # (window, model, stat, forecast)

    def observe(self, mean: np.ndarray, peak: np.ndarray) -> None:
        """Load of the window that ended."""
        for model in range(len(self.names)):
            self.seen_mean[model].append(float(mean[model]))
            self.seen_peak[model].append(float(peak[model]))

    def record(self) -> list[tuple]:
        """(window, model, stat, forecast, actual) of every forecast made; NaN where the window did not end."""
        seen = {"mean": self.seen_mean, "peak": self.seen_peak}
        rows = []
        for window, name, stat, value in self.made:
            past = seen[stat][self.names.index(name)]
            rows.append((window, name, stat, float(value), past[window] if window < len(past) else float("nan")))
        return rows

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, peak) f64[models] of the next window."""
        window = len(self.seen_mean[0])
        mean, peak = np.zeros(len(self.names)), np.zeros(len(self.names))
        for model, name in enumerate(self.names):
            last = self.past_mean[model].shape[1] - 1
            if window > last:  # past the end of the run: nothing comes
                continue
            if self.truth:
                mean[model], peak[model] = self.true_mean[model][window], self.true_peak[model][window]
            else:
                mean[model] = self._one(self.past_mean[model], self.seen_mean[model], name)
                peak[model] = self._peak(model, mean[model], name)
            self.made += [(window, name, "mean", mean[model]), (window, name, "peak", peak[model])]
        return mean, peak

    def _one(self, past: np.ndarray, seen: list[float], name: str) -> float:
        today = np.array(seen)
        return forecast.csp_forecast(past, today, n_recent=self.n_recent, order=self.order, model=name)

    def _peak(self, model: int, mean: float, name: str) -> float:
        if self.burst == "forecast":
            return self._one(self.past_peak[model], self.seen_peak[model], name)
        errors = self.past_peak[model] - self.past_mean[model]
        return mean + forecast.band(errors.ravel(), self.level)
