"""Measured times of one expert kernel over activated experts A and assignments n, as level curves; microseconds.

One curve over tau = n/A per level A, linear in log2(tau), then linear in A between levels, because the kernels' steps
lie at fixed tokens per expert. Outside the levels the attached fit takes over, scaled to meet the table at its edge.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import polars as pl

from operators.llm.moe_cost import MoeCost, scaled_bandwidth


class TableError(ValueError):
    """A look-up outside a table without a fit, or a table that does not exist; the message says what there is."""


@dataclass(frozen=True)
class MoeTable:
    """Level curves of one expert kernel: for level A, times `us` over `tau` = assignments per activated expert."""

    name: str
    levels: np.ndarray = field(hash=False)
    tau: tuple[np.ndarray, ...] = field(hash=False)
    us: tuple[np.ndarray, ...] = field(hash=False)
    data: str
    fit_on: tuple[np.ndarray, np.ndarray, np.ndarray] = field(hash=False)  # (A, n, us) that costs are fitted to
    fit: MoeCost | None = None
    slower_memory: float = 1.0  # the card's memory is this many times slower than the measured card's

    @property
    def axes(self) -> dict[str, np.ndarray]:
        return {"activated": self.levels, "tokens": np.unique(self.points[1])}

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The measured points as arrays (A, n, us)."""
        A = np.concatenate([np.full(len(t), level) for level, t in zip(self.levels, self.tau, strict=True)])
        return A, A * np.concatenate(self.tau), np.concatenate(self.us)

    @property
    def values(self) -> np.ndarray:
        return self.points[2]

    def with_fit(self, fit: MoeCost | None) -> Self:
        return replace(self, fit=fit)

    def on_slower_memory(self, factor: float) -> Self:
        """The same kernel on a card with `factor` times slower memory: only the fit's b changes, as a ratio of fits."""
        return replace(self, slower_memory=factor)

    def outside(self, activated: Any, tokens: Any) -> np.ndarray:
        """Whether a look-up leaves the measured range."""
        A, n = np.broadcast_arrays(np.asarray(activated, float), np.asarray(tokens, float))
        inner = np.clip(A, self.levels[0], self.levels[-1])
        longest = np.interp(A, self.levels, [t[-1] for t in self.tau])
        return (inner != A) | (n > A * longest)

    def at(self, *, activated: Any, tokens: Any) -> np.ndarray:
        """Time of A activated experts with n assignments by the level curves, us.

        n below A counts as A, and A below 1 as 1. TableError outside the range when no fit is attached.
        """
        A, n = _at_least_one_each(activated, tokens)
        if self.fit is None and self.outside(A, n).any():
            at = np.flatnonzero(self.outside(A, n).ravel())[0]
            raise TableError(
                f"{self.name}: activated (={A.ravel()[at]:g}), tokens (={n.ravel()[at]:g}): outside the table's "
                f"{self.levels[0]:g}..{self.levels[-1]:g} activated with 1..{self.tau[-1][-1]:g} tokens each"
            )
        us = self._between_levels(A, n / A)
        if self.fit is None:
            return us
        inner = np.clip(A, self.levels[0], self.levels[-1])
        us = us * np.where(inner == A, 1.0, self.fit.time_us(A, n) / self.fit.time_us(inner, inner * n / A))
        return us + self._here.time_us(A, n) - self.fit.time_us(A, n)

    def at_step(self, *, activated: Any, tokens: Any, local: float, tau: float) -> np.ndarray:
        """Time of (A, n) in a step whose balanced ranks have `local` experts with `tau` assignments each, us.

        The table at that balanced point plus the difference of fitted times from there to (A, n). Needs a fit.
        """
        if self.fit is None:
            raise TableError(f"{self.name}: no fit is attached; a difference from the balanced step needs one")
        A, n = _at_least_one_each(activated, tokens)
        tau = max(tau, 1.0)
        base = self.on_slower_memory(1.0).at(activated=local, tokens=local * tau)
        us = base + self._here.time_us(A, n) - self.fit.time_us(local, local * tau)
        return np.maximum(us, self.fit.a)

    @property
    def _here(self) -> MoeCost:
        """The fit with this card's memory."""
        return scaled_bandwidth(self.fit, self.slower_memory)

    def _between_levels(self, A: np.ndarray, tau: np.ndarray) -> np.ndarray:
        inner = np.clip(A, self.levels[0], self.levels[-1])
        low = np.clip(np.searchsorted(self.levels, inner, side="right") - 1, 0, len(self.levels) - 2)
        share = (inner - self.levels[low]) / (self.levels[low + 1] - self.levels[low])
        curves = np.stack([self._curve(i, np.log2(tau)) for i in range(len(self.levels))])
        pick = np.take_along_axis(curves, np.stack([low, low + 1]), axis=0)
        return (1 - share) * pick[0] + share * pick[1]

    def _curve(self, i: int, log_tau: np.ndarray) -> np.ndarray:
        """Level i over log2(tau): the table inside, beyond it the last value times the ratio of the fit."""
        level, known = self.levels[i], np.log2(self.tau[i])
        us = np.interp(log_tau, known, self.us[i])
        beyond = log_tau > known[-1]
        if self.fit is None or not beyond.any():
            return us
        edge = self.fit.time_us(level, level * self.tau[i][-1])
        return np.where(beyond, us * self.fit.time_us(level, level * 2.0**log_tau) / edge, us)

    def steps(self, *, rise: float = 1.25, fall: float = 0.97) -> pl.DataFrame:
        """Kernel steps: neighbours on a level where time falls, or rises faster than both A*b and n would explain."""
        rows = []
        for level, tau, us in zip(self.levels, self.tau, self.us, strict=True):
            ratio, growth = us[1:] / us[:-1], tau[1:] / tau[:-1]
            for j in np.flatnonzero((ratio < fall) | ((ratio > rise) & (ratio > growth**0.9))):
                rows.append((float(level), float(tau[j]), float(tau[j + 1]), float(us[j]), float(us[j + 1])))
        names = ["activated", "tau_from", "tau_to", "us_from", "us_to"]
        return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Float64), orient="row")


def _at_least_one_each(activated: Any, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    A, n = np.broadcast_arrays(np.asarray(activated, float), np.asarray(tokens, float))
    A = np.maximum(A, 1.0)
    return A, np.maximum(n, A)
