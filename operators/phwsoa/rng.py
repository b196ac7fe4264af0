"""Random numbers by counter: one stream per (seed, generation, individual), so threads cannot change a result.

splitmix64 (Steele, Lea, Flood 2014) on a state of one word; a stream's first state is the mix of its three names.
Kernels only; Python code of this system uses numpy's generators.
"""

import math

import numpy as np

from operators.lab.compiled import inner

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1 = np.uint64(0xBF58476D1CE4E5B9)
MIX2 = np.uint64(0x94D049BB133111EB)
S30, S27, S31, S11, S32 = (np.uint64(k) for k in (30, 27, 31, 11, 32))
TO_UNIT = 1.0 / 9007199254740992.0  # 2^-53


@inner
def mix(z):
    """splitmix64's output function."""
    z = (z ^ (z >> S30)) * MIX1
    z = (z ^ (z >> S27)) * MIX2
    return z ^ (z >> S31)


@inner
def start(state, seed, generation, individual):
    """Set `state` (1,) uint64 to the stream named by three whole numbers."""
    z = mix(np.uint64(seed) + GOLDEN)
    z = mix(z ^ (np.uint64(generation) * MIX1 + GOLDEN))
    state[0] = mix(z ^ (np.uint64(individual) * MIX2 + GOLDEN))


@inner
def word(state):
    """64 random bits."""
    state[0] += GOLDEN
    return mix(state[0])


@inner
def uniform(state):
    """A number in [0, 1)."""
    return (word(state) >> S11) * TO_UNIT


@inner
def below(state, k):
    """A whole number in [0, k)."""
    return int(uniform(state) * k)


@inner
def normal(state):
    """A standard normal number (Box and Muller)."""
    return math.sqrt(-2.0 * math.log(1.0 - uniform(state))) * math.cos(2.0 * math.pi * uniform(state))
