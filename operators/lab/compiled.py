"""How kernels are compiled: once per machine and version of the kernels, without wrappers that nobody calls.

`kernel` for functions called from Python, `inner` for those called from kernels only. Without its wrappers an inner
function compiles in about half the time, which is what the first call on a new machine waits for. Kernels copy arrays
in loops, not by slice assignment, for the same reason: its shape check alone costs two seconds to compile.

An inner function is compiled for types, not for values: numba would compile it once more for a constant argument
(`f(x, 0)`), and even for a variable that only starts as one (`count = 0`), before it settles on the type.

numba's cache looks at a kernel's own file only, so an edit of an inner function in another file would go unnoticed. The
cache therefore lies in a folder named by the text of every file of `operators` that defines kernels (unless
NUMBA_CACHE_DIR is set).
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numba
from numba import njit, types

HERE = Path(__file__).parent
OPERATORS = HERE.parent


def sources_digest(folder: Path) -> str:
    """Hash of the text of every module under `folder` that defines kernels."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes()
        if b"compiled import" in text or path.name == Path(__file__).name:
            digest.update(text)
    return digest.hexdigest()[:16]


if not os.environ.get("NUMBA_CACHE_DIR") and os.access(HERE, os.W_OK):
    numba.config.CACHE_DIR = str(HERE / "__pycache__" / f"kernels-{sources_digest(OPERATORS)}")

kernel = njit(cache=True, no_cfunc_wrapper=True)


def inner(function: Callable) -> Callable:
    """A function for kernels only, one version per signature of plain types."""
    made = njit(cache=True, no_cfunc_wrapper=True, no_cpython_wrapper=True)(function)
    found = made.get_call_template
    made.get_call_template = lambda args, kws: found(
        tuple(types.unliteral(one) for one in args), {name: types.unliteral(one) for name, one in kws.items()}
    )
    return made
