"""One GPU's memory on a host: a pool of 2 MiB blocks, models mapped at offset 0 of slots, KV mapped behind the weights.

Weights never move: promotion unmaps the other slots and maps all freed blocks behind the promoted weights, first half
K, second half V (an odd block goes to V), by one background thread with a progress counter (paper, memory switching).
The bytes are a memfd's; needs the native core. Departure: a host's page tables, not a GPU driver's, so the time of a
promotion includes the first access to every page.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from operators.warmserve.errors import ConfigError, InvariantError

try:
    from operators.warmserve import _native
except ImportError:
    _native = None


@dataclass
class Slot:
    """A model's virtual range: `weights` blocks from offset 0, `kv` blocks behind them."""

    range: object
    weights: list[int]
    kv: list[int] = field(default_factory=list)
    job: object = None


class BlockPool:
    """`blocks` physical blocks; at most `slots` models mapped at once, one of them promoted."""

    def __init__(self, blocks: int, *, slots: int = 30, huge: bool = False):
        if _native is None:
            raise ConfigError("the block pool needs the native core; run `make native` with a C++ compiler")
        if blocks < 1 or slots < 1:
            raise ConfigError(f"blocks (={blocks}), slots (={slots}): expected >= 1")
        self.blocks, self.most = blocks, slots
        self.memory = _native.Pool(blocks, huge)
        self.free = list(range(blocks - 1, -1, -1))
        self.slots: dict[str, Slot] = {}
        self.promoted: str | None = None

    @property
    def block_bytes(self) -> int:
        return _native.BLOCK_BYTES

    def add(self, name: str, count: int) -> np.ndarray:
        """Map `count` free blocks as the weights of `name`; the bytes u1[count * block], to be filled."""
        if name in self.slots:
            raise InvariantError(f"slot {name!r}: mapped twice")
        if len(self.slots) >= self.most:
            raise ConfigError(f"slots (={self.most}): all taken")
        if count > len(self.free):
            raise ConfigError(f"blocks: {name!r} needs {count}, {len(self.free)} are free")
        taken = [self.free.pop() for _ in range(count)]
        slot = Slot(_native.Range(self.blocks), taken)
        slot.range.map(self.memory, 0, taken)
        self.slots[name] = slot
        return slot.range.view(0, count)

    def weights(self, name: str) -> np.ndarray:
        """The weight bytes of a mapped model."""
        slot = self.slots[name]
        return slot.range.view(0, len(slot.weights))

    def remove(self, name: str) -> None:
        """Unmap a model and free its blocks; unknown names are ignored (evicting twice is fine)."""
        slot = self.slots.pop(name, None)
        if slot is None:
            return
        self._end_job(slot)
        slot.range.unmap(0, len(slot.weights) + len(slot.kv))
        self.free += slot.weights + slot.kv
        if self.promoted == name:
            self.promoted = None

    def promote(self, name: str, *, touch: bool = True, pause_every: int = 0, pause_us: int = 10_000) -> float:
        """Give all memory to `name`: drop the other models, map the freed blocks behind its weights in the background.

        Returns the seconds spent before the background thread runs. `pause_every` blocks it sleeps (the slow mode).
        """
        if name not in self.slots:
            raise InvariantError(f"slot {name!r}: promoted but not mapped")
        began = time.perf_counter()
        for other in [other for other in self.slots if other != name]:
            self.remove(other)
        slot, self.promoted = self.slots[name], name
        order, self.free = self.free[::-1], []
        slot.kv = order
        slot.job = slot.range.map_in_background(
            self.memory, len(slot.weights), order, touch=touch, pause_every=pause_every, pause_us=pause_us
        )
        return time.perf_counter() - began

    def halves(self, name: str) -> tuple[list[int], list[int]]:
        """Blocks of K and of V, in order of their addresses."""
        kv = self.slots[name].kv
        return kv[: len(kv) // 2], kv[len(kv) // 2 :]

    def progress(self, name: str) -> int:
        """KV blocks mapped so far."""
        slot = self.slots[name]
        job = slot.job  # another thread may be waiting for it and then forget it
        return len(slot.kv) if job is None else job.progress

    def wait(self, name: str) -> int:
        """Wait until all KV is mapped; how many blocks (0: the model was dropped). Any number of threads may wait."""
        slot = self.slots.get(name)
        if slot is None:
            return 0
        job = slot.job
        if job is not None:
            job.join()
            slot.job = None
        return len(slot.kv)

    def kv(self, name: str) -> np.ndarray:
        """The KV bytes mapped so far, behind the weights."""
        slot = self.slots[name]
        return slot.range.view(len(slot.weights), self.progress(name))

    def give(self, name: str, count: int) -> int:
        """A draining model gives up to `count` of its last KV blocks back to the pool; how many."""
        self.wait(name)
        slot = self.slots[name]
        count = min(count, len(slot.kv))
        if count:
            slot.range.unmap(len(slot.weights) + len(slot.kv) - count, count)
            self.free += slot.kv[-count:]
            del slot.kv[-count:]
        return count

    def take_back(self, name: str) -> int:
        """Map every free block behind the model's KV again; how many."""
        self.wait(name)
        slot, order = self.slots[name], self.free[::-1]
        if order:
            slot.range.map(self.memory, len(slot.weights) + len(slot.kv), order)
            slot.kv, self.free = slot.kv + order, []
        return len(order)

    def demote(self, name: str) -> None:
        """The instance ended: its KV is unmapped, its weights stay."""
        self.give(name, len(self.slots[name].kv))
        if self.promoted == name:
            self.promoted = None

    def _end_job(self, slot: Slot) -> None:
        if slot.job is not None:
            slot.job.cancel()
            slot.job.join()
            slot.job = None

    def validate(self) -> None:
        """Every block has one owner and none is lost."""
        owned = [block for slot in self.slots.values() for block in slot.weights + slot.kv] + self.free
        if sorted(owned) != list(range(self.blocks)):
            raise InvariantError(f"pool of {self.blocks} blocks: owners of {len(owned)}, {len(set(owned))} distinct")
