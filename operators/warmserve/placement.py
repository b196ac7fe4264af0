"""Where to put prewarmed replicas: evict-aware placement, exact and polynomial (paper, evict-aware placement).

Replicas of a node form a laminar family: two sets of GPUs are nested, equal or disjoint, never crossing, so a promotion
drops only what lies in or around its own GPUs. A new replica of k GPUs goes to the candidate set whose replicas are
worth least, preferring sets on which it becomes the most valuable ("master"). The official code searches all subsets
depth first. Here a candidate is an existing set of size k, or a union of units (maximal smaller sets, single uncovered
GPUs) under one parent, and units are chosen by a subset-sum recursion over sizes.

Sets are bits of an unsigned 64-bit number, one per GPU of a node. Of equal sums the set with the smaller sorted tuple
wins: of two sets of equal size that is the one with the lowest bit in which they differ; then the lower node.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from operators.warmserve.errors import ConfigError

try:
    from operators.warmserve import _native
except ImportError:  # no C++ compiler: the stand-in compiles on first use
    _native = None

TOLERANCE = 1e-12
SKIPPED = -1


class Standing(NamedTuple):
    """Replicas that lie on the GPUs, and the free bytes of those: what placement must know of the cluster."""

    node: np.ndarray  # i4[n]
    mask: np.ndarray  # u8[n]
    model: np.ndarray  # i4[n]
    tp: np.ndarray  # i4[n]
    score: np.ndarray  # f8[n]
    free: np.ndarray  # i8[nodes, gpus] bytes; 0 for a GPU that serves


@dataclass(frozen=True)
class Placed:
    """Where each new replica goes, in the given order: node (-1: skipped), set of GPUs, whether it is on top there."""

    node: np.ndarray
    mask: np.ndarray
    master: np.ndarray

    def gpus(self, i: int) -> tuple[int, ...]:
        """GPUs of the i-th replica within its node."""
        return tuple(bit for bit in range(64) if int(self.mask[i]) >> bit & 1)


def mask_of(gpus) -> np.uint64:
    """Set of GPU numbers as bits."""
    return np.uint64(sum(1 << int(gpu) for gpu in gpus))


def standing(replicas, free) -> Standing:
    """Standing from (node, gpus, model, score) tuples and free bytes i8[nodes, gpus]."""
    rows = list(replicas)
    free = np.ascontiguousarray(free, np.int64)
    if free.ndim != 2 or free.shape[1] > 64:
        raise ConfigError(f"free (shape {free.shape}): expected (nodes, gpus <= 64)")
    return Standing(
        np.array([row[0] for row in rows], np.int32),
        np.array([mask_of(row[1]) for row in rows], np.uint64),
        np.array([row[2] for row in rows], np.int32),
        np.array([len(row[1]) for row in rows], np.int32),
        np.array([row[3] for row in rows], float),
        free,
    )


def place(now: Standing, model, tp, need, score) -> Placed:
    """Place new replicas one after the other, best score first, each where it does least harm.

    Args:
        now: what lies on the GPUs; not changed
        model: i4[m] models of the new replicas
        tp: i4[m] GPUs of each
        need: i8[m] bytes on each of its GPUs
        score: f8[m]
    """
    model, tp = np.asarray(model, np.int32), np.asarray(tp, np.int32)
    need, score = np.asarray(need, np.int64), np.asarray(score, float)
    if len(tp) and (tp.min() < 1 or tp.max() > now.free.shape[1]):
        raise ConfigError(f"tp (={int(tp.min())} to {int(tp.max())}): expected 1 to {now.free.shape[1]} GPUs of a node")
    if _native is None:
        from operators.warmserve.standin_place import place_all
    else:
        place_all = _native.place
    node, mask, master = place_all(*now, model, tp, need, score)
    return Placed(np.array(node, np.int32), np.array(mask, np.uint64), np.array(master, bool))
