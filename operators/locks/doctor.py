"""The region doctor: locks held, owners alive or dead, pending descriptors, leaked nodes.

`python -m operators.locks.doctor REGION` looks without taking a slot; `--repair` also finishes or undoes what dead
processes left open (`recover_all`).
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from operators.locks.core import load
from operators.locks.errors import LocksError
from operators.locks.handles import Cells, Pool
from operators.locks.region import POOL, Region, _raise

STATES = ("free", "running", "committed", "done", "aborted")
OWNERS = ("free", "alive", "dead", "stopped")
H_PROCS, H_DPP, H_LOG, H_DESC, H_NLOCKS_USED, H_DIR, H_NDIR = 4, 5, 6, 16, 72, 19, 20  # native/core.h
DESCRIPTOR_WORDS, R_KIND, R_N, R_STRIDE, R_BASE = 24, 8, 9, 10, 11


@dataclass(frozen=True)
class Examination:
    """What stands in a region now. `pending`: (descriptor, slot, owner, state); `held`: (lock, descriptor, owner)."""

    rebooted: bool
    slots: tuple[tuple[int, str], ...]
    held: tuple[tuple[int, int, str], ...]
    pending: tuple[tuple[int, int, str, str], ...]
    pools: tuple[tuple[str, int, int], ...]  # name, nodes, free or never used (exact when nobody works)
    damage: tuple[str, ...] = ()  # what no process can have written

    @property
    def healthy(self) -> bool:
        """No damage, no lock and no descriptor left by a dead process, and the machine is the same since."""
        owners = [owner for *_, owner in self.held] + [owner for _, _, owner, _ in self.pending]
        return not ("dead" in owners or self.rebooted or self.damage)

    def __str__(self) -> str:
        used = [f"{slot} {owner}" for slot, owner in self.slots if owner != "free"]
        lines = [f"slots in use: {', '.join(used) or 'none'}"]
        lines += [f"lock {lock}: held by descriptor {d}, its process is {owner}" for lock, d, owner in self.held]
        for number, slot, owner, state in self.pending:
            lines.append(f"descriptor {number} of slot {slot}: {state}, its process is {owner}")
        lines += [f"pool {name}: {free} of {n} nodes free" for name, n, free in self.pools]
        lines += [f"damaged: {what}" for what in self.damage]
        if self.rebooted:
            lines.append("the machine was started anew since: recover_all must run before new work")
        if self.damage:
            lines.append("damaged: recovery cannot mend this; make the region anew")
            return "\n".join(lines)
        lines.append("healthy" if self.healthy else "needs repair: --repair, or attach to the dead slots")
        return "\n".join(lines)


def examine(path: Path | str) -> Examination:
    """Look at the region at `path` without taking a slot. Raises RegionCorrupt, OSError."""
    core = load().Core()
    _raise(core.open(str(path)), path)
    try:
        layout = core.layout()
        dpp, log_len = layout[H_DPP], layout[H_LOG]
        slots = tuple((slot, OWNERS[core.slot_state(slot)]) for slot in range(layout[H_PROCS]))
        held, pending = [], []
        for lock in range(layout[H_NLOCKS_USED]):
            owner = core.lock(lock) & 0xFFFF
            if owner:
                held.append((lock, owner - 1, slots[(owner - 1) // dpp][1]))
        for number in range(layout[H_PROCS] * dpp):
            state = core.word(layout[H_DESC] + number * (DESCRIPTOR_WORDS + log_len)) & 0xFF
            if STATES[state] in ("running", "committed"):
                pending.append((number, number // dpp, slots[number // dpp][1], STATES[state]))
        pools, damage = _pools(core, layout, exact=all(owner in ("free", "dead") for _, owner in slots))
        return Examination(core.rebooted(), slots, tuple(held), tuple(pending), tuple(pools), tuple(damage))
    finally:
        core.close()


def _pools(core: Any, layout: list[int], *, exact: bool) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Pools with their free nodes, and what is wrong with them; lists that change meanwhile are no proof (`exact`)."""
    found, damage = [], []
    for entry in range(layout[H_NDIR]):
        at = core.word(layout[H_DIR] + entry)
        if not at:
            break
        if core.word(at + R_KIND) != POOL:
            continue
        name, n, stride, base = core.text(at), core.word(at + R_N), core.word(at + R_STRIDE), core.word(at + R_BASE)
        free = core.find(f"{name[:50]}.free")
        if free is None:
            continue
        shell = Region.__new__(Region)
        shell.core = core
        pool = Pool(shell, name, base, n, stride, Cells(shell, f"{name}.free", free[1], free[2]))
        used = pool.free.to_list()[-1]
        if not 0 <= used <= n:
            damage.append(f"pool {name}: {used} nodes handed out; expected 0 to {n}")
            continue
        try:
            count = pool.free_nodes()
        except IndexError as error:
            count, wrong = 0, f"pool {name}: a free list leads nowhere: {error}"
        else:
            wrong = f"pool {name}: {count} nodes free; expected at most {n}" if count > n else ""
        if wrong and exact:
            damage.append(wrong)
        found.append((name, n, min(count, n)))
    return found, damage


def main(argv: list[str] | None = None) -> None:
    """Examine a region; ends with 1 when it needs repair."""
    parser = argparse.ArgumentParser(prog="python -m operators.locks.doctor", description=main.__doc__)
    parser.add_argument("region", type=Path)
    parser.add_argument("--repair", action="store_true", help="finish or undo what dead processes left open")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        report = None
        if options.repair:
            with Region.attach(options.region) as region:
                report = region.recover_all()
        found = examine(options.region)
    except (LocksError, OSError) as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(asdict(found) | {"healthy": found.healthy, "repaired": report and asdict(report)}))
    else:
        if report:
            done, undone, freed = report.completed, report.rolled_back, report.orphan_locks
            print(f"repaired: {done} finished, {undone} undone, {freed} locks freed")
        print(found)
    sys.exit(not found.healthy)


if __name__ == "__main__":
    main()
