"""Several devices with one pool each: who gets a request (paper: least reserved bytes, then the shortest queue).

The devices are simulated side by side: each is advanced to the time of an arrival, then the request is placed by what
the devices hold at that moment. Requests that wait count by what they will reserve, else everything queued at t = 0
would go to one device.
"""

from typing import Any

import numpy as np
import polars as pl

from operators.odma import engine_state as es
from operators.odma.cluster_state import choose
from operators.odma.device import DeviceSpec, Stepper
from operators.odma.errors import ConfigError
from operators.odma.policies import Policy


def serve(trace: pl.DataFrame, shape: Any, devices: list[DeviceSpec], policy: Policy, **options: Any):
    """Serve `trace` over the devices; (device of each request i32[n], finished Steppers)."""
    if not devices:
        raise ConfigError("devices: empty; give at least one")
    steppers = [Stepper(trace, shape, spec, policy, **options) for spec in devices]
    place = np.empty(len(trace), np.int32)
    arrival, inputs = trace["arrival_s"].to_numpy(), trace["input_tokens"].to_numpy()
    waiting: list[list[tuple[int, float]]] = [[] for _ in devices]
    for i in range(len(trace)):
        if i == 0 or arrival[i] > arrival[i - 1]:
            for number, stepper in enumerate(steppers):
                stepper.advance(arrival[i])
                waiting[number] = [(j, size) for j, size in waiting[number] if np.isnan(stepper.x[j, es.START])]
        ahead = [sum(size for _, size in queue) for queue in waiting]
        reserved = np.array([stepper.reserved_tokens() + more for stepper, more in zip(steppers, ahead, strict=True)])
        chosen = choose(reserved, np.array([len(queue) for queue in waiting]))
        place[i] = chosen
        waiting[chosen].append((steppers[chosen].add(i), float(inputs[i]) + steppers[chosen].first_guess(i)))
        if len(waiting[chosen]) % 256 == 0:
            _trim(waiting[chosen], steppers[chosen])
    for stepper in steppers:
        stepper.advance(np.inf)
    return place, steppers


def _trim(queue: list[tuple[int, float]], stepper: Stepper) -> None:
    queue[:] = [(j, size) for j, size in queue if np.isnan(stepper.x[j, es.START])]


def assign(trace: pl.DataFrame, shape: Any, devices: list[DeviceSpec], policy: Policy, **options: Any) -> np.ndarray:
    """The device of each request `(n,)`."""
    return serve(trace, shape, devices, policy, **options)[0]


def measures(
    trace: pl.DataFrame, shape: Any, devices: list[DeviceSpec], policy: Policy, **options: Any
) -> dict[str, float]:
    """`metrics.measures` over all devices: totals over the longest span, shares weighted by requests."""
    from operators.odma import metrics

    _, steppers = serve(trace, shape, devices, policy, **options)
    outcomes = [stepper.outcome() for stepper in steppers if stepper.s[es.N_ALL]]
    found = [metrics.measures(outcome) for outcome in outcomes]
    weights = np.array([len(outcome.r) for outcome in outcomes], float)
    mean = {name: float(np.average([one[name] for one in found], weights=weights)) for name in metrics.MEASURES}
    begin = min(outcome.x[:, es.ARRIVAL].min() for outcome in outcomes)
    end = max(np.nanmax(outcome.x[:, es.FINISH]) for outcome in outcomes)
    tokens = sum(int(outcome.r[:, es.OUTPUT].sum()) for outcome in outcomes)
    total = {name: float(sum(one[name] for one in found)) for name in ("failed", "moved_bytes", "parked_s", "recuts")}
    return mean | total | {"tps": tokens / (end - begin), "rps": weights.sum() / (end - begin)}
