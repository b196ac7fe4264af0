"""Kernels that only borrow their arrays: lab.compiled's, without numba's reference counts.

The engine passes some twenty arrays from function to function; counting references to each at every call took more than
half of its time. A function compiled like this must not allocate; it may call one of lab.compiled's that does. No
kernel here divides by what may be zero, so none checks for it (`error_model`): a tenth of the time to compile.
"""

from numba import njit

from operators.lab.compiled import kernel as _kernel  # sets numba's cache folder by the text of all kernels

assert _kernel is not None
kernel = njit(cache=True, no_cfunc_wrapper=True, error_model="numpy", _nrt=False)
inner = njit(cache=True, no_cfunc_wrapper=True, no_cpython_wrapper=True, error_model="numpy", _nrt=False)
