"""The timed runs: throughput of every policy and structure, survivors of a stopped holder, kill soaks."""

import itertools
import logging
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.locks import soak as soaking
from operators.locks import structures, workload
from operators.locks.core import load, program
from operators.locks.region import MiB, Region
from operators.locks.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

log = logging.getLogger("locks.run")
OURS = ("rflock_flat", "rflock_stacked", "eager", "blocking")
EAGER = 2  # enum of native/core.h
SETS = {"list": structures.SortedList, "hash": structures.HashMap, "tree": structures.LeafTree}
CHUNK_S = 0.05


def nest_of(impl: str) -> str:
    """Name of the nesting an implementation runs with."""
    return {"rflock_flat": "flat", "rflock_stacked": "stacked", "eager": "flat", "blocking": "flat"}.get(impl, "-")


def throughput(settings: Settings, table: "pl.DataFrame", seed: int) -> list[dict[str, Any]]:
    """Every point of the grid, repetitions outermost so that slow drifts of the machine meet all points alike."""
    rows = []
    for rep in range(settings.reps):
        for impl, structure, zipf, persist in _grid(settings):
            some = _rows(table, structure, zipf, seed)
            counts = settings.procs if structure == "transfer" else (1,)
            for procs in counts:
                point = {"impl": impl, "structure": structure, "n": settings.sizes[structure], "zipf": zipf}
                point |= {"procs": procs, "persist": persist, "nest": nest_of(impl), "rep": rep}
                if structure == "transfer":
                    rows.append(
                        point | {"update_pct": 100} | _transfer(impl, persist, procs, settings.seconds, some[0])
                    )
                else:
                    for pct, keys, ops in some:
                        one = _set(impl, structure, persist, settings, seed, keys, ops)
                        rows.append(point | {"update_pct": pct} | one)
        log.info("throughput: repetition %d of %d", rep + 1, settings.reps)
    return rows


def _grid(settings: Settings) -> Iterator[tuple[str, str, float, str]]:
    """Peers are plain memory, so they have one persistence mode and the transfer only."""
    for structure, zipf, persist, impl in itertools.product(
        settings.structures, settings.zipf, settings.persist, settings.impls
    ):
        if impl in OURS or (structure == "transfer" and persist == settings.persist[0]):
            yield impl, structure, zipf, persist if impl in OURS else "process"


def _rows(table: "pl.DataFrame", structure: str, zipf: float, seed: int) -> list[Any]:
    import numpy as np
    import polars as pl

    some = table.filter((pl.col("structure") == structure) & (pl.col("zipf") == zipf) & (pl.col("seed") == seed))
    if structure == "transfer":
        return [np.ascontiguousarray(some.sort("i").select("a", "b", "amount").to_numpy(), dtype=np.int32)]
    return [
        (pct, one["a"].to_numpy().copy(), one["op"].to_numpy().copy())
        for (pct,), one in some.sort("i").partition_by("update_pct", as_dict=True, maintain_order=True).items()
    ]


def _transfer(impl: str, persist: str, procs: int, seconds: float, rows: "np.ndarray") -> dict[str, Any]:
    """Native workers, each for `seconds`; what they say of themselves, summed."""
    with tempfile.TemporaryDirectory(prefix="pg-locks-", dir=soaking.fast_folder()) as name:
        path, file = Path(name) / "ground", workload.write_rows(rows, Path(name) / "rows")
        words = [str(program("worker")), "ours" if impl in OURS else impl, str(path)]
        if impl in OURS:
            with Region.create(path, size=8 * MiB, max_procs=procs, descriptors_per_proc=2, persist=persist) as region:
                workload.transfer_on(region, nest=nest_of(impl))
            mode = ["transfer", "nohelp" if impl == "blocking" else "help", str(EAGER if impl == "eager" else 0)]
        else:
            load().create_peer(str(path), impl, workload.ACCOUNTS, procs, workload.INITIAL)
            mode = []
        began = time.perf_counter()
        running = [
            subprocess.Popen([*words, str(slot), str(file), str(seconds), *mode], stdout=subprocess.PIPE, text=True)
            for slot in range(procs)
        ]
        said = [process.communicate()[0].split() for process in running]
        wall = time.perf_counter() - began
    sums = [sum(float(words[i]) for words in said) for i in range(6)]
    names = ("ops", "cpu_s", "helps", "aborts", "writebacks", "fences")
    return {name: value if name == "cpu_s" else int(value) for name, value in zip(names, sums, strict=True)} | {
        "wall_s": wall
    }


def _set(
    impl: str, structure: str, persist: str, settings: Settings, seed: int, keys: "np.ndarray", ops: "np.ndarray"
) -> dict[str, Any]:
    """One process works on a set of n keys for about the set time."""
    n = settings.sizes[structure]
    with (
        tempfile.TemporaryDirectory(prefix="pg-locks-", dir=soaking.fast_folder()) as name,
        Region.create(
            Path(name) / "ground", size=32 * MiB, max_procs=2, descriptors_per_proc=2, persist=persist
        ) as region,
    ):
        region.core.set_mode(impl == "blocking", EAGER if impl == "eager" else 0, 0)
        made = SETS[structure](region, 2 * n, nest=nest_of(impl))
        for key in workload.fill_order(seed, n).tolist():
            made.insert(key)
        before, done, cpu = region.core.stats(), 0, 0.0
        began = time.perf_counter()
        while time.perf_counter() - began < settings.seconds:
            _, used = made.drive(keys, ops)
            done, cpu = done + len(keys), cpu + used
        wall = time.perf_counter() - began
        after = region.core.stats()
    counted = {name: after[name] - before[name] for name in ("helps", "aborts", "writebacks", "fences")}
    return {"ops": done, "cpu_s": cpu, "wall_s": wall, **counted}


def stop(settings: Settings, seed: int) -> list[dict[str, Any]]:
    """Windows of calls around a SIGSTOP, for each implementation, with the settled accounts on every row."""
    rows = []
    for impl in settings.stop_impls:
        windows, found, note = soaking.stop_holder(
            impl, before_s=max(0.5, settings.stop_s / 2), stop_s=settings.stop_s, after_s=0.5, seed=seed
        )
        marks = {"step": note["step"], "lost": found.lost, "doubled": found.doubled}
        marks |= {"stuck": found.stuck, "torn": found.torn}
        rows += [
            {"impl": impl, "t_s": w.t_s, "proc": w.proc, "ops": w.ops, "stopped": w.stopped, **marks} for w in windows
        ]
    return rows


def soak(settings: Settings, seed: int) -> list[dict[str, Any]]:
    """A soak per implementation and kill rate, and the death of all with a restart in a new interpreter."""
    rows = []
    for impl, rate in itertools.product(settings.soak_impls, settings.kill_rate):
        found = soaking.soak(impl, seconds=settings.soak_s, kill_rate=rate, procs=settings.soak_procs, seed=seed)
        rows.append({"kind": "soak", "kill_rate": rate, **_soaked(found)})
        log.info("soak of %s at %g kills/s: %d kills, %d lost", impl, rate, found.kills, found.lost)
    for nest in ("flat", "stacked"):
        found = soaking.all_die(procs=settings.soak_procs, seed=seed, nest=nest)
        rows.append({"kind": "all_die", "kill_rate": None, **_soaked(found)})
    return rows


def _soaked(found: soaking.Soaked) -> dict[str, Any]:
    names = ("impl", "kills", "ops", "lost", "doubled", "stuck", "torn", "completed", "rolled_back", "seconds")
    recovery = statistics.median(found.recovery_us) if found.recovery_us else None
    return {name: getattr(found, name) for name in names} | {"recovery_us": recovery}
