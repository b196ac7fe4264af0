"""When a model gets or loses instances (official code): load over capacity, with a dead band between two bounds."""

import math
from collections import deque


def change(load: float, instances: int, batch: int, low: float = 0.5, high: float = 0.8) -> int:
    """Instances to create (> 0) or to stop (< 0) for `load` requests in flight on average.

    >>> change(10, 2, 32), change(60, 2, 32), change(40, 2, 32)
    (-1, 1, 0)
    """
    if load < low * instances * batch:
        return -(instances - math.ceil(load / low / batch))
    if load > high * instances * batch:
        return max(math.ceil(load / high / batch) - instances, 0)
    return 0


class LoadAverage:
    """Time average of requests in flight over the last `window_s`, from request-seconds sampled at every tick."""

    def __init__(self, window_s: float, tick_s: float):
        self._samples: deque[tuple[float, float]] = deque(maxlen=max(round(window_s / tick_s), 1) + 1)

    def add(self, time_s: float, request_seconds: float) -> float:
        """The average up to `time_s`, given the request-seconds since the start."""
        self._samples.append((time_s, request_seconds))
        first, last = self._samples[0], self._samples[-1]
        return (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0.0
