"""When requests come: popularity of models, gaps of a wanted burstiness, rate profiles, and the load they make.

Pure functions on arrays; every random one takes its generator. The load of a model is its number of requests in flight,
waiting ones included; a window's mean weighs it by time, its peak is looked at when a request arrives (so a window
without arrivals has peak 0 even while old requests run, as in the WarmServe code this definition comes from).
"""

import numpy as np
import polars as pl

from operators.lab.compiled import kernel
from operators.llm.workloads import validate


def popularity(models: int, alpha: float) -> np.ndarray:
    """Shares f64[models] of models by rank, proportional to (rank + 1)^-alpha."""
    if models < 1:
        raise ValueError(f"models (={models}): must be >= 1")
    weight = np.arange(1, models + 1, dtype=float) ** -alpha
    return weight / weight.sum()


def gamma_gaps(n: int, duration_s: float, cv: float, rng: np.random.Generator) -> np.ndarray:
    """`n` gaps f64[n] in seconds that sum to `duration_s`: gamma of the given `cv` (0: all equal)."""
    if n < 1 or not duration_s > 0:
        raise ValueError(f"n (={n}), duration_s (={duration_s}): must be >= 1 and > 0")
    _check_cv(cv)
    gaps = _unit_gaps(n, cv, rng)
    return gaps * (duration_s / gaps.sum())


def rebursted(arrival_s: np.ndarray, cv: float, rng: np.random.Generator) -> np.ndarray:
    """The same number of arrivals over the same span with gamma gaps of the wanted `cv`; a negative one keeps them."""
    if cv < 0 or len(arrival_s) < 2:
        return np.array(arrival_s, float)
    span = float(arrival_s[-1] - arrival_s[0])
    return arrival_s[0] + np.concatenate([[0.0], np.cumsum(gamma_gaps(len(arrival_s) - 1, span, cv, rng))])


def from_rates(rates_rps: np.ndarray, window_s: float, cv: float, rng: np.random.Generator) -> np.ndarray:
    """Arrival times f64[n], sorted, of a gamma renewal process under a piecewise constant rate f64[windows].

    Gaps are drawn in units of expected arrivals and carried through the inverse of the summed rate, so that the count
    of a window follows its rate and the gaps keep their `cv` (1: Poisson) where the rate is steady.
    """
    rates = np.asarray(rates_rps, float)
    bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if len(bad):
        raise ValueError(f"rates_rps[{bad[0]}] (={rates[bad[0]]}): must be finite and >= 0; fill gaps first")
    if not window_s > 0:
        raise ValueError(f"window_s (={window_s}): must be > 0")
    _check_cv(cv)
    cumulative = np.concatenate([[0.0], np.cumsum(rates * window_s)])
    total, at, parts = cumulative[-1], 0.0, []
    if total == 0:
        return np.empty(0)
    chunk = int(total + 6 * max(cv, 1.0) * np.sqrt(total)) + 16
    while at < total:
        gaps = _unit_gaps(chunk, cv, rng)
        if not parts:
            gaps[0] *= rng.random()  # the process has been running before the first window
        parts.append(at + np.cumsum(gaps))
        at = parts[-1][-1]
    expected = np.concatenate(parts)
    expected = expected[expected < total]
    return np.interp(expected, cumulative, np.arange(len(cumulative)) * window_s)


def _check_cv(cv: float) -> None:
    if not (np.isfinite(cv) and cv >= 0):
        raise ValueError(f"cv (={cv}): must be finite and >= 0")


def _unit_gaps(n: int, cv: float, rng: np.random.Generator) -> np.ndarray:
    """Gaps of mean 1."""
    return np.ones(n) if cv == 0 else rng.gamma(1.0 / cv**2, cv**2, n)


def rescale(frame: pl.DataFrame, rps: float) -> pl.DataFrame:
    """The same requests with time stretched so that `rps` requests come a second on average, first to last."""
    if not rps > 0:
        raise ValueError(f"rps (={rps}): must be > 0")
    first, last = frame["arrival_s"][0], frame["arrival_s"][-1]
    if frame.height < 2 or last == first:
        raise ValueError(
            f"requests: {frame.height} rows over {last - first} s have no rate; expected at least two times"
        )
    factor = (frame.height - 1) / (last - first) / rps
    return frame.with_columns(arrival_s=(pl.col("arrival_s") - first) * factor + first)


def merge(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Several request tables as one, by time; equal times keep the order of the list. Ids must differ over all."""
    if not frames:
        raise ValueError("frames: none given; expected at least one table")
    return validate(pl.concat(frames, how="diagonal").sort("arrival_s", maintain_order=True))


def load_windows(
    arrival_s: np.ndarray, hold_s: np.ndarray, window_s: float, *, windows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Load per window: time-weighted mean f64[windows] and peak i64[windows] of the requests in flight.

    A request is in flight from its arrival for `hold_s` seconds (end excluded, so one that ends as another comes is
    gone). `windows` defaults to those up to the last arrival. ValueError on unsorted or
    negative times and on a hold of 0.
    """
    arrival, hold = np.ascontiguousarray(arrival_s, float), np.ascontiguousarray(hold_s, float)
    if arrival.shape != hold.shape or arrival.ndim != 1:
        raise ValueError(f"hold_s (shape {hold.shape}): must have the shape of arrival_s, {arrival.shape}")
    if not window_s > 0:
        raise ValueError(f"window_s (={window_s}): must be > 0")
    for name, values, good, expected in (
        ("arrival_s", arrival, arrival >= 0, ">= 0"),
        ("hold_s", hold, hold > 0, "> 0"),
    ):
        bad = np.flatnonzero(~(np.isfinite(values) & good))
        if len(bad):
            raise ValueError(f"{name}[{bad[0]}] (={values[bad[0]]}): must be finite and {expected}")
    if (np.diff(arrival) < 0).any():
        row = int(np.flatnonzero(np.diff(arrival) < 0)[0]) + 1
        raise ValueError(f"arrival_s[{row}] (={arrival[row]}): before the one above it; sort by time")
    if windows is None:
        windows = int(arrival[-1] // window_s) + 1 if len(arrival) else 0
    return _sweep(arrival, hold, np.sort(arrival + hold), float(window_s), windows)


@kernel
def _sweep(arrival, hold, ends, window_s, windows):
    mean, peak = np.zeros(windows), np.zeros(windows, np.int64)
    for i in range(len(arrival)):  # its share of the mean of each window it reaches into
        until = min(arrival[i] + hold[i], windows * window_s)
        w = int(arrival[i] // window_s)
        at = arrival[i]
        while at < until and w < windows:
            edge = min((w + 1) * window_s, until)
            if edge > at:
                mean[w] += (edge - at) / window_s
                at = edge
            w += 1
    gone = 0
    for i in range(len(arrival)):
        while gone < len(ends) and ends[gone] <= arrival[i]:
            gone += 1
        w = int(arrival[i] // window_s)
        if w < windows:
            peak[w] = max(peak[w], i + 1 - min(gone, i))  # itself is never gone, however short
    return mean, peak
