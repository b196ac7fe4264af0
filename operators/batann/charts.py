"""What the figures of BatANN share: names, colours, the line under a figure, and the rows each draws from.

Every figure is a function of the stage's tables and the settings that returns a picture and the table it drew. Rates
over servers are those of metered servers (spec 5, way a), and every figure that shows one says so.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from operators.batann.beams import at_recall
from operators.batann.settings import Settings
from operators.lab import figures

MODES = ("baton", "scatter", "rpc", "single", "scatter_topn", "baton_client_gather")
LABELS = {
    "baton": "BatANN (the query travels)",
    "scatter": "scatter-gather",
    "rpc": "RPC (DistributedANN)",
    "single": "one server",
    "scatter_topn": "scatter to the nearest shards",
    "baton_client_gather": "BatANN, client gathers",
    "gp": "graph partition",
    "kmeans": "balanced k-means",
    "random": "random",
    "kaminpar": "KaMinPar",
    "metis": "METIS",
    "one": "refilled one by one",
    "all": "refilled when all have ended",
    "single_live": "one live query",
}
LOOK = figures.look(list(MODES))
METHODS = figures.look(["gp", "kmeans", "random", "kaminpar", "metis"])
Chart = tuple[Any, pl.DataFrame]


class Tables(NamedTuple):
    """What the stage reads."""

    measures: pl.DataFrame
    runs: pl.DataFrame
    bench: pl.DataFrame
    predictions: pl.DataFrame


def metered_words(settings: Settings) -> str:
    """What a reader of a rate over servers must know."""
    if not settings.iops_cap:
        return "not metered: all servers share one disk, so rates say nothing of more servers"
    return (
        f"QPS is metered: one disk stands for all, so every server may read {settings.iops_cap:g} sectors/s (token"
        " bucket); processes, sockets, files and states are real"
    )


def note(figure: Any, frame: pl.DataFrame, *extra: str) -> None:
    """The line under a figure: basis, data, size, and what else a reader must know."""
    marks = [f"{name}: {'+'.join(sorted(frame[name].drop_nulls().unique()))}" for name in ("basis", "data")]
    sizes = sorted(frame["n"].drop_nulls().unique()) if "n" in frame.columns else []
    many = [f"n = {', '.join(f'{size:,}' for size in sizes)} vectors"] if sizes else []
    figures.note(figure, " · ".join([*marks, *many, *(word for word in extra if word)]))


def by_mode(frame: pl.DataFrame) -> list[str]:
    """The modes of a frame, in the order of MODES."""
    found = set(frame["mode"].drop_nulls())
    return [mode for mode in MODES if mode in found]


def spread(axis: Any, frame: pl.DataFrame, x: str, y: str, *, label: str, **look: Any) -> None:
    """A line of means over repetitions, with their extremes as a band."""
    found = (
        frame.filter(pl.col(y).is_not_null())
        .group_by(x)
        .agg(mean=pl.col(y).mean(), low=pl.col(y).min(), high=pl.col(y).max())
        .sort(x)
    )
    if found.is_empty():
        return
    axis.plot(found[x], found["mean"], label=label, **look)
    axis.fill_between(found[x], found["low"], found["high"], color=look["color"], alpha=0.15, linewidth=0)


def whole_ticks(axis: Any, values: Sequence[int]) -> None:
    """An x axis with exactly these ticks."""
    values = sorted(set(values))
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.set_xticks([], minor=True)


def from_zero(axes: Any) -> None:
    """Lines and bars whose heights are compared start at 0."""
    for axis in axes.flat:
        axis.set_ylim(0, 1.06 * axis.get_ylim()[1])


def log_ticks(axis: Any, side: str) -> None:
    """A logarithmic x or y axis with as many plain numbers as it has room for."""
    from matplotlib import ticker

    getattr(axis, f"set_{side}scale")("log")
    low, high = getattr(axis, f"get_{side}lim")()
    own = getattr(axis, f"{side}axis")
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0)
    own.set_major_locator(ticker.LogLocator(subs=subs if decades < 3 else (1.0,)))
    own.set_major_formatter("{x:,g}")
    own.set_minor_formatter(ticker.NullFormatter())


def metered(tables: Tables) -> pl.DataFrame:
    """Closed-loop runs of metered servers."""
    return tables.measures.filter((pl.col("scenario") == "metered") & (pl.col("at") == "run"))


def work(tables: Tables, settings: Settings) -> pl.DataFrame:
    """Counted work of the settings' own partition, and of one server, at every size and beam."""
    rows = tables.measures.filter(pl.col("scenario") == "work")
    return rows.filter(pl.col("method").is_in(["", settings.partition]))


def at_target(rows: pl.DataFrame, settings: Settings, columns: Sequence[str]) -> pl.DataFrame:
    """`columns` interpolated at the recall target, a row per mode, size, S, partition, seed and W; null outside."""
    key = ["mode", "n", "S", "method", "seed", "W", "basis", "data"]
    found = []
    for values, group in rows.group_by(key, maintain_order=True):
        group = group.sort("L")
        numbers = {
            name: at_recall(group["recall"], group[name].fill_null(float("nan")), settings.recall_target)
            for name in columns
        }
        found.append(dict(zip(key, values, strict=True)) | numbers)
    schema = {name: rows.schema[name] for name in key} | dict.fromkeys(columns, pl.Float64)
    return pl.DataFrame(found, schema=schema).with_columns(pl.col(columns).fill_nan(None))


def overview(tables: Tables, settings: Settings) -> Chart:
    """Rate, reads and hops between servers over the number of servers."""
    best = tables.measures.filter((pl.col("scenario") == "metered") & (pl.col("at") == "best"))
    columns = ("reads", "share")
    counted = at_target(
        work(tables, settings).filter((pl.col("n") == settings.n) & (pl.col("W") == 1)), settings, columns
    )
    figure, axes = figures.panels(1, 3, width=3.9, height=3.3)
    rate, reads, share = axes[0]
    for mode in by_mode(best):
        spread(rate, best.filter(pl.col("mode") == mode), "S", "qps", label=LABELS[mode], **LOOK[mode])
    for mode in by_mode(counted):
        spread(reads, counted.filter(pl.col("mode") == mode), "S", "reads", label=LABELS[mode], **LOOK[mode])
    spread(share, counted.filter(pl.col("mode") == "baton"), "S", "share", label=LABELS["baton"], **LOOK["baton"])
    rate.set(title="metered rate, best W", ylabel="queries/s, metered")
    reads.set(title="work of a query, W = 1", ylabel="sectors read a query (count)")
    share.set(title="hand-offs of a query, W = 1", ylabel="hops to another server\nover all hops (1)")
    for axis, frame in ((rate, best), (reads, counted), (share, counted)):
        axis.set_xlabel("servers S (count)")
        whole_ticks(axis, frame["S"].to_list())
    from_zero(axes)
    rate.legend(fontsize=8)
    reads.legend(fontsize=8)
    table = pl.concat([best, counted], how="diagonal_relaxed")
    note(figure, table, f"recall@{settings.k} {settings.recall_target:g}", metered_words(settings))
    return figure, table


def recall(tables: Tables, settings: Settings) -> Chart:
    """Recall against rate, a panel per number of servers: metered runs, and the meter's limit at other beams."""
    ran = metered(tables)
    W = int(ran["W"].min())  # the fewest reads: no run can do better
    counted = work(tables, settings).filter((pl.col("n") == settings.n) & (pl.col("W") == W))
    cap = settings.iops_cap or float("nan")
    counted = counted.with_columns(qps=cap * pl.col("S") / pl.col("reads"), basis=pl.lit("real (counted reads)"))
    servers = sorted(set(ran["S"]))
    figure, axes = figures.panels(1, len(servers), width=3.7, height=3.4, sharey=False)
    for axis, S in zip(axes[0], servers, strict=True):
        _recall_of(axis, ran.filter(pl.col("S") == S), counted.filter(pl.col("S") == S), S)
        axis.set(title=f"{S} server{'s' if S > 1 else ''}", xlabel=f"recall@{settings.k} (1)")
        log_ticks(axis, "y")
        axis.axvline(settings.recall_target, color="#999999", linewidth=0.8)
    axes[0, 0].set_ylabel("queries/s, metered")
    axes[0, -1].legend(fontsize=7, loc="lower left")
    table = pl.concat(
        [ran.with_columns(mark=pl.lit("run")), counted.with_columns(mark=pl.lit("limit"))], how="diagonal"
    )
    widths = ", ".join(str(width) for width in settings.W_list)
    words = (
        f"points: runs at W = {widths}, larger for a larger W; dotted: the meter's limit, reads/s of all servers over"
        f" counted reads at W = {W}"
    )
    note(figure, table, words, metered_words(settings))
    return figure, table


def _recall_of(axis: Any, ran: pl.DataFrame, counted: pl.DataFrame, S: int) -> None:
    for mode in by_mode(ran):
        some = ran.filter(pl.col("mode") == mode).group_by("W", "L").agg(pl.col("recall", "qps").mean()).sort("W")
        for number, (at, qps) in enumerate(some.select("recall", "qps").iter_rows()):
            label = LABELS[mode] if not number else None
            axis.plot([at], [qps], linestyle="none", markersize=4 + 2 * number, alpha=0.8, label=label, **LOOK[mode])
        limit = counted.filter(pl.col("mode") == ("single" if S == 1 else mode)).sort("L")
        axis.plot(limit["recall"], limit["qps"], ":", color=LOOK[mode]["color"], linewidth=1)


def servers(tables: Tables, settings: Settings) -> Chart:
    """Metered rate over servers, a panel per W; dotted: one server's rate times S."""
    ran = metered(tables)
    widths = sorted(set(ran["W"]))
    figure, axes = figures.panels(1, len(widths), width=3.7, sharey=True)
    for axis, W in zip(axes[0], widths, strict=True):
        some = ran.filter(pl.col("W") == W)
        for mode in by_mode(some):
            spread(axis, some.filter(pl.col("mode") == mode), "S", "qps", label=LABELS[mode], **LOOK[mode])
        alone = some.filter((pl.col("S") == 1) & (pl.col("mode") == "baton"))["qps"].mean()
        if alone:
            counts = sorted(set(some["S"]))
            axis.plot(counts, [alone * S for S in counts], ":", color="#555555", label="S times one server")
        axis.set(title=f"W = {W}", xlabel="servers S (count)")
        whole_ticks(axis, some["S"].to_list())
    from_zero(axes)
    axes[0, 0].set_ylabel("queries/s, metered")
    axes[0, 0].legend(fontsize=8)
    note(
        figure,
        ran,
        f"recall@{settings.k} of each run about {settings.recall_target:g}; band: repetitions",
        metered_words(settings),
    )
    return figure, ran
