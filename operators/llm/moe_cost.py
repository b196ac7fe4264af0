"""Cost of one expert layer on one GPU, t(A, n): A activated experts, n token assignments, microseconds.

Three forms: `sum` a + bA + beta*n; `max` max(a + bA, c + beta*n); `pnorm` a + ((bA)^p + (beta*n)^p)^(1/p). Each is
fitted by least mean squared relative error. Measured kernels have steps no form knows, so a table is interpolated where
there is one (`tables.MoeTable`) and a cost is used outside it, inside routers, and to carry a slope to another model.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from operators.lab import stage
from operators.llm.shapes import ModelShape

FORMS = ("pnorm", "max", "sum")
P_RANGE = (1.0, 8.0)


@dataclass(frozen=True)
class MoeCost:
    """A fitted cost: a us, b us per activated expert, beta us per assignment, c us (`max` only), p (`pnorm` only)."""

    form: str
    a: float
    b: float
    beta: float
    c: float = 0.0
    p: float = 1.0
    source: str = ""
    range: dict[str, tuple[float, float]] = field(default_factory=dict, hash=False)
    errors: dict[str, float] = field(default_factory=dict, hash=False)  # mape, worst, r2, n

    def time_us(self, activated: Any, tokens: Any) -> np.ndarray:
        """Time of A activated experts with n assignments; arrays broadcast, microseconds."""
        memory, compute = self.b * np.asarray(activated, float), self.beta * np.asarray(tokens, float)
        if self.form == "sum":
            return self.a + memory + compute
        if self.form == "max":
            return np.maximum(self.a + memory, self.c + compute)
        return self.a + (memory**self.p + compute**self.p) ** (1.0 / self.p)

    @classmethod
    def fit(cls, table: Any, form: str = "pnorm") -> Self:
        """Fit `form` to the points a MoeTable sets aside for it. ValueError for an unknown form or too few points."""
        return cls.fit_points(*table.fit_on, form=form, source=f"{table.name} ({table.data})")

    @classmethod
    def fit_points(cls, activated: Any, tokens: Any, time_us: Any, *, form: str = "pnorm", source: str = "") -> Self:
        """Fit `form` to points by least mean squared relative error."""
        if form not in FORMS:
            raise ValueError(f"form (={form!r}): unknown; expected one of {', '.join(FORMS)}")
        A, n, us = (np.asarray(x, float) for x in (activated, tokens, time_us))
        if len(us) < 4:
            raise ValueError(f"points: {len(us)}; a fit needs at least 4")
        from scipy.optimize import least_squares  # most of a second to import, and only fitting needs it

        start = np.log(_first_guess(A, n, us))
        names = {"sum": ["a", "b", "beta"], "max": ["a", "b", "beta", "c"], "pnorm": ["a", "b", "beta", "q"]}[form]
        guess = dict(zip(["a", "b", "beta", "c", "q"], [*start, start[0], np.log(0.6)], strict=True))

        def build(x: np.ndarray) -> Self:
            values = dict(zip(names, np.exp(np.clip(x, -20, 20)), strict=True))
            p = float(np.clip(1.0 + values.pop("q", 0.0), *P_RANGE))
            return cls(form, **{key: float(value) for key, value in values.items()}, p=p, source=source)

        def residual(x: np.ndarray) -> np.ndarray:
            return build(x).time_us(A, n) / us - 1.0

        found = build(least_squares(residual, [guess[name] for name in names], x_scale=0.3, max_nfev=200).x)
        limits = {"activated": (float(A.min()), float(A.max())), "tokens": (float(n.min()), float(n.max()))}
        return dataclasses.replace(found, range=limits, errors=found.errors_on(A, n, us))

    def errors_on(self, activated: Any, tokens: Any, time_us: Any) -> dict[str, float]:
        """Mean and worst absolute relative error, and R2, on given points."""
        us = np.asarray(time_us, float)
        predicted = self.time_us(activated, tokens)
        relative = np.abs(predicted / us - 1.0)
        spread = np.sum((us - us.mean()) ** 2)
        r2 = 1.0 - np.sum((predicted - us) ** 2) / spread if spread > 0 else float("nan")
        return {"mape": float(relative.mean()), "worst": float(relative.max()), "r2": float(r2), "n": len(us)}

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**values | {"range": {key: tuple(pair) for key, pair in values["range"].items()}})

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        with stage.atomic(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; ValueError when the file is not a cost."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a saved cost ({error})") from None


def _first_guess(A: np.ndarray, n: np.ndarray, us: np.ndarray) -> list[float]:
    """Positive starting values of a, b, beta: the slopes in the memory-bound and the compute-bound corner."""
    order = np.argsort(n / A, kind="stable")
    thin, thick = order[: max(3, len(us) // 4)], order[-max(3, len(us) // 4) :]
    a = 0.8 * us.min()
    b = max(np.median((us[thin] - a) / A[thin]), 1e-6)
    beta = max(np.median((us[thick] - a) / n[thick]), 1e-9)
    return [a, b, beta]


def memory_line(activated: Sequence[float], time_us: Sequence[float]) -> tuple[float, float, float]:
    """Ordinary least squares of us = a + b*A over memory-bound points: (a, b, R2)."""
    A, us = np.asarray(activated, float), np.asarray(time_us, float)
    b, a = np.polyfit(A, us, 1)
    r2 = 1.0 - np.sum((a + b * A - us) ** 2) / np.sum((us - us.mean()) ** 2)
    return float(a), float(b), float(r2)


def leave_one_out(activated: Any, tokens: Any, time_us: Any, *, form: str = "pnorm") -> np.ndarray:
    """Relative error of each point predicted by a fit to all the others."""
    A, n, us = (np.asarray(x, float) for x in (activated, tokens, time_us))
    out = np.empty(len(us))
    for i in range(len(us)):
        rest = np.arange(len(us)) != i
        cost = MoeCost.fit_points(A[rest], n[rest], us[rest], form=form)
        out[i] = cost.time_us(A[i], n[i]) / us[i] - 1.0
    return out


def transfer(cost: MoeCost, from_shape: ModelShape, to_shape: ModelShape, dtype: str) -> MoeCost:
    """The cost of a model without a table, from one with a table on the same system, framework and number type.

    Bytes per second of expert weights and FLOP/s per assignment are kept, so b and beta scale with expert size; the
    launch terms a and c stay. The result carries no errors: it was not fitted.
    """
    size = to_shape.expert_bytes(dtype) / from_shape.expert_bytes(dtype)
    source = f"{cost.source}, carried from {from_shape.name} to {to_shape.name}"
    return dataclasses.replace(cost, b=cost.b * size, beta=cost.beta * size, source=source, errors={})


def scaled_bandwidth(cost: MoeCost, factor: float) -> MoeCost:
    """The same kernel on a card whose memory is `factor` times slower: b scales and nothing else."""
    if factor == 1.0:
        return cost
    return dataclasses.replace(cost, b=cost.b * factor, source=f"{cost.source}, b x {factor:.4g}", errors={})
