"""Requests of a fleet and the load of the days before: one generator for today and for its past (paper, workload).

Rates: model j of M follows one of ServeGen's models on day 7 - M + j at the wanted hour, 10-minute rates as piecewise
constant intensity with gamma gaps; token pairs are drawn jointly from the Azure conversation trace, inputs capped and
outputs at least a few tokens; popularity falls with rank. History: the same generator on the same hour of the days
before, each request holding its prefill and decode time. Departure from the official code: a rate profile is thinned or
superposed, so nothing arrives twice, and history is scaled by the same factor. `azure2023` replays the real minutes
with a flat history.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from operators.llm import arrivals, workloads
from operators.warmserve.errors import ConfigError
from operators.warmserve.oracle import BASE_S, History
from operators.warmserve.settings import Settings
from operators.warmserve.simulator import Trace

FOLLOWED = ("m-large", "m-mid", "m-small")
PER_HOUR = 6  # rate windows of 10 minutes
RATE_S = 600.0
LEAST_DAYS = 3
ONE_WEEK = 7


@dataclass(frozen=True)
class Sources:
    """What traces are drawn from: rates[model][day, window] (requests/s, NaN: gap), token pairs, real or not."""

    rates: dict[str, np.ndarray]
    tokens: np.ndarray  # i32[n, 2] input, output
    arrivals_s: np.ndarray  # of those pairs
    data: str


def sources(data: Path | None, seed: int) -> Sources:
    """Real sets where both are present, else their twins."""
    from operators.lab import datasets
    from operators.llm import importers, twins

    frame, mark = workloads.read("azure_conv", data, seed=seed)
    if datasets.present("servegen", data):
        for file in ("arrivals.parquet", "length_hist_6h.parquet", "length_bin_left_edges.json"):
            datasets.path("servegen", file, data)
        rates = importers.read_servegen(Path(data) / "servegen").rates
    else:
        rates, mark = twins.servegen(seed=seed).rates, "synthetic"
    tokens = frame.select("input_tokens", "output_tokens").to_numpy().astype(np.int32)
    return Sources({name: rates[name] for name in FOLLOWED}, tokens, frame["arrival_s"].to_numpy(), mark)


def bridged(rates: np.ndarray) -> np.ndarray:
    """Rates with gaps bridged by straight lines."""
    flat = rates.ravel().astype(float)
    known = np.flatnonzero(~np.isnan(flat))
    return np.interp(np.arange(len(flat)), known, flat[known]).reshape(rates.shape)


def make(
    source: Sources, settings: Settings, *, rps: float, alpha: float, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(requests, history) of one point. History: model, day (0: today, truth), window of 60 s, mean, peak load."""
    share = arrivals.popularity(len(settings.models), alpha)
    parts, history = [], []
    for j, served in enumerate(settings.models):
        wanted = rps * share[j] * settings.hours * 3600
        hold = served.prefill_s, served.decode_s
        for back, rates in enumerate(_days(source, settings, j)):
            rng = np.random.default_rng([seed, 42 + j, back])
            factor = wanted / _expected(_days(source, settings, j)[0])
            times = arrivals.from_rates(rates * factor, RATE_S, settings.burst_cv, rng)
            times = times[times < settings.hours * 3600]
            tokens = _tokens(source, settings, len(times), rng)
            history.append(_load(served.name, back, times, hold[0] + tokens[:, 1] * hold[1], settings))
            if back == 0:
                parts.append(_requests(served.name, times, tokens))
    return _merged(parts), pl.concat(history)


def _days(source: Sources, settings: Settings, j: int) -> list[np.ndarray]:
    """Rates of today and of the days before, newest first, in 10-minute windows."""
    count = max(int(np.ceil(settings.hours * PER_HOUR)), 1)
    if settings.source == "azure2023":
        flat = len(source.arrivals_s) / max(float(source.arrivals_s[-1]), 1.0)
        return [np.full(count, flat)] * (1 + max(settings.history_days, LEAST_DAYS))
    rates = bridged(source.rates[FOLLOWED[j % len(FOLLOWED)]])
    today = max(ONE_WEEK - len(settings.models), LEAST_DAYS) + j % (ONE_WEEK - LEAST_DAYS)
    if today >= len(rates):
        raise ConfigError(f"models: model {j} needs day {today}; the rates have {len(rates)} days")
    first = settings.start_hour * PER_HOUR
    flat = rates.ravel()
    days = []
    for back in range(min(settings.history_days, today) + 1):
        at = (today - back) * rates.shape[1] + first
        days.append(flat[at : at + count])
    return days


def _expected(rates: np.ndarray) -> float:
    return float(rates.sum() * RATE_S)


def _tokens(source: Sources, settings: Settings, n: int, rng: np.random.Generator) -> np.ndarray:
    pairs = source.tokens[rng.integers(0, len(source.tokens), n)]
    return np.stack([np.minimum(pairs[:, 0], settings.cap_input), np.maximum(pairs[:, 1], settings.min_output)], axis=1)


def _requests(name: str, times: np.ndarray, tokens: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame(
        {"arrival_s": times, "input_tokens": tokens[:, 0], "output_tokens": tokens[:, 1], "model": [name] * len(times)},
        schema_overrides={"input_tokens": pl.Int32, "output_tokens": pl.Int32},
    )


def _merged(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """One table by time, ids in that order; equal times keep the order of the models."""
    frame = pl.concat(parts).sort("arrival_s", maintain_order=True)
    names = pl.concat_str(pl.lit("r"), pl.int_range(pl.len()).cast(pl.String)).alias("request_id")
    return workloads.validate(frame.select(names, pl.all()), need=("model",))


def _load(name: str, back: int, times: np.ndarray, hold: np.ndarray, settings: Settings) -> pl.DataFrame:
    windows = int(np.ceil(settings.hours * 3600 / BASE_S))
    mean, peak = arrivals.load_windows(times, hold, BASE_S, windows=windows)
    return pl.DataFrame(
        {"day": back, "window": np.arange(windows), "mean": mean, "peak": peak.astype(float)},
        schema_overrides={"day": pl.Int32, "window": pl.Int32},
    ).select(pl.lit(name).alias("model"), pl.all())


def as_trace(frame: pl.DataFrame, names: list[str]) -> Trace:
    """The simulator's arrays of a request table; TraceError-like ConfigError for an unknown model."""
    unknown = sorted(set(frame["model"].unique()) - set(names))
    if unknown:
        raise ConfigError(f"trace: model {unknown[0]!r}; expected one of {', '.join(names)}")
    index = {name: i for i, name in enumerate(names)}
    return Trace(
        frame["arrival_s"].to_numpy(),
        frame["model"].replace_strict(index, return_dtype=pl.Int32).to_numpy(),
        frame["input_tokens"].to_numpy(),
        frame["output_tokens"].to_numpy(),
    )


def as_history(frame: pl.DataFrame, names: list[str]) -> History:
    """The simulator's history of a history table."""
    grids = []
    for name in names:
        one = frame.filter(pl.col("model") == name).sort("day", "window")
        days = one["day"].n_unique()
        if days < 2:
            raise ConfigError(f"history of {name}: 0 past days; expected at least one")
        grids.append([one[stat].to_numpy().reshape(days, -1) for stat in ("mean", "peak")])
    past = [[grid[stat][1:] for grid in grids] for stat in (0, 1)]
    today = [[grid[stat][0] for grid in grids] for stat in (0, 1)]
    return History(past[0], past[1], today[0], today[1])
