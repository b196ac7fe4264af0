"""The figures of METRO that show measurements: the experiment on this processor, and the serving run beside vLLM."""

from typing import Any

import polars as pl

from operators.lab import figures
from operators.metro import measured as experiment
from operators.metro.charts import LABELS, LOOK, POLICIES, Chart, _log_batches


def measured(table: pl.DataFrame) -> Chart:
    """Time of a rank against its activated experts and against its assignments, from the calibration sweep."""
    frame = experiment.rank_times(table.filter(pl.col("router") == "sweep"))
    figure, axes = figures.panels(1, 2)
    for per_expert, colour in zip(sorted(frame["B"].unique()), figures.PALETTE * 2, strict=False):
        some = frame.filter(pl.col("B") == per_expert)
        for axis, x in zip(axes[0], ("A", "n"), strict=True):
            axis.plot(some[x], some["ms"], "o", color=colour, markersize=4, label=f"{per_expert} tokens/expert")
    axes[0, 0].set(xlabel="activated experts of the rank (count)", ylabel="CPU time (ms)")
    axes[0, 1].set(xlabel="token assignments of the rank (count)")
    axes[0, 0].legend(fontsize=7)
    figures.note(figure, _words(table))
    return figure, frame


def crossover(table: pl.DataFrame) -> Chart:
    """Makespan of a layer by batch at every ratio above 1, beside no replication; dotted: predicted."""
    steps = experiment.makespans(table).with_columns(
        policy=pl.when((pl.col("router") == "primary") & (pl.col("r") == 1.0)).then(pl.lit("none")).otherwise("router")
    )
    ratios = sorted(r for r in steps["r"].unique() if r > 1.0)
    figure, axes = figures.panels(1, max(1, len(ratios)))
    for axis, ratio in zip(axes[0], ratios, strict=False):
        for policy in POLICIES:
            nested = policy == "adaptive" and steps["nested"].any()
            some = steps.filter((pl.col("policy") == policy) & (pl.col("nested") == nested))
            some = some.filter((pl.col("r") == ratio) | (pl.lit(policy) == "none")).sort("B")
            if len(some):
                label = LABELS[policy] + (", nested placement" if nested else "")
                axis.plot(some["B"], some["makespan_ms"], label=label, **LOOK[policy])
                axis.plot(some["B"], some["predicted_ms"], ":", color=LOOK[policy]["color"], linewidth=1)
        axis.set(title=f"r = {ratio:g}", xlabel="batch (tokens)")
        axis.set_yscale("log")
        figures.plain_ticks(axis.yaxis)
        _log_batches(axis, sorted(steps["B"].unique()))
    axes[0, 0].set_ylabel("time of one layer:\nslowest rank (ms)")
    axes[0, 0].legend(fontsize=7)
    figures.note(figure, _words(table) + " · dotted: linear model of the sweep")
    return figure, steps


def _words(table: pl.DataFrame) -> str:
    one = table.row(0, named=True)
    resident = " · experts fit the cache: no claim is judged" if one["cache_resident"] else ""
    shape = f"{one['experts']} experts of {one['hidden']} x {one['width']}, {one['kernel']} kernel"
    return f"basis: real · data: {one['data']} · batches: {one['batches']} · {shape}{resident}"


def serve(requests: pl.DataFrame) -> Chart:
    """Distribution of TPOT and TTFT over requests: simulated under each assumption on routing, and measured."""
    figure, axes = figures.panels(1, 2)
    for axis, name, scale, label in (
        (axes[0, 0], "tpot_us", 1e-3, "TPOT (ms)"),
        (axes[0, 1], "ttft_us", 1e-6, "TTFT (s)"),
    ):
        for gate, colour in zip(requests["gate"].unique(maintain_order=True), figures.PALETTE, strict=False):
            _share(axis, requests.filter(pl.col("gate") == gate)[name] * scale, f"simulated, {gate} routing", colour)
        found = requests.filter(pl.col("gate") == requests["gate"][0]) if len(requests) else requests
        if found[f"measured_{name}"].is_not_null().any():
            _share(axis, found[f"measured_{name}"].drop_nulls() * scale, "measured (vLLM)", "#000000")
        axis.set(xlabel=label, ylabel="share of requests at or below (1)")
    axes[0, 1].set_xscale("log")
    axes[0, 0].legend(fontsize=7)
    data = "+".join(sorted(requests["data"].unique()))
    figures.note(figure, f"basis: calibrated · data: {data} · RTX PRO 6000, Qwen3-30B, 2 ranks, {len(found)} requests")
    return figure, requests


def _share(axis: Any, values: pl.Series, label: str, colour: str) -> None:
    values = values.sort()
    axis.step(values, pl.Series(range(1, len(values) + 1)) / len(values), where="post", label=label, color=colour)
