"""The contiguous allocator on one flat array of int32, as numba kernels; `native/arena.c` is the same, word for word.

The paper only says that each device has free lists of contiguous blocks per class; ours (our choice) is the textbook's
boundary-tag allocator, with two departures. There is no address-ordered tree: tags at both ends of every extent find
both neighbours at once, so free neighbours always coalesce. And the segregated lists are exact, one per size in units,
under a bitmap of three levels, so that best fit is three find-first-set operations whatever the size. A class of ODMA
is a label for a size and nothing here knows it: re-cutting classes touches no memory and cannot fragment the pool.

A new extent takes the low end of the free one it is cut from: what is left lies behind it, where it can grow in place.
The array itself is described in `arena_layout.py`.
"""

import numpy as np
from numba.cpython.unsafe.numbers import leading_zeros, trailing_zeros

from operators.odma.arena_layout import (
    BITS0,
    BITS1,
    BITS2,
    GEN,
    HEAD,
    LIVE,
    N_FREE,
    N_LIVE,
    NEXT,
    NOTHING,
    PREV,
    TAG,
    UNITS,
    WORDS2,
    new,
)
from operators.odma.compiled import inner, kernel

__all__ = ["BITS0", "GEN", "HEAD", "LIVE", "NEXT", "NOTHING", "N_FREE", "N_LIVE", "TAG", "UNITS", "new"]


@inner
def _put(a, unit, size):
    """A free extent: tags, head of its list, bit of its size."""
    tag, head = a[TAG] + 1, a[HEAD]
    a[tag + unit] = size
    a[tag + unit + size - 1] = size
    old = a[head + size]
    a[a[NEXT] + unit] = old
    a[a[PREV] + unit] = NOTHING
    if old != NOTHING:
        a[a[PREV] + old] = unit
    else:
        a[a[BITS0] + (size >> 5)] |= np.int32(1) << (size & 31)
        a[a[BITS1] + (size >> 10)] |= np.int32(1) << ((size >> 5) & 31)
        a[a[BITS2] + (size >> 15)] |= np.int32(1) << ((size >> 10) & 31)
    a[head + size] = unit
    a[N_FREE] += 1


@inner
def _take(a, unit, size):
    """Take a free extent off its list."""
    head = a[HEAD]
    after, before = a[a[NEXT] + unit], a[a[PREV] + unit]
    if before != NOTHING:
        a[a[NEXT] + before] = after
    else:
        a[head + size] = after
    if after != NOTHING:
        a[a[PREV] + after] = before
    elif before == NOTHING:
        a[a[BITS0] + (size >> 5)] &= ~(np.int32(1) << (size & 31))
        if a[a[BITS0] + (size >> 5)] == 0:
            a[a[BITS1] + (size >> 10)] &= ~(np.int32(1) << ((size >> 5) & 31))
            if a[a[BITS1] + (size >> 10)] == 0:
                a[a[BITS2] + (size >> 15)] &= ~(np.int32(1) << ((size >> 10) & 31))
    a[N_FREE] -= 1


@inner
def _first_set(word, start):
    """The lowest set bit at or above `start`, 32 when there is none."""
    if start >= 32:
        return 32
    left = np.uint32(word) >> np.uint32(start)
    if left == 0:
        return 32
    return start + np.int64(trailing_zeros(left))


@inner
def best_size(a, need):
    """The smallest free size >= need (units), 0 when there is none."""
    if need > a[UNITS]:
        return 0
    word = need >> 5
    bit = _first_set(a[a[BITS0] + word], need & 31)
    if bit < 32:
        return (word << 5) + bit
    word1 = word >> 5
    bit = _first_set(a[a[BITS1] + word1], (word & 31) + 1)
    if bit == 32:
        word2 = word1 >> 5
        bit = _first_set(a[a[BITS2] + word2], (word1 & 31) + 1)
        while bit == 32:
            word2 += 1
            if word2 >= a[WORDS2]:
                return 0
            bit = _first_set(a[a[BITS2] + word2], np.int64(0))
        word1 = (word2 << 5) + bit
        bit = _first_set(a[a[BITS1] + word1], np.int64(0))
    word = (word1 << 5) + bit
    return (word << 5) + _first_set(a[a[BITS0] + word], np.int64(0))


@inner
def largest(a):
    """The largest free size in units, 0 when all is live."""
    for word2 in range(a[WORDS2] - 1, -1, -1):
        if a[a[BITS2] + word2] != 0:
            word1 = (word2 << 5) + 31 - np.int64(leading_zeros(np.uint32(a[a[BITS2] + word2])))
            word = (word1 << 5) + 31 - np.int64(leading_zeros(np.uint32(a[a[BITS1] + word1])))
            return (word << 5) + 31 - np.int64(leading_zeros(np.uint32(a[a[BITS0] + word])))
    return 0


@kernel
def largest_free(a):
    """`largest`, for callers in Python."""
    return largest(a)


@inner
def _mark(a, unit, size):
    """A live extent: negative tags."""
    tag = a[TAG] + 1
    a[tag + unit] = -size
    a[tag + unit + size - 1] = -size
    a[a[GEN] + unit] += 1


@kernel
def reserve(a, need):
    """The first unit of a new live extent of `need` units by best fit, -1 when no free extent is that long."""
    need = np.int64(need)
    size = np.int64(best_size(a, need))
    if size == 0:
        return NOTHING
    unit = np.int64(a[a[HEAD] + size])
    _take(a, unit, size)
    if size > need:
        _put(a, unit + need, size - need)
    _mark(a, unit, need)
    a[LIVE] += need
    a[N_LIVE] += 1
    return unit


@inner
def live_size(a, unit):
    """Units of the live extent that starts at `unit`; 0 or less when none is known to start there."""
    return -np.int64(a[a[TAG] + 1 + unit])


@kernel
def release(a, unit):
    """Free the live extent that starts at `unit` and join it with free neighbours."""
    tag = a[TAG] + 1
    unit = np.int64(unit)
    size = -np.int64(a[tag + unit])
    a[LIVE] -= size
    a[N_LIVE] -= 1
    a[a[GEN] + unit] += 1
    # Ends of extents inside a joined one keep no tag: nothing would contradict a handle that lies there.
    a[tag + unit] = 0
    a[tag + unit + size - 1] = 0
    before = np.int64(a[tag + unit - 1])
    if before > 0:
        _take(a, unit - before, before)
        a[tag + unit - 1] = 0
        unit -= before
        size += before
    after = np.int64(a[tag + unit + size])
    if after > 0:
        _take(a, unit + size, after)
        a[tag + unit + size] = 0
        size += after
    _put(a, unit, size)


@inner
def room_behind(a, unit):
    """Free units right behind the live extent at `unit`."""
    tag = a[TAG] + 1
    after = np.int64(a[tag + unit - a[tag + unit]])
    return after if after > 0 else np.int64(0)


@kernel
def extend(a, unit, more):
    """Grow the live extent at `unit` in place by `more` units; False when the space behind is not free."""
    size = live_size(a, unit)
    room = room_behind(a, unit)
    if room < more:
        return False
    _take(a, unit + size, room)
    tag = a[TAG] + 1
    a[tag + unit + size] = 0
    a[tag + unit + size - 1] = 0
    if room > more:
        _put(a, unit + size + more, room - more)
    _mark(a, unit, size + more)
    a[LIVE] += more
    return True


@kernel
def slide(a, start):
    """Move the first live extent behind a free one down over it; (free unit, old unit, size), or (-1, -1, units).

    `start` is the first unit of some extent; the caller moves the bytes. What lies below `start` is not looked at.
    """
    tag, units = a[TAG] + 1, a[UNITS]
    unit = np.int64(start)
    while unit < units:
        size = np.int64(a[tag + unit])
        if size < 0:
            unit -= size
            continue
        moved = unit + size
        if moved >= units:
            break
        length = -np.int64(a[tag + moved])
        release(a, moved)
        joined = np.int64(a[tag + unit])
        _take(a, unit, joined)
        _mark(a, unit, length)
        _put(a, unit + length, joined - length)
        a[LIVE] += length
        a[N_LIVE] += 1
        return unit, moved, length
    return np.int64(NOTHING), np.int64(NOTHING), np.int64(units)


@kernel
def replay(a, op, slot, size, held, out):
    """Carry out `op` (0 reserve, 1 release, 2 grow) on handles `held[slot]`; writes the unit after each to `out`.

    A grow to `size` units is in place when it can be, else by a new extent. Failures write -1 and leave the handle.
    """
    for i in range(len(op)):
        s = slot[i]
        if op[i] == 0:
            held[s] = reserve(a, size[i])
            out[i] = held[s]
        elif held[s] == NOTHING:
            out[i] = NOTHING
        elif op[i] == 1:
            out[i] = held[s]
            release(a, held[s])
            held[s] = NOTHING
        else:
            out[i] = grow_to(a, held[s], size[i])
            if out[i] != NOTHING:
                held[s] = out[i]


@inner
def grow_to(a, unit, need):
    """The unit of an extent of `need` units that replaces the one at `unit` (the same when in place), or -1."""
    more = need - live_size(a, unit)
    if more <= 0 or extend(a, unit, more):
        return unit
    found = reserve(a, need)
    if found != NOTHING:
        release(a, unit)
    return found
