"""Stage `execute_plan`: LPT's plan really run by machine processes, once undisturbed and once with faults."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.phwsoa.settings import Settings


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        from operators.phwsoa import tables

        return tables.schema("executed")
    raise AttributeError(name)


SHORTEST_S, LONGEST_S = 50, 2000  # every task lasts long enough beside a message, none dominates


def main(*, settings: Settings, out: Path, address: Path | None = None, data: Path | None = None) -> None:
    """Run the plan on Ray actors: measured against planned times, attempts after the settings' faults.

    Args:
        out: one row per case and task (runs/executed.parquet)
        address: address file of the run's Ray head (default: RAY_ADDRESS, else a private head)
        data: data root (default: synthetic twins)
    """
    import polars as pl

    from operators.lab import cluster
    from operators.phwsoa import heuristics, instance, sources, tables
    from operators.phwsoa.executor import execute

    how, log, rows = settings.execute, settings.logs[0], []
    jobs, kind = sources.jobs(log, data, seed=settings.seed)
    usable = jobs.filter(pl.col("run_time").is_between(SHORTEST_S, LONGEST_S))
    made = instance.five_class(usable, how.n, how.m, settings.seed)
    plan = heuristics.lpt(made)
    faults = {
        "kill": [(fault.at_s, fault.vm) for fault in how.faults if fault.kind == "kill"],
        "stop": [(fault.at_s, fault.vm, fault.for_s) for fault in how.faults if fault.kind == "stop"],
        "slow": [(fault.at_s, fault.vm, fault.factor, fault.for_s) for fault in how.faults if fault.kind == "slow"],
    }
    with cluster.connect(address) as ray:
        for case, struck in (("plain", {}), ("faults", faults)):
            if case == "faults" and not how.faults:
                continue
            table = execute(made, plan, time_scale=how.time_scale, interval_s=how.interval_s, seed=settings.seed,
                            address=address, ray=ray, redistribute=case == "faults", **struck)  # fmt: skip
            rows += [{"log": log, "case": case, "data": kind, **row} for row in table.iter_rows(named=True)]
    tables.write("executed", rows, out, settings)


if __name__ == "__main__":
    stage.run(main)
