"""Size classes: cut once (`optimal_buckets`), kept in step with the stream (`BucketManager`), and asked for a request.

From the paper: boundaries follow a decayed histogram of finished lengths, a request gets the smallest class that covers
its predicted length, a doubtful one (spread above `tau`) the large class. Ours: the exact optimum instead of an unnamed
rule, hysteresis, drift detection, versions. The last class, b[K] = max_len, is the large one: K counts it.

The arithmetic is in `cutting.py` (numba) and is the simulator's too.
"""

import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from operators.odma import cutting
from operators.odma.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

METHODS = ("dnc", "plain", "quantile")


class Bucket(NamedTuple):
    """A class chosen for a request: its index, its size in tokens, and whether it is the large one."""

    index: int
    tokens: int
    large: bool


def histogram(lengths: np.ndarray, max_len: int, align: int = 1) -> np.ndarray:
    """How many lengths fall into each bin of `align` tokens, `(ceil(max_len / align),)`; longer ones into the last.

    ValueError naming the first length that is no length.
    """
    lengths = np.asarray(lengths, float)
    bad = ~(lengths >= 1)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"lengths[{i}] is {lengths[i]:g}; must be >= 1")
    bins = -(-max_len // align)
    found = np.minimum((np.ceil(lengths) - 1) // align, bins - 1).astype(int)
    return np.bincount(found, minlength=bins).astype(float)


def optimal_buckets(
    hist: np.ndarray, k: int, align: int = 1, max_len: int | None = None, method: str = "dnc"
) -> np.ndarray:
    """Boundaries `(K,)` i32, rising, the last `max_len`, that minimise the expected reservation of `hist`.

    `hist[i]` is the mass of lengths of i + 1 tokens. `dnc` and `plain` are exact, `quantile` is the cheap variant. When
    K exceeds the number of different aligned lengths it collapses to that, with a warning.

    >>> optimal_buckets(np.array([4.0, 0, 0, 1, 0, 0, 0, 1]), 3)
    array([1, 4, 8], dtype=int32)
    """
    mass, size = _candidates(hist, k, align, max_len)
    if method not in METHODS:
        raise ConfigError(f"method (={method!r}): expected one of {', '.join(METHODS)}")
    used = np.flatnonzero(np.diff(mass, prepend=0.0) > 0)
    distinct = len(used) + (used[-1] != len(mass) - 1)
    if k > distinct:
        warnings.warn(f"K (={k}): only {distinct} different lengths; K collapses to {distinct}", stacklevel=2)
        k = distinct
    if method == "quantile":
        marks = np.searchsorted(mass, np.arange(1, k) / k - 1e-12)
        return np.unique(np.append(size[marks], size[-1])).astype(np.int32)
    return size[cutting.cut(mass, size, k, method == "plain")].astype(np.int32)


def expected_reservation(hist: np.ndarray, boundaries: np.ndarray) -> float:
    """Mean tokens reserved under perfect prediction when each length gets the smallest class that covers it."""
    hist, boundaries = np.asarray(hist, float), np.asarray(boundaries)
    lengths = np.arange(1, len(hist) + 1)
    place = np.minimum(np.searchsorted(boundaries, lengths), len(boundaries) - 1)
    return float((hist * boundaries[place]).sum() / hist.sum())


def _candidates(hist: np.ndarray, k: int, align: int, max_len: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative mass and size at every multiple of `align` up to `max_len`."""
    hist = np.asarray(hist, float)
    max_len = len(hist) if max_len is None else max_len
    if hist.ndim != 1 or not np.isfinite(hist).all() or (hist < 0).any() or not hist.sum() > 0:
        raise ValueError("hist: expected a non-empty list of finite masses >= 0, not all 0")
    if k < 1 or align < 1 or max_len < 1:
        raise ConfigError(f"K, align, max_len (={k}, {align}, {max_len}): must be >= 1")
    size = np.append(np.arange(align, max_len, align), max_len).astype(float)
    padded = np.append(np.cumsum(hist) / hist.sum(), 1.0)
    mass = padded[np.minimum(size.astype(int), len(hist)) - 1]
    mass[-1] = 1.0
    return mass, size


class BucketManager:
    """Boundaries that follow the finished lengths; pure, no clock.

    `boundaries` are the classes to begin with (default: K equal ones). Every adopted cut is a new `version`.
    """

    def __init__(
        self,
        k: int,
        period: int = 512,
        decay: float = 0.995,
        tau: float = math.inf,
        min_samples: int = 256,
        hysteresis: float = 0.05,
        drift: float = 0.1,
        *,
        max_len: int = 2048,
        align: int = 16,
        boundaries: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ):
        if max_len % align or k < 1 or k > max_len // align:
            raise ConfigError(
                f"K, align, max_len (={k}, {align}, {max_len}): align divides max_len, K <= their quotient"
            )
        if not 0 < decay <= 1 or period < 1 or not 0 < drift <= 1 or not 0 <= hysteresis < 1:
            raise ConfigError(
                f"decay, period, drift, hysteresis (={decay}, {period}, {drift}, {hysteresis}): "
                "expected (0, 1], >= 1, (0, 1], [0, 1)"
            )
        bins = max_len // align
        equal = -(-np.arange(1, k + 1) * bins // k) * align
        self._bounds = (equal if boundaries is None else np.asarray(boundaries)).astype(np.int32).copy()
        self._hist = np.zeros(bins)
        self._reference = np.zeros(bins) if start is None else np.asarray(start, float).copy()
        self._words = np.zeros(cutting.WORDS)
        self._words[cutting.WEIGHT] = 1.0
        self._scratch = cutting.scratch(bins, k)
        self._rule = (align, decay, period, min_samples, hysteresis, drift)
        self.align, self.max_len, self.tau = align, max_len, tau
        self._history = [(0, 0, self._bounds.tolist())]
        self.validate()

    @property
    def version(self) -> int:
        """How often boundaries have been adopted."""
        return len(self._history) - 1

    @property
    def n_done(self) -> int:
        """Finished requests seen."""
        return int(self._words[cutting.SEEN])

    def observe(self, length: int) -> bool:
        """A request finished with `length` tokens; whether boundaries changed."""
        if not length >= 1:
            raise ValueError(f"length (={length}): must be >= 1")
        place = (int(length) - 1) // self.align
        changed = bool(
            cutting.observe(self._hist, self._reference, self._words, self._bounds, place, *self._rule, *self._scratch)
        )
        if changed:
            self._history.append((self.version + 1, self.n_done, self._bounds.tolist()))
        return changed

    def boundaries(self) -> np.ndarray:
        """The classes now, `(K,)` i32 tokens."""
        return self._bounds.copy()

    def assign(self, mean: float, q: float, u: float) -> Bucket:
        """The class of a request predicted at `mean` with bound `q` and spread `u`.

        The smallest class that covers `q`; the large one when u > tau (or NaN), or the mean itself exceeds all others.
        """
        last = len(self._bounds) - 1
        if not u <= self.tau or mean > self.max_len:
            return Bucket(last, self.max_len, True)
        index = min(int(np.searchsorted(self._bounds, q)), last)
        return Bucket(index, int(self._bounds[index]), index == last)

    def history(self) -> "pl.DataFrame":
        """Every version: when it was adopted (finished requests) and its boundaries."""
        import polars as pl

        return pl.DataFrame(
            self._history,
            schema={"version": pl.Int64, "n_done": pl.Int64, "boundaries": pl.List(pl.Int64)},
            orient="row",
        )

    def save(self) -> dict:
        """State as plain numbers, for `restore`."""
        arrays = (self._hist, self._reference, self._words, self._bounds)
        return {"arrays": [array.tolist() for array in arrays], "history": list(self._history)}

    def restore(self, saved: dict) -> None:
        """Go back to a saved state; completions since are to be observed again."""
        for mine, theirs in zip((self._hist, self._reference, self._words, self._bounds), saved["arrays"], strict=True):
            mine[:] = theirs
        self._history = [tuple(row) for row in saved["history"]]
        self.validate()

    def validate(self) -> None:
        """Boundaries rise strictly, are aligned and end at max_len. AssertionError otherwise."""
        assert (np.diff(self._bounds) > 0).all(), self._bounds
        assert self._bounds[0] > 0
        assert self._bounds[-1] == self.max_len, self._bounds
        assert (self._bounds % self.align == 0).all(), self._bounds
        assert (self._hist >= 0).all()
