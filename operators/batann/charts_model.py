"""Figures of bench and model: every bar beside its peer, transports, and the sizes nobody here can build (modelled)."""

from typing import Any

import polars as pl

from operators.batann.charts import LABELS, LOOK, Chart, Tables, at_target, log_ticks, note, work
from operators.batann.settings import Settings
from operators.lab import figures

BYTES = "bytes a vector differ: ours and DiskANN compare uint8 (128 B), hnswlib and faiss float32 (512 B)"
EXTRAPOLATED = {"hops": "hops a query (count)", "share": "hops to another server\nover all hops (1)"}
SIMULATED = {"qps": "queries/s", "latency_ms_1000qps": "mean latency at\n1,000 queries/s (ms)"}


def peers(tables: Tables, settings: Settings) -> Chart:
    """Ratio of ours to each peer with its spread, and the ratio that passes."""
    frame = tables.bench.with_columns(
        label=pl.format("{}: {}\nvs {}, {}", "bench", "case", "peer", "unit"),
        basis=pl.lit("real"),
    )
    shown = frame.filter(pl.col("ratio").is_not_null())
    lacking = frame.filter(pl.col("ratio").is_null())
    if shown.is_empty():
        return figures.nothing("no peer was measured: see the reasons in bench.parquet"), frame
    figure, axes = figures.panels(1, 1, width=8.5, height=0.42 * len(shown) + 1.6)
    axis = axes[0, 0]
    for at, row in enumerate(shown.iter_rows(named=True)):
        passed = row["bar"] is None or row["ratio"] >= row["bar"]
        colour = figures.PALETTE[0] if passed else figures.PALETTE[1]
        axis.plot([row["ratio_low"], row["ratio_high"]], [at, at], color=colour, linewidth=2)
        axis.plot([row["ratio"]], [at], "o", color=colour)
        if row["bar"] is not None:
            axis.plot([row["bar"]], [at], "|", color="black", markersize=14)
    axis.axvline(1.0, color="#555555", linewidth=0.8)
    axis.set_yticks(range(len(shown)), shown["label"].to_list(), fontsize=7)
    axis.invert_yaxis()
    log_ticks(axis, "x")
    axis.set_xlabel("ours / peer (1)")
    missing = f"not measured: {', '.join(sorted(set(lacking['peer'])))}" if len(lacking) else ""
    note(
        figure,
        frame.drop("n"),
        "above 1 ours is better; black: the least ratio that passes; lines: extremes of the pairs",
        BYTES,
        f"disk: n = {settings.n:,} or less, one thread, O_DIRECT",
        missing,
    )
    return figure, frame


def transports(tables: Tables, settings: Settings) -> Chart:
    """A hand-off one way, and hand-offs a second over sockets and over Ray calls."""
    frame = tables.bench.filter((pl.col("bench") == "transport") & pl.col("ours_value").is_not_null())
    frame = frame.with_columns(basis=pl.lit("real"))
    if frame.is_empty():
        return figures.nothing("transports were not measured"), frame
    figure, axes = figures.panels(1, len(frame), width=3.9)
    for axis, row in zip(axes[0], frame.iter_rows(named=True), strict=True):
        bars = {row["ours"]: row["ours_value"], row["peer"]: row["peer_value"]}
        if row["peer"] == "bar":
            bars.pop("bar")
            axis.axhline(row["peer_value"], color="black", linestyle=":", label="own bar")
            axis.legend(fontsize=8)
            axis.set_ylim(0, 1.25 * max(row["peer_value"], row["ours_value"]))
        else:
            log_ticks(axis, "y")
            axis.set_ylim(0.3 * min(bars.values()), 2.5 * max(bars.values()))
        drawn = axis.bar(list(bars), list(bars.values()), width=0.5, color=figures.PALETTE[: len(bars)])
        axis.bar_label(drawn, [f"{value:,.0f}" for value in bars.values()], fontsize=8)
        axis.set(title=row["case"], ylabel=f"{row['case'].partition(',')[0]} ({row['unit']})")
        axis.set_xlim(-0.7, len(bars) - 0.3)
    note(
        figure,
        frame.drop("n"),
        "two processes on loopback, states of 4 KiB; batch: states a frame and a Ray call alike;"
        " medians of repetitions on a shared machine",
    )
    return figure, frame


def prediction(tables: Tables, settings: Settings) -> Chart:
    """Hops and share carried to 100M and 1B with intervals, and what the queueing model makes of them."""
    counted = at_target(work(tables, settings).filter(pl.col("mode") == "baton"), settings, tuple(EXTRAPOLATED))
    frame = tables.predictions.filter(pl.col("quantity").is_in([*EXTRAPOLATED, *SIMULATED]))
    if frame.is_empty():
        return figures.nothing("no prediction: fewer than two tiers reach the recall target"), frame
    widths = sorted(set(frame["W"]))
    figure, axes = figures.panels(len(widths), 4, width=3.5, height=2.9, sharey="col")
    for line, W in zip(axes, widths, strict=True):
        for axis, (name, label) in zip(line, EXTRAPOLATED.items(), strict=False):
            _extrapolated(axis, counted.filter(pl.col("W") == W), frame.filter(pl.col("W") == W), name)
            axis.set_ylabel(f"{label}\nW = {W}", fontsize=9)
        for axis, (name, label) in zip(line[2:], SIMULATED.items(), strict=True):
            _simulated(axis, frame.filter((pl.col("W") == W) & (pl.col("quantity") == name)))
            axis.set_ylabel(f"{label}\nW = {W}", fontsize=9)
    for axis, name in zip(axes[0], EXTRAPOLATED, strict=False):  # rows share a scale; an interval may span decades
        highest = [*counted[name].drop_nulls(), *frame.filter(pl.col("quantity") == name)["value"]]
        axis.set_ylim(0, 1.5 * max(highest))
    for axis, title in zip(axes[0], ("extrapolated", "extrapolated", "modelled", "modelled"), strict=True):
        axis.set_title(f"{title}, not measured")
    axes[0, 0].legend(fontsize=7)
    axes[0, 2].legend(fontsize=7)
    bounded = frame["value_low"].is_not_null().any()
    words = (
        "filled: counted at sizes built here; open: straight line of logarithms (rule fixed in the settings)",
        f"bars: {settings.extrapolation.interval:.0%} intervals" if bounded else "two sizes give no interval",
        f"device of the model: {settings.device_iops:,.0f} reads/s and {settings.device_read_us:g} us a read a server,"
        f" {settings.device_threads} threads at this code's measured costs, {settings.device_link_us:g} us a link",
    )
    table = pl.concat([frame, counted.with_columns(basis=pl.lit("real"))], how="diagonal_relaxed")
    note(figure, table.drop("n"), f"recall@{settings.k} {settings.recall_target:g}", *words)
    return figure, table


def _extrapolated(axis: Any, counted: pl.DataFrame, predicted: pl.DataFrame, name: str) -> None:
    for colour, marker, S in zip(figures.PALETTE, figures.MARKERS, sorted(set(counted["S"])), strict=False):
        real = counted.filter((pl.col("S") == S) & pl.col(name).is_not_null()).sort("n")
        axis.plot(real["n"], real[name], linestyle="none", marker=marker, color=colour, label=f"S = {S}")
        some = predicted.filter((pl.col("S") == S) & (pl.col("quantity") == name) & (pl.col("mode") == "baton"))
        axis.plot(some["n"], some["value"], ":", marker=marker, color=colour, markerfacecolor="white")
        bounded = some.drop_nulls(["value_low", "value_high"])
        axis.vlines(bounded["n"], bounded["value_low"], bounded["value_high"], color=colour, linewidth=1)
    axis.set_xscale("log")
    axis.set_xlabel("vectors n (count)")


def _simulated(axis: Any, frame: pl.DataFrame) -> None:
    """Bars by n and S, a colour per mode."""
    groups = frame.select("n", "S").unique().sort("n", "S").rows()
    modes = [mode for mode in ("baton", "scatter") if mode in set(frame["mode"])]
    for number, mode in enumerate(modes):
        values = {
            (row["n"], row["S"]): row["value"] for row in frame.filter(pl.col("mode") == mode).iter_rows(named=True)
        }
        places = [at + 0.38 * (number - 0.5 * (len(modes) - 1)) for at in range(len(groups))]
        heights = [values.get(group, 0.0) for group in groups]
        axis.bar(
            places, heights, width=0.36, color=LOOK[mode]["color"], label=LABELS[mode], hatch="//", edgecolor="white"
        )
    names = {10**8: "100M", 10**9: "1B"}
    axis.set_xticks(range(len(groups)), [f"{names.get(n, f'{n:g}')}\nS = {S}" for n, S in groups], fontsize=7)
