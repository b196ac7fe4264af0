"""What ours is timed against and nobody would put into the library: an allocator as one writes it in Python."""

import bisect


class SortedFreeList:
    """Best fit on two sorted lists with coalescing, in plain Python."""

    def __init__(self, units: int):
        self._sizes = [(units, 0)]
        self._starts = [(0, units)]
        self._live: dict[int, int] = {}

    def reserve(self, need: int) -> int:
        """First unit, -1 when nothing fits."""
        at = bisect.bisect_left(self._sizes, (need, -1))
        if at == len(self._sizes):
            return -1
        size, start = self._sizes.pop(at)
        self._starts.pop(bisect.bisect_left(self._starts, (start, 0)))
        if size > need:
            self._add(start + need, size - need)
        self._live[start] = need
        return start

    def release(self, start: int) -> None:
        """Free and join with both neighbours."""
        size = self._live.pop(start)
        at = bisect.bisect_left(self._starts, (start, 0))
        if at < len(self._starts) and self._starts[at][0] == start + size:
            size += self._drop(at)
        if at > 0 and sum(self._starts[at - 1]) == start:
            start = self._starts[at - 1][0]
            size += self._drop(at - 1)
        self._add(start, size)

    def _add(self, start: int, size: int) -> None:
        bisect.insort(self._sizes, (size, start))
        bisect.insort(self._starts, (start, size))

    def _drop(self, at: int) -> int:
        start, size = self._starts.pop(at)
        self._sizes.pop(bisect.bisect_left(self._sizes, (size, start)))
        return size
