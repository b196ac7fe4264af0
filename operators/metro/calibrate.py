"""Stage: fit the expert-layer costs to the measured kernel tables and report how good they are.

Section 2.8 and 2.9. Every balanced table gets the three cost forms and the plain line a + b*A of the memory-bound
corner; the RTX table is also fitted leaving each point out; slopes are carried from model to model and compared where
both have tables. Kernel steps (where no form can fit) are listed. Nothing here has seen a latency of the measured
serving run.
"""

import itertools
from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.metro.settings import Settings, Setup

SCHEMA_NUMBERS = ("a", "b", "beta", "c", "p", "mape", "worst", "r2", "b_error")
STEP_NUMBERS = ("activated", "tau_from", "tau_to", "us_from", "us_to")
TRANSFER_FROM = ("qwen3-235b", "qwen3-30b")
TOP_K = 8  # of all three models with tables
LINE_TOKENS, RTX_LINE_TOKENS = 32, 64  # tokens up to which the kernels are memory-bound
ALL_RANKS_TOKENS = 1024  # tokens up to which one p-norm over all expert-parallel sizes is shown, to its disadvantage


def schema() -> dict:
    """Columns of fit_report.parquet. `kind`: fit, fit_all_ranks, leave_one_out, transfer, kernel_step."""
    import polars as pl

    names = ("system", "framework", "model", "dtype", "form", "kind", "from_model")
    numbers = dict.fromkeys((*SCHEMA_NUMBERS, *STEP_NUMBERS), pl.Float64)
    return dict.fromkeys(names, pl.String) | numbers | {"n": pl.Int32, "data": pl.String}


def main(*, settings: Settings, out_costs: Path, out_report: Path, data: Path | None = None) -> None:
    """Fit expert-layer costs to the kernel tables; write the costs and a report of their errors.

    Args:
        out_costs: JSON of every fitted cost, by table and form
        out_report: Parquet report: fits, leave-one-out, transfers, kernel steps
        data: data root; without it the synthetic tables
    """
    import json

    import polars as pl

    costs, rows = fit_all(data)
    text = json.dumps({"form": settings.cost, "costs": costs}, indent=1, sort_keys=True) + "\n"
    with stage.atomic(out_costs) as temporary:
        temporary.write_text(text)
    report = pl.DataFrame(rows, schema=schema())
    stage.write_table(report, out_report, schema=schema(), settings=settings)


def read_costs(path: Path) -> dict[str, Any]:
    """The calibrate stage's costs: `form` and `costs` by table name and form."""
    import json

    from operators.llm.moe_cost import MoeCost

    read = json.loads(Path(path).read_text())
    every = {
        name: {form: MoeCost.from_dict(cost) for form, cost in forms.items()} for name, forms in read["costs"].items()
    }
    return {name: forms[read["form"]] for name, forms in every.items()}


def cost_key(setup: Setup) -> str:
    """Name of a set-up's cost among the fitted ones."""
    return f"{setup.system}/{setup.framework}/{setup.model}/{setup.dtype}"


def fit_all(data: Path | None) -> tuple[dict, list[dict]]:
    """Costs by `system/framework/model/dtype` and form, and the rows of the report."""
    from operators.llm import tables
    from operators.llm.moe_cost import FORMS, MoeCost
    from operators.llm.shapes import MODELS

    cards = {shape.card: name for name, shape in MODELS.items()}
    frame, _ = tables.moe_rows(data)
    keys = frame.select("system", "framework", "model", "moe_dtype").unique().sort("system", "framework", "moe_dtype")
    found = {}
    for system, framework, card, dtype in keys.rows():
        found[system, framework, cards[card], dtype] = tables.load_moe(system, framework, cards[card], dtype, data)
    found["rtx_pro_6000", "VLLM", "qwen3-30b", "bfloat16"] = tables.load_rtx(data).moe
    costs, rows, lines = {}, [], {}
    for key, table in found.items():
        fits = {form: MoeCost.fit(table, form) for form in FORMS}
        costs["/".join(key)] = {form: cost.to_dict() for form, cost in fits.items()}
        rows += [_fit_row(key, table, cost, "fit") for cost in fits.values()]
        lines[key] = _line_of(table)
        rows.append(_row(key, table, form="line", kind="fit", n=lines[key]["n"], **_without_n(lines[key])))
        rows += [_row(key, table, kind="kernel_step", **step) for step in table.steps().to_dicts()]
        rows += _all_ranks(key, table)
    rows += _left_out(next(reversed(found)), next(reversed(found.values())))
    return costs, rows + _transfers(lines, found)


def _row(key: tuple, table: object, **values: object) -> dict:
    names = dict(zip(("system", "framework", "model", "dtype"), key, strict=True))
    return dict.fromkeys(schema()) | names | {"data": table.data} | values


def _fit_row(key: tuple, table: object, cost: object, kind: str) -> dict:
    values = {name: getattr(cost, name) for name in ("a", "b", "beta", "c", "p")}
    return _row(key, table, form=cost.form, kind=kind, **values, **cost.errors)


def _line_of(table: object) -> dict:
    """a + b*A over the memory-bound points: few tokens, so that activated experts alone decide the time."""
    import numpy as np

    from operators.llm.moe_cost import memory_line

    A, n, us = table.fit_on
    thin = n <= TOP_K * (RTX_LINE_TOKENS if table.name.startswith("moe rtx") else LINE_TOKENS)
    a, b, r2 = memory_line(A[thin], us[thin])
    relative = np.abs((a + b * A[thin]) / us[thin] - 1)
    return {"a": a, "b": b, "r2": r2, "mape": relative.mean(), "worst": relative.max(), "n": int(thin.sum())}


def _without_n(values: dict) -> dict:
    return {name: value for name, value in values.items() if name != "n"}


def _all_ranks(key: tuple, table: object) -> list[dict]:
    from operators.llm.moe_cost import MoeCost

    if key[0] == "rtx_pro_6000":
        return []
    A, n, us = table.points
    few = n / A * A.max() / TOP_K <= ALL_RANKS_TOKENS
    return [_fit_row(key, table, MoeCost.fit_points(A[few], n[few], us[few]), "fit_all_ranks")]


def _left_out(key: tuple, table: object) -> list[dict]:
    import numpy as np

    from operators.llm.moe_cost import FORMS, leave_one_out

    rows = []
    for form in FORMS:
        error = np.abs(leave_one_out(*table.fit_on, form=form))
        rows.append(
            _row(key, table, form=form, kind="leave_one_out", mape=error.mean(), worst=error.max(), n=len(error))
        )
    return rows


def _transfers(lines: dict, found: dict) -> list[dict]:
    """Slopes carried by bytes per second. `b_error`: carried b over the fitted one, minus 1; null without a table."""
    from operators.llm.shapes import MODELS

    rows = []
    for key, target in itertools.product(lines, ("qwen3-30b", "qwen3-235b", "deepseek-v3")):
        system, framework, model, dtype = key
        if model not in TRANSFER_FROM or target == model or system == "rtx_pro_6000":
            continue
        size = MODELS[target].expert_bytes(dtype) / MODELS[model].expert_bytes(dtype)
        b, known = lines[key]["b"] * size, lines.get((system, framework, target, dtype))
        error = b / known["b"] - 1 if known else None
        values = {"a": lines[key]["a"], "b": b, "b_error": error, "n": lines[key]["n"]}
        to = (system, framework, target, dtype)
        rows.append(_row(to, found[key], form="line", kind="transfer", from_model=model, **values))
    return rows


if __name__ == "__main__":
    stage.run(main)
