"""The figures of METRO made from raw runs: gap to the optimum, Pareto, the measured experiment, the serving run."""

from typing import Any

import polars as pl

from operators.lab import figures
from operators.metro import measured as experiment
from operators.metro.charts import LABELS, LOOK, POLICIES, Chart, log_batches, note
from operators.metro.pareto import frontier


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
        log_batches(axis, sorted(steps["B"].unique()))
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
    if requests.is_empty():
        return figures.nothing("no serving run: metro.serve is off"), requests
    figure, axes = figures.panels(1, 2)
    for axis, name, scale, label in (
        (axes[0, 0], "tpot_us", 1e-3, "TPOT (ms)"),
        (axes[0, 1], "ttft_us", 1e-6, "TTFT (s)"),
    ):
        for gate, colour in zip(requests["gate"].unique(maintain_order=True), figures.PALETTE, strict=False):
            _share(axis, requests.filter(pl.col("gate") == gate)[name] * scale, f"simulated, {gate} routing", colour)
        found = requests.filter(pl.col("gate") == requests["gate"][0])
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


def gap(routing: pl.DataFrame) -> Chart:
    """Share of routed layers by lambda over the certified optimum, per policy."""
    frame = (
        routing.filter((pl.col("phase") == "decode") & (pl.col("r") > 1.0))
        .with_columns(over=pl.col("lam") / pl.col("lam_exact"), basis=pl.lit("real"))
        .select("model", "router", "r", "B", "seed", "step", "layer", "over", "basis", "data", "batches")
    )
    figure, axes = figures.panels(1, 1, width=5.5)
    for policy in ("even", "metro", "exact", "adaptive"):
        values = frame.filter(pl.col("router") == policy)["over"].sort()
        if len(values):
            share = pl.Series(range(1, len(values) + 1)) / len(values)
            axes[0, 0].step(values, share, where="post", label=LABELS[policy], color=LOOK[policy]["color"])
    axes[0, 0].set(xlabel="lambda / optimum (1)", ylabel="share of layers at or below (1)")
    axes[0, 0].legend(fontsize=8)
    note(figure, frame, f"{len(frame)} routed layers, r > 1")
    return figure, frame.group_by("model", "router", "r", "B", "batches", "data").agg(
        pl.col("over").mean().alias("mean"), pl.col("over").max().alias("worst"), layers=pl.len()
    )


def pareto(runs: pl.DataFrame) -> Chart:
    """Decode throughput per GPU against interactivity, METRO and EPLB, paper's and fine grid."""
    if runs.is_empty():
        return figures.nothing("no sweep: metro.pareto is off"), runs
    setups = runs.select("model", "accelerator", "gpus").unique(maintain_order=True).rows()
    figure, axes = figures.panels(2, max(1, len(setups)), height=2.8)
    top, kept = runs["r"].max(), []
    for column, (model, accelerator, gpus) in enumerate(setups):
        for line, grid in zip(axes, ("paper", "fine"), strict=True):
            some = runs.filter((pl.col("model") == model) & (pl.col("grid") == grid) & (pl.col("gpus") == gpus))
            for policy, ratio, router in (("none", 1.0, "even"), ("even", top, "even"), ("metro", top, "metro")):
                comm = "allgather" if policy == "metro" else "alltoall"
                part = some.filter((pl.col("r") == ratio) & (pl.col("router") == router) & (pl.col("comm") == comm))
                if part.is_empty():
                    continue
                best = frontier(part).with_columns(policy=pl.lit(policy))
                line[column].plot(
                    1e6 / best["tpot_us"], best["throughput_per_gpu"], label=LABELS[policy], **LOOK[policy]
                )
                kept.append(best)
            line[column].set_title(f"{model}, {gpus} x {accelerator}, {grid} grid", fontsize=9)
            line[column].set_yscale("log")
            figures.plain_ticks(line[column].yaxis)
        axes[1, column].set_xlabel("interactivity: 1 / TPOT (tokens/s per user)")
    for line in axes:
        line[0].set_ylabel("decode throughput\n(tokens/s per GPU)")
    axes[0, 0].legend(fontsize=8)
    note(figure, runs, f"r = {top:g} but for no replication; TP x EP splits and batches")
    return figure, pl.concat(kept) if kept else runs.head(0)
