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

from operators.lab.compiled import inner, kernel
from operators.warmserve.errors import ConfigError

TOLERANCE = 1e-12
SKIPPED = -1
ONE, ZERO = np.uint64(1), np.uint64(0)


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
    n, m = len(now.node), len(model)
    held = Standing(
        *(np.concatenate([old, np.zeros(m, old.dtype)]) for old in now[:5]),
        now.free.copy(),
    )
    node, mask, master = np.full(m, SKIPPED, np.int32), np.zeros(m, np.uint64), np.zeros(m, np.bool_)
    _place(held, n, model, tp, need, score, node, mask, master)
    return Placed(node, mask, master)


@inner
def bits(x):
    """Number of set bits."""
    count = 0
    while x != ZERO:
        x &= x - ONE
        count += 1
    return count


@inner
def before(a, b):
    """Whether the sorted tuple of set a comes before that of set b of the same size."""
    differ = a ^ b
    low = differ & (~differ + ONE)
    return (a & low) != ZERO


@inner
def better(total, mask, best_total, best_mask, found):
    """Whether (total, mask) beats the best of the same node so far."""
    if not found:
        return True
    slack = TOLERANCE * max(1.0, abs(best_total))
    return total < best_total - slack or (total <= best_total + slack and before(mask, best_mask))


@inner
def usable(held, rows, count, node, model, need):
    """GPUs of the node with room that hold no copy of the model."""
    free, found = held.free[node], ZERO
    for gpu in range(len(free)):
        if free[gpu] >= need:
            found |= ONE << np.uint64(gpu)
    for i in range(count):
        if held.model[rows[i]] == model:
            found &= ~held.mask[rows[i]]
    return found


@inner
def units_of(held, rows, count, parent, k, open_gpus, limit, unit, unit_sum):
    """Units below `parent` (bits) of size < k that are whole in `open_gpus`, with their sums; how many.

    A unit is a maximal set smaller than k or a single uncovered GPU. Those that hold a score of `limit` or more are
    left out. Sets of size k and more below the parent are closed.
    """
    region = parent
    for i in range(count):
        mask = held.mask[rows[i]]
        if mask & ~parent == ZERO and mask != parent and held.tp[rows[i]] >= k:
            region &= ~mask
    found, covered = 0, ZERO
    for i in range(count):
        mask, size = held.mask[rows[i]], held.tp[rows[i]]
        if size >= k or mask & ~region != ZERO or covered & mask == mask:
            continue
        largest, total, most = True, 0.0, -1.0
        for j in range(count):
            other = held.mask[rows[j]]
            if held.tp[rows[j]] < k and other & mask == mask and other != mask:
                largest = False
                break
            if other & ~mask == ZERO:
                total += held.score[rows[j]]
                most = max(most, held.score[rows[j]])
        if not largest:
            continue
        covered |= mask
        if mask & ~open_gpus == ZERO and most < limit:
            unit[found], unit_sum[found] = mask, total
            found += 1
    rest = region & ~covered & open_gpus
    while rest != ZERO:
        low = rest & (~rest + ONE)
        unit[found], unit_sum[found] = low, 0.0
        found += 1
        rest &= rest - ONE
    return found


@inner
def cheapest_union(unit, unit_sum, found, k, total, mask, known):
    """Least sum, then first tuple, of disjoint units with k GPUs in all; whether there is one (result in [k])."""
    for size in range(k + 1):
        known[size] = False
    known[0], total[0], mask[0] = True, 0.0, ZERO
    for i in range(found):
        size = bits(unit[i])
        for have in range(k, size - 1, -1):
            if known[have - size]:
                new_sum, new_mask = total[have - size] + unit_sum[i], mask[have - size] | unit[i]
                if better(new_sum, new_mask, total[have], mask[have], known[have]):
                    known[have], total[have], mask[have] = True, new_sum, new_mask
    return known[k]


@inner
def best_on_node(held, rows, count, node, k, open_gpus, limit, work):
    """Least (sum, tuple) over the node's candidate sets whose replicas all score below `limit`: (found, sum, set)."""
    unit, unit_sum, total, mask, known = work
    found, best_sum, best = False, 0.0, ZERO
    whole = ~ZERO if held.free.shape[1] == 64 else (ONE << np.uint64(held.free.shape[1])) - ONE
    for i in range(-1, count):  # -1: the node itself as parent
        parent = whole if i < 0 else held.mask[rows[i]]
        size = held.free.shape[1] if i < 0 else held.tp[rows[i]]
        if size < k or bits(parent & open_gpus) < k:
            continue
        around, most, twin = 0.0, -1.0, False
        for j in range(count):
            other = held.mask[rows[j]]
            if i >= 0 and j < i and other == parent:
                twin = True  # the same set was looked at already
            if i < 0 and other == whole:
                twin = True  # a set of the whole node is the parent then
            inside = size == k and i >= 0 and other & ~parent == ZERO
            if other & parent == parent or inside:
                around += held.score[rows[j]]
                most = max(most, held.score[rows[j]])
        if twin or most >= limit:
            continue
        if size == k and i >= 0:
            if better(around, parent, best_sum, best, found):
                found, best_sum, best = True, around, parent
            continue
        units = units_of(held, rows, count, parent, k, open_gpus, limit, unit, unit_sum)
        if cheapest_union(unit, unit_sum, units, k, total, mask, known) and better(
            around + total[k], mask[k], best_sum, best, found
        ):
            found, best_sum, best = True, around + total[k], mask[k]
    return found, best_sum, best


@kernel
def _place(held, n, model, tp, need, score, out_node, out_mask, out_master):
    nodes, gpus = held.free.shape
    rows = np.zeros((nodes, len(held.node)), np.int32)
    count = np.zeros(nodes, np.int32)
    for i in range(n):
        rows[held.node[i], count[held.node[i]]] = i
        count[held.node[i]] += 1
    most = gpus + 1
    work = (
        np.zeros(2 * most, np.uint64),
        np.zeros(2 * most),
        np.zeros(most),
        np.zeros(most, np.uint64),
        np.zeros(most, np.bool_),
    )
    hopeless = np.zeros(int(model.max()) + 1 if len(model) else 1, np.bool_)
    for x in range(len(model)):
        if hopeless[model[x]]:
            continue  # what was no candidate before is none with less room
        chosen, best_sum, best = -1, 0.0, ZERO
        for low in range(2):
            limit = score[x] if low == 0 else np.inf
            for node in range(nodes):
                open_gpus = usable(held, rows[node], count[node], node, model[x], need[x])
                if bits(open_gpus) < tp[x]:
                    continue
                found, total, mask = best_on_node(
                    held, rows[node], count[node], node, tp[x], open_gpus, limit, work
                )
                slack = TOLERANCE * max(1.0, abs(best_sum))
                if found and (chosen < 0 or total < best_sum - slack):
                    chosen, best_sum, best = node, total, mask
            if chosen >= 0:
                out_master[x] = low == 0
                break
        if chosen < 0:
            hopeless[model[x]] = True
            continue
        out_node[x], out_mask[x] = chosen, best
        held.node[n], held.mask[n], held.model[n], held.tp[n], held.score[n] = chosen, best, model[x], tp[x], score[x]
        rows[chosen, count[chosen]] = n
        count[chosen] += 1
        n += 1
        for gpu in range(gpus):
            if best >> np.uint64(gpu) & ONE != ZERO:
                held.free[chosen, gpu] -= need[x]
