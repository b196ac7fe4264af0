"""A device with real memory: an arena, a decode loop that writes real bytes, copies with checksums. Pure, no Ray.

A request's bytes are known in advance (`pattern`), so at its end, and before and after each move, the arena's bytes can
be compared with what they must be. `hold` is called at the three moments a fault may hit: while a request is admitted,
in the middle of a copy, and in decode.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from operators.odma.arena import Arena, Extent, OutOfMemory

PHASES = ("admit", "copy", "decode")


class Request(NamedTuple):
    """A request as a device gets it: tokens of prompt and answer, and the answer tokens to reserve first."""

    number: int
    input_tokens: int
    output_tokens: int
    reserve: int


@dataclass
class Live:
    """A request in the device's memory."""

    request: Request
    extent: Extent
    done: int = 0
    copies: int = 0
    grown: int = 0
    corrupt: int = 0
    parked: bool = False

    @property
    def used(self) -> int:
        return self.request.input_tokens + self.done


@dataclass
class Report:
    """What a device did in one round."""

    finished: list[tuple[int, int, int, int, int]] = field(
        default_factory=list
    )  # number, reserved, copies, grown, corrupt
    refused: list[int] = field(default_factory=list)
    moves: list[tuple[int, float]] = field(default_factory=list)  # bytes, seconds
    reserved: int = 0
    live: int = 0


def pattern(number: int, first: int, count: int, width: int) -> np.ndarray:
    """The bytes `(count * width,)` of tokens first.. of request `number`."""
    tokens = ((number * 131 + np.arange(first, first + count) * 17) % 256).astype(np.uint8)
    return (tokens[:, None] + (np.arange(width) * 7 % 256).astype(np.uint8)[None, :]).reshape(-1)


class RealDevice:
    """One device of `capacity` tokens at `width` bytes each."""

    def __init__(self, capacity: int, width: int, *, align: int = 16, hold: Callable[[str], None] = lambda phase: None):
        self.arena = Arena(capacity, align, width)
        self.live: dict[int, Live] = {}
        self._width, self._hold = width, hold

    def round(self, requests: list[Request], boundaries: list[int], steps: int) -> Report:
        """Admit what fits, then generate `steps` tokens for everyone; what is finished leaves."""
        report = Report()
        for request in requests:
            if not self.admit(request):
                report.refused.append(request.number)
        for _ in range(steps):
            if not self.live:
                break
            self._step(boundaries, report)
        report.reserved, report.live = self.arena.capacity - self.arena.free, len(self.live)
        return report

    def admit(self, request: Request) -> bool:
        """Reserve prompt and class in one block and write the prompt's bytes; False when it does not fit now."""
        found = self.arena.reserve(request.input_tokens + request.reserve)
        if isinstance(found, OutOfMemory):
            return False
        self._hold("admit")
        self.arena.view(found, request.input_tokens)[:] = pattern(request.number, 0, request.input_tokens, self._width)
        self.live[request.number] = Live(request, found)
        return True

    def _step(self, boundaries: list[int], report: Report) -> None:
        self._hold("decode")
        progress = False
        for one in list(self.live.values()):
            if one.used >= one.extent.tokens and not self._grow(one, boundaries, report):
                one.parked = True
                continue
            one.parked, progress = False, True
            begin = (one.extent.offset + one.used) * self._width
            self.arena.bytes[begin : begin + self._width] = pattern(one.request.number, one.used, 1, self._width)
            one.done += 1
            if one.done == one.request.output_tokens:
                self._finish(one, report)
        if not progress and self.live:  # everyone waits for room: the newest gives way and starts again later
            newest = next(reversed(self.live))
            self.arena.release(self.live.pop(newest).extent)
            report.refused.append(newest)

    def _grow(self, one: Live, boundaries: list[int], report: Report) -> bool:
        """The smallest class that holds more; in place, else by a copy through a new block."""
        more = next((bound for bound in boundaries if bound > one.done), one.done + self.arena.align)
        wanted = one.request.input_tokens + more
        if self._in_place(one, wanted):
            return True
        target = self.arena.reserve(wanted)
        if isinstance(target, OutOfMemory):
            return False
        source = self.arena.view(one.extent, one.used)
        before = zlib.crc32(source)
        copy = self.arena.view(target, one.used)
        half = len(source) // 2
        began = time.perf_counter()
        copy[:half] = source[:half]
        first = time.perf_counter() - began
        self._hold("copy")
        began = time.perf_counter()
        copy[half:] = source[half:]
        report.moves.append((len(source), first + time.perf_counter() - began))
        one.corrupt += zlib.crc32(copy) != before
        self.arena.release(one.extent)
        one.extent, one.copies = target, one.copies + 1
        return True

    def _in_place(self, one: Live, wanted: int) -> bool:
        """Grow where it lies, as far as the space behind allows, at least one unit."""
        for tokens in (wanted, one.extent.tokens + self.arena.align):
            found = self.arena.extend(one.extent, tokens)
            if found is not None:
                one.extent, one.grown = found, one.grown + 1
                return True
        return False

    def _finish(self, one: Live, report: Report) -> None:
        expected = pattern(one.request.number, 0, one.used, self._width)
        one.corrupt += not np.array_equal(self.arena.view(one.extent, one.used), expected)
        report.finished.append((one.request.number, one.extent.tokens, one.copies, one.grown, one.corrupt))
        self.arena.release(one.extent)
        del self.live[one.request.number]

    def validate(self) -> None:
        """The arena is whole, every live extent a live request's and large enough. AssertionError otherwise."""
        self.arena.validate()
        extents = {(one.extent.offset, -one.extent.tokens) for one in self.live.values()}
        assert extents == {pair for pair in self.arena.extents() if pair[1] < 0}
        assert all(one.used <= one.extent.tokens for one in self.live.values())
