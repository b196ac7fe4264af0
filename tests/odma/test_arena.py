"""The arena against a bitmap, the compiled core against numba, and handles that are used wrongly."""

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from operators.odma import Arena, ConfigError, InvalidExtent, OutOfMemory, arena_core
from operators.odma.arena import native

UNITS = 40


class AgainstBitmap(RuleBasedStateMachine):
    """Reserve, grow, release and compact on 40 units of real bytes, beside a bitmap of owners."""

    def __init__(self):
        super().__init__()
        self.arena = Arena(UNITS * 16, bytes_per_token=2)
        self.owner = np.zeros(UNITS, int)
        self.held = {}  # key -> (extent, checksum of its bytes)
        self.next = 0

    def _runs(self):
        """Free runs of the bitmap as (start, length)."""
        edges = np.flatnonzero(np.diff(np.concatenate([[1], self.owner, [1]]) == 0))
        return [(start, end - start) for start, end in zip(edges[::2], edges[1::2], strict=True)]

    def _stamp(self, key, extent):
        view = self.arena.view(extent)
        view[:] = np.random.default_rng(key).integers(0, 256, len(view))
        self.owner[extent.offset // 16 : (extent.offset + extent.tokens) // 16] = key
        self.held[key] = (extent, zlib.crc32(view))

    @rule(tokens=st.integers(1, UNITS * 18))
    def reserve(self, tokens):
        need, longest = -(-tokens // 16), max((size for _, size in self._runs()), default=0)
        found = self.arena.reserve(tokens)
        if need > longest:
            assert found == OutOfMemory(tokens, 16 * longest, 16 * int((self.owner == 0).sum()))
            return
        start, size = found.offset // 16, found.tokens // 16
        fitting = min(length for _, length in self._runs() if length >= need)
        assert (start, fitting) in self._runs()  # best fit, at the low end of a free run
        assert size == need
        self.next += 1
        self._stamp(self.next, found)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), more=st.integers(0, 200))
    def grow(self, data, more):
        key = data.draw(st.sampled_from(sorted(self.held)))
        old, checksum = self.held[key]
        found = self.arena.grow(old, old.tokens + more)
        if isinstance(found, OutOfMemory):
            assert zlib.crc32(self.arena.view(old)) == checksum
            return
        new, copied = found
        assert (copied == 0) == (new.offset == old.offset)
        assert zlib.crc32(self.arena.view(new, old.tokens)) == checksum
        self.owner[self.owner == key] = 0
        self._stamp(key, new)
        if new != old:
            with pytest.raises(InvalidExtent, match=f"extent at {old.offset}"):
                self.arena.release(old)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        key = data.draw(st.sampled_from(sorted(self.held)))
        extent, checksum = self.held.pop(key)
        assert zlib.crc32(self.arena.view(extent)) == checksum
        self.arena.release(extent)
        self.owner[self.owner == key] = 0
        with pytest.raises(InvalidExtent):
            self.arena.release(extent)

    @rule(budget=st.integers(1, 300))
    def compact(self, budget):
        before = {extent: key for key, (extent, _) in self.held.items()}
        for old, new in self.arena.compact(budget):
            key = before[old]
            assert new.offset < old.offset
            assert zlib.crc32(self.arena.view(new)) == self.held[key][1]
            self.owner[self.owner == key] = 0
            self._stamp(key, new)

    @invariant()
    def tiles_and_counts(self):
        self.arena.validate()
        live = {(extent.offset, -extent.tokens) for extent, _ in self.held.values()}
        assert {pair for pair in self.arena.extents() if pair[1] < 0} == live
        assert self.arena.free == 16 * int((self.owner == 0).sum())


AgainstBitmap.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAgainstBitmap = AgainstBitmap.TestCase


def stream(seed, n, handles, largest, units):
    """A random stream of operations that keeps handles consistent."""
    rng = np.random.default_rng([seed, 7])
    op, slot = np.zeros(n, np.int8), rng.integers(0, handles, n).astype(np.int32)
    size, live = rng.integers(1, largest, n).astype(np.int32), np.zeros(handles, bool)
    for i, s in enumerate(slot):
        op[i] = rng.integers(1, 3) if live[s] else 0
        live[s] = op[i] != 1
    return op, slot, size


@pytest.mark.parametrize("units", [33, 1000, 40_000])
def test_the_compiled_core_and_numba_leave_the_same_state(units):
    compiled = native()
    if compiled is None:
        pytest.skip("the native core is not built here")
    op, slot, size = stream(units, 4000, 60, max(3, units // 20), units)
    states, outs = [], []
    for run in (arena_core.replay, compiled.replay):
        state, held, out = arena_core.new(units), np.full(60, -1, np.int32), np.zeros(len(op), np.int32)
        run(state, op, slot, size, held, out)
        states.append(state)
        outs.append(out)
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(states[0], states[1])
    assert (outs[0] >= 0).any()


@pytest.mark.parametrize("implementation", ["numba", "native"])
def test_calls_one_by_one_are_the_same(implementation):
    if implementation == "native" and native() is None:
        pytest.skip("the native core is not built here")
    arena = Arena(1600, implementation=implementation)
    a, b = arena.reserve(100), arena.reserve(16)
    assert (a.offset, a.tokens, b.offset) == (0, 112, 112)
    moved, copied = arena.grow(a, 200)
    assert (moved.offset, copied) == (128, 112)
    assert arena.reserve(112).offset == 0  # best fit finds the hole
    assert arena.stats()["largest_free"] == 1600 - 128 - 208
    arena.validate()


def test_a_wrong_handle_is_named():
    arena = Arena(320)
    first = arena.reserve(32)
    arena.release(first)
    with pytest.raises(InvalidExtent, match=r"extent at 0 .generation 1.: not live; the arena is at generation 2"):
        arena.release(first)
    again = arena.reserve(32)
    assert again.offset == first.offset
    with pytest.raises(InvalidExtent):
        arena.view(first)
    with pytest.raises(InvalidExtent, match="outside"):
        arena.release(first._replace(offset=640))
    with pytest.raises(InvalidExtent):
        arena.release(again._replace(offset=16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((100, 16), "must divide"), ((0, 16), "must divide"), ((160, 0), "align"), ((160, 16, -1), "bytes_per_token")],
)
def test_impossible_arenas_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Arena(*arguments)


def test_nothing_can_be_reserved_for_no_tokens():
    with pytest.raises(ValueError, match=r"tokens .=0.: must be >= 1"):
        Arena(160).reserve(0)


def test_a_flipped_byte_inside_a_copy_is_seen():
    arena = Arena(640, bytes_per_token=8)
    extent, blocker = arena.reserve(64), arena.reserve(16)
    arena.view(extent)[:] = np.arange(512) % 251
    before = zlib.crc32(arena.view(extent))
    moved, copied = arena.grow(extent, 128)
    assert copied == 64
    assert zlib.crc32(arena.view(moved, 64)) == before
    arena.bytes[moved.offset * 8 + 100] ^= 1
    assert zlib.crc32(arena.view(moved, 64)) != before
    arena.release(blocker)
