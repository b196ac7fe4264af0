"""The figures of ODMA: each function returns a figure and the table it drew. Axes name quantity and unit."""

from typing import Any

import polars as pl

from operators.lab import figures

LABELS = {
    **{"static_2048": "static 2,048", "static": "static (longest of the set)", "s3": "S3", "odma": "ODMA"},
    **{"odma_frozen": "ODMA, classes frozen", "constant_quantile": "one quantile for all", "hybrid": "hybrid"},
    **{"oracle": "exact oracle", "paged": "16-token pages"},
}
LOOK = figures.look(list(LABELS))
LOOK["paged"] |= {"color": "#555555"}
LOOK["oracle"] |= {"color": "#222222"}
LOOK["hybrid"] |= {"color": "#8B5A2B"}
Chart = tuple[Any, pl.DataFrame]
GRID = (pl.col("scenario") == "grid") & pl.col("prefill") & (pl.col("policy") != "paged_at_1")


def note(figure: Any, frame: pl.DataFrame, extra: str = "") -> None:
    """The line under a figure: basis, data, and what else a reader must know."""
    marks = [f"{name}: {'+'.join(sorted(frame[name].drop_nulls().unique()))}" for name in ("basis", "data")]
    figures.note(figure, " · ".join([*marks, *([extra] if extra else [])]))


def _sets(frame: pl.DataFrame) -> list[str]:
    return sorted(frame["set"].unique())


def _policies(frame: pl.DataFrame) -> list[str]:
    there = set(frame["policy"])
    return [name for name in LABELS if name in there]


def utilisation(measures: pl.DataFrame, *, alpha: float) -> Chart:
    """Three utilisations per policy, everything queued at the start; the share of requests copied above each group."""
    frame = measures.filter(GRID & (pl.col("load") == "t0"))
    frame = frame.filter(pl.col("alpha").is_null() | (pl.col("alpha") == _nearest(frame, alpha)))
    kinds = {"util_live": "live / reserved, over time", "util_final": "final / reserved, at completion",
             "util_device": "device memory in use, over time"}  # fmt: skip
    table = frame.group_by("set", "policy", "basis", "data", maintain_order=True).agg(
        pl.col(*kinds, "copies_share").mean()
    )
    sets = _sets(table)
    figure, axes = figures.panels(1, len(sets), width=6.4, height=3.6)
    for axis, which in zip(axes[0], sets, strict=True):
        some = table.filter(pl.col("set") == which)
        names = _policies(some)
        rows = {row["policy"]: row for row in some.iter_rows(named=True)}
        for shift, (kind, label) in enumerate(kinds.items()):
            heights = [rows[name][kind] for name in names]
            axis.bar([i + 0.27 * (shift - 1) for i in range(len(names))], heights, 0.27, label=label,
                     color=figures.PALETTE[shift])  # fmt: skip
        for i, name in enumerate(names):
            axis.text(i, 1.02, f"{rows[name]['copies_share']:.0%}", ha="center", fontsize=8)
        axis.set_xticks(range(len(names)), [LABELS[name] for name in names], rotation=35, ha="right")
        axis.set(ylim=(0, 1.12), title=f"{which}: copies per request on top")
    axes[0, 0].set_ylabel("utilisation (share)")
    axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    note(
        figure,
        table,
        "contiguous blocks reserved exactly at admission cannot exceed about 0.58 of live / reserved on Alpaca",
    )
    return figure, table


def _nearest(frame: pl.DataFrame, alpha: float) -> float | None:
    there = frame["alpha"].drop_nulls().unique().to_list()
    return min(there, key=lambda value: abs(value - alpha)) if there else None


def crossover(measures: pl.DataFrame, crossed: pl.DataFrame) -> Chart:
    """Tokens per second by alpha, everything queued at the start, with alpha* and its range over seeds."""
    frame = measures.filter(
        (pl.col("scenario") == "grid") & (pl.col("load") == "t0") & (pl.col("policy") != "paged_at_1")
    )
    keys = ["set", "prefill", "policy", "alpha", "basis", "data"]
    table = frame.group_by(keys, maintain_order=True).agg(
        mean=pl.col("tps").mean(), low=pl.col("tps").min(), high=pl.col("tps").max()
    )
    sets = _sets(table)
    figure, axes = figures.panels(2, len(sets), width=5.2, height=3.1)
    for row, prefill in zip(axes, (True, False), strict=True):
        for axis, which in zip(row, sets, strict=True):
            some = table.filter((pl.col("set") == which) & (pl.col("prefill") == prefill))
            for name in _policies(some):
                line = some.filter(pl.col("policy") == name).sort("alpha")
                if line["alpha"].null_count():
                    style = {"static": "--", "static_2048": "--", "oracle": ":"}.get(name, "-")
                    axis.axhline(line["mean"][0], color=LOOK[name]["color"], linewidth=1.2, label=LABELS[name],
                                 linestyle=style)  # fmt: skip
                else:
                    axis.plot(line["alpha"], line["mean"], label=LABELS[name], markersize=4, **LOOK[name])
            stars = crossed.filter(
                (pl.col("set") == which) & (pl.col("load") == "t0") & (pl.col("prefill") == prefill)
            )["alpha_star"].drop_nulls()  # fmt: skip
            title = f"{which}, prefill {'charged' if prefill else 'not charged'}"
            if len(stars):
                axis.axvspan(stars.min(), stars.max(), color="#0072B2", alpha=0.2)
                title += f": alpha* = {stars.mean():.2f}"
            axis.set_title(title, fontsize=9)
            axis.set_ylim(bottom=0)
        row[0].set_ylabel("tokens per second (1/s)")
    for axis in axes[-1]:
        axis.set_xlabel("alpha: random / streaming bandwidth (1)")
    axes[0, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    note(figure, table, "ODMA against pages; contiguous policies read streams only, so alpha does not move them")
    return figure, table


def boundaries(samples: pl.DataFrame) -> Chart:
    """The size classes over time in the stream whose model changes, with re-cuts and frozen."""
    frame = samples.filter((pl.col("drift") == "switch") & pl.col("policy").is_in(["odma", "odma_frozen"]))
    table = frame.select("policy", "t_s", "boundaries", "basis", "data").explode("boundaries")
    names = _policies(table)
    figure, axes = figures.panels(1, max(1, len(names)), width=4.8)
    for axis, name in zip(axes[0], names, strict=False):
        some = frame.filter(pl.col("policy") == name).sort("t_s")
        for j in range(len(some["boundaries"][0])):
            axis.step(some["t_s"], [row[j] for row in some["boundaries"].to_list()], where="post", linewidth=1.2)
        axis.set(title=LABELS[name], xlabel="simulated time (s)", ylim=(0, None))
    axes[0, 0].set_ylabel("class boundaries (answer tokens)")
    note(figure, table, "Alpaca prompts: reference lengths first, Vicuna-7B's lengths from the middle on")
    return figure, table


def coverage(covered: pl.DataFrame) -> Chart:
    """Rolling coverage (500 completions) in the stream whose model changes, adaptive and frozen."""
    frame = covered.filter(pl.col("stream") == "switch").with_columns(basis=pl.lit("real"))
    keys = ["level", "adaptive", "n_done", "basis", "data"]
    table = frame.group_by(keys).agg(pl.col("covered").mean()).sort("level", "adaptive", "n_done")
    levels = sorted(table["level"].unique())
    figure, axes = figures.panels(1, max(1, len(levels)), width=3.8)
    for axis, level in zip(axes[0], levels, strict=False):
        for adaptive, label, place in ((True, "adaptive", 0), (False, "frozen", 1)):
            some = table.filter((pl.col("level") == level) & (pl.col("adaptive") == adaptive))
            axis.plot(some["n_done"], some["covered"], label=label, color=figures.PALETTE[place])
        axis.axhline(level, color="#555555", linestyle=":")
        axis.axvline(some["n_done"].max() / 2, color="#999999", linewidth=0.8)
        axis.set(
            title=f"asked: {level:.0%}", xlabel="completions (count)", ylim=(min(0.5, table["covered"].min()), 1.01)
        )
    axes[0, 0].set_ylabel("covered: answer <= bound (share)")
    axes[0, 0].legend(fontsize=8)
    note(
        figure,
        table,
        "mean over seeds; grey line: switch from reference lengths to Vicuna-7B's; a window takes 500 to refill",
    )
    return figure, table


def fragmentation(samples: pl.DataFrame) -> Chart:
    """External fragmentation and free memory over time, everything queued at the start."""
    frame = samples.filter((pl.col("drift") == "none") & (pl.col("load") == "t0"))
    frame = frame.filter(~pl.col("policy").is_in(["paged", "static_2048"]))
    table = frame.select("set", "policy", "t_s", "free", "largest_free", "basis", "data").with_columns(
        external=1 - pl.col("largest_free") / pl.col("free").clip(1)
    )
    sets = _sets(table)
    figure, axes = figures.panels(2, max(1, len(sets)), width=5.0, height=2.5)
    for column, which in enumerate(sets):
        for name in _policies(table):
            some = table.filter((pl.col("set") == which) & (pl.col("policy") == name)).sort("t_s")
            axes[0, column].plot(
                some["t_s"], some["external"], label=LABELS[name], color=LOOK[name]["color"], linewidth=1
            )
            axes[1, column].plot(some["t_s"], some["free"] / 1000, color=LOOK[name]["color"], linewidth=1)
        axes[0, column].set_title(which)
        axes[1, column].set_xlabel("simulated time (s)")
    axes[0, 0].set_ylabel("1 - largest free\n/ all free (share)")
    axes[1, 0].set_ylabel("free memory\n(1,000 tokens)")
    axes[0, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    note(figure, table, "a high share of little free memory is a full pool; the queue is empty at the end")
    return figure, table


def frontier(measures: pl.DataFrame) -> Chart:
    """Tokens per second against copies per request for classes and levels, with the baselines."""
    where = (pl.col("set") == "alpaca") & (pl.col("load") == "t0") & pl.col("prefill") & (pl.col("arena") == "real")
    frame = measures.filter(where & (pl.col("devices") == 1) & (pl.col("drift") == "none"))
    base = frame.filter((pl.col("policy") == "static") & (pl.col("scenario") == "grid")).select("seed", base="tps")
    frame = frame.filter(pl.col("alpha").is_null() & ~pl.col("policy").is_in(["static_2048", "odma_frozen"])).join(
        base, on="seed"
    )
    keys = ["scenario", "policy", "k", "level", "basis", "data"]
    table = frame.group_by(keys).agg(gain=(pl.col("tps") / pl.col("base")).mean(), copies=pl.col("copies_share").mean())
    table = table.sort("scenario", "policy", "k", "level")
    figure, axes = figures.panels(1, 1, width=6.2, height=4.2)
    axis = axes[0, 0]
    sweep = table.filter(pl.col("scenario") == "frontier")
    for place, k in enumerate(sorted(sweep["k"].unique())):
        some = sweep.filter(pl.col("k") == k)
        axis.plot(some["copies"] * 100, some["gain"], marker="o", markersize=4, label=f"ODMA, K = {k}, levels "
                  f"{some['level'].min():g} to {some['level'].max():g}", color=figures.PALETTE[place % 8])  # fmt: skip
    for row in table.filter(pl.col("scenario") == "grid").iter_rows(named=True):
        axis.scatter(row["copies"] * 100, row["gain"], s=60, zorder=3, **LOOK[row["policy"]])
        axis.annotate(
            LABELS[row["policy"]], (row["copies"] * 100, row["gain"]), (6, 4), textcoords="offset points", fontsize=8
        )
    axis.axvline(8, color="#999999", linewidth=0.8)
    axis.axhline(1.3, color="#999999", linewidth=0.8)
    axis.set(xlabel="copies per 100 requests (growth in place is no copy)", ylabel="tokens per second / static 512 (1)")
    axis.legend(fontsize=8, loc="lower right")
    note(
        figure,
        table,
        "Alpaca, all queued at the start, prefill charged; grey lines: the bar (1.30 at 8 copies per 100)",
    )
    return figure, table


def alpha_curve(curve: pl.DataFrame) -> Chart:
    """Measured alpha of this host's memory by page size."""
    if curve.is_empty():
        return figures.nothing("the native kernel is not built here: alpha was not measured"), curve
    table = curve.group_by("page_bytes", "machine", "basis", "data").agg(
        alpha=pl.col("alpha").median(), low=pl.col("alpha").min(), high=pl.col("alpha").max(),
        gather=pl.col("gather_Bps").median(), stream=pl.col("stream_Bps").median(),
    ).sort("page_bytes")  # fmt: skip
    figure, axes = figures.panels(1, 2, width=4.6)
    axes[0, 0].plot(table["page_bytes"] / 1024, table["alpha"], marker="o")
    axes[0, 0].fill_between(table["page_bytes"] / 1024, table["low"], table["high"], alpha=0.2)
    axes[0, 0].set(ylabel="alpha: gathered / streamed (1)", ylim=(0, 1.05))
    for name, label in (("stream", "streamed"), ("gather", "gathered")):
        axes[0, 1].plot(table["page_bytes"] / 1024, table[name] / 1e9, marker="o", label=label)
    axes[0, 1].set(ylabel="bandwidth (GB/s)", ylim=(0, None))
    axes[0, 1].legend(fontsize=8)
    for axis in axes[0]:
        axis.set_xscale("log", base=2)
        axis.set_xlabel("page (KiB)")
        figures.plain_ticks(axis.xaxis)
    note(figure, table, f"one thread on {table['machine'][0]}; a 16-token page of this model is 32 KiB a layer")
    return figure, table
