"""Synthetic twin of ServeGen's statistics: request rates of clients over 12 days, token lengths per six hours.

A model's rate is its mean times a day factor, a daily profile and an AR(1) residual in the logarithm; clients share it
by a measured head and a power-law tail, each active in its own stretches. Windows where collection stopped are left
out. Not held: weekly seasons, single clients' own habits, m-mid's rare collapses.
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from operators.llm.importers import ServeGen, servegen_from
from operators.llm.twins_requests import _ranked, quantiled
from operators.llm.twins_routing import stream

WINDOW_S, PER_DAY = 600, 144
EDGES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 23, 27, 32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181, 215]
EDGES += [round(256 * 2 ** (i / 4)) for i in range(37)]  # four to an octave, up to 131,072
ARRIVALS = {
    **{"category": pl.Categorical, "model": pl.Categorical, "client": pl.Int16, "t_s": pl.Int32},
    **{"rate_rps": pl.Float32, "cv": pl.Float32, "dist": pl.Categorical, "p1": pl.Float32, "p2": pl.Float32},
}
CV_TABLE = ((0.0, 0.3), (0.05, 0.75), (0.25, 1.0), (0.5, 1.23), (0.75, 2.35), (0.9, 5.0), (0.95, 8.9), (1.0, 45.0))


@dataclass(frozen=True)
class Load:
    """One model's rates. `hours` is the daily profile relative to its mean, `head` the shares of the top clients."""

    category: str
    mean_rps: float
    days: int
    day_sd: float
    residual_sd: float
    residual_lag: float
    hours: tuple[float, ...]
    clients: int
    head: tuple[float, ...]
    active: float  # share of windows in which a client of the tail sends anything
    gaps: tuple[int, ...] = ()  # lengths, in windows, of the stretches that were not collected


def _hours(night: str, day: str) -> tuple[float, ...]:
    """24 numbers, twelve in a text."""
    return tuple(float(word) for word in f"{night} {day}".split())


LOADS = {
    "m-large": Load(
        *("language", 199.4, 12, 0.22, 0.25, 0.84),
        hours=_hours(
            "1.04 0.98 0.98 0.91 0.87 0.84 0.81 0.77 0.77 0.89 1.04 1.12",
            "1.02 1.02 1.08 1.08 1.13 1.08 1.07 1.18 1.15 1.09 1.05 1.03",
        ),
        clients=157,
        head=(0.125, 0.075, 0.072, 0.071, 0.07, 0.062, 0.057, 0.042, 0.028, 0.025),
        active=0.29,
    ),
    "m-mid": Load(
        *("language", 1787.6, 12, 0.21, 0.20, 0.80),
        hours=_hours(
            "0.95 0.96 1.06 1.1 1.05 0.95 0.89 0.96 1.01 1.07 1.12 1.11",
            "0.98 1.09 1.02 0.83 0.85 0.98 0.93 0.97 1.04 1.05 0.99 1.02",
        ),
        clients=107,
        head=(0.498, 0.065, 0.04, 0.029, 0.026, 0.025, 0.025, 0.023, 0.022, 0.022),
        active=0.46,
        gaps=(11, 5, 5, 17, 1, 23),
    ),
    "m-small": Load(
        *("language", 1185.3, 12, 0.15, 0.15, 0.77),
        hours=_hours(
            "0.8 0.67 0.73 0.67 0.67 0.71 0.75 0.84 0.97 1.14 1.12 1.1",
            "1.07 1.07 1.07 1.04 1.08 1.09 1.03 1.22 1.45 1.36 1.25 1.05",
        ),
        clients=41,
        head=(0.298, 0.216, 0.105, 0.09, 0.057, 0.054, 0.043, 0.034, 0.016, 0.014),
        active=0.34,
        gaps=(1, 4, 1, 1, 7, 3, 3, 2),
    ),
    "deepseek-r1": Load(
        *("reason", 16.0, 1, 0.0, 0.2, 0.8),
        hours=_hours(
            "1.21 1.39 2.03 1.79 1.06 0.91 0.75 0.58 0.6 0.66 0.81 0.83",
            "0.45 0.54 0.68 0.7 0.88 0.55 0.75 0.59 1.24 1.62 2.19 1.18",
        ),
        clients=73,
        head=(0.16, 0.12, 0.09, 0.07, 0.06, 0.05, 0.04, 0.035, 0.03, 0.022),
        active=0.22,
    ),
    "mm-image": Load(
        *("multimodal", 9.5, 1, 0.0, 0.1, 0.7),
        hours=_hours(
            "0.59 0.89 1.12 0.87 0.97 0.94 0.87 0.92 0.87 1.11 1.33 1.25",
            "1.08 1.1 1.26 1.3 1.35 1.06 0.89 0.92 1.02 0.89 0.83 0.6",
        ),
        clients=35,
        head=(0.25, 0.15, 0.11, 0.08, 0.06, 0.05, 0.04, 0.035, 0.03, 0.023),
        active=0.22,
    ),
}
# model, field -> mean of the windows' means, their least and greatest, sd of the log, quantiles of the mean histogram
LENGTHS = {
    ("m-large", "input_tokens"): (930, 360, 1547, 0.33, (10, 54, 215, 609, 1024, 2048, 3444, 30_712)),
    ("m-large", "output_tokens"): (137, 45, 301, 0.55, (1, 1, 5, 38, 152, 431, 724, 9307)),
    ("m-mid", "input_tokens"): (349, 199, 1140, 0.36, (20, 128, 150, 190, 270, 1024, 2896, 127_377)),
    ("m-mid", "output_tokens"): (54, 34, 110, 0.25, (1, 3, 13, 32, 54, 128, 431, 15_968)),
    ("m-small", "input_tokens"): (120, 74, 227, 0.25, (10, 19, 21, 38, 54, 512, 1448, 145_912)),
    ("m-small", "output_tokens"): (16.4, 9.7, 36.2, 0.35, (1, 1, 2, 3, 11, 76, 128, 10_912)),
    ("deepseek-r1", "input_tokens"): (1383, 1036, 1912, 0.3, (5, 13, 45, 181, 512, 6889, 23_170, 57_284)),
    ("deepseek-r1", "output_tokens"): (1693, 876, 3260, 0.5, (20, 215, 362, 724, 1448, 5793, 11_585, 32_768)),
}
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.9995, 1.0)  # the last but one: four times the one before


def servegen(*, seed: int = 0) -> ServeGen:
    """The twin, read as the real set is."""
    return servegen_from(servegen_arrivals(seed=seed), servegen_lengths(seed=seed), EDGES, "twin")


def servegen_arrivals(*, seed: int = 0) -> pl.DataFrame:
    """Rows like those of `arrivals.parquet`: one per model, client and window with requests."""
    frames = []
    for model, load in LOADS.items():
        rng = np.random.default_rng([seed, stream(f"servegen/{model}")])
        rates = _shared(load, _totals(load, rng), rng)
        client, window = np.nonzero(rates)
        rate = rates[client, window]
        cv = quantiled(rng.random(len(rate)), CV_TABLE)
        gamma = (rng.random(len(rate)) < 0.74) | (cv > 8)  # a Weibull of so wide a variation has no usable scale
        shape = np.where(gamma, cv**-2.0, cv**-1.086)  # of a Weibull: the usual power law in its variation
        unit = np.where(gamma, shape, np.exp(np.vectorize(math.lgamma)(1 + 1 / np.maximum(shape, 0.1))))
        columns = {
            "category": [load.category] * len(rate),
            "model": [model] * len(rate),
            "client": client.astype(np.int16),
            "t_s": (window * WINDOW_S).astype(np.int32),
            "rate_rps": rate.astype(np.float32),
            "cv": cv.astype(np.float32),
            "dist": np.where(gamma, "Gamma", "Weibull"),
            "p1": shape.astype(np.float32),
            "p2": (1 / (rate * unit)).astype(np.float32),  # both scales in seconds, so that the mean gap is 1 / rate
        }
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames).cast(ARRIVALS)


def _totals(load: Load, rng: np.random.Generator) -> np.ndarray:
    """Requests per second of all clients, f64[days * PER_DAY]; 0 where nothing was collected."""
    day = np.exp(load.day_sd * rng.standard_normal(load.days))
    middle = np.arange(PER_DAY) / 6 - 0.5
    profile = np.interp(middle, np.arange(-1, 25), [load.hours[-1], *load.hours, load.hours[0]])
    noise = rng.standard_normal(load.days * PER_DAY)
    residual = np.empty_like(noise)
    residual[0] = noise[0]
    for i in range(1, len(noise)):
        residual[i] = load.residual_lag * residual[i - 1] + math.sqrt(1 - load.residual_lag**2) * noise[i]
    total = (day[:, None] / day.mean() * profile / profile.mean()).ravel() * np.exp(load.residual_sd * residual)
    total *= load.mean_rps / total.mean()
    if load.gaps:
        places = np.linspace(0.3, 0.97, len(load.gaps)) * len(total)
        for place, length in zip(places, load.gaps, strict=True):
            start = min(int(place + rng.integers(-20, 20)), len(total) - length)
            total[start : start + length] = 0.0
    return total


def _shared(load: Load, total: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rates f64[clients, windows] that sum to `total`; a client of the tail comes and goes in stretches of hours."""
    head = np.array(load.head)
    tail = np.arange(len(head) + 1, load.clients + 1, dtype=float) ** -2.0
    share = np.concatenate([head, tail / tail.sum() * (1 - head.sum())])
    blocks = -(-len(total) // 12)
    active = np.repeat(rng.random((load.clients, blocks)) < load.active, 12, axis=1)[:, : len(total)]
    active[: len(head)] = rng.random((len(head), len(total))) < 0.95
    active[0] = True
    rates = np.where(active, (share / np.where(np.arange(load.clients) < len(head), 1, load.active))[:, None], 0.0)
    return rates / rates.sum(axis=0) * total


def servegen_lengths(*, seed: int = 0) -> pl.DataFrame:
    """Rows like those of `length_hist_6h.parquet`: mean, greatest and histogram of tokens in six hours."""
    rows, edges = [], np.array(EDGES, float)
    strata = (np.arange(4096) + 0.5) / 4096
    for (model, field), (mean, low, high, spread, values) in LENGTHS.items():
        rng = np.random.default_rng([seed, stream(f"servegen/{model}/{field}")])
        windows = LOADS[model].days * 4
        most = min(4 * values[-2], values[-1])
        base = quantiled(strata, tuple(zip(LEVELS, (*values[:-1], most, values[-1]), strict=True)))
        means = np.exp(spread * _normal(_ranked(rng.random(windows))))
        means = np.clip(means / means.mean() * mean, low, high)
        for window, wanted in enumerate(means):
            tokens = base * wanted / base.mean()
            hist = np.bincount(np.searchsorted(edges, tokens, "right") - 1, minlength=len(edges)) / len(tokens)
            rows.append((model, window * 21_600, field, wanted, min(tokens.max(), values[-1]), hist.tolist()))
    kinds = {"model": pl.String, "t_s": pl.Int32, "field": pl.String, "mean": pl.Float32, "max": pl.Float32}
    return pl.DataFrame(rows, schema=kinds | {"hist": pl.List(pl.Float32)}, orient="row")


def _normal(u: np.ndarray) -> np.ndarray:
    """Standard normal values at probabilities `u`."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(p) for p in u])
