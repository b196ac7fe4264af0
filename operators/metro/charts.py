"""The figures of METRO made from its measures: each function returns a figure and the table it drew.

Axes name quantity and unit; every figure carries a line with basis and data. matplotlib is imported only by `figures`.
"""

from typing import Any

import polars as pl

from operators.lab import figures

POLICIES = ("none", "even", "metro", "exact", "adaptive")
LABELS = {
    "none": "no replication",
    "even": "EPLB even split",
    "metro": "METRO",
    "exact": "exact optimum",
    "adaptive": "adaptive",
}
LOOK = figures.look(list(POLICIES))
Chart = tuple[Any, pl.DataFrame]


def note(figure: Any, frame: pl.DataFrame, extra: str = "") -> None:
    """The line under a figure: basis, data, batches, and what else a reader must know."""
    marks = [f"{name}: {'+'.join(sorted(frame[name].drop_nulls().unique()))}" for name in ("basis", "data", "batches")]
    figures.note(figure, " · ".join([*marks, *([extra] if extra else [])]))


def _lines(axis: Any, frame: pl.DataFrame, x: str, y: str, policies: tuple[str, ...] = POLICIES) -> None:
    """One line per policy with the spread over seeds as a band."""
    for policy in policies:
        some = frame.filter((pl.col("router") == policy) & pl.col(y).is_not_null())
        means = some.group_by(x, "seed").agg(pl.col(y).mean()).group_by(x)
        found = means.agg(mean=pl.col(y).mean(), low=pl.col(y).min(), high=pl.col(y).max()).sort(x)
        if found.is_empty():
            continue
        axis.plot(found[x], found["mean"], label=LABELS[policy], **LOOK[policy])
        axis.fill_between(found[x], found["low"], found["high"], color=LOOK[policy]["color"], alpha=0.15, linewidth=0)


def _setups(frame: pl.DataFrame) -> list[tuple[str, str, int]]:
    return frame.select("model", "gpu", "gpus").unique(maintain_order=True).rows()


def _of(frame: pl.DataFrame, setup: tuple[str, str, int]) -> pl.DataFrame:
    model, gpu, gpus = setup
    return frame.filter((pl.col("model") == model) & (pl.col("gpu") == gpu) & (pl.col("gpus") == gpus))


def log_batches(axis: Any, values: list[float]) -> None:
    """A base-2 axis with exactly these ticks."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [f"{value:g}" for value in values])
    axis.set_xticks([], minor=True)


def overview(measures: pl.DataFrame, *, batch_per_gpu: int) -> Chart:
    """TPOT against EPLB by ratio for each set-up, and the measured experiment by batch."""
    frame = measures.filter((pl.col("scenario") == "decode") & (pl.col("batch_per_gpu") == batch_per_gpu))
    even = frame.filter(pl.col("router") == "even").select("model", "gpu", "r", "seed", even_s="tpot_s")
    frame = frame.join(even, on=["model", "gpu", "r", "seed"]).with_columns(
        relative=pl.col("tpot_s") / pl.col("even_s")
    )
    measured = measures.filter((pl.col("scenario") == "cpu") & ~pl.col("nested"))
    setups = _setups(frame)
    figure, axes = figures.panels(1, len(setups) + 1, width=3.4, height=3.0)
    for axis, setup in zip(axes[0], setups, strict=False):
        _lines(axis, _of(frame, setup), "r", "relative", ("none", "even", "metro", "adaptive"))
        axis.set(title=f"{setup[0]}, {setup[2]} x {setup[1]}", xlabel="replication ratio r (slots per expert)")
    axes[0, 0].set_ylabel(f"TPOT / TPOT of EPLB (1)\n{batch_per_gpu} tokens per GPU")
    last = axes[0, -1]
    _lines(last, measured.filter(pl.col("r") == measured["r"].max()), "batch", "makespan_ms", ("none", "even", "metro"))
    last.set(title="measured on this processor", xlabel="batch (tokens)", ylabel="time of one layer (ms)")
    if len(measured):
        log_batches(last, sorted(measured["batch"].unique()))
        last.set_yscale("log")
        figures.plain_ticks(last.yaxis)
    axes[0, 0].legend(fontsize=8)
    note(figure, frame, "last panel: real")
    return figure, pl.concat([frame.drop("even_s"), measured.with_columns(relative=pl.lit(None, pl.Float64))])


def activated(measures: pl.DataFrame, *, batch_per_gpu: int) -> Chart:
    """Activated experts of the busiest GPU by ratio, with the total over GPUs below."""
    frame = measures.filter((pl.col("scenario") == "decode") & (pl.col("batch_per_gpu") == batch_per_gpu))
    setups = _setups(frame)
    figure, axes = figures.panels(2, max(1, len(setups)), height=2.7)
    for column, setup in enumerate(setups):
        some = _of(frame, setup)
        _lines(axes[0, column], some, "r", "lam")
        _lines(axes[1, column], some, "r", "activated")
        axes[0, column].set(title=f"{setup[0]}, {setup[2]} GPUs")
        axes[1, column].set_xlabel("replication ratio r (slots per expert)")
    axes[0, 0].set_ylabel("activated experts,\nbusiest GPU (count)")
    axes[1, 0].set_ylabel("activated copies,\nall GPUs (count)")
    axes[0, 0].legend(fontsize=8)
    note(figure, frame.with_columns(basis=pl.lit("real")), f"{batch_per_gpu} tokens per GPU, mean over layers")
    return figure, frame


def latency(measures: pl.DataFrame, *, batch_per_gpu: int) -> Chart:
    """TPOT, TTFT and total token throughput by ratio."""
    rows = {
        "decode": ("tpot_s", "TPOT (ms)", 1e3, pl.col("batch_per_gpu") == batch_per_gpu),
        "prefill": ("ttft_s", "TTFT (s)\n32 requests per GPU", 1.0, pl.col("requests_per_gpu") == 32),
        "throughput": (
            "throughput_tok_s",
            "throughput\n(1,000 tokens/s)",
            1e-3,
            pl.col("batch_per_gpu") == batch_per_gpu,
        ),
    }
    setups = _setups(measures.filter(pl.col("scenario") == "decode"))
    figure, axes = figures.panels(len(rows), max(1, len(setups)), height=2.4)
    kept = []
    for line, (scenario, (name, label, scale, where)) in zip(axes, rows.items(), strict=True):
        frame = measures.filter((pl.col("scenario") == scenario) & where).with_columns(pl.col(name) * scale)
        kept.append(frame)
        for axis, setup in zip(line, setups, strict=False):
            _lines(axis, _of(frame, setup), "r", name)
        line[0].set_ylabel(label)
    for axis, setup in zip(axes[0], setups, strict=False):
        axis.set_title(f"{setup[0]}, {setup[2]} x {setup[1]}")
    for axis in axes[-1]:
        axis.set_xlabel("replication ratio r (slots per expert)")
    axes[0, 0].legend(fontsize=8)
    table = pl.concat(kept)
    note(figure, table, "throughput: mean over the settings' mixes; prefill always routes evenly")
    return figure, table


def regime(measures: pl.DataFrame) -> Chart:
    """METRO and no replication against EPLB by batch at the largest ratio, for both readings of the kernel tables."""
    frame = measures.filter((pl.col("scenario") == "decode") & pl.col("router").is_in(["none", "even", "metro"]))
    frame = frame.filter(pl.col("r") == frame["r"].max())
    keys = ["model", "gpu", "gpus", "lookup", "batch_per_gpu", "seed"]
    even = frame.filter(pl.col("router") == "even").select(*keys, even_s="tpot_s")
    frame = frame.join(even, on=keys).with_columns(relative=pl.col("tpot_s") / pl.col("even_s")).drop("even_s")
    setups, lookups = _setups(frame), frame["lookup"].unique().sort().to_list()
    figure, axes = figures.panels(len(lookups), max(1, len(setups)), height=2.5)
    for line, lookup in zip(axes, lookups, strict=True):
        for axis, setup in zip(line, setups, strict=False):
            some = _of(frame, setup).filter(pl.col("lookup") == lookup)
            _lines(axis, some, "batch_per_gpu", "relative", ("none", "even", "metro"))
            log_batches(axis, sorted(some["batch_per_gpu"].unique()))
            axis.set_title(f"{setup[0]}, {setup[2]} x {setup[1]}", fontsize=9)
        line[0].set_ylabel(f"TPOT / TPOT of EPLB (1)\ntables read by {lookup}")
    for axis in axes[-1]:
        axis.set_xlabel("batch (tokens per GPU)")
    axes[0, 0].legend(fontsize=8)
    note(figure, frame, f"r = {frame['r'].max():g}; METRO with all-gather, the others with all-to-all dispatch")
    return figure, frame


PARTS = {
    "attn_us": "attention",
    "other_us": "projections, norms, gate",
    "comm_us": "dispatch + combine",
    "router_us": "router",
    "ffn_us": "experts",
}


def breakdown(measures: pl.DataFrame, *, batch_per_gpu: int) -> Chart:
    """Microseconds a layer by part, per policy at the largest ratio."""
    frame = measures.filter((pl.col("scenario") == "decode") & (pl.col("batch_per_gpu") == batch_per_gpu))
    frame = frame.filter((pl.col("r") == frame["r"].max()) & pl.col("router").is_in(POLICIES))
    keys = ["model", "gpu", "gpus", "router", "basis", "data", "batches", "r"]
    table = frame.group_by(keys, maintain_order=True).agg(pl.col(*PARTS, "layer_us").mean())
    setups = _setups(table)
    figure, axes = figures.panels(1, max(1, len(setups)))
    for axis, setup in zip(axes[0], setups, strict=False):
        some = _of(table, setup)
        some = pl.concat([some.filter(pl.col("router") == policy) for policy in POLICIES])
        bottom = [0.0] * len(some)
        for (part, label), colour in zip(PARTS.items(), figures.PALETTE, strict=False):
            axis.bar([LABELS[name] for name in some["router"]], some[part], bottom=bottom, label=label, color=colour)
            bottom = [low + high for low, high in zip(bottom, some[part], strict=True)]
        axis.tick_params(axis="x", rotation=30)
        axis.set_title(f"{setup[0]}, {setup[2]} x {setup[1]}")
    axes[0, 0].set_ylabel(f"time per layer (us)\n{batch_per_gpu} tokens per GPU")
    axes[0, -1].legend(fontsize=7)
    note(figure, table, f"r = {frame['r'].max():g}; METRO, exact and adaptive dispatch by all-gather")
    return figure, table


def imbalance(measures: pl.DataFrame, *, batch_per_gpu: int) -> Chart:
    """Max over mean of the GPUs' tokens by ratio and policy: what balancing experts costs in tokens."""
    frame = measures.filter((pl.col("scenario") == "decode") & (pl.col("batch_per_gpu") == batch_per_gpu))
    setups = _setups(frame)
    figure, axes = figures.panels(1, max(1, len(setups)))
    for axis, setup in zip(axes[0], setups, strict=False):
        _lines(axis, _of(frame, setup), "r", "imbalance")
        axis.set(title=f"{setup[0]}, {setup[2]} GPUs", xlabel="replication ratio r (slots per expert)")
    axes[0, 0].set_ylabel("token imbalance over GPUs:\nmax / mean (1)")
    axes[0, 0].legend(fontsize=8)
    note(figure, frame.with_columns(basis=pl.lit("real")), f"{batch_per_gpu} tokens per GPU")
    return figure, frame
