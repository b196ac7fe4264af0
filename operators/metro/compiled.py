"""How kernels are compiled: once per machine (cached beside the source), without wrappers that nobody calls.

`kernel` for functions called from Python, `inner` for those called from kernels only. Without its wrappers an inner
function compiles in about half the time, which is what the first call on a new machine waits for. Kernels copy arrays
in loops, not by slice assignment, for the same reason: its shape check alone costs two seconds to compile.
"""

from numba import njit

kernel = njit(cache=True, no_cfunc_wrapper=True)
inner = njit(cache=True, no_cfunc_wrapper=True, no_cpython_wrapper=True)
