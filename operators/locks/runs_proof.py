"""The runs that prove by trying: crash sweep, explorer with its mutants, equality of states, recorded histories."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from operators.locks import actors, reference, workload
from operators.locks import sweep as sweeping
from operators.locks.errors import StateLimit
from operators.locks.explore import SCENARIOS
from operators.locks.explore import explore as search
from operators.locks.region import MiB, Region
from operators.locks.sections import section
from operators.locks.settings import HISTORY_PROCS, Exploration, Settings
from operators.locks.soak import fast_folder

log = logging.getLogger("locks.run")
# The smallest search in which each broken rule shows; ABA rules need a descriptor or value that comes back.
MUTANT_SEARCH = {
    "nolog": Exploration(scenario="counter", ops=(1, 1)),
    "blind": Exploration(scenario="counter", ops=(1, 1)),
    "norec": Exploration(scenario="counter", ops=(1, 1), crashes=1),
    "notag": Exploration(scenario="flip", ops=(2, 1)),
    "norecheck": Exploration(scenario="flip", ops=(3, 1)),
    "nogen": Exploration(scenario="flip", ops=(3, 1)),
    "badrelease": Exploration(scenario="transfer", ops=(2, 1)),
    "reuse": Exploration(scenario="counter", ops=(1, 1), crashes=1),
    "p1": Exploration(scenario="stacked", ops=(2,), crashes=1, memory="px86"),
    "p2": Exploration(scenario="counter", ops=(2,), crashes=1, memory="px86"),
    "p3": Exploration(scenario="counter", ops=(2,), crashes=1, memory="px86"),
    "p4": Exploration(scenario="counter", ops=(2,), crashes=1, memory="px86"),
    "p5": Exploration(scenario="counter", ops=(2,), crashes=1, memory="px86"),
}
EQUAL_CALLS = 200


def sweep(settings: Settings, seed: int) -> list[dict[str, Any]]:
    """SIGKILL at swept instructions and at every shared access of one nested transfer; `seed` plays no part."""
    rows = []
    for nest in settings.sweep_nests:
        for kind, stride in (("instruction", settings.sweep_stride), ("shared", 1)):
            found = sweeping.transfer(nest, kind=kind, stride=stride)
            log.info("sweep of %s, %s: %d points", nest, kind, len(found.points))
            marks = {"impl": f"rflock_{nest}", "nest": nest, "kind": kind, "reason": ""}
            if found.reason:
                rows.append(marks | {"kind": "not measured", "reason": f"{kind}: {found.reason}"})
            for point, done, helped, held, equal, recovery_us in found.points:
                good = {"applied": bool(done), "helped": bool(helped), "ok": bool(equal) and not held}
                rows.append({**marks, "point": point, **good, "recovery_us": recovery_us})
    return rows


def explore(settings: Settings, seed: int) -> list[dict[str, Any]]:
    """The searches of the correct core, then each mutant, and the correct core in the mutant's search."""
    rows = [_search(one, None) for one in settings.explore]
    for mutant in settings.mutants:
        rows += [_search(MUTANT_SEARCH[mutant], mutant), _search(MUTANT_SEARCH[mutant], None)]
    return rows


def _search(one: Exploration, mutant: str | None) -> dict[str, Any]:
    name = f"{one.scenario} {'+'.join(map(str, one.ops))}, crashes {one.crashes}"
    row = {"config": name, "mutant": mutant or "none", "memory": one.memory, "crashes": one.crashes}
    try:
        found = search(
            SCENARIOS[one.scenario],
            procs=len(one.ops),
            ops_per_proc=one.ops,
            crashes=one.crashes,
            memory=one.memory,
            mutant=mutant,
            limit=one.limit,
        )
    except StateLimit as limit:
        log.info("%s, %s: no verdict within %d states", name, one.memory, one.limit)
        return row | {"states": one.limit, "violations": None, "verdict": "limit", "why": str(limit)}
    counted = {name: getattr(found, name) for name in ("states", "transitions", "solo_runs", "unbounded", "seconds")}
    why = found.violations[0][0] if found.violations else ""
    verdict = "ok" if found.ok else "violation"
    log.info(
        "%s, %s, mutant %s: %d states in %.1f s, %s",
        name,
        one.memory,
        row["mutant"],
        found.states,
        found.seconds,
        verdict,
    )
    return row | counted | {"violations": len(found.violations), "verdict": verdict, "why": why}


def equal(settings: Settings, seed: int) -> list[dict[str, Any]]:
    """Calls one after the other through the core, beside the same Python functions on plain lists."""
    rows = []
    for impl in ("rflock_flat", "rflock_stacked", "eager", "blocking"):
        with tempfile.TemporaryDirectory(prefix="pg-locks-", dir=fast_folder()) as folder:
            path = Path(folder) / "region"
            with Region.create(path, size=4 * MiB, max_procs=2, descriptors_per_proc=2) as region:
                region.core.set_mode(impl == "blocking", 2 if impl == "eager" else 0, 0)
                nest = "stacked" if impl == "rflock_stacked" else "flat"
                wrong = _transfers(region, nest, seed) + _tries(region, nest)
        rows.append({"impl": impl, "structure": "transfer", "calls": 2 * EQUAL_CALLS, "mismatches": wrong})
    return rows


def _transfers(region: Region, nest: str, seed: int) -> int:
    transfer, balances, counts = workload.transfer_on(region, nest=nest)
    plain = reference.Reference({balances: balances.to_list(), counts: counts.to_list()})
    wrong = 0
    for a, b, amount in workload.rows(seed, EQUAL_CALLS).tolist():
        args = (a, b, amount, region.slot)
        wrong += transfer.call(region, *args) != plain.call(transfer, *args)
    return wrong + sum(cells.to_list() != plain.state[cells] for cells in (balances, counts))


def _tries(region: Region, nest: str) -> int:
    """Nested try-locks, with a condition and a loop."""
    cells, locks = region.cells(8, name="tries"), region.locks(8, name="tries locks")

    @section(nest=nest)
    def tries(tx, i, k):
        total = 0
        with tx.lock(locks[i]):
            with tx.lock(locks[(i + k) % 8]) as ok:
                if ok:
                    for j in range(k):
                        cells[(i + j) % 8] += j + 1
                        total += cells[(i + j) % 8]
            if cells[i] > 5:
                cells[i] = cells[i] // 2
        return total, k

    plain = reference.Reference({cells: cells.to_list()})
    wrong = 0
    for call in range(EQUAL_CALLS):
        args = (call % 8, call % 5)
        wrong += tries.call(region, *args) != plain.call(tries, *args)
    return wrong + (cells.to_list() != plain.state[cells])


def history_own(ray: Any, settings: Settings, seed: int) -> list[dict[str, Any]]:
    """A history recorded by Ray actors that are killed inside sections and come back."""
    with tempfile.TemporaryDirectory(prefix="pg-history-", dir=fast_folder()) as folder:
        found = actors.record(
            ray,
            Path(folder),
            calls=settings.history_calls,
            schedule=settings.faults,
            procs=HISTORY_PROCS,
            seed=seed,
        )
    marks = {"crashes": len(found["events"]), "final_total": found["total"], "final_calls": found["calls"]}
    return [
        {"process": op.process, "op": op.op, "args": json.dumps(op.args), "result": json.dumps(op.result)}
        | {"t_invoke": op.t_invoke, "t_return": op.t_return, **marks}
        for op in found["ops"]
    ]
