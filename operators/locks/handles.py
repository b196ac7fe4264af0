"""Objects of a region: arrays of cells, sets of locks, pools of nodes. Sections use them by index; Python may read."""

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from operators.locks.region import Region


class _Handle:
    """An object's place in its region: (first word or lock, length, words per element)."""

    def __init__(self, region: "Region", name: str, base: int, n: int, stride: int = 1):
        self.region, self.name, self.place = region, name, (base, n, stride)

    def __len__(self) -> int:
        return self.place[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, n={len(self)})"

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}[{index}]: expected 0 to {len(self) - 1}")
        return index


class Cells(_Handle):
    """`n` cells, each an int from -2**43 to 2**43-1. `cells[i]` outside a section reads one committed value."""

    def __getitem__(self, index: int) -> int:
        return self.region.core.read(self.place[0] + self._checked(index))

    def to_list(self) -> list[int]:
        """All values, read one after the other (no snapshot)."""
        return self.region.core.read_many(self.place[0], len(self))


class Locks(_Handle):
    """`n` locks. Taken in a section by `with tx.lock(locks[i])`."""

    def holder(self, index: int) -> int | None:
        """The descriptor that holds lock `index` now, None when it is free."""
        owner = self.region.core.lock(self.place[0] + self._checked(index)) & 0xFFFF
        return owner - 1 if owner else None


class Pool(_Handle):
    """`n` nodes numbered from 1 (0 is no node), each of the given number of fields, with a free list per slot.

    `tx.alloc(pool)` and `tx.free(pool, node)` are updates of the section like any other: nothing leaks and nothing is
    freed twice, whoever dies when. Field 0 links free nodes; a fresh node's fields are not cleared.
    """

    def __init__(self, region: "Region", name: str, base: int, n: int, stride: int, free: Cells):
        super().__init__(region, name, base, n, stride)
        self.free = free  # one list head per slot, then the shared list and the number of nodes handed out

    def field(self, node: int, field: int) -> int:
        """One committed value of a node."""
        base, n, stride = self.place
        if not (1 <= node <= n and 0 <= field < stride):
            raise IndexError(f"{self.name}[{node}, {field}]: expected node 1 to {n}, field 0 to {stride - 1}")
        return self.region.core.read(base + (node - 1) * stride + field)

    def free_nodes(self) -> int:
        """How many nodes are free (counted by walking the lists; exact when nobody works)."""
        heads = self.free.to_list()
        count = len(self) - heads[-1]
        for node in heads[:-1]:
            for _ in itertools.repeat(None, len(self)):
                if node == 0:
                    break
                count, node = count + 1, self.field(node, 0)
        return count
