"""When to place anew: a sliding window of expert counts, a plan made in the background, a switch between two steps.

Engines stop the world for a rebalance (vLLM: 0.65-1.70 s); here a step never waits. The window asks for a plan every
`step_interval` steps, goes on serving with the present placement, and adopts a finished plan as a whole at the start of
a step. Pure state machine: no clock, no threads; who plans, and where, is the caller's business.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from operators.metro.placement import Placement


class LoadWindowError(ValueError):
    """A message that does not fit the window's state."""


@dataclass(frozen=True, eq=False)
class PlanRequest:
    """Please place for `load (L, N)`, the counts of the window that ended with step `step`."""

    step: int
    load: np.ndarray


class LoadWindow:
    """Counts of the last `window_size` steps and the placement in use.

    Per step: `placement = begin_step()`, route, `request = observe(counts)`. A request that is not None goes to a
    planner, whose answer comes back through `deliver` (or `lost`, when the planner died) at any time.
    """

    def __init__(self, placement: Placement, *, window_size: int = 1000, step_interval: int = 3000):
        for name, value in (("window_size", window_size), ("step_interval", step_interval)):
            if value < 1:
                raise LoadWindowError(f"{name} (={value} steps): must be >= 1")
        self.window_size, self.step_interval = window_size, step_interval
        self.placement = placement
        self.step = 0
        self.switches = 0
        self.overdue = 0  # intervals that ended while a plan was still being made
        self._counts: deque[np.ndarray] = deque()
        self._total = np.zeros(placement.copies.shape, np.int64)
        self._asked: int | None = None  # step of the request in flight
        self._ready: Placement | None = None

    @property
    def planning(self) -> bool:
        return self._asked is not None

    @property
    def load(self) -> np.ndarray:
        """Tokens per expert `(L, N)` in the window."""
        return self._total.copy()

    def begin_step(self) -> Placement:
        """The placement of the step that begins; a plan that is ready takes effect here, all layers at once."""
        if self._ready is not None:
            self.placement, self._ready = self._ready, None
            self.switches += 1
        return self.placement

    def observe(self, counts: np.ndarray) -> PlanRequest | None:
        """Take in a step's counts `(L, N)`; a request every `step_interval` steps, unless one is in flight."""
        counts = np.array(counts, np.int64)
        if counts.shape != self._total.shape or (counts < 0).any():
            raise LoadWindowError(f"counts (shape {counts.shape}): expected {self._total.shape}, all >= 0")
        self._counts.append(counts)
        self._total += counts
        if len(self._counts) > self.window_size:
            self._total -= self._counts.popleft()
        self.step += 1
        if self.step % self.step_interval:
            return None
        if self.planning:
            self.overdue += 1
            return None
        self._asked = self.step
        return PlanRequest(self.step, self.load)

    def deliver(self, request: PlanRequest, placement: Placement) -> None:
        """The plan for `request`; it takes effect at the next `begin_step`."""
        have, want = (*placement.copies.shape, placement.num_gpus), (*self._total.shape, self.placement.num_gpus)
        if have != want:
            raise LoadWindowError(f"placement (layers, experts, GPUs = {have}): expected {want}")
        self._settle(request)
        self._ready = placement

    def lost(self, request: PlanRequest) -> None:
        """The planner died over `request`: the present placement stays, the next interval asks again."""
        self._settle(request)

    def _settle(self, request: PlanRequest) -> None:
        if request.step != self._asked:
            raise LoadWindowError(f"request (of step {request.step}): in flight is {self._asked}")
        self._asked = None

    def validate(self) -> None:
        """Raise LoadWindowError when an invariant is broken."""
        if len(self._counts) != min(self.step, self.window_size):
            raise LoadWindowError(f"window holds {len(self._counts)} steps after {self.step}")
        if not np.array_equal(sum(self._counts, np.zeros_like(self._total)), self._total):
            raise LoadWindowError("load: differs from the sum of the window")
        if self._asked is not None and (self._asked > self.step or self._asked % self.step_interval):
            raise LoadWindowError(f"request of step {self._asked} was never due (now {self.step})")
