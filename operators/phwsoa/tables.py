"""Columns and types of this system's tables, and instances read back from them."""

from pathlib import Path
from typing import Any

from operators.lab import stage

TEXT, WHOLE, REAL = "String", "Int64", "Float64"
WHERE = {"log": TEXT, "n": WHOLE, "m": WHOLE}
TABLES: dict[str, dict[str, str]] = {
    "instances": {**WHERE, "data": TEXT, "task": WHOLE, "length_mi": REAL, "pes": WHOLE, "release_s": REAL},
    "vms": {**WHERE, "data": TEXT, "vm": WHOLE, "mips": REAL, "price_per_h": REAL, "pes": WHOLE},
    "bounds": {**WHERE, "data": TEXT, **dict.fromkeys(("lb", "cmin", "cmax"), REAL), "lb_kind": TEXT,
               **dict.fromkeys(("lpt_over_lb", "mct_over_lb", "round_robin_over_lb", "lp_cap", "lp_cost"), REAL)},
    "fronts": {**WHERE, "data": TEXT, "method": TEXT, "settings": TEXT, "seed": WHOLE, "point": WHOLE,
               **dict.fromkeys(("f1", "f2_cv", "f2_di", "f3"), REAL), "lb": REAL, "lb_kind": TEXT, "evals": WHOLE,
               "delta_evals": WHOLE, "assign": "Binary"},
    "history": {**WHERE, "data": TEXT, "method": TEXT, "settings": TEXT, "seed": WHOLE,
                **dict.fromkeys(("gen", "evals", "delta_evals"), WHOLE),
                **dict.fromkeys(("hv", "best_f1", "best_f2", "best_f3"), REAL)},
    "timings": {**WHERE, "data": TEXT, "method": TEXT, "settings": TEXT, "seed": WHOLE, "gen": WHOLE, "seconds": REAL},
    "golden": {"case": TEXT, "scheduler": TEXT, "task": WHOLE, "start": REAL, "finish": REAL, "golden_finish": REAL,
               "error": REAL, "data": TEXT},
    "executed": {"log": TEXT, "case": TEXT, "task": WHOLE, "vm": WHOLE,
                 **dict.fromkeys(("planned_finish", "start", "finish"), REAL), "attempts": WHOLE, "data": TEXT},
    "ablation": {"group": TEXT, "policy": TEXT, **WHERE, "seed": WHOLE, "lb_kind": TEXT,
                 **dict.fromkeys(("start_f1_over_lb", "start_hamming", "f1_over_lb", "f2_cv", "f3", "hv3"), REAL),
                 "evals": WHOLE, "delta_evals": WHOLE, "data": TEXT},
    "variants": {"group": TEXT, "variant": TEXT, "policy": TEXT, **WHERE, "seed": WHOLE, "lb_kind": TEXT,
                 **dict.fromkeys(("f1_over_lb", "f2_cv", "f2_di", "f3", "f3_over_least"), REAL), "evals": WHOLE,
                 "data": TEXT},
    "measures": {"system": TEXT, "policy": TEXT, "seed": WHOLE, "settings": TEXT, "data": TEXT, "case": TEXT, **WHERE,
                 "f1_over_lb": REAL, "lb_kind": TEXT,
                 **dict.fromkeys(("f2_cv", "f2_di", "f3", "f3_over_lpmin", "hv2", "hv_ratio", "hv_ratio_exact", "hv3",
                                  "executed_over_planned"), REAL),
                 "evals": WHOLE, "delta_evals": WHOLE, "evals_per_s": REAL, "seconds": REAL},
    "stats": {"log": TEXT, "n": WHOLE, "m": WHOLE, "pair": TEXT, "measure": TEXT, "median_difference": REAL,
              "wilcoxon_p": REAL, "n_seeds": WHOLE, "dominates": WHOLE, "dominated": WHOLE, "wins_share": REAL,
              "lb_kind": TEXT, "data": TEXT},
}  # fmt: skip


def schema(name: str) -> dict[str, Any]:
    """Columns and polars types of a table."""
    import polars as pl

    return {column: getattr(pl, kind) for column, kind in TABLES[name].items()}


def write(name: str, rows: list[dict[str, Any]], path: Path, settings: Any, data: str | None = None) -> None:
    """Write rows (missing columns are null) as the table `name`; `data` marks an empty table."""
    import polars as pl

    kinds = schema(name)
    frame = pl.DataFrame([{column: row.get(column) for column in kinds} for row in rows], schema=kinds)
    stage.write_table(frame, path, schema=kinds, settings=settings, data=data)


def instances(tasks: Path, vms: Path, log: str | None = None) -> list[tuple[dict[str, Any], Any]]:
    """Every instance of the two tables (of one log): its keys (log, n, m, data) and the Instance."""
    import polars as pl

    from operators.phwsoa.instance import Instance

    out, machines = [], stage.read_table(vms)
    for (name, n, m, data), rows in stage.read_table(tasks).group_by("log", "n", "m", "data", maintain_order=True):
        if log is not None and name != log:
            continue
        here = machines.filter((pl.col("log") == name) & (pl.col("n") == n)).sort("vm")
        made = Instance(rows.sort("task")["length_mi"].to_numpy(), here["mips"].to_numpy(),
                        here["price_per_h"].to_numpy())  # fmt: skip
        out.append(({"log": name, "n": n, "m": m, "data": data}, made))
    return out
