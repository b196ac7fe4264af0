"""Philox-4x32-10 in numpy: the reference of the counters that native/philox.h and standin_math.py compute.

Paper: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011). Departure from this
repository's rule (`default_rng`): pixels and particles need numbers that depend on nothing but (seed, epoch, pair,
index), so that any worker, batch or order gives the same bytes.
"""

import numpy as np

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
DOMAIN = 0x53504958  # keeps keys of this system apart from plain counters
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Words `(n, 4)` uint32 of counters `(n, 4)` under a key `(2,)`."""
    c0, c1, c2, c3 = (np.asarray(counter, np.uint64)[:, k].copy() for k in range(4))
    k0, k1 = (np.uint64(k) for k in key)
    for _ in range(ROUNDS):
        a, b = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (b >> np.uint64(32)) ^ c1 ^ k0, b & _LOW, (a >> np.uint64(32)) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + np.uint64(WEYL[0])) & _LOW, (k1 + np.uint64(WEYL[1])) & _LOW
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def key_of(seed: int, epoch: int) -> tuple[int, int]:
    """The key of one epoch of one seed (two 32-bit words).

    Raises ValueError for a seed outside 64 or an epoch outside 32 bits.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: {seed}; must be in [0, 2**64)")
    if not 0 <= epoch < 2**32:
        raise ValueError(f"epoch: {epoch}; must be in [0, 2**32)")
    words = philox(np.array([[seed & 0xFFFFFFFF, seed >> 32, epoch, DOMAIN]]), np.array([0, 0]))[0]
    return int(words[0]), int(words[1])


def words(key: tuple[int, int], stream: int, pair: int, first: int, count: int) -> np.ndarray:
    """Words `(count, 4)` of one stream of one pair, indices first, first + 1, ..."""
    counter = np.zeros((count, 4), np.uint64)
    counter[:, 0] = np.arange(first, first + count)
    counter[:, 1:] = stream, pair & 0xFFFFFFFF, pair >> 32
    return philox(counter, np.array(key))
