"""Figures of time: latency over rate, its distribution, live queries on one disk, a server that is killed."""

from typing import Any

import polars as pl

from operators.batann.charts import (
    LABELS,
    LOOK,
    Chart,
    Tables,
    by_mode,
    from_zero,
    log_ticks,
    metered_words,
    note,
    spread,
)
from operators.batann.settings import Settings
from operators.lab import figures

REFILL = {"one": "one", "all": "all", "single": "single_live"}
STATUS = {"ok": "#0072B2", "partial": "#E69F00", "failed": "#D55E00"}


def latency(tables: Tables, settings: Settings) -> Chart:
    """Mean and 99th percentile over the rate of an open loop."""
    frame = tables.measures.filter((pl.col("scenario") == "open") & (pl.col("at") == "run"))
    if frame.is_empty():
        return figures.nothing("no open-loop runs: rates is empty in this profile"), frame
    figure, axes = figures.panels(1, 2, sharey=True)
    for axis, (name, word) in zip(
        axes[0], (("latency_ms", "mean"), ("latency_p99_ms", "99th percentile")), strict=True
    ):
        for mode in by_mode(frame):
            spread(axis, frame.filter(pl.col("mode") == mode), "rate", name, label=LABELS[mode], **LOOK[mode])
        axis.set(title=word, xlabel="rate asked for (queries/s)")
        log_ticks(axis, "y")
    axes[0, 0].set_ylabel("latency (ms)")
    axes[0, 0].legend(fontsize=8)
    asked = tables.runs.filter(pl.col("scenario") == "open").group_by("mode", "rate", "seed").len()["len"]
    count = f"{asked.min()} to {asked.max()} queries a point" if len(asked) else ""
    note(figure, frame, *_open_words(frame, settings), count)
    return figure, frame


def _open_words(frame: pl.DataFrame, settings: Settings) -> list[str]:
    S, W = frame["S"].max(), "/".join(str(value) for value in sorted(set(frame["W"])))
    words = f"{S} servers, W = {W}, Poisson arrivals; rates are shares of what scatter-gather can take"
    return [
        words,
        f"latency includes waiting for the meter ({settings.iops_cap:g} reads/s a server)",
        metered_words(settings),
    ]


def cdf(tables: Tables, settings: Settings) -> Chart:
    """Distribution of latency, a panel per rate; at ci size, without rates, that of the closed loop."""
    rows = tables.runs.filter((pl.col("scenario") == "open") & (pl.col("status") != "failed"))
    asked = not rows.is_empty()
    if not asked:
        rows = tables.runs.filter((pl.col("scenario") == "metered") & (pl.col("status") != "failed"))
        rows = rows.filter((pl.col("S") == rows["S"].max()) & (pl.col("W") == rows["W"].max()))
    frame = rows.select(
        "mode", "n", "S", "W", "L", "rate", "seed", "query", "data", latency_ms=pl.col("latency_us") / 1e3
    )
    frame = frame.with_columns(basis=pl.lit("real"))
    rates = sorted(set(frame["rate"]))
    figure, axes = figures.panels(1, max(1, len(rates)), width=3.7, sharey=True)
    for axis, rate in zip(axes[0], rates, strict=False):
        _steps(axis, frame.filter(pl.col("rate") == rate))
        axis.set(title=f"{rate:.0f} queries/s" if asked else "closed loop", xlabel="latency (ms)")
        log_ticks(axis, "x")
    axes[0, 0].set_ylabel("share of queries (1)")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    note(figure, frame, *_open_words(frame, settings)[0 if asked else 1 :])
    return figure, frame


def _steps(axis: Any, frame: pl.DataFrame) -> None:
    for mode in by_mode(frame):
        times = frame.filter(pl.col("mode") == mode)["latency_ms"].sort().to_list()
        share = [(rank + 1) / len(times) for rank in range(len(times))]
        axis.step(times, share, where="post", label=f"{LABELS[mode]} ({len(times)})", color=LOOK[mode]["color"])


def refill(tables: Tables, settings: Settings) -> Chart:
    """Rate of one server's disk search over L by when a live place is filled again; and over one live query."""
    frame = tables.measures.filter((pl.col("scenario") == "refill") & (pl.col("at") == "run"))
    if frame.is_empty():
        return figures.nothing("no runs of the refill modes"), frame
    alone = frame.filter(pl.col("refill") == "single").select("L", "seed", alone="qps")
    frame = frame.join(alone, on=["L", "seed"]).with_columns(gain=pl.col("qps") / pl.col("alone")).drop("alone")
    figure, axes = figures.panels(1, 2)
    for colour, marker, (kind, name) in zip(figures.PALETTE, figures.MARKERS, REFILL.items(), strict=False):
        some = frame.filter(pl.col("refill") == kind)
        for axis, y in zip(axes[0], ("qps", "gain"), strict=True):
            spread(axis, some, "L", y, label=LABELS[name], color=colour, marker=marker)
            axis.set_xlabel("beam L (entries)")
    axes[0, 0].set_ylabel("queries/s of one disk, not metered")
    axes[0, 1].set_ylabel("rate / rate with one live query (1)")
    axes[0, 1].axhline(1.0, color="#555555", linewidth=0.8)
    from_zero(axes)
    axes[0, 0].legend(fontsize=8)
    words = (
        f"one thread, {settings.live} live queries, W = {settings.W}, no servers; band: repetitions on a shared machine"
    )
    note(figure, frame.with_columns(n=pl.lit(settings.n)), words)
    return figure, frame


def faults(tables: Tables, settings: Settings) -> Chart:
    """Every query of a run in which a server is killed: latency and how it ended, with and without a second holder."""
    rows = tables.runs.filter((pl.col("scenario") == "fault") & (pl.col("fault") == "kill"))
    order = pl.int_range(pl.len()).over("replicas")
    frame = rows.with_columns(basis=pl.lit("real"), order=order, latency_ms=pl.col("latency_us") / 1e3)
    frame = frame.select(
        "mode", "n", "S", "W", "L", "replicas", "order", "latency_ms", "status", "reason", "correct", "basis", "data"
    )
    if frame.is_empty():
        return figures.nothing("no kill in this run: too few servers"), frame
    held = sorted(set(frame["replicas"]))
    figure, axes = figures.panels(1, len(held), sharey=True)
    for axis, replicas in zip(axes[0], held, strict=True):
        some = frame.filter(pl.col("replicas") == replicas)
        for status, colour in STATUS.items():
            part = some.filter(pl.col("status") == status)
            if len(part):
                axis.plot(
                    part["order"], part["latency_ms"], ".", markersize=3, color=colour, label=f"{status} ({len(part)})"
                )
        axis.set(
            title=f"a partition on {replicas} server{'s' if replicas > 1 else ''}",
            xlabel="query, in order of sending (count)",
        )
        log_ticks(axis, "y")
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("latency (ms)")
    wrong = frame.filter(~pl.col("correct") & (pl.col("status") == "ok")).height
    words = f"SIGKILL of server 1 at query {_killed_at(frame)}; {wrong} answers differ from the undisturbed run's"
    note(figure, frame, words, f"{frame['S'].max()} servers, W = 1, not metered")
    return figure, frame


def _killed_at(frame: pl.DataFrame) -> int:
    """The run strikes after a third of its queries (run.py)."""
    return int(frame.group_by("replicas").len()["len"].max()) // 3
