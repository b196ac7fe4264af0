"""How long one step of a serving engine takes, from what is in it: five models, each a row of numbers for the kernels.

A step holds `p` prefill tokens in `m` prompts (or chunks), `n` decoding requests with `k` context tokens in all (prompt
and answer so far, the token being fed included), and `q` = sum over chunks of chunk * (done + chunk / 2), the keys that
prefill attends to. Seconds throughout. Nothing here knows a scheduler; a step whose time is not above 0 is an error
wherever it is met, because fits with negative coefficients are legal as long as they stay in range.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from operators.lab.compiled import inner, kernel

WIDTH = 12  # numbers in a row: the kind, then its coefficients
LINEAR, TWO_PHASE, CONST, ROOFLINE, TABLE = range(5)
NO_GRID = (np.zeros(1), np.zeros(1), np.zeros((1, 1)))
FOREVER = np.int64(1) << 60


class StepModel(Protocol):
    """What an engine asks of a step model."""

    def coeffs(self) -> np.ndarray:
        """Its row for the kernels, f64[WIDTH]."""

    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Its table (tokens f64[a], context f64[b], seconds f64[a, b]); NO_GRID for models without one."""


class _Row:
    """What all models share: the vectorised `step_s`."""

    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return NO_GRID

    def step_s(self, p=0, n=0, k=0, q=0.0, m=1) -> np.ndarray | float:
        """Seconds of steps, elementwise over arrays; ValueError naming the first whose time is not above 0.

        `m` counts where there are prefill tokens only.
        """
        args = np.broadcast_arrays(*(np.asarray(value, float) for value in (p, n, k, q, m)))
        flat = [np.ascontiguousarray(value.ravel()) for value in args]
        made = _times(self.coeffs(), *self.grid(), *flat)
        bad = np.flatnonzero(~(made > 0))
        if len(bad):
            what = ", ".join(f"{name}={value[bad[0]]:g}" for name, value in zip("pnkqm", flat, strict=True))
            raise ValueError(f"{type(self).__name__}: a step of {what} takes {made[bad[0]]:g} s; must be > 0")
        return made.reshape(args[0].shape) if args[0].ndim else float(made[0])


def _row(kind: int, *values: float) -> np.ndarray:
    row = np.zeros(WIDTH)
    row[0] = kind
    row[1 : 1 + len(values)] = values
    if not np.isfinite(row).all():
        raise ValueError(f"coefficients {values}: must be finite")
    return row


@dataclass(frozen=True)
class LinearStep(_Row):
    """t = c0_s + prefill_token_s p + decode_s n + context_token_s k + prefill_sq_s q: one step of everything."""

    c0_s: float
    prefill_token_s: float
    decode_s: float
    context_token_s: float
    prefill_sq_s: float = 0.0

    def coeffs(self) -> np.ndarray:
        return _row(LINEAR, self.c0_s, self.prefill_token_s, self.decode_s, self.context_token_s, self.prefill_sq_s)


@dataclass(frozen=True)
class TwoPhaseStep(_Row):
    """Prefill a + b sum(len) + c sum(len^2); decode a + b k + c n, with other numbers from `threshold` requests on.

    A step with both takes the sum. From DistServe's profiles, which keep prefill and decode apart and write `k` as the
    sum of (context + 1); one of their fits has c < 0.
    """

    prefill: tuple[float, float, float]
    decode_small: tuple[float, float, float]
    decode_large: tuple[float, float, float]
    threshold: int = 95

    @classmethod
    def from_distserve(cls, profile: Path | dict, model: str, tp: int) -> Self:
        """From a profile file (or its content) in milliseconds; KeyError listing the models or degrees there are."""
        found = profile if isinstance(profile, dict) else json.loads(Path(profile).read_text())
        if model not in found:
            raise KeyError(f"model {model!r}: not in the profile; known: {', '.join(found)}")
        if str(tp) not in found[model]:
            raise KeyError(f"{model}: no profile of tp {tp}; known: {', '.join(found[model])}")
        entry = found[model][str(tp)]
        names = ("prefill", "decoding_smallbs", "decoding_largebs")
        phases = [tuple(value / 1000 for value in entry[name]) for name in names]
        return cls(*phases, threshold=entry["decoding_large_small_bs_threshold"])

    def coeffs(self) -> np.ndarray:
        return _row(TWO_PHASE, *self.prefill, *self.decode_small, *self.decode_large, self.threshold)


@dataclass(frozen=True)
class ConstStep(_Row):
    """Every prompt costs `prefill_s`, a decode step of any batch `decode_s`."""

    prefill_s: float
    decode_s: float

    def coeffs(self) -> np.ndarray:
        return _row(CONST, self.prefill_s, self.decode_s)


@dataclass(frozen=True)
class RooflineStep(_Row):
    """t = max((weight_bytes + kv_bytes k / alpha) / stream_Bps, 2 params (p + n) / flops).

    `kv_bytes` of one token; `alpha` in (0, 1] is the share of streaming bandwidth that reading the cache reaches.
    """

    weight_bytes: float
    kv_bytes: float
    params: float
    stream_Bps: float
    flops: float
    alpha: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight_bytes", "params", "stream_Bps", "flops"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} (={getattr(self, name)}): must be > 0")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha (={self.alpha}): must be in (0, 1]")

    def coeffs(self) -> np.ndarray:
        per_token = self.kv_bytes / self.alpha / self.stream_Bps
        return _row(ROOFLINE, self.weight_bytes / self.stream_Bps, per_token, 2 * self.params / self.flops)


@dataclass(frozen=True)
class TableStep(_Row):
    """Measured seconds by tokens in the step (p + n) and mean context of the decoding requests (k / n).

    Bilinear between the points and carried on linearly beyond them. Both axes strictly rising, two points or more each.
    """

    tokens: np.ndarray = field(hash=False)
    context: np.ndarray = field(hash=False)
    seconds: np.ndarray = field(hash=False)

    def __post_init__(self) -> None:
        for name in ("tokens", "context"):
            axis = np.asarray(getattr(self, name), float)
            if axis.ndim != 1 or len(axis) < 2 or not (np.diff(axis) > 0).all():
                raise ValueError(f"{name} (={axis.tolist()[:8]}): must hold two or more strictly rising points")
        shape = (len(self.tokens), len(self.context))
        found = np.asarray(self.seconds, float)
        if found.shape != shape or not (np.isfinite(found) & (found > 0)).all():
            raise ValueError(f"seconds (shape {found.shape}): must be {shape}, finite and > 0")

    def coeffs(self) -> np.ndarray:
        return _row(TABLE)

    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(np.ascontiguousarray(part, float) for part in (self.tokens, self.context, self.seconds))


@inner
def interval(axis, x):
    """Left end of the interval of `axis` that holds x, or of the nearest one."""
    low, high = 0, len(axis) - 2  # by hand: numpy's search takes two seconds to compile
    while low < high:
        middle = (low + high + 1) // 2
        if axis[middle] <= x:
            low = middle
        else:
            high = middle - 1
    return low


@inner
def table_time(xs, ys, z, x, y):
    i, j = interval(xs, x), interval(ys, y)
    u = (x - xs[i]) / (xs[i + 1] - xs[i])
    v = (y - ys[j]) / (ys[j + 1] - ys[j])
    return (1 - u) * ((1 - v) * z[i, j] + v * z[i, j + 1]) + u * ((1 - v) * z[i + 1, j] + v * z[i + 1, j + 1])


@inner
def two_phase_decode(c, n, k):
    at = 4 if n < c[10] else 7
    return c[at] + c[at + 1] * k + c[at + 2] * n


@inner
def step_time(c, xs, ys, z, p, n, k, q, m):
    """Seconds of one step; the arguments of `_Row.step_s` for one row of coefficients."""
    kind = int(c[0])
    if kind == 0:
        return c[1] + c[2] * p + c[3] * n + c[4] * k + c[5] * q
    if kind == 1:
        t = 0.0
        if p > 0:
            t += c[1] + c[2] * p + c[3] * 2.0 * q
        if n > 0:
            t += two_phase_decode(c, n, k)
        return t
    if kind == 2:
        t = 0.0
        if p > 0:
            t += c[1] * m
        if n > 0:
            t += c[2]
        return t
    if kind == 3:
        return max(c[1] + c[2] * k, c[3] * (p + n))
    return table_time(xs, ys, z, float(p + n), k / n if n > 0 else 0.0)


@inner
def decode_line(c, xs, ys, z, n, k):
    """A pure decode step at context `k` of `n` requests: seconds, seconds per further context token, and how far.

    The third value is the largest context up to which that line holds.
    """
    kind = int(c[0])
    t = step_time(c, xs, ys, z, 0, n, k, 0.0, 0)
    far = float(1 << 60)
    if kind == 0:
        return t, c[4], far
    if kind == 1:
        return t, c[5] if n < c[10] else c[8], far
    if kind == 2:
        return t, 0.0, far
    if kind == 3:
        if c[1] + c[2] * k >= c[3] * n:  # memory binds, and will with more context
            return t, c[2], far
        return t, 0.0, (c[3] * n - c[1]) / c[2] if c[2] > 0 else far
    j = interval(ys, k / n)
    end = ys[j + 1] * n if j + 2 < len(ys) else far
    last = table_time(xs, ys, z, float(n), ys[j + 1])
    first = table_time(xs, ys, z, float(n), ys[j])
    return t, (last - first) / (ys[j + 1] - ys[j]) / n, end


@kernel
def _times(c, xs, ys, z, p, n, k, q, m):
    out = np.empty(len(p))
    for i in range(len(p)):
        out[i] = step_time(c, xs, ys, z, p[i], n[i], k[i], q[i], m[i])
    return out
