"""The model explorer: every interleaving of the core's shared accesses, with crashes, over its own source and bytecode.

`explore` builds a small region, lets a scenario put its sections and calls there, and hands both to native/explore.c.
The final cells and results of every end state must be those of some sequential order of the calls, run by Python itself
(reference.py). A search that reaches its bound is a StateLimit, never a pass.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from operators.locks import reference
from operators.locks.core import load
from operators.locks.errors import LocksError, StateLimit
from operators.locks.handles import Cells
from operators.locks.region import Region
from operators.locks.sections import section

MUTANTS = {
    name: 1 << number
    for number, name in enumerate(
        ["nolog", "blind", "norec", "notag", "norecheck", "nogen", "badrelease", "reuse", "p1", "p2", "p3", "p4", "p5"]
    )
}
Ops = Sequence[int]  # calls of each process
MEMORIES = ("sc", "px86")
LIMIT = 20_000_000
SOLO = 16  # one state in so many is checked for progress alone


@dataclass(frozen=True)
class Scenario:
    """Calls of every process, and the cells whose final values count."""

    calls: Sequence[Sequence[reference.Call]]
    watch: Sequence[Cells]


@dataclass(frozen=True)
class Report:
    """What a complete search found; `violations` holds (what, trace), the trace as moves of processes and crashes."""

    states: int
    transitions: int
    terminals: int
    solo_runs: int
    unbounded: int
    power_cuts: int
    seconds: float
    violations: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        return not self.violations


def counter(region: Region, procs: int, ops: Ops) -> Scenario:
    """One lock, one cell: each call adds its own number and returns the sum."""
    cells, locks = region.cells(1), region.locks(1)

    @section
    def add(tx, amount):
        with tx.lock(locks[0]):
            cells[0] += amount
            return cells[0]

    return Scenario([[(add, (1 + process,))] * n for process, n in enumerate(ops)], [cells])


def flip(region: Region, procs: int, ops: Ops) -> Scenario:
    """One lock, one cell that goes up and down again: values come back, only tags tell them apart."""
    cells, locks = region.cells(1), region.locks(1)

    @section
    def add(tx, amount):
        with tx.lock(locks[0]):
            cells[0] += amount

    return Scenario([[(add, (1 - 2 * (k % 2),)) for k in range(n)] for n in ops], [cells])


def transfer(region: Region, procs: int, ops: Ops) -> Scenario:
    """Two nested locks: an amount goes from one account to the other and the call is counted."""
    return _transfer(region, procs, ops, "flat")


def stacked(region: Region, procs: int, ops: Ops) -> Scenario:
    """The transfer with nested logs: the inner level commits and is applied at its own end; the outer writes later."""
    return _transfer(region, procs, ops, "stacked")


def _transfer(region: Region, procs: int, ops: Ops, nest: str) -> Scenario:
    accounts, counts, locks = region.cells(2, 100), region.cells(procs), region.locks(2)

    @section(nest=nest)
    def move(tx, amount, who):
        with tx.lock(locks[0]):
            with tx.lock(locks[1]):
                accounts[0] -= amount
                accounts[1] += amount
            counts[who] += 1

    calls = [[(move, (5 + process, process))] * n for process, n in enumerate(ops)]
    return Scenario(calls, [accounts, counts])


def crossed(region: Region, procs: int, ops: Ops) -> Scenario:
    """Two locks taken in opposite orders by neighbours: no deadlock, but refusals without end, so no end of states."""
    accounts, locks = region.cells(2, 100), region.locks(2)

    @section
    def move(tx, first, amount):
        with tx.lock(locks[first]), tx.lock(locks[1 - first]):
            accounts[first] -= amount
            accounts[1 - first] += amount
            return accounts[0]

    return Scenario([[(move, (process % 2, 1 + process))] * n for process, n in enumerate(ops)], [accounts])


SCENARIOS: dict[str, Callable[[Region, int, Ops], Scenario]] = {
    "counter": counter,
    "flip": flip,
    "transfer": transfer,
    "stacked": stacked,
    "crossed": crossed,
}


def explore(
    scenario: Callable[[Region, int, Ops], Scenario],
    *,
    procs: int = 2,
    ops_per_proc: int | Ops = 1,
    crashes: int = 0,
    memory: str = "sc",
    por: bool = True,
    mutant: str | None = None,
    limit: int = LIMIT,
    wrap: bool = False,
    tag_bits: int | None = None,
    log_len: int = 32,
) -> Report:
    """Search every state of `scenario(region, procs, ops_per_proc)` with at most `crashes` crashes.

    `memory`: `sc` with crashes of single processes, `px86` with power cuts that keep any prefix of each cache line's
    stores. `por` joins accesses that commute with everything else. `mutant` breaks one rule of the core (MUTANTS).
    `wrap` explores the announcements that make wrapping tags safe; `tag_bits=2` lets cell tags wrap after 4 updates
    (None: as built). Raises StateLimit at `limit` states.
    """
    if memory not in MEMORIES:
        raise LocksError(f"memory (={memory!r}): expected one of {', '.join(MEMORIES)}")
    if mutant is not None and mutant not in MUTANTS:
        raise LocksError(f"mutant (={mutant!r}): expected one of {', '.join(MUTANTS)}")
    if tag_bits not in (None, 2):
        raise LocksError(f"tag_bits (={tag_bits}): expected None or 2")
    ops = [ops_per_proc] * procs if isinstance(ops_per_proc, int) else list(ops_per_proc)
    if len(ops) != procs:
        raise LocksError(f"ops_per_proc (={ops_per_proc}): expected one number, or one for each of {procs} processes")
    for name, value, low in (("procs", procs, 1), ("ops_per_proc", max(ops), 1), ("crashes", crashes, 0)):
        if value < low or value > 4:
            raise LocksError(f"{name} (={value}): expected {low} to 4")
    with tempfile.TemporaryDirectory(prefix="pg-locks-") as folder:
        sizes = {"size": 2**20, "max_procs": procs, "descriptors_per_proc": 2, "log_len": log_len}
        with Region.create(Path(folder) / "region", **sizes) as region:
            made = scenario(region, procs, ops)
            calls = [
                [(s.bind(region) and region.core.section_id(s.__name__), list(args)) for s, args in mine]
                for mine in made.calls
            ]
            watch = [cells.place[0] + i for cells in made.watch for i in range(len(cells))]
            how = (crashes, memory == "px86", por, wrap, SOLO, MUTANTS.get(mutant, 0), limit, tag_bits == 2)
            found = load().explore(region.core, calls, watch, *how)
            allowed = reference.outcomes(made.calls, made.watch)
    return _report(found, allowed, limit)


def _report(found: dict, allowed: set[tuple], limit: int) -> Report:
    violations = [(found["text"], found["trace"])] if found["verdict"] == 1 else []
    wrong = [outcome for outcome in found["outcomes"] if outcome not in allowed]
    for cells, results in wrong:
        violations.append((f"no sequential order ends with cells {cells} and results {results}", ""))
    if found["verdict"] == 2 and not violations:
        raise StateLimit(f"explore: {limit} states reached without an end; no verdict")
    names = ("states", "transitions", "terminals", "solo_runs", "unbounded", "power_cuts", "seconds")
    return Report(**{name: found[name] for name in names}, violations=tuple(violations))
