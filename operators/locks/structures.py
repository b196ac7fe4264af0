"""Sets and a bank built on sections: sorted list, doubly linked list, hash map, leaf tree, accounts.

The way to a key is walked natively without locks (native/structures.c); the change is a section that looks again under
the locks and answers -1 when the place has changed meanwhile, after which the walk is made anew. A find takes no lock
and is valid at one moment of its run. Keys are ints from -2**43+1 to 2**43-2; a structure is found again by its name.
"""

from typing import Any

from operators.locks.core import load
from operators.locks.errors import LocksError
from operators.locks.region import CELL_MAX, CELL_MIN, Region
from operators.locks.sections import Section, section

KINDS = {"list": 0, "dlist": 1, "hash": 2, "tree": 3}
FIND, INSERT, REMOVE = 0, 1, 2
LINK, KEY, OTHER, DEAD, VERSION = range(5)  # fields of a node, as in native/structures.h
STRIPES = 1024
REFILL = 5  # nodes a slot takes from the common list at once
EXHAUSTED = -2


class _Set:
    """What the sets share: the pool, striped node locks, the refill of a slot's free list, the native handle."""

    kind: str

    def __init__(self, region: Region, capacity: int, *, name: str, nest: str = "flat", buckets: int = 0):
        if not isinstance(capacity, int) or capacity < 1:
            raise LocksError(f"capacity (={capacity!r}): expected an int >= 1")
        self.region, self.name, self.nest = region, name, nest
        self.nodes = region.pool(5, capacity + 3, name=f"{name}.nodes")
        stripes = min(STRIPES, capacity + 3)
        self.locks = region.locks(stripes, name=f"{name}.locks")
        self.heads = region.cells(max(buckets, 1), name=f"{name}.heads")
        self.versions = region.cells(max(buckets, 1), name=f"{name}.versions")
        self.buckets = max(buckets, 1)
        self.ready = region.cells(1, name=f"{name}.ready")
        self._begin()
        made = [self._insert(), self._remove(), self._refill()]
        for one in made:
            one.__name__ = f"{name[:40]}.{one.__name__}"
        self.sections = made
        numbers = [_number(region, one) for one in made]
        base, n, stride = self.nodes.place
        places = (self.heads.place[0], self.versions.place[0], self.buckets)
        self._native = load().make_set(region.core, KINDS[self.kind], base, n, stride, *places, *numbers)

    def _begin(self) -> None:
        """Sentinels, once; `ready` says whether they are there."""

    def _insert(self) -> Section:
        raise NotImplementedError

    def _remove(self) -> Section:
        raise NotImplementedError

    def _once(self, begin: Section) -> None:
        begin.__name__ = f"{self.name[:40]}.begin"
        begin.call(self.region)

    def _refill(self) -> Section:
        """A few nodes from the common list, or never used ones, to the list of the slot that calls."""
        nodes, free, locks, n = self.nodes, self.nodes.free, self.locks, len(self.nodes)
        common, handed = self.region.core.max_procs, self.region.core.max_procs + 1

        @section(nest=self.nest)
        def refill(tx, slot):
            with tx.lock(locks[0]):
                mine, shared, used, count = free[slot], free[common], free[handed], 0
                while count < REFILL and (shared != 0 or used < n):
                    if shared != 0:
                        node = shared
                        shared = nodes[node, LINK]
                    else:
                        used = used + 1
                        node = used
                    nodes[node, LINK] = mine
                    nodes[node, DEAD] = 1
                    mine = node
                    count = count + 1
                free[slot], free[common], free[handed] = mine, shared, used
                return count

        return refill

    # ---- the set ----

    def find(self, key: int) -> bool:
        """Whether `key` is in the set."""
        return self._do(FIND, key)[0] == 1

    def insert(self, key: int) -> bool:
        """Put `key` in; False when it was there."""
        return self._do(INSERT, key)[0] == 1

    def remove(self, key: int) -> bool:
        """Take `key` out; False when it was not there."""
        return self._do(REMOVE, key)[0] == 1

    def keys(self) -> list[int]:
        """All keys in order; exact when nobody works."""
        return self._native.keys()[0]

    def __contains__(self, key: int) -> bool:
        return self.find(key)

    def __len__(self) -> int:
        return len(self.keys())

    def drive(self, keys: Any, ops: Any) -> tuple[int, float]:
        """Many operations in one native call: (how many found or changed something, CPU seconds)."""
        done, seconds = self._native.drive(keys, ops)
        if done < 0:
            raise self._failed(done)
        return done, seconds

    def _do(self, op: int, key: int, value: int = 0) -> tuple[int, int]:
        if not CELL_MIN < key < CELL_MAX:
            raise OverflowError(f"key (={key}): expected {CELL_MIN + 1} to {CELL_MAX - 1}")
        self.region.alive()
        result, out = self._native.op(op, key, value)
        if result < 0:
            raise self._failed(result)
        return result, out

    def _failed(self, code: int) -> LocksError:
        if code == EXHAUSTED:
            return LocksError(f"{self.name}: no free node left; its capacity is {len(self.nodes) - 3}")
        return LocksError(f"{self.name}: the operation was refused (code {code})")


def _number(region: Region, one: Section) -> int:
    one.bind(region)
    return region.core.section_id(one.__name__)


class SortedList(_Set):
    """A sorted singly linked list; a lock per node (striped)."""

    kind = "list"

    def __init__(self, region: Region, capacity: int = 1000, *, name: str = "list", nest: str = "flat"):
        super().__init__(region, capacity, name=name, nest=nest)

    def _begin(self) -> None:
        nodes, locks, ready, handed = self.nodes, self.locks, self.ready, self.region.core.max_procs + 1
        free = nodes.free

        @section
        def begin(tx):
            with tx.lock(locks[0]):
                if ready[0] == 0:
                    nodes[1, LINK] = 0
                    nodes[1, KEY] = CELL_MIN
                    free[handed] = 1
                    ready[0] = 1

        self._once(begin)

    def _insert(self) -> Section:
        nodes, locks, n = self.nodes, self.locks, len(self.locks)

        @section(nest=self.nest)
        def insert(tx, before, after, key):
            with tx.lock(locks[before % n]):
                if nodes[before, DEAD] or nodes[before, LINK] != after or nodes[before, KEY] >= key:
                    return -1
                if after != 0 and nodes[after, KEY] <= key:
                    return -1
                node = tx.alloc(nodes)
                nodes[node, LINK] = after
                nodes[node, KEY] = key
                nodes[node, DEAD] = 0
                nodes[before, LINK] = node
                return 1

        return insert

    def _remove(self) -> Section:
        nodes, locks, n = self.nodes, self.locks, len(self.locks)

        @section(nest=self.nest)
        def remove(tx, before, node, key):
            with tx.lock(locks[before % n]), tx.lock(locks[node % n]):
                if nodes[before, DEAD] or nodes[before, LINK] != node or nodes[node, KEY] != key:
                    return -1
                nodes[before, LINK] = nodes[node, LINK]
                nodes[node, DEAD] = 1
                tx.free(nodes, node)
                return 1

        return remove


class DList(_Set):
    """A sorted doubly linked list with a sentinel at either end."""

    kind = "dlist"

    def __init__(self, region: Region, capacity: int = 1000, *, name: str = "dlist", nest: str = "flat"):
        super().__init__(region, capacity, name=name, nest=nest)

    def _begin(self) -> None:
        nodes, locks, ready, handed = self.nodes, self.locks, self.ready, self.region.core.max_procs + 1
        free = nodes.free

        @section
        def begin(tx):
            with tx.lock(locks[0]):
                if ready[0] == 0:
                    nodes[1, LINK] = 2
                    nodes[1, KEY] = CELL_MIN
                    nodes[2, KEY] = CELL_MAX
                    nodes[2, OTHER] = 1
                    free[handed] = 2
                    ready[0] = 1

        self._once(begin)

    def _insert(self) -> Section:
        nodes, locks, n = self.nodes, self.locks, len(self.locks)

        @section(nest=self.nest)
        def insert(tx, before, after, key):
            with tx.lock(locks[before % n]), tx.lock(locks[after % n]):
                if nodes[before, DEAD] or nodes[before, LINK] != after:
                    return -1
                if nodes[before, KEY] >= key or nodes[after, KEY] <= key:
                    return -1
                node = tx.alloc(nodes)
                nodes[node, LINK] = after
                nodes[node, OTHER] = before
                nodes[node, KEY] = key
                nodes[node, DEAD] = 0
                nodes[before, LINK] = node
                nodes[after, OTHER] = node
                return 1

        return insert

    def _remove(self) -> Section:
        nodes, locks, n = self.nodes, self.locks, len(self.locks)

        @section(nest=self.nest)
        def remove(tx, before, node, key):
            with tx.lock(locks[before % n]), tx.lock(locks[node % n]):
                if nodes[before, DEAD] or nodes[before, LINK] != node or nodes[node, KEY] != key:
                    return -1
                after = nodes[node, LINK]
                with tx.lock(locks[after % n]):
                    nodes[before, LINK] = after
                    nodes[after, OTHER] = before
                    nodes[node, DEAD] = 1
                    tx.free(nodes, node)
                    return 1

        return remove

    def keys_backwards(self) -> list[int]:
        """All keys from the far end, by the other links; exact when nobody works."""
        found, node = [], self.nodes.field(2, OTHER)
        while node != 1:
            found.append(self.nodes.field(node, KEY))
            node = self.nodes.field(node, OTHER)
        return found


class HashMap(_Set):
    """A hash map of int keys to int values; a lock and a version per bucket."""

    kind = "hash"

    def __init__(
        self, region: Region, capacity: int = 1000, *, name: str = "hash", nest: str = "flat", buckets: int = 0
    ):
        super().__init__(region, capacity, name=name, nest=nest, buckets=buckets or capacity)

    def _insert(self) -> Section:
        nodes, locks, heads, versions, n = self.nodes, self.locks, self.heads, self.versions, len(self.locks)

        @section(nest=self.nest)
        def insert(tx, bucket, version, node, key, value):
            with tx.lock(locks[bucket % n]):
                if versions[bucket] != version:
                    return -1
                if node != 0:
                    nodes[node, OTHER] = value
                    versions[bucket] += 1
                    return 0
                fresh = tx.alloc(nodes)
                nodes[fresh, LINK] = heads[bucket]
                nodes[fresh, KEY] = key
                nodes[fresh, OTHER] = value
                heads[bucket] = fresh
                versions[bucket] += 1
                return 1

        return insert

    def _remove(self) -> Section:
        nodes, locks, heads, versions, n = self.nodes, self.locks, self.heads, self.versions, len(self.locks)

        @section(nest=self.nest)
        def remove(tx, bucket, version, node, before):
            with tx.lock(locks[bucket % n]):
                if versions[bucket] != version:
                    return -1
                if before == 0:
                    heads[bucket] = nodes[node, LINK]
                else:
                    nodes[before, LINK] = nodes[node, LINK]
                tx.free(nodes, node)
                versions[bucket] += 1
                return 1

        return remove

    def put(self, key: int, value: int) -> bool:
        """Set `key` to `value`; True when the key is new."""
        return self._do(INSERT, key, value)[0] == 1

    def get(self, key: int) -> int | None:
        """The value of `key`, None when it is not there."""
        found, value = self._do(FIND, key)
        return value if found else None

    def items(self) -> dict[int, int]:
        """All keys and values; exact when nobody works."""
        return dict(zip(*self._native.keys(), strict=True))


class LeafTree(_Set):
    """A binary search tree with its keys in the leaves; a lock per node (striped)."""

    kind = "tree"

    def __init__(self, region: Region, capacity: int = 1000, *, name: str = "tree", nest: str = "flat"):
        super().__init__(region, 2 * capacity, name=name, nest=nest)

    def _begin(self) -> None:
        nodes, locks, ready, handed = self.nodes, self.locks, self.ready, self.region.core.max_procs + 1
        free = nodes.free

        @section
        def begin(tx):
            with tx.lock(locks[0]):
                if ready[0] == 0:
                    nodes[1, KEY] = CELL_MAX
                    nodes[1, LINK] = 2
                    nodes[1, OTHER] = 3
                    nodes[2, KEY] = CELL_MAX
                    nodes[3, KEY] = CELL_MAX
                    free[handed] = 3
                    ready[0] = 1

        self._once(begin)

    def _insert(self) -> Section:
        nodes, locks, n = self.nodes, self.locks, len(self.locks)

        @section(nest=self.nest)
        def insert(tx, parent, version, leaf, key):
            with tx.lock(locks[parent % n]):
                if nodes[parent, DEAD] or nodes[parent, VERSION] != version:
                    return -1
                left = key < nodes[parent, KEY]
                if (nodes[parent, LINK] if left else nodes[parent, OTHER]) != leaf:
                    return -1
                there = nodes[leaf, KEY]
                fresh = tx.alloc(nodes)
                inner = tx.alloc(nodes)
                nodes[fresh, KEY] = key
                nodes[fresh, LINK] = 0
                nodes[fresh, OTHER] = 0
                nodes[fresh, DEAD] = 0
                nodes[fresh, VERSION] += 1
                nodes[inner, KEY] = max(key, there)
                nodes[inner, LINK] = fresh if key < there else leaf
                nodes[inner, OTHER] = leaf if key < there else fresh
                nodes[inner, DEAD] = 0
                nodes[inner, VERSION] += 1
                if left:
                    nodes[parent, LINK] = inner
                else:
                    nodes[parent, OTHER] = inner
                return 1

        return insert

    def _remove(self) -> Section:
        nodes, locks, n = self.nodes, self.locks, len(self.locks)

        @section(nest=self.nest)
        def remove(tx, grand, grand_version, parent, version, leaf, key):
            with tx.lock(locks[grand % n]), tx.lock(locks[parent % n]):
                if nodes[grand, DEAD] or nodes[grand, VERSION] != grand_version:
                    return -1
                if nodes[parent, DEAD] or nodes[parent, VERSION] != version:
                    return -1
                upper = key < nodes[grand, KEY]
                left = key < nodes[parent, KEY]
                if (nodes[grand, LINK] if upper else nodes[grand, OTHER]) != parent:
                    return -1
                if (nodes[parent, LINK] if left else nodes[parent, OTHER]) != leaf:
                    return -1
                stays = nodes[parent, OTHER] if left else nodes[parent, LINK]
                if upper:
                    nodes[grand, LINK] = stays
                else:
                    nodes[grand, OTHER] = stays
                nodes[parent, DEAD] = 1
                nodes[leaf, DEAD] = 1
                tx.free(nodes, parent)
                tx.free(nodes, leaf)
                return 1

        return remove


class Bank:
    """Accounts with one lock each; transfers are exact whoever dies when."""

    def __init__(self, region: Region, accounts: int, initial: int = 0, *, name: str = "bank", nest: str = "flat"):
        self.region = region
        self.balances = region.cells(accounts, initial, name=f"{name}.balances")
        locks = region.locks(accounts, name=f"{name}.locks")
        balances = self.balances

        @section(nest=nest)
        def bank_transfer(tx, a, b, amount):
            with tx.lock(locks[min(a, b)]), tx.lock(locks[max(a, b)]):
                balances[a] -= amount
                balances[b] += amount
                return balances[a], balances[b]

        self.section = bank_transfer

    def transfer(self, a: int, b: int, amount: int) -> tuple[int, int]:
        """Move `amount` from `a` to `b`; the two new balances."""
        return self.section.call(self.region, a, b, amount)

    def __getitem__(self, account: int) -> int:
        return self.balances[account]

    def total(self) -> int:
        """Sum of all balances; constant, exact when nobody works."""
        return sum(self.balances.to_list())
