"""The native core. There is no stand-in: an atomic access from Python costs a hundred times the access itself, and only
the core decides anything. `LOCKS_TAG_BITS=8` in the environment picks the build whose cell tags wrap after 256 updates.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

from operators.locks.errors import LocksError

TAG_BITS = {"19": "_native", "8": "_native_tag8"}


@cache
def load() -> Any:
    """The extension module; LocksError saying how to build it when it is missing."""
    bits = os.environ.get("LOCKS_TAG_BITS", "19")
    if bits not in TAG_BITS:
        raise LocksError(f"LOCKS_TAG_BITS (={bits!r}): there are builds for {', '.join(TAG_BITS)}")
    try:
        if bits == "8":
            from operators.locks import _native_tag8 as native
        else:
            from operators.locks import _native as native
    except ImportError as error:
        raise LocksError(
            f"the native core of locks is not built ({error}); install gcc and run `make native`"
        ) from None
    return native


def program(name: str) -> Path:
    """A native executable of this system (`worker`, `stepper`), beside the extension."""
    native = load()
    suffix = "_tag8" if native.__name__.endswith("_tag8") else ""
    place = Path(native.__file__).with_name(f"locks_{name}{suffix}")
    if not place.is_file():
        raise LocksError(f"{place.name}: not built; run `make native`")
    return place
