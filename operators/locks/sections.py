"""`@section`: an ordinary function with `with tx.lock(...)` becomes a recoverable section.

The function is compiled at its first call on a region, when the handles it refers to exist. The section is then stored
in the region under its name and hash, where every process, in any language, can run it to its end for another.
"""

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from operators.locks.bytecode import Program
from operators.locks.compiler import compile_section
from operators.locks.errors import LocksError, SectionTimeout, section_error
from operators.locks.region import _raise

if TYPE_CHECKING:
    from operators.locks.region import Region

ROUND = 1000  # attempts in the core before Python looks at clock and signals


class Section:
    """A compiled function. `call` runs it to the end, `try_call` once."""

    def __init__(self, function: Callable[..., Any], *, nest: str, max_ops: int, locks: str | None):
        self.function, self.nest, self.max_ops, self.order = function, nest, max_ops, locks
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<section {self.__name__}>"

    def compile(self) -> Program:
        """The bytecode, with the handles as they are bound now. Raises TransformError."""
        return compile_section(
            self.function, name=self.__name__, nest=self.nest, max_ops=self.max_ops, locks=self.order
        )

    def bind(self, region: "Region") -> tuple[Any, Program]:
        """The native call and the program of this section on `region`; compiles and stores it the first time."""
        found = region._sections.get(self)
        if found is None:
            program = self.compile()
            number, why = region.alive().section(program.words())
            _raise(why, region.path)
            found = region._sections[self] = (region.core.bound(number, program.nargs, program.nres), program)
        return found

    def call(self, region: "Region", *args: int, retry: bool = True, timeout_s: float | None = None) -> Any:
        """Run the section with `args` until it has happened; what it returned (None, an int, or a tuple of ints).

        Raises SectionTimeout when it was refused for `timeout_s` (or once, without `retry`), SectionError for an error
        in it: in both cases it has changed nothing.
        """
        found = region._sections.get(self) if not region._forked else None
        bound, program = found or self.bind(region)
        out = bound(ROUND if retry else 1, args)
        if type(out) is not bound.Refused:
            return out
        began = time.monotonic()
        while out.busy:
            if not retry or (timeout_s is not None and time.monotonic() - began >= timeout_s):
                raise SectionTimeout(f"section {self.__name__}: refused for {timeout_s or 0:g} s; it has not happened")
            region.alive()
            out = bound(ROUND, args)
            if type(out) is not bound.Refused:
                return out
        raise self._error(program, out)

    def try_call(self, region: "Region", *args: int) -> tuple[bool, Any]:
        """Try once: (True, result), or (False, None) when a lock was taken and nothing was changed."""
        bound, program = self.bind(region)
        out = bound(1, args)
        if type(out) is not bound.Refused:
            return True, out
        if out.busy:
            return False, None
        raise self._error(program, out)

    def _error(self, program: Program, out: Any) -> Exception:
        line = program.lines[min(max(out.at - 1, 0), len(program.lines) - 1)]
        return section_error(self.__name__, out.outcome, program.file, line)


@overload
def section(function: Callable[..., Any]) -> Section: ...
@overload
def section(
    *, nest: str = ..., max_ops: int = ..., locks: str | None = ...
) -> Callable[[Callable[..., Any]], Section]: ...
def section(function=None, *, nest: str = "flat", max_ops: int = 10_000, locks: str | None = None):
    """Make a function a section.

    `nest`: `flat` applies everything at the outermost end; `stacked` commits and applies an inner `with` at its end.
    `locks`: `ascending` raises LockOrderError for a lock taken against the order of their numbers.
    `max_ops`: bound on executed instructions in loops.
    """
    if nest not in ("flat", "stacked"):
        raise LocksError(f"nest (={nest!r}): expected 'flat' or 'stacked'")
    if not isinstance(max_ops, int) or not 1 <= max_ops < 2**31:
        raise LocksError(f"max_ops (={max_ops!r}): expected an int from 1 to 2**31-1")
    if locks not in (None, "ascending"):
        raise LocksError(f"locks (={locks!r}): expected None or 'ascending'")
    make = functools.partial(Section, nest=nest, max_ops=max_ops, locks=locks)
    return make if function is None else make(function)
