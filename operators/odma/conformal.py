"""Upper bounds on a length that hold with a stated probability (our addition; the paper only names an uncertainty).

Split conformal: Q is the ceil((n + 1) * level)-th smallest of n calibration residuals log(length / mean); the bound
mean * exp(Q) covers a new exchangeable request with probability >= level, whatever the predictor is worth. When the
stream drifts that guarantee is void, so `Conformal` adapts (adaptive conformal inference): after each completion
a <- a + gamma * (target - err), and Q is taken at level 1 - a from the last `window` residuals.

With a `scale` (the predicted spread of a request) residuals are divided by it and bounds multiplied: the same coverage,
spent where it is needed (our choice; scale 1 everywhere gives the plain form).
"""

import bisect
import math
from collections import deque

import numpy as np

from operators.odma.errors import ConfigError

LEAST_MISS, MOST_MISS = 0.001, 0.5


def rank(n: int, level: float) -> int:
    """Which smallest of n residuals bounds a new one: ceil((n + 1) * level), guarded against rounding."""
    return math.ceil(round((n + 1) * level, 9))


def split(residuals: np.ndarray, level: float) -> float:
    """Q of split conformal. ValueError when n < 1 / (1 - level) - 1: no finite bound exists then.

    >>> split(np.arange(1.0, 10.0), 0.9)
    9.0
    """
    residuals = np.asarray(residuals, float)
    if not 0 < level < 1:
        raise ConfigError(f"level (={level}): expected a value inside (0, 1)")
    if np.isnan(residuals).any():
        raise ValueError(f"residuals[{int(np.isnan(residuals).argmax())}] is NaN")
    wanted = rank(len(residuals), level)
    if wanted > len(residuals):
        least = math.ceil(round(1 / (1 - level), 9)) - 1
        raise ValueError(f"residuals: {len(residuals)} values; level {level} needs at least {least}")
    return float(np.partition(residuals, wanted - 1)[wanted - 1])


class Conformal:
    """Adaptive upper bounds at `level` for a stream of requests.

    `start` are calibration residuals; with gamma 0 and no observations this is split conformal.
    """

    def __init__(self, level: float, gamma: float = 0.02, window: int = 1000, *, start: np.ndarray | None = None):
        if not 0 < level < 1:
            raise ConfigError(f"level (={level}): expected a value inside (0, 1)")
        if gamma < 0 or window < 1:
            raise ConfigError(f"gamma, window (={gamma}, {window}): expected >= 0 and >= 1")
        self.target = 1 - level
        self.miss = self.target
        self._gamma, self._window = gamma, window
        given = [] if start is None else np.asarray(start, float)[-window:].tolist()
        self._recent, self._sorted = deque(given), sorted(given)
        self._seen = self._covered = 0

    @property
    def q(self) -> float:
        """Q now; infinite while there are too few residuals for the level."""
        wanted = rank(len(self._sorted), 1 - self.miss)
        return self._sorted[wanted - 1] if wanted <= len(self._sorted) else math.inf

    def upper(self, mean: float, scale: float = 1.0) -> float:
        """The bound on the length of a request predicted to have `mean` tokens."""
        return mean * math.exp(min(self.q * scale, 50.0))

    def observe(self, mean: float, length: float, scale: float = 1.0) -> bool:
        """A finished request: adapt; whether the bound of this moment had covered it."""
        if not (mean > 0 and length >= 1 and scale > 0):
            raise ValueError(f"mean, length, scale (={mean}, {length}, {scale}): expected > 0, >= 1, > 0")
        residual = math.log(length / mean) / scale
        covered = residual <= self.q
        self.miss = min(max(self.miss + self._gamma * (self.target - (not covered)), LEAST_MISS), MOST_MISS)
        self._recent.append(residual)
        bisect.insort(self._sorted, residual)
        if len(self._recent) > self._window:
            self._sorted.pop(bisect.bisect_left(self._sorted, self._recent.popleft()))
        self._seen += 1
        self._covered += covered
        return covered

    def coverage(self) -> float:
        """Share of observed requests that were covered, NaN before the first."""
        return self._covered / self._seen if self._seen else math.nan

    def validate(self) -> None:
        """The window is sorted and complete, the level inside its limits. AssertionError otherwise."""
        assert self._sorted == sorted(self._recent)
        assert len(self._sorted) <= self._window
        assert LEAST_MISS <= self.miss <= MOST_MISS or self._seen == 0
