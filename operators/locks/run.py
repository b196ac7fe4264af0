"""Stage `run`: one part of the real runs: throughput, stop, soak, sweep, explore, equal or history_own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import stage
from operators.locks.settings import Settings

if TYPE_CHECKING:
    pass

KINDS = {
    "throughput": {
        **dict.fromkeys(("impl", "structure"), "String"),
        **dict.fromkeys(("n", "update_pct"), "Int64"),
        "zipf": "Float64",
        "procs": "Int64",
        **dict.fromkeys(("persist", "nest"), "String"),
        **dict.fromkeys(("rep", "ops"), "Int64"),
        **dict.fromkeys(("cpu_s", "wall_s"), "Float64"),
        **dict.fromkeys(("helps", "aborts", "writebacks", "fences"), "Int64"),
    },
    "stop": {
        "impl": "String",
        "t_s": "Float64",
        "proc": "Int64",
        "ops": "Int64",
        "stopped": "Boolean",
        "step": "Int64",  # shared access at which the holder stopped itself (0: a peer, between two stores)
        **dict.fromkeys(("lost", "doubled", "stuck", "torn"), "Int64"),  # settled after SIGCONT
    },
    "soak": {
        **dict.fromkeys(("impl", "kind"), "String"),  # kind: soak | all_die
        "kill_rate": "Float64",
        **dict.fromkeys(("kills", "ops", "lost", "doubled", "stuck", "torn", "completed", "rolled_back"), "Int64"),
        **dict.fromkeys(("seconds", "recovery_us"), "Float64"),
    },
    "sweep": {
        **dict.fromkeys(("impl", "nest"), "String"),
        "point": "Int64",
        "kind": "String",  # shared | instruction | not measured
        **dict.fromkeys(("applied", "helped", "ok"), "Boolean"),
        "recovery_us": "Float64",
        "reason": "String",
    },
    "explore": {
        **dict.fromkeys(("config", "mutant", "memory"), "String"),  # mutant `none`: the correct core
        **dict.fromkeys(("crashes", "states", "transitions", "solo_runs", "unbounded", "violations"), "Int64"),
        "seconds": "Float64",
        **dict.fromkeys(("verdict", "why"), "String"),  # ok | violation | limit
    },
    "equal": {
        **dict.fromkeys(("impl", "structure"), "String"),
        **dict.fromkeys(("calls", "mismatches"), "Int64"),
    },
    "history_own": {
        "process": "Int64",
        **dict.fromkeys(("op", "args", "result"), "String"),
        **dict.fromkeys(("t_invoke", "t_return"), "Int64"),
        **dict.fromkeys(("crashes", "final_total", "final_calls"), "Int64"),
    },
}


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        return {part: schema_of(part) for part in KINDS}
    raise AttributeError(name)


def schema_of(part: str) -> dict[str, Any]:
    """Columns of a part's table, with seed and data."""
    import polars as pl

    return {name: getattr(pl, kind) for name, kind in KINDS[part].items()} | {"seed": pl.Int64, "data": pl.String}


def main(*, settings: Settings, part: str, workload: Path, out: Path, address: Path | None = None) -> None:
    """Do one part of the runs.

    Args:
        part: throughput, stop, soak, sweep, explore, equal or history_own
        workload: the rows of the calls (trace)
        out: the part's table
        address: address file of the run's Ray head (history_own; default: RAY_ADDRESS, else a private head)
    """
    import polars as pl

    from operators.locks import runs, runs_proof

    if part not in KINDS:
        raise ValueError(f"part (={part!r}): expected one of {', '.join(KINDS)}")
    rows: list[dict[str, Any]] = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        if part == "history_own":
            from operators.lab import cluster

            with cluster.connect(address) as ray:
                found = runs_proof.history_own(ray, settings, seed)
        elif part == "throughput":
            found = runs.throughput(settings, stage.read_table(workload), seed)
        else:
            found = {
                "stop": runs.stop,
                "soak": runs.soak,
                "sweep": runs_proof.sweep,
                "explore": runs_proof.explore,
                "equal": runs_proof.equal,
            }[part](settings, seed)
        rows += [{**row, "seed": seed, "data": "synthetic"} for row in found]
    schema = schema_of(part)
    frame: pl.DataFrame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
