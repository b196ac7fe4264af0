"""A region: the shared file in which sections, locks, cells and descriptors live.

Every process maps the file and takes a slot. Attaching to a slot whose last process died finishes or rolls back what
that process was doing (`last_call` then tells which). After the death of all processes `recover_all` does it for every
slot; after a reboot (another boot id) it must run before new work, and `attach` runs it.
"""

import os
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.locks.bytecode import NAME_BYTES
from operators.locks.core import load
from operators.locks.errors import (
    ForkedRegion,
    LocksError,
    NoFreeSlot,
    RegionCorrupt,
    RegionExists,
    RegionFull,
    SectionMismatch,
)
from operators.locks.handles import Cells, Locks, Pool

MiB = 2**20
PERSIST = ("process", "clwb", "msync")
POOL = 3  # kind of an object, native/core.h
CELL_MIN, CELL_MAX = -(2**43), 2**43 - 1
KINDS = {"exists": RegionExists, "corrupt": RegionCorrupt, "noslot": NoFreeSlot, "mismatch": SectionMismatch}
KINDS |= {"full": RegionFull, "value": LocksError}
OBJECT_ERRORS = {-1: "no room in the region", -2: "no lock words left", -3: "no room in the directory"}


@dataclass(frozen=True)
class Status:
    """What became of a slot's last call: kind `done` or `not_started`, its number, and the ints it returned."""

    kind: str
    seq: int
    result: tuple[int, ...]

    @property
    def done(self) -> bool:
        return self.kind == "done"


@dataclass(frozen=True)
class RecoveryReport:
    """What a recovery found: sections run to their end, sections undone, locks nobody held, seconds it took."""

    completed: int
    rolled_back: int
    orphan_locks: int
    seconds: float


class Region:
    """A mapped region with a slot of its own; make one with `create`, `attach` or `open`."""

    def __init__(self, core: Any, path: Path):
        self.core, self.path = core, Path(path)
        self._unnamed = {"cells": 0, "locks": 0, "pool": 0}
        self._sections: dict[Any, Any] = {}
        self._forked = False
        mine = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(mine))

    # ---- life ----

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        size: int = 64 * MiB,
        max_procs: int = 64,
        descriptors_per_proc: int = 32,
        log_len: int = 64,
        persist: str = "process",
    ) -> "Region":
        """Make a region of `size` bytes at `path` and attach to it.

        `persist`: `process` survives the death of processes; `clwb` also writes lines back in order (a power cut, on
        persistent memory); `msync` does so by pages (a power cut, on disk). Raises RegionExists, and ValueError naming
        the argument that cannot be.
        """
        limits = {"size": (1, 2**40), "max_procs": (1, 1024), "descriptors_per_proc": (2, 1024), "log_len": (16, 4096)}
        given = {"size": size, "max_procs": max_procs, "descriptors_per_proc": descriptors_per_proc, "log_len": log_len}
        for name, (low, high) in limits.items():
            value = given[name]
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise LocksError(f"{name} (={value!r}): expected an int from {low} to {high}")
        if log_len % 8:
            raise LocksError(f"log_len (={log_len}): expected a multiple of 8")
        if max_procs * descriptors_per_proc > 65535:
            raise LocksError(
                f"max_procs (={max_procs}) x descriptors_per_proc (={descriptors_per_proc}): expected at most 65535"
            )
        if persist not in PERSIST:
            raise LocksError(f"persist (={persist!r}): expected one of {', '.join(PERSIST)}")
        native = load()
        sizes = (size // 4096 * 4096, max_procs, descriptors_per_proc, log_len, PERSIST.index(persist))
        _raise(native.create(str(path), *sizes), path)
        return cls.attach(path)

    @classmethod
    def attach(cls, path: Path | str, *, slot: int | None = None) -> "Region":
        """Map the region at `path` and take a slot: `slot`, or a free one, or that of a dead process.

        What the slot's last process left open is finished or undone first. Raises RegionCorrupt, NoFreeSlot.
        """
        native = load()
        core = native.Core()
        _raise(core.open(str(path)), path)
        if slot is not None and not (_whole(slot) and 0 <= slot < core.max_procs):
            core.close()
            raise LocksError(f"slot (={slot!r}): expected None or an int from 0 to {core.max_procs - 1}")
        region = cls(core, Path(path))
        if core.rebooted():
            region.recover_all()
        try:
            _raise(core.claim(-1 if slot is None else slot), path)
        except LocksError:
            core.close()
            raise
        return region

    @classmethod
    def open(cls, path: Path | str, *, slot: int | None = None, **sizes: Any) -> "Region":
        """`attach`, or `create` where there is no file yet; of several processes that try, one creates."""
        if not Path(path).exists():
            try:
                made = cls.create(path, **sizes)
            except RegionExists:
                pass
            else:
                if slot is None or made.slot == slot:
                    return made
                made.close()
        return cls.attach(path, slot=slot)

    def close(self) -> None:
        """Give the slot back and unmap. Works on a closed region too."""
        if self.core is not None and not self._forked:
            self.core.close()
        self.core = None

    def __enter__(self) -> "Region":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def alive(self) -> Any:
        """The native core; ForkedRegion or LocksError when this object cannot be used any more."""
        if self._forked:
            raise ForkedRegion(f"{self.path}: this process inherited the region by fork; attach again in the child")
        if self.core is None:
            raise LocksError(f"{self.path}: the region is closed")
        return self.core

    @property
    def slot(self) -> int:
        """The slot of this process."""
        return self.alive().slot

    # ---- objects ----

    def cells(self, n: int, init: int = 0, *, name: str | None = None) -> Cells:
        """`n` cells that begin as `init`. By name, else the k-th unnamed call of every process gets the same cells."""
        _positive("n", n)
        _payload("init", init)
        name = self._name("cells", name)
        return Cells(self, name, self._object(name, 1, n, 1, init), n)

    def locks(self, n: int, *, name: str | None = None) -> Locks:
        """`n` locks, named as cells are."""
        _positive("n", n)
        name = self._name("locks", name)
        return Locks(self, name, self._object(name, 2, n, 1, 0), n)

    def pool(self, node_fields: int, capacity: int, *, name: str | None = None) -> Pool:
        """`capacity` nodes of `node_fields` cells each, named as cells are."""
        _positive("node_fields", node_fields)
        _positive("capacity", capacity)
        name = self._name("pool", name)
        base = self._object(name, POOL, capacity, node_fields, 0)
        return Pool(
            self, name, base, capacity, node_fields, self.cells(self.core.max_procs + 2, name=f"{name[:50]}.free")
        )

    def _name(self, kind: str, name: str | None) -> str:
        if name is None:
            self._unnamed[kind] += 1
            return f"{kind}-{self._unnamed[kind]}"
        if not 0 < len(name.encode()) < NAME_BYTES:
            raise LocksError(f"name (={name!r}): expected 1 to {NAME_BYTES - 1} bytes")
        return name

    def _object(self, name: str, kind: int, n: int, stride: int, init: int) -> int:
        core = self.alive()
        found = core.find(name)
        if found is None:
            big = max(n, stride) >= 2**63
            base = -1 if big else core.object(name, kind, n, stride, init)
            if base in OBJECT_ERRORS:
                asked = f"node_fields (={stride}) x capacity (={n})" if kind == POOL else f"n (={n})"
                raise RegionFull(f"{name}: {OBJECT_ERRORS[base]} for {asked}")
            found = core.find(name)
        if found[0] != kind or found[2:] != (n, stride):
            raise LocksError(f"{name}: is there with n = {found[2]}, {found[3]} fields; asked for n = {n}, {stride}")
        return found[1]

    # ---- recovery ----

    def recover_all(self) -> RecoveryReport:
        """Finish or undo what every dead process left open; after a reboot, recover the region as a whole.

        With live processes only the slots of dead ones are touched (helping does the rest).
        """
        began = time.perf_counter()
        core = self.alive()
        completed, rolled_back, orphans, busy = core.recover_all()
        while busy:  # another process recovers the whole region after a reboot; it is short, and ends if that one dies
            time.sleep(0.001)
            completed, rolled_back, orphans, busy = core.recover_all()
        return RecoveryReport(completed, rolled_back, orphans, time.perf_counter() - began)

    def last_call(self, slot: int | None = None) -> Status:
        """What became of the last call of `slot` (default: ours): detectable after any crash and recovery."""
        core = self.alive()
        slot = core.slot if slot is None else slot
        if not (_whole(slot) and 0 <= slot < core.max_procs):
            raise LocksError(f"slot (={slot!r}): expected None or an int from 0 to {core.max_procs - 1}")
        done, seq, result = core.status(slot)
        return Status("done" if done else "not_started", seq, tuple(result))


def _forked(region: "weakref.ref[Region]") -> None:
    found = region()
    if found is not None:
        found._forked = True


def _raise(why: str, path: Path | str) -> None:
    """Raise the error that the core's `kind: text` names; an empty text is no error."""
    if not why:
        return
    kind, _, text = why.partition(": ")
    if kind == "os":
        raise OSError(text)
    if kind == "exists":
        raise RegionExists(f"{path}: exists already; attach to it, or remove it first")
    raise KINDS[kind](text)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(name: str, value: int) -> None:
    if not _whole(value) or value < 1:
        raise LocksError(f"{name} (={value!r}): expected an int >= 1")


def _payload(name: str, value: int) -> None:
    if not CELL_MIN <= value <= CELL_MAX:
        raise OverflowError(f"{name} (={value}): expected {CELL_MIN} to {CELL_MAX}")
