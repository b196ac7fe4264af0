"""The expert kernel: the compiled core (native/swiglu.c) where it is built, numba's stand-in where it is not.

    forward(slab, slots, start, rows, gates, x, y) -> (cpu_ns, wall_ns)
        y[row] += gate * w2 (silu(w1 x[row]) * (w3 x[row])) in place, for the experts in `slots` of the slab
        `(slots, width, 3, hidden)` f32; expert e serves items start[e]:start[e + 1] of rows (i64) and gates (f32);
        x and y `(tokens, hidden)` f32, hidden a multiple of 16
    stream_read(data, streams) -> (cpu_ns, wall_ns)
        reads all of `data` (1-d f32, a multiple of 2 MiB) once, as 1, 2, 4 or 8 address streams
    fill_weights(out, key0, key1, scale)
        the weights of one expert from two 32-bit keys, bit-identical in both implementations

The times are taken right round the arithmetic: thread CPU time and wall time, no Python, no queues. Both release the
interpreter lock. What is not here: how slabs are made (experts.py) and which token goes where (expert_rank.py).
"""

import functools
import logging
from types import ModuleType

import numpy as np

STREAMS = (1, 2, 4, 8)
STREAM_UNIT = 8 * 65536  # floats: the readers' step
log = logging.getLogger("metro.kernel")


@functools.cache
def core(name: str | None = None) -> ModuleType:
    """The implementation called `native` or `numba`; without a name the native one, else numba with a warning."""
    if name == "numba":
        from operators.metro import standin

        return standin
    if name not in (None, "native"):
        raise ValueError(f"kernel (={name!r}): expected 'native' or 'numba'")
    try:
        from operators.metro import _native
    except ImportError as error:
        if name == "native":
            raise ValueError(f"kernel (='native'): not built here ({error}); run `make native`") from None
        log.warning("the native expert kernel is not built (run `make native`): numba stands in, up to twice as slow")
        return core("numba")
    return _native


def name_of(kernel: ModuleType) -> str:
    """`native` or `numba`, as results name it."""
    return "numba" if kernel.__name__.endswith("standin") else "native"


def stream_rate(data: np.ndarray, kernel: ModuleType | None = None, *, streams: tuple[int, ...] = STREAMS) -> float:
    """Streaming read bandwidth of one thread in GB/s (bytes per ns): the best of the readers, one pass each."""
    kernel = kernel or core()
    return max(data.nbytes / kernel.stream_read(data, count)[0] for count in streams)
