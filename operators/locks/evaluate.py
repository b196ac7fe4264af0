"""Stage: raw runs to measures, and the checker's verdict on every history."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import stage
from operators.locks.settings import Settings

if TYPE_CHECKING:
    import polars as pl

MEASURES = {
    "policy": "String",
    "measure": "String",
    "structure": "String",
    "value": "Float64",
    "seed": "Int64",
    "profile": "String",
    "data": "String",
    "basis": "String",
}
LINCHECK = {
    "history": "String",
    "verdict": "String",  # ok | violation
    "expected": "String",
    "states": "Int64",
    "bad_prefix": "Int64",  # events of the shortest bad prefix, null when there is none
    "seconds": "Float64",
    "data": "String",
}


def _schemas() -> tuple[dict, dict]:
    import polars as pl

    return tuple({name: getattr(pl, kind) for name, kind in kinds.items()} for kinds in (MEASURES, LINCHECK))


def __getattr__(name: str) -> dict:
    if name in ("SCHEMA", "LINCHECK_SCHEMA"):
        return _schemas()[name == "LINCHECK_SCHEMA"]
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    throughput: Path,
    stop: Path,
    soak: Path,
    sweep: Path,
    explore: Path,
    equal: Path,
    history_own: Path,
    histories: Path,
    out: Path,
    out_lincheck: Path,
) -> None:
    """Make the measures that claims and figures use.

    Args:
        throughput: rates and fences of every policy (run)
        stop: windows around a SIGSTOP (run)
        soak: kill soaks (run)
        sweep: crash sweep (run)
        explore: model explorer (run)
        equal: states beside the sequential reference (run)
        history_own: history recorded under kills (run)
        histories: recorded histories with known verdicts (trace)
        out: measures.parquet
        out_lincheck: one row per history (runs/lincheck.parquet)
    """
    import polars as pl

    from operators.locks import measures

    schema, lin_schema = _schemas()
    own, recorded = stage.read_table(history_own), stage.read_table(histories)
    checked = check_histories(recorded) + check_own(own)
    lincheck = pl.DataFrame(checked, schema=lin_schema, orient="row")
    stage.write_table(lincheck, out_lincheck, schema=lin_schema, settings=settings)
    stopped, soaked, explored = stage.read_table(stop), stage.read_table(soak), stage.read_table(explore)
    rows = [
        *measures.rates(stage.read_table(throughput)),
        *measures.survivors(stopped),
        *measures.soaks(soaked),
        *measures.both(stopped, soaked),
        *measures.sweeps(stage.read_table(sweep)),
        *measures.explored(explored),
        *measures.states(stage.read_table(equal)),
        *measures.histories(lincheck, own, soaked),
    ]
    frame = pl.DataFrame(
        [{"structure": "", "basis": "real", "data": "synthetic", **row, "profile": settings.profile} for row in rows],
        schema=schema,
    )
    stage.write_table(frame, out, schema=schema, settings=settings)


def check_histories(table: "pl.DataFrame") -> list[tuple[Any, ...]]:
    """One row per recorded history; a key-value history is one per key, all of which must be linearizable."""
    from operators.locks.check import linearizable

    rows = []
    for (name,), frame in table.partition_by("history", as_dict=True, maintain_order=True).items():
        found = [
            linearizable(_ops(one), model)
            for (model, _), one in frame.partition_by("model", "key", as_dict=True, maintain_order=True).items()
        ]
        bad = [one.bad_prefix for one in found if not one.ok]
        verdict, expected = ("ok" if not bad else "violation"), ("ok" if frame["expected"][0] else "violation")
        states, seconds = sum(one.states for one in found), sum(one.seconds for one in found)
        rows.append((name, verdict, expected, states, min(bad, default=None), seconds, frame["data"][0]))
    return rows


def check_own(table: "pl.DataFrame") -> list[tuple[Any, ...]]:
    """The history recorded under kills, which must be linearizable."""
    from operators.locks.check import linearizable

    rows = []
    for (seed,), frame in table.partition_by("seed", as_dict=True, maintain_order=True).items():
        found = linearizable(_ops(frame), "counter")
        verdict = "ok" if found.ok else "violation"
        rows.append((f"own/{seed}", verdict, "ok", found.states, found.bad_prefix, found.seconds, "synthetic"))
    return rows


def _ops(frame: "pl.DataFrame") -> list[Any]:
    from operators.locks.check import Op

    return [
        Op(
            row["process"],
            row["op"],
            tuple(json.loads(row["args"])),
            None if row["result"] is None else json.loads(row["result"]),
            row["t_invoke"],
            row["t_return"],
        )
        for row in frame.iter_rows(named=True)
    ]


if __name__ == "__main__":
    stage.run(main)
