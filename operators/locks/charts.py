"""The figures of locks: each function takes a table of runs and returns a figure and the table it drew."""

from typing import Any

import polars as pl

from operators.lab import figures

LABELS = {
    "rflock_flat": "RFlock, flat",
    "rflock_stacked": "RFlock, stacked",
    "eager": "eager (ablation)",
    "blocking": "no helping (ablation)",
    "robust_mutex": "robust mutex",
    "pshared_mutex": "pshared mutex",
    "spin": "spin lock",
    "mp_lock": "POSIX semaphore (mp.Lock)",
    "flock2": "flock(2)",
}
LOOK = figures.look(list(LABELS))
Chart = tuple[Any, pl.DataFrame]


def _bars(axis: Any, frame: pl.DataFrame, value: str) -> None:
    """One horizontal bar per implementation: the median, with a line from least to most over repetitions."""
    table = frame.group_by("impl").agg(middle=pl.col(value).median(), low=pl.col(value).min(), high=pl.col(value).max())
    names = [name for name in reversed(LABELS) if name in table["impl"].to_list()]
    rows = {row["impl"]: row for row in table.iter_rows(named=True)}
    for name in names:
        row = rows[name]
        axis.barh(LABELS[name], row["middle"], color=LOOK[name]["color"], height=0.7)
        axis.plot([row["low"], row["high"]], [LABELS[name]] * 2, color="black", linewidth=1)


def throughput(table: pl.DataFrame) -> Chart:
    """Operations per second of wall time: the transfer by number of processes and skew, the sets with one process."""
    frame = table.filter(pl.col("persist") == "process").with_columns(mops=pl.col("ops") / pl.col("wall_s") / 1e6)
    moves = frame.filter(pl.col("structure") == "transfer")
    panels = [
        (f"transfer, {p} process{'es' if p > 1 else ''}, zipf {z:g}", one)
        for (z, p), one in moves.sort("zipf", "procs").partition_by("zipf", "procs", as_dict=True).items()
    ]
    sets = frame.filter((pl.col("structure") != "transfer") & (pl.col("zipf") == frame["zipf"].min()))
    for (name, n, pct), one in sets.partition_by(
        "structure", "n", "update_pct", as_dict=True, maintain_order=True
    ).items():
        panels.append((f"{name} of {n:,}, {pct} % updates", one))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = figures.panels(lines, columns, width=4.6, height=2.9)
    for axis, (title, one) in zip(axes.flat, panels, strict=False):
        _bars(axis, one, "mops")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("throughput (million operations/s)")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figures.note(figure, "basis: real · data: synthetic · process-crash mode · bar: median, line: least to most")
    return figure, frame


def stop(table: pl.DataFrame) -> Chart:
    """Rate of the surviving workers over time while another is stopped inside a section."""
    frame = table.group_by("impl", "t_s", "stopped", maintain_order=True).agg(pl.col("ops").sum())
    window = 0.1
    frame = frame.with_columns(mops_per_s=pl.col("ops") / window / 1e6)
    figure, axes = figures.panels(1, 1, width=7.0, height=3.4)
    axis = axes[0, 0]
    for name in [name for name in LABELS if name in frame["impl"].to_list()]:
        one = frame.filter(pl.col("impl") == name).sort("t_s")
        axis.plot(one["t_s"], one["mops_per_s"], label=LABELS[name], **LOOK[name] | {"marker": "."})
    stopped = frame.filter("stopped")["t_s"]
    axis.axvspan(stopped.min() - window, stopped.max(), color="#999999", alpha=0.2, label="a holder is stopped")
    axis.set(xlabel="time (s)", ylabel="calls of the survivors\n(million/s)")
    axis.set_ylim(bottom=-0.02 * frame["mops_per_s"].max())
    axis.legend(fontsize=8, ncol=2)
    figures.note(
        figure,
        "basis: real · all calls use one hot account · SIGSTOP inside a section that holds its lock, then SIGCONT",
    )
    return figure, frame


def kills(table: pl.DataFrame) -> Chart:
    """Calls per second by kill rate, and what was wrong afterwards."""
    frame = table.filter(pl.col("kind") == "soak").with_columns(
        mops_per_s=pl.col("ops") / pl.col("seconds") / 1e6,
        wrong=pl.col("lost") + pl.col("doubled") + pl.col("stuck") + pl.col("torn"),
        done_per_s=pl.col("kills") / pl.col("seconds"),
    )
    figure, axes = figures.panels(1, 2, width=4.6, height=3.2)
    for name in [name for name in LABELS if name in frame["impl"].to_list()]:
        one = frame.filter(pl.col("impl") == name).sort("kill_rate")
        axes[0, 0].plot(one["done_per_s"], one["mops_per_s"], label=LABELS[name], **LOOK[name])
        axes[0, 1].plot(one["done_per_s"], one["wrong"], label=LABELS[name], **LOOK[name])
    axes[0, 0].set(xlabel="SIGKILLs done (1/s)", ylabel="calls of all workers (million/s)")
    axes[0, 1].set(xlabel="SIGKILLs done (1/s)", ylabel="lost + doubled calls, stuck locks,\nwrong balances (count)")
    for axis in axes.flat:  # few points: an axis fitted to them would show noise between two runs as a trend
        axis.set_xlim(left=0, right=1.1 * max(1, frame["done_per_s"].max()))
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 1].set_ylim(bottom=-0.05 * max(1, frame["wrong"].max()))
    axes[0, 1].yaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend(fontsize=8)
    figures.note(
        figure, f"basis: real · {int(frame['kills'].sum())} kills in all · killed workers are started again at once"
    )
    return figure, frame


def fences(table: pl.DataFrame) -> Chart:
    """Fences and CPU time per transfer in write-back mode."""
    frame = table.filter((pl.col("persist") == "clwb") & (pl.col("structure") == "transfer"))
    if frame.is_empty():
        return figures.nothing("no runs in write-back mode"), frame
    frame = frame.filter(pl.col("procs") == frame["procs"].min()).with_columns(
        fences_per_op=pl.col("fences") / pl.col("ops"), ns_per_op=pl.col("cpu_s") / pl.col("ops") * 1e9
    )
    figure, axes = figures.panels(1, 2, width=4.4, height=2.6, sharey=True)
    _bars(axes[0, 0], frame, "fences_per_op")
    _bars(axes[0, 1], frame, "ns_per_op")
    axes[0, 0].set_xlabel("fences per nested transfer (count)")
    axes[0, 1].set_xlabel("CPU time per nested transfer (ns)")
    figures.note(
        figure, "basis: real clwb and sfence on DRAM: they prove cost, not survival of a power cut · bar: median"
    )
    return figure, frame


def states(table: pl.DataFrame) -> Chart:
    """States the explorer saw, by number of crashes, for the correct core; searches that hit their limit are open."""
    frame = table.filter(pl.col("mutant") == "none").unique(["config", "memory"], maintain_order=True)
    frame = frame.with_columns(
        search=pl.col("config").str.replace(r", crashes \d+", "") + pl.lit(" (") + pl.col("memory") + pl.lit(")")
    )
    figure, axes = figures.panels(1, 1, width=6.4, height=3.6)
    axis, names = axes[0, 0], frame["search"].unique(maintain_order=True).to_list()
    look = figures.look(names)
    for name in names:
        one = frame.filter(pl.col("search") == name).sort("crashes")
        axis.plot(one["crashes"], one["states"], label=name, **look[name])
        cut = one.filter(pl.col("verdict") == "limit")
        axis.plot(
            cut["crashes"], cut["states"], linestyle="none", marker="o", markersize=11, fillstyle="none", color="black"
        )
    axis.set(xlabel="crashes allowed (count)", ylabel="states explored (count)", yscale="log")
    axis.set_xticks(sorted(frame["crashes"].unique()))
    axis.legend(
        fontsize=7.5,
        title="calls of each process (memory)",
        title_fontsize=8,
        bbox_to_anchor=(1.01, 1),
        loc="upper left",
    )
    figures.note(
        figure,
        "basis: modelled · the same source and bytecode as the real core · ringed: stopped at its limit, no verdict",
    )
    return figure, frame


def sweep(table: pl.DataFrame) -> Chart:
    """For every swept machine instruction: what became of the call that was killed there."""
    frame = table.filter(pl.col("kind") == "instruction")
    if frame.is_empty():
        why = table["reason"].unique().to_list()
        return figures.nothing(f"instruction sweep not measured: {'; '.join(why)}"), frame
    frame = frame.with_columns(
        fate=pl.when(~pl.col("ok")).then(pl.lit("violation"))
        .when(~pl.col("applied")).then(pl.lit("not started"))
        .when(pl.col("helped")).then(pl.lit("done by the survivor"))
        .otherwise(pl.lit("done by recovery or itself"))
    )  # fmt: skip
    fates = ("not started", "done by the survivor", "done by recovery or itself", "violation")
    nests = frame["nest"].unique(maintain_order=True).to_list()
    figure, axes = figures.panels(len(nests), 1, width=7.6, height=1.7)
    for axis, nest in zip(axes[:, 0], nests, strict=True):
        one = frame.filter(pl.col("nest") == nest)
        for level, (fate, colour) in enumerate(zip(fates, ("#999999", "#0072B2", "#009E73", "#D55E00"), strict=True)):
            some = one.filter(pl.col("fate") == fate)
            axis.scatter(some["point"], [level] * len(some), s=7, marker="|", color=colour)
            axis.annotate(f"{len(some)}", (1.01, level), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axis.set_yticks(range(len(fates)), fates)
        axis.set_ylim(-0.6, len(fates) - 0.4)
        axis.set_title(f"one nested transfer, {nest}", fontsize=9)
    axes[-1, 0].set_xlabel("SIGKILL after this machine instruction of the call (count)")
    figures.note(figure, "basis: real · ptrace single steps · right: number of points")
    return figure, frame
