"""Simulated time: events in order of time, ties in order of insertion. Nothing sleeps.

A callback is called with no arguments at its time and may schedule more. An exception leaves `run` at once, with the
clock at the event's time: no event is skipped and no error is lost.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any


class Clock:
    """An event clock; `now` is in the unit the caller uses throughout.

    >>> clock, seen = Clock(), []
    >>> clock.at(2.0, lambda: seen.append("b")); clock.at(1.0, lambda: clock.after(1.0, lambda: seen.append("c")))
    >>> clock.run(), seen
    (2.0, ['b', 'c'])
    """

    def __init__(self, start: float = 0.0) -> None:
        self.now = float(start)
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        """Events still to come."""
        return len(self._events)

    def at(self, time: float, call: Callable[[], Any]) -> None:
        """Call `call` at `time`. ValueError when that is in the past or not a number."""
        if not (time >= self.now and math.isfinite(time)):
            raise ValueError(f"time (={time}): must be finite and >= now (={self.now})")
        heapq.heappush(self._events, (float(time), next(self._order), call))

    def after(self, delay: float, call: Callable[[], Any]) -> None:
        """Call `call` when `delay` has passed."""
        self.at(self.now + delay, call)

    def step(self) -> bool:
        """Run the next event; False when there is none."""
        if not self._events:
            return False
        self.now, _, call = heapq.heappop(self._events)
        call()
        return True

    def run(self, until: float = math.inf) -> float:
        """Run events up to and including time `until`; the time reached."""
        while self._events and self._events[0][0] <= until:
            self.step()
        if math.isfinite(until):
            self.now = max(self.now, until)
        return self.now
