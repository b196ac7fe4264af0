"""The event loop of the simulator: arrivals, routing, continuous batching, KV blocks, polling (paper, simulation).

Iteration-accurate: a prefill step for all waiting requests whose KV blocks fit, else one decode step of the whole
batch. Decode steps between two changes of a batch form an arithmetic series of times and are jumped over in closed
form; whatever may change the batch (an arrival, a neighbour on shared GPUs, KV that runs out) cuts the jump at the end
of the step under way, so that both engines (`step`, `jump`) go through the same steps.

What needs a decision of the control plane leaves `advance(until)` with (reason, a, b); the caller decides, changes the
arrays of the plane, and calls again: CREATE, model a needs an instance for request b, which waits for `attach` or
`put_off`; ENDED, slot a is empty and stopping; TAKEBACK, slot a needs KV that prewarmed weights hold, raise its limit
and call `resume`; FINISHED, no request is left. Departure: ties in time go steps, then polls, then arrivals, each by
insertion. Native where it was built (native/loop.cpp), else compiled by numba (standin_loop.py); same results.
"""

from typing import Any

from operators.warmserve.plane import Plane

try:
    from operators.warmserve import _native
except ImportError:  # no C++ compiler: the stand-in compiles on first use
    _native = None


def loop(plane: Plane, *, native: bool | None = None) -> Any:
    """The loop over these arrays; `native` chooses one (default: native where it was built)."""
    if native is None:
        native = _native is not None
    if native:
        return _native.Loop(plane)
    from operators.warmserve.standin_loop import StandIn

    return StandIn(plane)
