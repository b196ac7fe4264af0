"""One device's KV memory: contiguous extents by best fit, handles that cannot be used twice, real bytes if wanted.

The allocator itself is `native/arena.c`, or the numba kernels of `arena_core.py` on the same state where no compiler
was there; the simulator runs the latter. This file adds what a caller needs round it: tokens instead of units, handles
with generations, the memory (anonymous, so nothing is left behind a killed process), copies when an extent moves.
"""

import functools
import itertools
import logging
import mmap
from typing import Any, NamedTuple

import numpy as np

from operators.odma import arena_layout as core
from operators.odma.errors import ConfigError, InvalidExtent

log = logging.getLogger("odma.arena")


class Extent(NamedTuple):
    """A reservation: first token, tokens it can hold, and the generation that makes a stale copy of it visible."""

    offset: int
    tokens: int
    generation: int


class OutOfMemory(NamedTuple):
    """What `reserve` gives when no free extent is long enough: asked, the longest there is, all free tokens."""

    tokens: int
    largest_free: int
    free: int


class StandIn:
    """The numba kernels behind the same four calls as `_native.Core`."""

    def __init__(self, state: np.ndarray):
        from operators.odma import arena_core

        self._state, self._kernels = state, arena_core

    def reserve(self, need: int) -> int:
        return int(self._kernels.reserve(self._state, need))

    def release(self, unit: int) -> None:
        self._kernels.release(self._state, unit)

    def extend(self, unit: int, more: int) -> bool:
        return bool(self._kernels.extend(self._state, unit, more))

    def largest(self) -> int:
        return int(self._kernels.largest_free(self._state))


@functools.cache
def native() -> Any:
    """The compiled module, None (with one warning) where it is not built."""
    try:
        from operators.odma import _native
    except ImportError:
        log.warning("the native allocator is not built (run `make native`): numba stands in, about ten times slower")
        return None
    return _native


class Arena:
    """`capacity_tokens` of KV memory in units of `align` tokens.

    With `bytes_per_token` > 0 it owns that much anonymous memory and moves bytes when extents move. ConfigError when
    the sizes do not divide; InvalidExtent for a handle that is not live.

    >>> arena = Arena(256)
    >>> a = arena.reserve(100)
    >>> a.tokens, arena.stats()["free"]
    (112, 144)
    >>> b, copied = arena.grow(a, 130)      # the space behind is free: in place
    >>> b.offset == a.offset, copied
    (True, 0)
    >>> arena.release(b)
    """

    def __init__(self, capacity_tokens: int, align: int = 16, bytes_per_token: int = 0, *, implementation: str = ""):
        if align < 1 or capacity_tokens < align or capacity_tokens % align:
            raise ConfigError(
                f"align (={align}): must divide capacity_tokens (={capacity_tokens}) and be at least 1 token"
            )
        if bytes_per_token < 0:
            raise ConfigError(f"bytes_per_token (={bytes_per_token}): must be >= 0")
        self.capacity, self.align, self.bytes_per_token = capacity_tokens, align, bytes_per_token
        self.state = core.new(capacity_tokens // align)
        compiled = None if implementation == "numba" else native()
        if implementation == "native" and compiled is None:
            raise ConfigError("implementation (='native'): not built here; run `make native`")
        self._core = compiled.Core(self.state) if compiled else StandIn(self.state)
        self._tag = self.state[self.state[core.TAG] + 1 :]
        self._gen = self.state[self.state[core.GEN] : self.state[core.NEXT]]
        self._asked: dict[int, int] = {}
        self._memory = mmap.mmap(-1, capacity_tokens * bytes_per_token) if bytes_per_token else None
        self.bytes = np.frombuffer(self._memory, np.uint8) if self._memory else np.empty(0, np.uint8)

    def reserve(self, tokens: int) -> Extent | OutOfMemory:
        """An extent of at least `tokens` tokens by best fit."""
        unit = self._core.reserve(self._units(tokens))
        if unit < 0:
            return OutOfMemory(tokens, self._core.largest() * self.align, self.free)
        self._asked[unit] = tokens
        return self._extent(unit)

    def grow(self, extent: Extent, tokens: int, *, used: int | None = None) -> tuple[Extent, int] | OutOfMemory:
        """An extent of at least `tokens` tokens that replaces `extent`, and the tokens copied (0: grown in place).

        `used` says how many tokens hold data (default: all). On OutOfMemory the old extent stays as it is.
        """
        if (grown := self.extend(extent, tokens)) is not None:
            return grown, 0
        found = self._core.reserve(self._units(tokens))
        if found < 0:
            return OutOfMemory(tokens, self._core.largest() * self.align, self.free)
        moved = self._extent(found)
        self._asked[found] = tokens
        copied = extent.tokens if used is None else min(used, extent.tokens)
        self._copy(extent.offset, moved.offset, copied)
        self.release(extent)
        return moved, copied

    def extend(self, extent: Extent, tokens: int) -> Extent | None:
        """The same extent grown in place to at least `tokens` tokens, None when the space behind is not free."""
        unit, more = self._unit(extent), self._units(tokens) - extent.tokens // self.align
        if more > 0 and not self._core.extend(unit, more):
            return None
        self._asked[unit] = max(tokens, self._asked[unit])
        return self._extent(unit)

    def release(self, extent: Extent) -> None:
        """Give an extent back. InvalidExtent when it is not live, or no longer this one."""
        unit = self._unit(extent)
        self._core.release(unit)
        del self._asked[unit]

    def compact(self, budget_tokens: int) -> list[tuple[Extent, Extent]]:
        """Slide live extents towards address 0 until `budget_tokens` have been moved; old and new handle of each."""
        from operators.odma import arena_core

        moves, start = [], 0
        while budget_tokens > 0:
            unit, old, size = (int(value) for value in arena_core.slide(self.state, start))
            if unit < 0:
                break
            stale = Extent(old * self.align, size * self.align, int(self._gen[old]) - 1)
            self._asked[unit] = self._asked.pop(old)
            fresh = self._extent(unit)
            self._copy(stale.offset, fresh.offset, fresh.tokens)
            moves.append((stale, fresh))
            budget_tokens -= fresh.tokens
            start = unit + size
        return moves

    def view(self, extent: Extent, tokens: int | None = None) -> np.ndarray:
        """The bytes of an extent's first `tokens` tokens (default: all), to read and write."""
        self._unit(extent)
        begin = extent.offset * self.bytes_per_token
        return self.bytes[begin : begin + (extent.tokens if tokens is None else tokens) * self.bytes_per_token]

    @property
    def free(self) -> int:
        """Free tokens."""
        return self.capacity - int(self.state[core.LIVE]) * self.align

    def stats(self) -> dict[str, float]:
        """free, live, largest_free (tokens), n_free, internal and external fragmentation (shares)."""
        live, longest = self.capacity - self.free, self._core.largest() * self.align
        return {
            "free": self.free,
            "live": live,
            "largest_free": longest,
            "n_free": int(self.state[core.N_FREE]),
            "internal": 1 - sum(self._asked.values()) / live if live else 0.0,
            "external": 1 - longest / self.free if self.free else 0.0,
        }

    def extents(self) -> list[tuple[int, int]]:
        """Every extent in address order as (offset, tokens), tokens negative when live."""
        found, unit, units = [], 0, int(self.state[core.UNITS])
        while unit < units:
            size = int(self._tag[unit])
            assert size != 0, f"unit {unit}: no extent starts here"
            found.append((unit * self.align, size * self.align))
            unit += abs(size)
        return found

    def validate(self) -> None:
        """Extents tile the arena, no two free neighbours, counters and lists agree. AssertionError otherwise."""
        found = self.extents()
        sizes = [size for _, size in found]
        assert sum(map(abs, sizes)) == self.capacity, "extents do not tile the arena"
        assert not any(a > 0 and b > 0 for a, b in itertools.pairwise(sizes)), "free neighbours"
        for offset, size in found:
            assert self._tag[(offset + abs(size)) // self.align - 1] == size // self.align, "tags differ at both ends"
        live = [-size for size in sizes if size < 0]
        assert sum(live) == self.capacity - self.free
        assert len(live) == self.state[core.N_LIVE] == len(self._asked)
        assert len(sizes) - len(live) == self.state[core.N_FREE]
        listed = self._listed()
        assert sorted(listed) == sorted(
            (offset // self.align, size // self.align) for offset, size in found if size > 0
        )
        assert self._core.largest() == max((size // self.align for size in sizes if size > 0), default=0)

    def _listed(self) -> list[tuple[int, int]]:
        state, listed = self.state, []
        for size in range(1, int(state[core.UNITS]) + 1):
            unit = int(state[state[core.HEAD] + size])
            bit = int(state[state[core.BITS0] + (size >> 5)]) >> (size & 31) & 1
            assert bit == (unit != core.NOTHING), f"bitmap of size {size}"
            while unit != core.NOTHING:
                listed.append((unit, size))
                unit = int(state[state[core.NEXT] + unit])
        return listed

    def _units(self, tokens: int) -> int:
        if not 1 <= tokens <= self.capacity:
            if tokens < 1:
                raise ValueError(f"tokens (={tokens}): must be >= 1")
            return int(self.state[core.UNITS]) + 1
        return -(-tokens // self.align)

    def _extent(self, unit: int) -> Extent:
        return Extent(unit * self.align, -int(self._tag[unit]) * self.align, int(self._gen[unit]))

    def _unit(self, extent: Extent) -> int:
        unit, rest = divmod(extent.offset, self.align)
        if rest or not 0 <= unit < self.state[core.UNITS]:
            raise InvalidExtent(f"extent at {extent.offset}: outside this arena of {self.capacity} tokens")
        if self._gen[unit] != extent.generation or self._tag[unit] * self.align != -extent.tokens:
            raise InvalidExtent(
                f"extent at {extent.offset} (generation {extent.generation}): not live; "
                f"the arena is at generation {self._gen[unit]} there"
            )
        return unit

    def _copy(self, source: int, target: int, tokens: int) -> None:
        if self.bytes_per_token:
            width = self.bytes_per_token
            self.bytes[target * width : (target + tokens) * width] = self.bytes[
                source * width : (source + tokens) * width
            ]
