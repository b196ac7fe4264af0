"""Small traces, histories and settings that the tests of warmserve share."""

import numpy as np

from operators.warmserve.oracle import History
from operators.warmserve.settings import Settings
from operators.warmserve.simulator import Trace


def settings(**changes) -> Settings:
    return Settings.checked({"hours": 0.1, "settle_s": 0.0} | changes)


def trace(seed: int, *, n: int = 600, seconds: float = 300.0, models: int = 4, most_out: int = 400) -> Trace:
    """Poisson arrivals with bursts, popularity falling with the model's number."""
    rng = np.random.default_rng([seed, 5])
    arrival = np.sort(np.concatenate([rng.uniform(0, seconds, n - n // 5), rng.normal(seconds / 2, 3, n // 5)]))
    shares = 1.0 / np.arange(1, models + 1)
    return Trace(
        np.clip(arrival, 0, None),
        rng.choice(models, n, p=shares / shares.sum()).astype(np.int32),
        rng.integers(1, 1024, n).astype(np.int32),
        rng.integers(3, most_out, n).astype(np.int32),
    )


def history(models: int = 4, *, mean: float = 20.0, peak: float = 60.0, days: int = 3, windows: int = 6) -> History:
    """The same load in every window of every day, and as the truth."""
    one, top = np.full((days, windows), mean), np.full((days, windows), peak)
    return History([one] * models, [top] * models, [one[0]] * models, [top[0]] * models)


def ttft(result) -> np.ndarray:
    return result.plane.r_first - result.plane.r_arrival
