"""From measured sizes to sizes nobody here can build: a straight line of log(value) over log(n), with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """A value and its interval; the interval is None where the points leave no freedom (two sizes, one seed)."""

    value: float
    low: float | None
    high: float | None


def power_law(sizes: Sequence[float], values: Sequence[float], target: float, *, interval: float = 0.95) -> Prediction:
    """The value at `target` of a power law through all (size, value), with Student's prediction interval.

    Raises ValueError for fewer than two different sizes or values that are not above 0.
    """
    import numpy as np

    x, y = np.log(np.asarray(sizes, float)), np.asarray(values, float)
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes (={list(sizes)}): expected at least two different ones")
    if not (y > 0).all():
        raise ValueError(f"values (={list(values)}): expected all above 0")
    y = np.log(y)
    slope, level = np.polyfit(x, y, 1)
    at = slope * math.log(target) + level
    freedom = len(x) - 2
    if freedom < 1:
        return Prediction(math.exp(at), None, None)
    from scipy.special import stdtrit

    spread = math.sqrt(float(((y - slope * x - level) ** 2).sum()) / freedom)
    around = 1 + 1 / len(x) + (math.log(target) - x.mean()) ** 2 / float(((x - x.mean()) ** 2).sum())
    half = float(stdtrit(freedom, 0.5 + interval / 2)) * spread * math.sqrt(around)
    return Prediction(math.exp(at), math.exp(at - half), math.exp(at + half))
