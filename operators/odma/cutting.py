"""Where to cut size classes: the exact optimum by divide and conquer, as numba kernels (ODMA section on buckets).

Minimise sum_j P(b[j-1] < L <= b[j]) * b[j] over K rising boundaries whose last is fixed. With cumulative mass F at the
candidates c_1 < .. < c_m,

    f[1][j] = c_j F_j ;   f[k][j] = min_{i < j} f[k-1][i] + (F_j - F_i) c_j

and the cost satisfies the quadrangle inequality, (c_j' - c_j)(F_i - F_i') <= 0, so the best i never falls as j rises:
divide and conquer takes O(K m log m), the plain recurrence O(K m^2). Ties go to the smaller i.

Also here, because the simulator needs it without Python objects: the decayed histogram of finished requests, its drift,
and the decision to cut again.
"""

import numpy as np

from operators.odma.compiled import inner, kernel

# Words of the histogram's state: weight of the newest request, requests seen, seen at the last cut, cuts adopted.
WEIGHT, SEEN, LAST, ADOPTED = 0, 1, 2, 3
WORDS = 4
CHECK_EVERY = 32  # completions between two looks at the drift
HEAVY = 1e12  # rescale the histogram before weights lose precision


@inner
def _best(before, mass, size, j, low, high):
    """The smallest i in [low, high] that minimises before[i] + (mass[j] - mass[i]) * size[j], and the value."""
    best, value = low, before[low] + (mass[j] - mass[low]) * size[j]
    for i in range(low + 1, high + 1):
        found = before[i] + (mass[j] - mass[i]) * size[j]
        if found < value:
            best, value = i, found
    return best, value


STACK = 64  # deeper than any halving of 2^31 candidates


def scratch(m: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Working space of `cut_into` and `observe` for m candidates and k classes: f64[4, m], i32[k + 1 + STACK, >= m]."""
    return np.empty((4, m)), np.empty((k + 1 + STACK, max(m, k, 4)), np.int32)


def cut(mass: np.ndarray, size: np.ndarray, k: int, plain: bool) -> np.ndarray:
    """Indices of the `k` boundaries that minimise the expected reservation; the last is the last candidate.

    `mass` f64[m] cumulative, `size` f64[m] rising. At least `k` candidates. `plain` tries every pair.
    """
    floats, ints = scratch(len(mass), k)
    cut_into(mass, size, k, plain, floats, ints)
    return ints[k, :k].copy()


@kernel
def cut_into(mass, size, k, plain, floats, ints):
    """`cut`, its answer in ints[k, :k]; rows 2 and 3 of `floats` and all of `ints` are overwritten."""
    m = len(mass)
    before, after = 2, 3
    for j in range(m):
        floats[before, j] = size[j] * mass[j]
    for level in range(1, k):
        for j in range(level):
            floats[after, j] = np.inf
        top = k + 1
        ints[top, 0], ints[top, 1], ints[top, 2], ints[top, 3] = level, m - 1, level - 1, m - 2
        while top > k:
            left, right, low, high = ints[top, 0], ints[top, 1], ints[top, 2], ints[top, 3]
            top -= 1
            if left > right:
                continue
            j = right if plain else (left + right) >> 1
            best, value = _best(floats[before], mass, size, j, level - 1 if plain else low, min(high, j - 1))
            ints[level, j] = best
            floats[after, j] = value
            top += 1
            if plain:
                ints[top, 0], ints[top, 1], ints[top, 2], ints[top, 3] = left, j - 1, low, high
                continue
            ints[top, 0], ints[top, 1], ints[top, 2], ints[top, 3] = left, j - 1, low, best
            top += 1
            ints[top, 0], ints[top, 1], ints[top, 2], ints[top, 3] = j + 1, right, best, high
        before, after = after, before
    j = m - 1
    for level in range(k - 1, -1, -1):
        ints[k, level] = j
        j = ints[level, j]


@inner
def _expected(mass, size, chosen, k):
    """Expected reservation of boundaries given as candidate indices (tokens, when mass ends at 1)."""
    total, last = 0.0, 0.0
    for j in range(k):
        i = chosen[j]
        total += (mass[i] - last) * size[i]
        last = mass[i]
    return total


@inner
def distance(hist, reference):
    """Kolmogorov-Smirnov distance of two histograms of any total mass; 0 while one is empty."""
    total, other = 0.0, 0.0
    for i in range(len(hist)):
        total += hist[i]
        other += reference[i]
    if total == 0.0 or other == 0.0:
        return 0.0
    a, b, most = 0.0, 0.0, 0.0
    for i in range(len(hist)):
        a += hist[i] / total
        b += reference[i] / other
        most = max(most, abs(a - b))
    return most


@kernel
def ks_distance(hist, reference):
    """`distance`, for callers in Python."""
    return distance(hist, reference)


@kernel
def observe(hist, reference, words, bounds, bin_of, align, decay, period, min_samples, hysteresis, drift, floats,
            ints):  # fmt: skip
    """Count one finished request in bin `bin_of`; cut again when it is time. True when `bounds` changed.

    hist, reference f64[m] (bin i: up to (i + 1) * align tokens; the reference is the histogram at the last cut), words
    f64[WORDS], bounds i32[K] in tokens, rising, the last fixed; all changed in place; `scratch` gives the last two. A
    cut is tried every `period` requests, and when the drift exceeds `drift`; it is adopted when it saves more than
    `hysteresis`.
    """
    m = len(hist)
    words[WEIGHT] /= decay
    hist[min(bin_of, m - 1)] += words[WEIGHT]
    words[SEEN] += 1
    if words[WEIGHT] > HEAVY:
        for i in range(m):
            hist[i] /= words[WEIGHT]
        words[WEIGHT] = 1.0
    if words[SEEN] < min_samples or words[SEEN] == words[LAST]:
        return False
    due = words[SEEN] % period == 0
    if not due and words[SEEN] % CHECK_EVERY == 0:
        due = distance(hist, reference) > drift
    if not due:
        return False
    words[LAST] = words[SEEN]
    changed = recut(hist, bounds, align, hysteresis, floats, ints)
    for i in range(m):
        reference[i] = hist[i]
    words[ADOPTED] += changed
    return changed


@kernel
def recut(hist, bounds, align, hysteresis, floats, ints):
    """Replace `bounds` (i32[K], changed in place) by the optimum for `hist` when that saves more than `hysteresis`."""
    m, k = len(hist), len(bounds)
    mass, size = floats[0], floats[1]
    total = 0.0
    for i in range(m):
        total += hist[i]
        mass[i] = total
        size[i] = (i + 1) * align
    if total == 0.0 or m < k:
        return False
    size[m - 1] = bounds[k - 1]
    for i in range(m):
        mass[i] /= total
    cut_into(mass, size, k, False, floats, ints)
    chosen = ints[k]
    now, last = 0.0, 0.0
    for j in range(k):
        i = min((bounds[j] + align - 1) // align, m) - 1
        now += (mass[i] - last) * bounds[j]
        last = mass[i]
    if _expected(mass, size, chosen, k) > (1.0 - hysteresis) * now:
        return False
    for j in range(k):
        bounds[j] = np.int32(size[chosen[j]])
    return True
