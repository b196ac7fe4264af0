"""Synthetic twin of ServeGen's statistics: request rates of clients over 12 days, token lengths per six hours.

A model's rate is its mean times a day factor, a daily profile and an AR(1) residual in the logarithm; one client leads,
the others follow a power law, each active in its own stretches. Windows where collection stopped are left out. Every
number is a published summary of the set (means, ranges, exponents, counts) or a round choice: the shapes between them,
a raised cosine for the day and lognormal lengths, are ours, so nothing here is cut from the data. Not held: weekly
seasons, single clients' own habits, rare collapses, the hours in which collection stopped.
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
CV_TABLE = ((0.0, 0.3), (0.5, 1.25), (0.9, 5.0), (1.0, 50.0))
ALWAYS, ACTIVE = 10, 0.35  # clients that send nearly always; share of windows in which one of the others sends


@dataclass(frozen=True)
class Load:
    """One model's rates: means, ranges and counts of the published set."""

    category: str
    mean_rps: float
    days: int
    day_sd: float
    residual_sd: float
    residual_lag: float
    low: float  # least and greatest of the daily profile, relative to its mean
    high: float
    peak_hour: float
    clients: int
    top: float  # share of the first client
    zipf: float  # exponent of the others
    gaps: tuple[int, int] = (0, 0)  # stretches that were not collected, and their windows together


# m-mid's residual has a published sd of 0.26, rare collapses included; without them its published peak asks for 0.18.
LOADS = {
    "m-large": Load("language", 199.0, 12, 0.22, 0.26, 0.84, 0.73, 1.29, 15, 157, 0.12, 1.0),
    "m-mid": Load("language", 1788.0, 12, 0.21, 0.18, 0.80, 0.77, 1.16, 13, 107, 0.50, 1.2, gaps=(6, 62)),
    "m-small": Load("language", 1185.0, 12, 0.15, 0.16, 0.77, 0.62, 1.55, 20, 41, 0.30, 2.3, gaps=(8, 22)),
    "deepseek-r1": Load("reason", 15.0, 1, 0.0, 0.2, 0.8, 0.6, 1.5, 15, 70, 0.15, 1.0),
    "mm-image": Load("multimodal", 10.0, 1, 0.0, 0.2, 0.8, 0.6, 1.5, 15, 30, 0.25, 1.0),
}
# model, field -> mean of the windows' means, sd of their log, least and greatest of them, sd of the log of a length
LENGTHS = {
    ("m-large", "input_tokens"): (930, 0.3, 300, 2000, 1.0),
    ("m-large", "output_tokens"): (137, 0.5, 45, 301, 1.5),
    ("m-mid", "input_tokens"): (349, 0.3, 150, 1000, 1.0),
    ("m-mid", "output_tokens"): (54, 0.25, 34, 110, 1.0),
    ("m-small", "input_tokens"): (120, 0.3, 50, 300, 1.5),
    ("m-small", "output_tokens"): (16, 0.35, 10, 36, 1.8),
    ("deepseek-r1", "input_tokens"): (1383, 0.3, 700, 2800, 2.0),
    ("deepseek-r1", "output_tokens"): (1693, 0.3, 850, 3400, 1.3),
}
LONGEST = 131_072  # tokens


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
        gamma = (rng.random(len(rate)) < 0.75) | (cv > 8)  # a Weibull of so wide a variation has no usable scale
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
    profile = daily_profile(load)
    noise = rng.standard_normal(load.days * PER_DAY)
    residual = np.empty_like(noise)
    residual[0] = noise[0]
    for i in range(1, len(noise)):
        residual[i] = load.residual_lag * residual[i - 1] + math.sqrt(1 - load.residual_lag**2) * noise[i]
    total = (day[:, None] / day.mean() * profile / profile.mean()).ravel() * np.exp(load.residual_sd * residual)
    total *= load.mean_rps / total.mean()
    runs, windows = load.gaps
    if runs:
        lengths = 1 + rng.multinomial(windows - runs, np.full(runs, 1 / runs))
        places = np.linspace(0.3, 0.97, runs) * len(total)
        for place, length in zip(places, lengths, strict=True):
            start = min(int(place + rng.integers(-20, 20)), len(total) - length)
            total[start : start + length] = 0.0
    return total


def daily_profile(load: Load) -> np.ndarray:
    """f64[PER_DAY] of mean 1 from `low` to `high`: a raised cosine round the peak, to the power that makes it so."""
    hour = (np.arange(PER_DAY) + 0.5) / 6
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (hour - load.peak_hour) / 24)
    small, large = 0.1, 10.0  # the mean falls as the power rises
    for _ in range(60):
        power = 0.5 * (small + large)
        above = load.low + (load.high - load.low) * (wave**power).mean() > 1
        small, large = (power, large) if above else (small, power)
    return load.low + (load.high - load.low) * wave**power


def _shared(load: Load, total: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rates f64[clients, windows] that sum to `total`; a client of the tail comes and goes in stretches of hours."""
    rest = (np.arange(2, load.clients + 1) + 2.0) ** -load.zipf  # flatter at the head than at the tail
    share = np.concatenate([[load.top], (1 - load.top) * rest / rest.sum()])
    blocks = -(-len(total) // 12)
    active = np.repeat(rng.random((load.clients, blocks)) < ACTIVE, 12, axis=1)[:, : len(total)]
    active[:ALWAYS] = rng.random((ALWAYS, len(total))) < 0.95
    active[0] = True
    rates = np.where(active, (share / np.where(np.arange(load.clients) < ALWAYS, 1, ACTIVE))[:, None], 0.0)
    return rates / rates.sum(axis=0) * total


def servegen_lengths(*, seed: int = 0) -> pl.DataFrame:
    """Rows like those of `length_hist_6h.parquet`: mean, greatest and histogram of tokens in six hours."""
    rows, edges = [], np.array(EDGES, float)
    strata = (np.arange(4096) + 0.5) / 4096
    normal = _normal(strata)
    for (model, field), (mean, spread, low, high, width) in LENGTHS.items():
        rng = np.random.default_rng([seed, stream(f"servegen/{model}/{field}")])
        means = np.exp(spread * _normal(_ranked(rng.random(LOADS[model].days * 4))))
        means = np.clip(means / means.mean() * mean, low, high)
        base = np.exp(width * normal)
        for window, wanted in enumerate(means):
            tokens = np.clip(base * wanted / base.mean(), 1, LONGEST)
            hist = np.bincount(np.searchsorted(edges, tokens, "right") - 1, minlength=len(edges)) / len(tokens)
            rows.append((model, window * 21_600, field, wanted, tokens.max(), hist.tolist()))
    kinds = {"model": pl.String, "t_s": pl.Int32, "field": pl.String, "mean": pl.Float32, "max": pl.Float32}
    return pl.DataFrame(rows, schema=kinds | {"hist": pl.List(pl.Float32)}, orient="row")


def _normal(u: np.ndarray) -> np.ndarray:
    """Standard normal values at probabilities `u`."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(p) for p in u])
