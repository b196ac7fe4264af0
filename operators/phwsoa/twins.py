"""Synthetic twins: job logs of the same shape as the two real ones, and the twelve ETC matrices bit for bit.

A log: run times follow the real quantiles (interpolated in log), consecutive ones are correlated through an AR(1)
latent, processors through a Gaussian copula; submit gaps are zero with a known share, else log-normal. Constants are
statistics of the real logs, and a test compares where those are present. An ETC matrix is Braun's range-based method
with a fresh generator per kind, so its twin is exact.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

SHARES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)


@dataclass(frozen=True)
class LogStatistics:
    """What a twin is drawn from: run-time quantiles at SHARES (s), correlations, gaps (s), processor shares."""

    run_time: tuple[float, ...]
    lag1: float
    spearman: float
    gap_median: float
    gap_mean: float
    gap_zero: float
    procs: tuple[tuple[int, float], ...]
    nonpositive: float
    waits: bool


LOGS = {
    "nasa": LogStatistics(
        (1, 3, 8, 15, 28, 88, 287, 1520, 3723, 10933, 32431, 62643), 0.25, 0.49, 91, 440, 0.0,
        ((1, 0.272), (2, 0.097), (4, 0.147), (8, 0.099), (16, 0.098), (32, 0.200), (64, 0.066), (128, 0.022)),
        0.01, False,
    ),
    "hpc2n": LogStatistics(
        (1, 1, 3, 8, 52, 2873, 17169, 37899, 72821, 252333, 432021, 508620), 0.73, -0.22, 11, 538, 0.147,
        ((1, 0.421), (2, 0.184), (4, 0.123), (6, 0.017), (8, 0.087), (10, 0.012), (12, 0.009), (16, 0.053),
         (18, 0.004), (20, 0.008), (24, 0.008), (32, 0.044), (36, 0.009), (48, 0.014), (64, 0.007)),
        0.0, True,
    ),
}  # fmt: skip
ETC_KEYS = tuple(f"u_{kind}_{tasks}{vms}" for kind in "cis" for tasks in ("hi", "lo") for vms in ("hi", "lo"))
HETEROGENEITY = {"hi": (3000, 1000), "lo": (100, 10)}  # of tasks, of machines


def log_twin(log: str, rows: int, seed: int) -> "pl.DataFrame":
    """`rows` jobs like those of `log` (`nasa` or `hpc2n`), columns as swf.FIELDS."""
    import polars as pl
    from scipy.special import ndtr, ndtri

    if log not in LOGS:
        raise ValueError(f"log (={log!r}): expected one of {', '.join(LOGS)}")
    spec, rng = LOGS[log], np.random.default_rng([seed, list(LOGS).index(log)])
    noise, latent = rng.standard_normal(rows), np.empty(rows)
    latent[0] = noise[0]
    for k in range(1, rows):
        latent[k] = spec.lag1 * latent[k - 1] + np.sqrt(1 - spec.lag1**2) * noise[k]
    run = np.exp(np.interp(ndtr(latent), SHARES, np.log(spec.run_time))).round().astype(np.int64)
    run[rng.random(rows) < spec.nonpositive] = 0
    tie = 2 * np.sin(np.pi * spec.spearman / 6)
    other = tie * latent + np.sqrt(1 - tie**2) * rng.standard_normal(rows)
    sizes, shares = (np.array(part) for part in zip(*spec.procs, strict=True))
    procs = sizes[np.minimum(np.searchsorted(np.cumsum(shares / shares.sum()), ndtr(other)), len(sizes) - 1)]
    place = ndtri((0.5 - spec.gap_zero) / (1 - spec.gap_zero))
    rise = np.log(spec.gap_mean / (1 - spec.gap_zero)) - np.log(spec.gap_median)
    sigma = -place + np.sqrt(place**2 + 2 * rise) if rise > 0 else 0.0
    gaps = np.exp(np.log(spec.gap_median) - sigma * place + sigma * rng.standard_normal(rows))
    gaps[rng.random(rows) < spec.gap_zero] = 0
    unknown = np.full(rows, -1)
    return pl.DataFrame(
        {
            **{"job_id": np.arange(1, rows + 1), "submit": np.cumsum(gaps).astype(np.int64) - int(gaps[0])},
            **{"wait": rng.integers(0, 600, rows) if spec.waits else unknown, "run_time": run, "procs": procs},
            **{"req_procs": procs if spec.waits else unknown, "req_time": run * 2 if spec.waits else unknown},
            **{"status": np.ones(rows, int), "user": rng.integers(1, 70, rows), "group": np.ones(rows, int)},
            **{"app": unknown, "queue": np.zeros(rows, int)},
        },
        schema_overrides={"job_id": pl.Int64},
    ).with_columns(pl.all().cast(pl.Int64))


def etc_twin(key: str, seed: int = 0) -> np.ndarray:
    """One ETC matrix (512, 16) float32; `key` as in ETC_KEYS; with seed 0 equal to the set's bit for bit."""
    if key not in ETC_KEYS:
        raise ValueError(f"key (={key!r}): expected one of {', '.join(ETC_KEYS)}")
    _, consistency, pair = key.split("_")
    tasks, vms = HETEROGENEITY[pair[:2]][0], HETEROGENEITY[pair[2:]][1]
    rng = np.random.default_rng(seed)
    tau = rng.uniform(1, tasks, 512)
    times = (tau[:, None] * rng.uniform(1, vms, (512, 16))).astype(np.float32)
    if consistency == "c":
        return np.sort(times, axis=1)
    if consistency == "s":
        times[::2, ::2] = np.sort(times[::2, ::2], axis=1)
    return times
