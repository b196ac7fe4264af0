"""A modelled accelerator and its simulation: requests in, one row per request and what the memory went through out.

The time of a step is modelled (section 2.6 of the paper's node): weights and KV are streamed, pages cost 1 / alpha of
that, compute is 2 x parameters per token, copies read and write what they move. Predictions are the trace's columns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from operators.odma import arena_core, cutting, engine_loop
from operators.odma import engine_memory as mem
from operators.odma import engine_state as es
from operators.odma.errors import ConfigError
from operators.odma.policies import CUT_ON, JUMPS, KINDS, ORDERS, OVERFLOWS, Policy

OPS = ("reserve", "release", "grow", "relabel", "compact")
WINDOW = 1000
CURVE_STEPS = 10  # halvings of the interval that `crossover` searches


@dataclass(frozen=True)
class DeviceSpec:
    """One card. `alpha` is random over streaming bandwidth, or a function of the page's bytes per layer.

    `tokens` overrides the KV capacity that follows from the memory.
    """

    mem_bytes: float = 24e9
    stream_Bps: float = 307e9 * 0.8
    alpha: float | Callable[[int], float] = 0.5
    compute_flops: float = 96e12
    util_cap: float = 0.9
    tokens: int | None = None

    def __post_init__(self):
        for name in ("mem_bytes", "stream_Bps", "compute_flops"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} (={getattr(self, name)}): must be > 0")
        if not 0 < self.util_cap <= 1:
            raise ConfigError(f"util_cap (={self.util_cap}): expected a share in (0, 1]")
        if not callable(self.alpha) and not 0 < self.alpha <= 1:
            raise ConfigError(f"alpha (={self.alpha}): expected a share in (0, 1]")

    def kv_tokens(self, shape: Any, align: int) -> int:
        """KV tokens that fit beside the weights, a multiple of `align`."""
        room = self.util_cap * self.mem_bytes - shape.weight_bytes()
        tokens = int(room / shape.kv_bytes_per_token()) if self.tokens is None else self.tokens
        if tokens < align:
            raise ConfigError(f"mem_bytes (={self.mem_bytes:g}): no room beside {shape.weight_bytes():g} B of weights")
        return tokens // align * align

    def alpha_of(self, page_bytes: int) -> float:
        """Alpha of pages of this size; ConfigError when a curve leaves (0, 1]."""
        value = self.alpha(page_bytes) if callable(self.alpha) else self.alpha
        if not 0 < value <= 1:
            raise ConfigError(f"alpha ({page_bytes} bytes) (={value}): expected a share in (0, 1]")
        return float(value)


@dataclass(frozen=True)
class Outcome:
    """A served trace as arrays: engine_state's r, x, s, f, the log and the samples."""

    r: np.ndarray
    x: np.ndarray
    s: np.ndarray
    f: np.ndarray
    log: tuple[np.ndarray, np.ndarray]
    samples: tuple[np.ndarray, np.ndarray]
    policy: Policy
    facts: dict[str, float]


class Tables(NamedTuple):
    """What `simulate_device` gives."""

    requests: pl.DataFrame
    samples: pl.DataFrame
    alloc_log: pl.DataFrame


class Stepper:
    """A device that is advanced in time; requests are added as they arrive.

    `trace` holds every request that may be added. ConfigError when the device cannot hold one largest request.
    """

    def __init__(self, trace: pl.DataFrame, shape: Any, device: DeviceSpec, policy: Policy, *, count: bool = False,
                 charge_prefill: bool = True, align: int = 16, log_rows: int = 0,
                 sample_rows: int = 20_000):  # fmt: skip
        capacity = device.kv_tokens(shape, align)
        self._r, self._x = _requests(trace, policy, capacity, align)
        self.r, self.x, self.s, self.f = es.arrays(len(trace))
        self.s[es.N_ALL] = 0
        p, units = _numbers(policy, count, align, capacity)
        d = np.array([shape.weight_bytes(), shape.kv_bytes_per_token(), device.stream_Bps, device.compute_flops,
                      shape.params(), device.alpha_of(_page_bytes(policy, shape)), float(charge_prefill)])  # fmt: skip
        bounds = np.array(policy.boundaries, np.int32)
        queues = np.full((2, len(bounds) if policy.kind == "s3" else 1), es.NOBODY, np.int32)
        ring = np.full(int(self._r[:, es.OUTPUT].max()) + 2, es.NOBODY, np.int32)
        pages = np.zeros((2, max(2, capacity // policy.page + 2)), np.int32)
        pages[1] = np.arange(1, pages.shape[1] + 1)
        self._log = np.zeros((4, log_rows), np.int32), np.zeros(log_rows)
        self._samples = (
            np.zeros((sample_rows, engine_loop.SAMPLE_FIELDS)),
            np.zeros((sample_rows, len(bounds)), np.int32),
        )
        hist, reference, words, window, self._c = _learning(policy, align)
        state, owner = arena_core.new(units), np.zeros(units, np.int32)
        self._arguments = (p, d, self.r, self.x, self.s, self.f, state, owner, pages, ring, queues, bounds, hist,
                           reference, words, *cutting.scratch(len(hist), len(bounds)), window, self._c,
                           np.zeros(len(trace), np.int32), *self._log, *self._samples)  # fmt: skip
        self._unit = policy.page if policy.kind == "paged" else align
        self._policy, self._bounds = policy, bounds
        self._facts = {"capacity": capacity, "align": align, "weights": d[mem.WEIGHTS], "kv": d[mem.KV],
                       "memory": device.mem_bytes, "alpha": d[mem.ALPHA]}  # fmt: skip

    def add(self, i: int) -> int:
        """Request i of the trace arrives here; its number on this device."""
        j = int(self.s[es.N_ALL])
        self.r[j], self.x[j] = self._r[i], self._x[i]
        self.s[es.N_ALL] = j + 1
        return j

    def add_all(self) -> None:
        """Every request of the trace arrives here."""
        self.r[:], self.x[:] = self._r, self._x
        self.s[es.N_ALL] = len(self.r)

    def advance(self, until: float) -> None:
        """Serve until time `until`, or until nothing is left to do."""
        engine_loop.run(*self._arguments, until)

    def reserved_tokens(self) -> int:
        """Tokens reserved now."""
        return int(self.s[es.USED_UNITS]) * self._unit

    def first_guess(self, i: int) -> float:
        """What the answer of request i of the trace will reserve, roughly."""
        return float(min(max(self._x[i, es.VALUE], self._bounds[0]), self._bounds[-1]))

    def outcome(self) -> Outcome:
        """What has happened so far, of the requests that arrived here."""
        n, kept, rows = (int(self.s[place]) for place in (es.N_ALL, es.LOGGED, es.SAMPLED))
        return Outcome(self.r[:n], self.x[:n], self.s, self.f, (self._log[0][:, :kept], self._log[1][:kept]),
                       (self._samples[0][:rows], self._samples[1][:rows]), self._policy, self._facts)  # fmt: skip


def serve(trace: pl.DataFrame, shape: Any, device: DeviceSpec, policy: Policy, **options: Any) -> Outcome:
    """Serve `trace` on one device.

    `trace` has arrival_s (non-decreasing), input_tokens, output_tokens and, as the policy needs, mean, q<level>,
    n<level>, u. `options`: `count` (count tokens instead of placing blocks), `charge_prefill`, `align`, `log_rows` and
    `sample_rows` (what is kept at most). ConfigError when the device cannot hold one largest request.
    """
    stepper = Stepper(trace, shape, device, policy, **options)
    stepper.add_all()
    stepper.advance(np.inf)
    return stepper.outcome()


def _page_bytes(policy: Policy, shape: Any) -> int:
    return policy.page * shape.kv_bytes_per_token() // shape.n_layers


def _requests(trace: pl.DataFrame, policy: Policy, capacity: int, align: int):
    """The columns of r and x with the trace in them."""
    r, x, _, _ = es.arrays(len(trace))
    if len(trace) == 0:
        raise ValueError("trace: empty")
    for name in ("input_tokens", "output_tokens"):
        values = trace[name].to_numpy()
        if not (values >= 1).all():
            row = int((~(values >= 1)).argmax())
            raise ValueError(f"trace row {row}: {name} is {values[row]}; must be >= 1")
    if not trace["arrival_s"].is_sorted():
        raise ValueError("trace: arrival_s falls; sort it")
    r[:, es.INPUT], r[:, es.OUTPUT] = trace["input_tokens"].to_numpy(), trace["output_tokens"].to_numpy()
    x[:, es.ARRIVAL] = trace["arrival_s"].to_numpy()
    x[:, es.VALUE] = 1.0
    column = {
        "truth": "output_tokens",
        "mean": "mean",
        "q": q_column(policy.level),
        "need": q_column(policy.level, "n"),
    }.get(policy.value)
    if column:
        if column not in trace.columns:
            raise ConfigError(f"policy {policy.name}: the trace has no column {column!r}; predict it first")
        x[:, es.VALUE] = np.maximum(trace[column].to_numpy(), 1.0)
    if policy.tau > 0:
        x[:, es.SPREAD] = trace["u"].to_numpy()
    largest = int((r[:, es.INPUT] + np.maximum(r[:, es.OUTPUT], policy.boundaries[-1])).max()) + 2 * align
    if policy.kind == "hybrid":
        largest += 2 * policy.page
    if largest > capacity:
        raise ConfigError(f"capacity (={capacity} tokens): less than one largest request ({largest} tokens)")
    return r, x


def q_column(level: float, letter: str = "q") -> str:
    """Name of the column with the bound (q) or the cost-aware reservation (n) of a level."""
    return f"{letter}{round(level * 100)}"


def _numbers(policy: Policy, count: bool, align: int, capacity: int) -> tuple[np.ndarray, int]:
    """The policy as the engine reads it, and the units of the arena."""
    if policy.kind == "hybrid" and policy.page % align:
        raise ConfigError(f"page (={policy.page}): must be a multiple of align (={align})")
    units = capacity // (policy.page if policy.kind == "paged" else align)
    p = np.zeros(mem.P_FIELDS)
    p[mem.KIND], p[mem.COUNT], p[mem.ALIGN] = KINDS.index(policy.kind), count and policy.kind != "hybrid", align
    p[mem.CAPACITY], p[mem.PAGE] = units, policy.page
    p[mem.WATERMARK], p[mem.SAFETY] = int(policy.watermark * units), int(policy.safety * units)
    p[mem.TAU], p[mem.ORDER] = policy.tau, ORDERS.index(policy.order)
    p[mem.OVERFLOW] = OVERFLOWS.index(policy.overflow)
    p[mem.ADAPT], p[mem.GAMMA], p[mem.TARGET] = policy.adaptive, policy.gamma, 1 - policy.level
    p[mem.PERIOD], p[mem.DECAY], p[mem.MIN_SAMPLES] = policy.period, policy.decay, policy.min_samples
    p[mem.HYSTERESIS], p[mem.DRIFT], p[mem.DYNAMIC] = policy.hysteresis, policy.drift, policy.dynamic
    p[mem.CUT_ON], p[mem.COMPACT], p[mem.HIST_ALIGN] = CUT_ON.index(policy.cut_on), policy.compaction, align
    p[mem.JUMP] = JUMPS.index(policy.jump)
    return p, units


def _learning(policy: Policy, align: int):
    """Histogram, its reference, and the window of residuals the adaptive level starts with."""
    bins = -(-policy.boundaries[-1] // align)
    hist, reference, words = np.zeros(bins), np.zeros(bins), np.zeros(cutting.WORDS)
    words[cutting.WEIGHT] = 1.0
    if policy.dynamic and policy.history is not None:
        reference[:] = policy.history
    window, c = np.zeros((2, WINDOW)), np.zeros(4)
    c[0] = 1 - policy.level
    if policy.adaptive:
        given = np.asarray(policy.residuals, float)[-WINDOW:]
        window[0, : len(given)], window[1, : len(given)] = given, np.sort(given)
        c[2], c[3] = len(given), len(given) % WINDOW
        wanted = min(int(np.ceil((len(given) + 1) * policy.level - 1e-9)), len(given))
        c[1] = window[1, wanted - 1] if wanted else 0.0
    return hist, reference, words, window, c


def simulate_device(trace: pl.DataFrame, shape: Any, device: DeviceSpec, policy: Policy, *, seed: int | None = None,
                    **options: Any) -> Tables:  # fmt: skip
    """`serve` as tables: (requests, samples: one per 100 steps, alloc_log).

    With a `seed`, requests that arrive at one instant are shuffled among each other first. `options` are those of
    `serve`; without `log_rows` the log is empty.
    """
    from operators.odma import metrics

    if seed is not None:
        order = np.random.default_rng([seed, 5]).permutation(len(trace))
        trace = trace[order].sort("arrival_s", maintain_order=True)
    outcome = serve(trace, shape, device, policy, **options)
    return Tables(metrics.requests(trace, outcome), metrics.samples(outcome), metrics.alloc_log(outcome))


def simulate_cluster(trace: pl.DataFrame, shape: Any, devices: list[DeviceSpec], policy: Policy,
                     **options: Any) -> Tables:  # fmt: skip
    """The same over several devices with one pool each; tables have a `device` column.

    Requests go to the device with least reserved bytes, then to the one with the shortest queue (`cluster.choose`).
    """
    from operators.odma import cluster, metrics

    place, steppers = cluster.serve(trace, shape, devices, policy, **options)
    parts = []
    for number, stepper in enumerate(steppers):
        mine, outcome = trace.filter(pl.Series(place == number)), stepper.outcome()
        tables = (metrics.requests(mine, outcome), metrics.samples(outcome), metrics.alloc_log(outcome))
        parts.append([table.with_columns(device=pl.lit(number, pl.Int32)) for table in tables])
    return Tables(*(pl.concat(column) for column in zip(*parts, strict=True)))


def crossover(trace: pl.DataFrame, shape: Any, device: DeviceSpec, a: Policy, b: Policy, metric: str = "tps",
              *, low: float = 0.02, high: float = 1.0,
              **options: Any) -> tuple[float, float, float] | None:  # fmt: skip
    """(alpha*, lower, upper): where `a` and `b` are equal in `metric`, by bisection over alpha in [low, high].

    The bounds are the last interval of the bisection. None when one of them is ahead over the whole range.
    """
    from operators.odma import metrics

    def value(policy: Policy, alpha: float) -> float:
        spec = replace(device, alpha=alpha)
        return metrics.measures(serve(trace, shape, spec, policy, sample_rows=0, **options))[metric]

    fixed = {policy: value(policy, high) for policy in (a, b) if policy.contiguous}  # alpha does not matter to them

    def ahead(alpha: float) -> float:
        first, second = (fixed[policy] if policy in fixed else value(policy, alpha) for policy in (a, b))
        return first - second

    at_low, at_high = ahead(low), ahead(high)
    if at_low == 0 or at_high == 0 or (at_low > 0) == (at_high > 0):
        return None
    for _ in range(CURVE_STEPS):
        middle = (low + high) / 2
        found = ahead(middle)
        low, high = (middle, high) if (found > 0) == (at_low > 0) else (low, middle)
    return (low + high) / 2, low, high
