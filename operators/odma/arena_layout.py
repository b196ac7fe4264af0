"""The array an arena's state lives in: the simulator's and the real arena's alike, so it can be copied and compared.

Memory is cut into units (16 tokens by default); an extent is a run of units, live or free.

    header 16 words | TAG n + 2 | GEN n | NEXT n | PREV n | HEAD n + 1 | bitmap level 0, 1, 2

TAG holds, at the first and last unit of an extent, its size, negative when live, between two live sentinels. GEN counts
what happened to an extent that starts here; a handle (unit, generation) is stale as soon as it differs. HEAD is the
newest free extent of a size, NEXT and PREV its list. No numba here: a device's process starts without it.
"""

import numpy as np

UNITS, LIVE, N_FREE, N_LIVE = 0, 1, 2, 3
TAG, GEN, NEXT, PREV, HEAD, BITS0, BITS1, BITS2, WORDS2 = 4, 5, 6, 7, 8, 9, 10, 11, 12
HEADER = 16
NOTHING = -1
MOST_UNITS = 2**30


def new(units: int) -> np.ndarray:
    """The state of an arena of `units` units, all free. ValueError when there are none or too many."""
    if not 1 <= units <= MOST_UNITS:
        raise ValueError(f"units (={units}): expected from 1 to {MOST_UNITS}")
    words0 = (units + 1 + 31) // 32
    words1 = (words0 + 31) // 32
    words2 = (words1 + 31) // 32
    state = np.zeros(HEADER + (units + 2) + 3 * units + (units + 1) + words0 + words1 + words2, np.int32)
    places = np.cumsum([HEADER, units + 2, units, units, units, units + 1, words0, words1])
    state[TAG : BITS2 + 1] = places
    state[UNITS], state[WORDS2] = units, words2
    state[places[4] : places[4] + units + 1] = NOTHING
    state[places[0]] = state[places[0] + units + 1] = -1
    state[places[0] + 1] = state[places[0] + units] = units
    state[places[4] + units], state[N_FREE] = 0, 1
    state[places[2]] = state[places[3]] = NOTHING
    for level, shift in zip(places[5:8], (5, 10, 15), strict=True):
        bit = 1 << ((units >> (shift - 5)) & 31)
        state[level + (units >> shift)] = bit - (1 << 32) if bit >> 31 else bit
    return state
