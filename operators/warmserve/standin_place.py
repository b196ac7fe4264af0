"""Stand-in for native/place.cpp, compiled by numba where there is no C++ compiler; placement.py says what it does."""

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.warmserve.placement import SKIPPED, TOLERANCE, Standing

ONE, ZERO = np.uint64(1), np.uint64(0)


def place_all(node, mask, model, tp, score, free, new_model, new_tp, new_need, new_score):
    """(nodes, sets, on top) of the new replicas, as the native function."""
    n, m = len(node), len(new_model)
    rows = (node, mask, model, tp, score)
    held = Standing(*(np.concatenate([old, np.zeros(m, old.dtype)]) for old in rows), free.copy())
    where, sets, top = np.full(m, SKIPPED, np.int32), np.zeros(m, np.uint64), np.zeros(m, np.bool_)
    _place(held, n, new_model, new_tp, new_need, new_score, where, sets, top)
    return where, sets, top


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
                found, total, mask = best_on_node(held, rows[node], count[node], node, tp[x], open_gpus, limit, work)
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
