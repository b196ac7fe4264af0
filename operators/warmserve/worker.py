"""A GPU worker of the real run: a block pool in a process of its own, files really read, promoted, served, dropped.

Pure but for threads of loads: no Ray in here. States as in the paper: idle, loading, universal, promoting, dedicated,
draining. A load reads its file block by block into mapped blocks and looks at its stop flag before each. Promotion
checks the first block's checksum, so a load that was reported complete and is not is refused. Calls carry the epoch of
the worker they were meant for; those of a dead incarnation are ignored. A worker has many threads and its calls may
begin in any order, so what a manager orders comes through `obey`, numbered: a drop that overtook its load, or the end
of the instance whose weights it drops, would leave weights that nobody knows of.
"""

import os
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from operators.warmserve import weightfiles
from operators.warmserve.errors import InvariantError
from operators.warmserve.pool import BlockPool

ORDERS = ("load", "drop", "promote", "drain", "end", "report")
LONG = ("load", "promote")  # they change what lies here at once and then go on beside others
PATIENCE_S = 60.0


class PromotionRefused(ValueError):
    """The weights are not what was reported."""


class _Load:
    def __init__(self, spec: dict):
        self.spec, self.done, self.stop = spec, 0, threading.Event()
        self.complete = False


class Worker:
    """Serves one GPU's memory."""

    def __init__(self, gpu: int, epoch: int, blocks: int, slots: int = 30):
        self.gpu, self.epoch = gpu, epoch
        self.pool = BlockPool(blocks, slots=slots)
        self.loads: dict[int, _Load] = {}
        self.serving: dict | None = None
        self.active = 0
        self._lock = threading.RLock()
        self._gate: tuple[int, threading.Event] | None = None  # loads stand still after so many blocks
        self._lying = False
        self._pace = 0.0
        self._turn = threading.Condition()
        self._manager = self._next = 0

    def hello(self) -> tuple[int, int]:
        """(pid, epoch)."""
        return os.getpid(), self.epoch

    def obey(self, manager: int, number: int, what: str, *arguments) -> Any:
        """Order `number` (from 0) of `manager`, begun when all its earlier ones have; None for a dead manager's.

        A manager with a greater name follows one that died. InvariantError when an earlier order does not come.
        """
        if what not in ORDERS:
            raise InvariantError(f"order (={what!r}): expected one of {', '.join(ORDERS)}")
        with self._turn:
            if manager > self._manager:
                self._manager, self._next = manager, 0
                self._turn.notify_all()
            if not self._turn.wait_for(lambda: manager < self._manager or number <= self._next, PATIENCE_S):
                raise InvariantError(f"GPU {self.gpu}: order {number} came, order {self._next} did not")
            if (manager, number) != (self._manager, self._next):
                return None  # of a dead manager, or obeyed already
        passed = threading.Event()

        def begun() -> None:
            with self._turn:
                if not passed.is_set() and manager == self._manager:
                    self._next += 1
                    self._turn.notify_all()
                passed.set()

        try:
            return getattr(self, what)(*arguments, **({"begun": begun} if what in LONG else {}))
        finally:
            begun()

    # Faults as inputs

    def hold(self, blocks: int | None) -> None:
        """Let loads stand still after `blocks` blocks; None lets them go on."""
        with self._lock:
            if self._gate:
                self._gate[1].set()
            self._gate = None if blocks is None else (blocks, threading.Event())

    def lie(self) -> None:
        """The next load is reported complete without reading a byte."""
        self._lying = True

    def slow(self, seconds: float) -> None:
        """Sleep so long before every block of a load and every token."""
        self._pace = seconds

    # Weights

    def load(self, epoch: int, replica: int, spec: dict, begun: Callable[[], None] | None = None) -> dict:
        """Read a file into mapped blocks; {replica, complete, blocks, seconds}. `begun`: called before it reads."""
        if epoch != self.epoch:
            return {"replica": replica, "complete": False, "blocks": 0, "seconds": 0.0, "stale": True}
        with self._lock:
            if replica in self.loads:
                raise InvariantError(f"replica {replica}: loaded twice on GPU {self.gpu}")
            load = self.loads[replica] = _Load(spec)
            view = self.pool.add(str(replica), spec["blocks"])
            lying, self._lying = self._lying, False
        if begun:
            begun()
        began = time.perf_counter()
        if not lying:
            self._read(load, view)
        with self._lock:
            if not load.stop.is_set():
                load.complete = True
            return {
                **{"replica": replica, "complete": load.complete, "blocks": load.done},
                "seconds": time.perf_counter() - began,
            }

    def _read(self, load: _Load, view) -> None:
        size = self.pool.block_bytes
        with open(load.spec["path"], "rb", buffering=0) as file:
            for block in range(load.spec["blocks"]):
                gate = self._gate
                if gate and load.done >= gate[0]:
                    while not gate[1].wait(0.01) and not load.stop.is_set():
                        pass
                if self._pace:
                    time.sleep(self._pace)
                with self._lock:  # a drop unmaps the blocks, so no byte is written without the lock
                    if load.stop.is_set():
                        return
                    file.readinto(memoryview(view[block * size : (block + 1) * size]))
                    load.done = block + 1

    def drop(self, epoch: int, replica: int) -> bool:
        """Cancel a load or drop weights; false for a replica that is not here (dropping twice is fine)."""
        with self._lock:
            load = self.loads.pop(replica, None) if epoch == self.epoch else None
            if load is None:
                return False
            load.stop.set()
            self.pool.remove(str(replica))
            if self.serving and self.serving["replica"] == replica:
                self.serving = None
            return True

    # Instances

    def promote(
        self, epoch: int, replica: int, instance: int, pause_us: int = 0, begun: Callable[[], None] | None = None
    ) -> dict:
        """Give all memory to a complete replica: {map_s, kv_blocks}. PromotionRefused when it is not what it says.

        `begun` is called when the others are gone, before the blocks are mapped.
        """
        with self._lock:
            load = self.loads.get(replica)
            if epoch != self.epoch or load is None or not load.complete:
                raise PromotionRefused(f"replica {replica} on GPU {self.gpu}: not complete")
            name, began = str(replica), time.perf_counter()
            first = self.pool.weights(name)[: self.pool.block_bytes]
            if zlib.crc32(first) != load.spec["crc"]:
                raise PromotionRefused(f"replica {replica} on GPU {self.gpu}: first block's checksum differs")
            for other in [other for other in self.loads if other != replica]:
                self.loads.pop(other).stop.set()
            self.serving = {"replica": replica, "instance": instance, "state": "promoting"}
            self.pool.promote(name, pause_every=1 if pause_us else 0, pause_us=pause_us)
        if begun:
            begun()
        kv = self.pool.wait(name)
        with self._lock:
            if self.serving and self.serving["replica"] == replica:
                self.serving["state"] = "dedicated"
        return {"map_s": time.perf_counter() - began, "kv_blocks": kv}

    def serve(self, epoch: int, instance: int, prompt: int, tokens: int) -> dict:
        """Decode `tokens` tokens from the promoted weights: {tokens, first_s, finish_s} on the monotonic clock."""
        with self._lock:
            if epoch != self.epoch or not self.serving or self.serving["instance"] != instance:
                raise PromotionRefused(f"instance {instance}: not on GPU {self.gpu}")
            weights = self.pool.weights(str(self.serving["replica"]))
            self.active += 1
        try:
            made, first = [], 0.0
            for position in range(tokens):
                if self._pace:
                    time.sleep(self._pace)
                made.append(weightfiles.token(weights, prompt, position))
                if position == 0:
                    first = time.monotonic()
            return {"tokens": made, "first_s": first, "finish_s": time.monotonic()}
        finally:
            with self._lock:
                self.active -= 1

    def drain(self, epoch: int, instance: int, give_blocks: int) -> int:
        """The instance stops taking requests and gives KV blocks to prewarming; how many."""
        with self._lock:
            if epoch != self.epoch or not self.serving or self.serving["instance"] != instance:
                return 0
            self.serving["state"] = "draining"
            return self.pool.give(str(self.serving["replica"]), give_blocks)

    def end(self, epoch: int, instance: int, replica: int) -> bool:
        """The instance ended: its KV is unmapped, its weights stay as `replica`."""
        with self._lock:
            if epoch != self.epoch or not self.serving or self.serving["instance"] != instance:
                return False
            old = self.serving["replica"]
            self.pool.demote(str(old))
            self.loads[replica] = self.loads.pop(old)
            self.pool.slots[str(replica)] = self.pool.slots.pop(str(old))
            self.serving = None
            return True

    # Reports

    def state(self) -> str:
        """One of the six states."""
        if self.serving:
            return self.serving["state"]
        if not self.loads:
            return "idle"
        return "universal" if all(load.complete for load in self.loads.values()) else "loading"

    def report(self) -> dict:
        """What lies and runs here, from which a new manager rebuilds its tables."""
        with self._lock:
            held = {
                replica: {"model": load.spec["model"], "done": load.done, "complete": load.complete}
                for replica, load in self.loads.items()
            }
            progress = self.pool.progress(self.pool.promoted) if self.pool.promoted else 0
            return {
                **{"gpu": self.gpu, "epoch": self.epoch, "pid": os.getpid(), "state": self.state(), "held": held},
                **{"serving": dict(self.serving) if self.serving else None, "active": self.active},
                **{"progress": progress, "free_blocks": len(self.pool.free)},
            }

    def validate(self) -> bool:
        """Every block has one owner; what serves is held."""
        with self._lock:
            self.pool.validate()
            if self.serving and self.serving["replica"] not in self.loads:
                raise InvariantError(f"GPU {self.gpu}: serves a replica it does not hold")
            return True
