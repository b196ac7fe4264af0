"""Figures of counted work: reads and distances, hops between servers, the width W, the size of a state.

Counts are those of real searches over real files without sockets (tiers stage): the answers and counts are the same.
"""

from typing import Any

import polars as pl

from operators.batann.charts import (
    LABELS,
    LOOK,
    METHODS,
    Chart,
    Tables,
    at_target,
    by_mode,
    from_zero,
    metered,
    metered_words,
    note,
    spread,
    whole_ticks,
    work,
)
from operators.batann.settings import Settings
from operators.lab import figures

COUNTED = "counted on real searches over the index files, without sockets"


def reads(tables: Tables, settings: Settings) -> Chart:
    """Reads and PQ distances a query over servers: BatANN, scatter-gather, one server; a column per W."""
    columns = {"reads": "sectors read a query\n(count)", "pq_dists": "PQ distances a query\n(count)"}
    frame = at_target(work(tables, settings).filter(pl.col("n") == settings.n), settings, tuple(columns))
    widths = sorted(set(frame["W"]))
    figure, axes = figures.panels(len(columns), len(widths), width=3.7, height=2.7, sharey="row")
    for line, (name, label) in zip(axes, columns.items(), strict=True):
        for axis, W in zip(line, widths, strict=True):
            some = frame.filter(pl.col("W") == W)
            for mode in by_mode(some):
                spread(axis, some.filter(pl.col("mode") == mode), "S", name, label=LABELS[mode], **LOOK[mode])
            whole_ticks(axis, some["S"].to_list())
        line[0].set_ylabel(label)
    for axis, W in zip(axes[0], widths, strict=True):
        axis.set_title(f"W = {W}")
    for axis in axes[-1]:
        axis.set_xlabel("servers S (count)")
    from_zero(axes)
    axes[0, 0].legend(fontsize=8)
    note(
        figure, frame, f"at recall@{settings.k} {settings.recall_target:g}", "scatter-gather: sum over servers", COUNTED
    )
    return figure, frame


def share(tables: Tables, settings: Settings) -> Chart:
    """Share of hops that go to another server, W = 1: over servers by partition, and over the size."""
    rows = tables.measures.filter((pl.col("scenario") == "work") & (pl.col("mode") == "baton") & (pl.col("W") == 1))
    frame = at_target(rows, settings, ("share",))
    figure, axes = figures.panels(1, 2)
    over_servers, over_size = axes[0]
    own = frame.filter(pl.col("n") == settings.n)
    for method in [name for name in METHODS if name in set(own["method"])]:
        spread(
            over_servers, own.filter(pl.col("method") == method), "S", "share", label=LABELS[method], **METHODS[method]
        )
    whole_ticks(over_servers, own["S"].to_list())
    over_servers.set(
        title=f"n = {settings.n:,}", xlabel="servers S (count)", ylabel="hops to another server\nover all hops (1)"
    )
    mine = frame.filter(pl.col("method") == settings.partition)
    for colour, marker, S in zip(figures.PALETTE, figures.MARKERS, sorted(set(mine["S"])), strict=False):
        some = mine.filter(pl.col("S") == S)
        spread(over_size, some, "n", "share", label=f"S = {S}", color=colour, marker=marker)
    _size_axis(over_size, mine["n"].to_list())
    over_size.set(title=LABELS[settings.partition])
    from_zero(axes)
    over_servers.legend(fontsize=8)
    over_size.legend(fontsize=8)
    words = f"W = 1, recall@{settings.k} {settings.recall_target:g}; band: partition seeds"
    note(figure, frame, words, COUNTED)
    return figure, frame


def _size_axis(axis: Any, sizes: list[int]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(sorted(set(sizes)), [f"{size:,}" for size in sorted(set(sizes))])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("vectors n (count)")


def width(tables: Tables, settings: Settings) -> Chart:
    """What W does: hops and hand-offs fall, reads rise; and the metered rate."""
    columns = {
        "hops": "hops a query (count)",
        "handoffs": "hand-offs a query (count)",
        "reads": "sectors read a query (count)",
    }
    rows = work(tables, settings).filter((pl.col("n") == settings.n) & pl.col("mode").is_in(["single", "baton"]))
    frame, ran = at_target(rows, settings, tuple(columns)), metered(tables).filter(pl.col("mode") == "baton")
    counts = sorted({*frame["S"], *ran["S"]})
    figure, axes = figures.panels(2, 2, width=4.4, height=2.7)
    panels = [*zip(axes.flat, columns.items(), strict=False), (axes[1, 1], ("qps", "queries/s, metered"))]
    for axis, (name, label) in panels:
        source = ran if name == "qps" else frame
        for colour, marker, S in zip(figures.PALETTE, figures.MARKERS, counts, strict=False):
            some = source.filter(pl.col("S") == S)
            spread(axis, some, "W", name, label=f"S = {S}", color=colour, marker=marker)
        axis.set(xlabel="reads at once W (count)", ylabel=label)
        whole_ticks(axis, source["W"].to_list())
    from_zero(axes)
    axes[0, 0].legend(fontsize=8)
    table = pl.concat([frame, ran], how="diagonal_relaxed")
    note(
        figure,
        table,
        f"recall@{settings.k} {settings.recall_target:g}",
        f"hops and reads: {COUNTED}",
        metered_words(settings),
    )
    return figure, table


def state(tables: Tables, settings: Settings) -> Chart:
    """Bytes of a state on the wire over L, by W; a column per number of servers."""
    rows = work(tables, settings).filter((pl.col("mode") == "baton") & (pl.col("n") == settings.n))
    frame = rows.filter((pl.col("seed") == settings.seed) & pl.col("state_bytes").is_not_null())
    frame = frame.select("mode", "n", "S", "W", "L", "state_bytes", "recall", "basis", "data")
    if frame.is_empty():
        return figures.nothing("no query was handed over: one server"), frame
    counts = sorted(set(frame["S"]))
    figure, axes = figures.panels(1, len(counts), sharey=True)
    for axis, S in zip(axes[0], counts, strict=True):
        for colour, marker, W in zip(figures.PALETTE, figures.MARKERS, sorted(set(frame["W"])), strict=False):
            some = frame.filter((pl.col("S") == S) & (pl.col("W") == W)).sort("L")
            axis.plot(some["L"], some["state_bytes"], label=f"W = {W}", color=colour, marker=marker)
        axis.set(title=f"{S} servers", xlabel="beam L (entries)")
    from_zero(axes)
    axes[0, 0].set_ylabel("state of a hand-off, mean (bytes)")
    axes[0, 0].legend(fontsize=8)
    note(
        figure, frame, "our layout: header, history, 9 B a beam entry, 8 B an explored node", "without the query vector"
    )
    return figure, frame
