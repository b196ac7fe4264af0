"""The beam that reaches a recall: what every comparison at equal recall stands on."""

from collections.abc import Callable, Sequence

import numpy as np


def beam_for(recall_at: Callable[[int], float], target: float, *, low: int, high: int) -> int:
    """The smallest beam from `low` to `high` whose recall reaches `target` (`high` when none does).

    `recall_at(L)` rises with L but for noise. Doubling steps from `low`, then bisection: large beams cost most.
    """
    if not 1 <= low <= high:
        raise ValueError(f"low, high (={low}, {high}): expected 1 <= low <= high")
    step = 1
    while low + step < high and recall_at(low + step) < target:
        low, step = low + step + 1, 2 * step
    high = min(high, low + step)
    while low < high:
        middle = (low + high) // 2
        if recall_at(middle) >= target:
            high = middle
        else:
            low = middle + 1
    return low


def at_recall(recalls: Sequence[float], values: Sequence[float], target: float) -> float:
    """`values` interpolated at recall `target`; both in the order of rising beams. NaN outside what was measured.

    A first point already above the target stands for itself: no smaller beam exists than k.
    """
    recall, value = np.asarray(recalls, float), np.asarray(values, float)
    if not len(recall):
        return float("nan")
    if recall[0] >= target:
        return float(value[0])
    above = np.flatnonzero(recall >= target)
    if not len(above):
        return float("nan")
    at = int(above[0])
    share = (target - recall[at - 1]) / (recall[at] - recall[at - 1])
    return float(value[at - 1] + share * (value[at] - value[at - 1]))
