"""Small instances the tests share."""

import numpy as np

from operators.phwsoa.instance import Instance, machines


def related(n: int = 60, m: int = 6, seed: int = 0) -> Instance:
    """Log-normal lengths on machines of the five classes."""
    rng = np.random.default_rng(seed)
    return Instance(np.exp(rng.normal(12, 1.5, n)), *machines(m, seed))


def unrelated(n: int = 40, m: int = 4, seed: int = 0) -> Instance:
    """Independent uniform times."""
    etc = np.random.default_rng(seed).uniform(1, 50, (n, m))
    return Instance(etc.mean(1), np.ones(m), np.arange(1.0, m + 1), etc=etc)


def rigid(n: int = 40, m: int = 4, seed: int = 0) -> Instance:
    """Tasks of 1 to 4 PEs on machines of 4, released over time."""
    rng = np.random.default_rng(seed)
    mips, price = machines(m, seed)
    return Instance(rng.uniform(1e3, 1e5, n), mips, price, pes=rng.integers(1, 5, n), vm_pes=np.full(m, 4),
                    release=np.sort(rng.uniform(0, 50, n)))  # fmt: skip
