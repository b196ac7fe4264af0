"""The figures of warmserve: each function takes tables and returns a figure and the table it drew."""

from typing import Any

import numpy as np
import polars as pl

from operators.lab import figures
from operators.warmserve.policies import POLICIES

LOOK = figures.look(list(POLICIES))
Chart = tuple[Any, pl.DataFrame]
STATES = ("idle", "loading", "universal", "promoting", "dedicated", "draining")
STATE_COLOURS = ("#eeeeee", "#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#D55E00")


def _style(name: str) -> dict[str, Any]:
    """Look of a policy; there are more policies than colours, so the later ones are dashed."""
    dashed = list(POLICIES).index(name) >= len(figures.PALETTE)
    return LOOK[name] | {"linestyle": "--" if dashed else "-"}


def _basis(data: str, more: str = "") -> str:
    return f"basis: calibrated (cold starts fitted to three published starts, steps constant) · data: {data}{more}"


def ttft_cdf(requests: pl.LazyFrame, settle_s: float) -> Chart:
    """Distribution of TTFT per policy at the run with most policies."""
    own = (pl.col("cold").cast(pl.String) == "w5") & pl.col("process_pool") & (pl.col("arrival_s") >= settle_s)
    late = requests.filter(own)
    points = late.group_by("nodes", "rps", "alpha").agg(n=pl.col("policy").n_unique()).collect()
    if points.is_empty():
        return figures.nothing("no runs under the w5 cold start"), pl.DataFrame()
    best = points.sort("n", "nodes", "rps", descending=[True, False, False]).row(0, named=True)
    here = late.filter((pl.col("nodes") == best["nodes"]) & (pl.col("rps") == best["rps"]))
    here = here.filter(pl.col("alpha") == best["alpha"])
    shares = [*np.linspace(0.01, 0.9, 60), *np.linspace(0.905, 0.999, 95)]
    frame = (
        here.group_by(pl.col("policy").cast(pl.String))
        .agg(
            *(pl.col("ttft_s").quantile(share, "linear").alias(f"{share:.4f}") for share in shares),
            data=pl.col("data").cast(pl.String).first(),
        )
        .sort("policy")
        .collect()
    )
    long = frame.unpivot(index=["policy", "data"], variable_name="share", value_name="ttft_s")
    long = long.with_columns(pl.col("share").cast(pl.Float64))
    figure, axes = figures.panels(1, 1, width=7.0, height=4.0)
    axis = axes[0, 0]
    for name in [name for name in POLICIES if name in frame["policy"].to_list()]:
        one = long.filter(pl.col("policy") == name).sort("share")
        axis.plot(one["ttft_s"], 1 - one["share"], label=name, **{**_style(name), "marker": ""})
    axis.set(xscale="log", yscale="log", xlabel="TTFT (s)", ylabel="share of requests slower (1)")
    axis.legend(fontsize=7.5, bbox_to_anchor=(1.01, 1), loc="upper left")
    note = f" · {best['rps']:g} requests/s, popularity exponent {best['alpha']:g}, {best['nodes']} nodes"
    figures.note(figure, _basis(long["data"][0], note))
    return figure, long


def p99_rps(measures: pl.DataFrame) -> Chart:
    """P99 TTFT against the rate, a panel per popularity."""
    frame = measures.filter(
        pl.col("rps").is_not_null()
        & pl.col("ttft_p99_s").is_not_null()
        & (pl.col("cold") == "w5")
        & pl.col("process_pool")
        & (pl.col("nodes") == pl.col("nodes").min())
    )
    frame = frame.group_by("policy", "rps", "alpha", "data").agg(
        pl.col("ttft_p99_s").mean(), low=pl.col("ttft_p99_s").min(), high=pl.col("ttft_p99_s").max()
    )
    everywhere = pl.struct("rps", "alpha").n_unique().over("policy")
    frame = frame.with_columns(n=everywhere).filter(pl.col("n") == pl.col("n").max()).drop("n")
    frame = frame.sort("policy", "alpha", "rps")
    alphas = sorted(frame["alpha"].unique())
    figure, axes = figures.panels(1, len(alphas), width=3.3, height=3.6, sharey=True)
    for axis, alpha in zip(axes[0], alphas, strict=True):
        here = frame.filter(pl.col("alpha") == alpha)
        for name in [name for name in POLICIES if name in here["policy"].to_list()]:
            one = here.filter(pl.col("policy") == name)
            axis.plot(one["rps"], one["ttft_p99_s"], label=name, **_style(name))
            axis.fill_between(one["rps"], one["low"], one["high"], color=LOOK[name]["color"], alpha=0.15, linewidth=0)
        axis.set(yscale="log", xlabel="requests/s", title=f"popularity exponent {alpha:g}")
        axis.title.set_fontsize(9)
    axes[0, 0].set_ylabel("P99 TTFT (s)")
    axes[0, -1].legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    figures.note(figure, _basis(frame["data"][0], " · band: least and most over seeds"))
    return figure, frame


def ablation(measures: pl.DataFrame) -> Chart:
    """Share of requests with TTFT within 100 ms, per ablation, over the full system's."""
    frame = measures.filter(
        pl.col("share_ttft_100ms").is_not_null()
        & (pl.col("cold") == "w5")
        & pl.col("process_pool")
        & pl.col("nodes").eq(pl.col("nodes").min())
    )
    full = frame.filter(pl.col("policy") == "warmserve").select("rps", "alpha", "seed", full="share_ttft_100ms")
    frame = frame.join(full, on=["rps", "alpha", "seed"]).with_columns(
        relative=pl.col("share_ttft_100ms") / pl.col("full")
    )
    top = frame.group_by("rps", "alpha").agg(n=pl.col("policy").n_unique()).sort("n", "rps", descending=True).row(0)
    frame = frame.filter((pl.col("rps") == top[0]) & (pl.col("alpha") == top[1]))
    frame = frame.group_by("policy", "data").agg(
        pl.col("relative").mean(),
        low=pl.col("relative").min(),
        high=pl.col("relative").max(),
        share=pl.col("share_ttft_100ms").mean(),
    )
    frame = frame.sort("relative")
    figure, axes = figures.panels(1, 1, width=6.5, height=0.6 + 0.34 * len(frame))
    axis = axes[0, 0]
    spread = np.array([frame["relative"] - frame["low"], frame["high"] - frame["relative"]])
    axis.barh(frame["policy"], frame["relative"], xerr=spread, color=[LOOK[name]["color"] for name in frame["policy"]])
    axis.set_xlabel("requests with TTFT <= 100 ms, over the full system's share (ratio)")
    figures.note(
        figure, _basis(frame["data"][0], f" · {top[0]:g} requests/s, exponent {top[1]:g} · line: spread over seeds")
    )
    return figure, frame


def forecasts(forecast: pl.DataFrame) -> Chart:
    """One day of a production model's rate and the one-step forecasts; errors of every method."""
    one = forecast.filter(pl.col("horizon") == 1)
    model, day = one["model"].unique().sort()[0], int(one["day"].max())
    shown = ("csp", "csp_printed", "blend")
    line = one.filter((pl.col("model") == model) & (pl.col("day") == day) & pl.col("method").is_in(shown))
    known = one.filter(pl.col("forecast").is_not_nan())
    errors = known.group_by("model", "method").agg(
        wape_percent=100 * (pl.col("actual") - pl.col("forecast")).abs().sum() / pl.col("actual").sum()
    )
    figure, axes = figures.panels(1, 2, width=5.2, height=3.4)
    actual = line.filter(pl.col("method") == "csp").sort("window")
    axes[0, 0].plot(actual["window"] / 6, actual["actual"], color="#000000", label="actual")
    for name, colour in zip(shown, figures.PALETTE, strict=False):
        part = line.filter(pl.col("method") == name).sort("window")
        axes[0, 0].plot(part["window"] / 6, part["forecast"], color=colour, linewidth=1, label=name)
    axes[0, 0].set(xlabel=f"hour of day {day}", ylabel=f"rate of {model} (requests/s)", xlim=(0, 24))
    axes[0, 0].legend(fontsize=8)
    models, methods = errors["model"].unique().sort().to_list(), errors["method"].unique().sort().to_list()
    for i, method in enumerate(methods):
        values = [
            float(errors.filter((pl.col("model") == m) & (pl.col("method") == method))["wape_percent"][0])
            for m in models
        ]
        axes[0, 1].bar(np.arange(len(models)) + 0.13 * i, values, 0.12, label=method, color=figures.PALETTE[i])
    axes[0, 1].set_xticks(np.arange(len(models)) + 0.13 * (len(methods) - 1) / 2, models)
    axes[0, 1].set_ylabel("forecast error, WAPE (%)")
    axes[0, 1].legend(fontsize=7.5)
    figures.note(
        figure, f"basis: real method on {one['data'][0]} rates, 10-minute windows, one step ahead; gaps not scored"
    )
    return figure, pl.concat([line, errors.rename({"wape_percent": "forecast"})], how="diagonal")


def timeline(gpu: pl.LazyFrame) -> Chart:
    """What every GPU was, over time, under warmserve."""
    own = (pl.col("policy").cast(pl.String) == "warmserve") & (pl.col("cold").cast(pl.String) == "w5")
    keys = gpu.filter(own & pl.col("process_pool")).select("nodes", "rps", "alpha", "seed").unique().collect()
    if keys.is_empty():
        return figures.nothing("no run of warmserve"), pl.DataFrame()
    near = (pl.col("rps").sub(15.0).abs(), pl.col("alpha").sub(0.5).abs())
    key = keys.sort("nodes", *near, "seed").row(0, named=True)
    here = own & pl.col("process_pool") & pl.all_horizontal(pl.col(name) == value for name, value in key.items())
    frame = gpu.filter(here).select("gpu", "t0_s", "t1_s", pl.col("state").cast(pl.String), "data").collect()
    figure, axes = figures.panels(1, 1, width=9.0, height=3.6)
    axis = axes[0, 0]
    for state, colour in zip(STATES, STATE_COLOURS, strict=True):
        part = frame.filter(pl.col("state") == state)
        axis.barh(
            part["gpu"],
            (part["t1_s"] - part["t0_s"]) / 60,
            left=part["t0_s"] / 60,
            height=0.85,
            color=colour,
            label=state,
        )
    axis.set(xlabel="time (min)", ylabel="GPU", ylim=(-0.6, frame["gpu"].max() + 0.6))
    axis.grid(False)
    axis.legend(fontsize=8, ncol=6, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figures.note(figure, _basis(str(frame["data"][0]), f" · {key['rps']:g} requests/s, exponent {key['alpha']:g}"))
    return figure, frame.with_columns(pl.col("data").cast(pl.String))


def waste(ledger: pl.LazyFrame) -> Chart:
    """GB loaded by what became of them, per policy."""
    own = (pl.col("cold").cast(pl.String) == "w5") & pl.col("process_pool")
    rows = ledger.filter(own & (pl.col("nodes") == pl.col("nodes").min()))
    per_run = rows.group_by(
        pl.col("policy").cast(pl.String), pl.col("outcome").cast(pl.String), pl.col("data").cast(pl.String)
    ).agg(gb=pl.col("bytes_loaded").sum() / 1e9)
    runs = rows.select(pl.col("policy").cast(pl.String), "rps", "alpha", "seed").unique()
    counts = runs.group_by("policy").agg(runs=pl.len())
    frame = per_run.join(counts, on="policy").with_columns(gb_per_run=pl.col("gb") / pl.col("runs")).collect()
    frame = frame.sort("policy", "outcome")
    outcomes = ("hit", "left", "evicted_promotion", "evicted_takeback", "cancelled", "crashed")
    names = [name for name in POLICIES if name in frame["policy"].to_list()]
    figure, axes = figures.panels(1, 1, width=7.0, height=0.9 + 0.36 * len(names))
    axis, left = axes[0, 0], np.zeros(len(names))
    for outcome, colour in zip(outcomes, figures.PALETTE, strict=False):
        part = dict(frame.filter(pl.col("outcome") == outcome).select("policy", "gb_per_run").iter_rows())
        values = np.array([part.get(name, 0.0) for name in names])
        axis.barh(names, values, left=left, color=colour, label="used (hit)" if outcome == "hit" else outcome)
        left += values
    axis.set_xlabel("weights loaded per run (GB)")
    axis.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    figures.note(figure, _basis(str(frame["data"][0]), " · mean over a policy's runs"))
    return figure, frame


def fit_residuals(fit: pl.DataFrame) -> Chart:
    """First-token errors of the fitted step models, request by request."""
    frame = fit.filter(pl.col("request_id").is_not_null())
    if frame.is_empty():
        return figures.nothing("step models are fitted at laptop size and above"), fit
    runs = frame["run"].unique().sort().to_list()
    figure, axes = figures.panels(1, len(runs), width=3.6, height=3.0)
    for axis, run in zip(axes[0], runs, strict=True):
        one = frame.filter(pl.col("run") == run)
        axis.scatter(one["first_s"], one["first_err_s"], s=6, color=figures.PALETTE[0])
        axis.axhline(0, color="#000000", linewidth=0.8)
        axis.set(xlabel="first token, measured (s)", title=run[:30])
        axis.title.set_fontsize(8)
    axes[0, 0].set_ylabel("ours less measured (s)")
    figures.note(figure, f"basis: calibrated on these runs · data: {frame['data'][0]} · each dot is a request")
    return figure, frame


def sensitivity(whatif: pl.DataFrame) -> Chart:
    """P99 TTFT with one setting changed, over the unchanged one."""
    base = whatif.filter(pl.col("setting") == "none").select("rps", "alpha", "seed", base="ttft_p99_s")
    frame = whatif.filter(pl.col("setting") != "none").join(base, on=["rps", "alpha", "seed"])
    if frame.is_empty():
        return figures.nothing("one setting changed at a time: laptop size and above"), whatif
    frame = frame.with_columns(
        ratio=pl.col("ttft_p99_s") / pl.col("base"), name=pl.col("setting") + " = " + pl.col("value")
    )
    frame = frame.group_by("name", "rps", "data").agg(
        pl.col("ratio").mean(), low=pl.col("ratio").min(), high=pl.col("ratio").max()
    )
    rates = sorted(frame["rps"].unique())
    order = frame.group_by("name").agg(pl.col("ratio").max()).sort("ratio")["name"].to_list()
    figure, axes = figures.panels(1, 1, width=7.5, height=0.6 + 0.27 * len(order))
    for i, rps in enumerate(rates):
        one = frame.filter(pl.col("rps") == rps)
        at = [order.index(name) + 0.16 * (i - 0.5) for name in one["name"]]
        spread = np.array([one["ratio"] - one["low"], one["high"] - one["ratio"]])
        axes[0, 0].errorbar(
            one["ratio"], at, xerr=spread, fmt="o", markersize=4, color=figures.PALETTE[i], label=f"{rps:g} requests/s"
        )
    axes[0, 0].set_yticks(range(len(order)), order, fontsize=7.5)
    axes[0, 0].axvline(1, color="#000000", linewidth=0.8)
    axes[0, 0].set(xlabel="P99 TTFT over that of the settings as they are (ratio)", xscale="log")
    axes[0, 0].xaxis.set_major_formatter("{x:g}")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figures.note(figure, _basis(frame["data"][0], " · line: spread over seeds"))
    return figure, frame.sort("name", "rps")


def starts(table: pl.DataFrame, data: pl.DataFrame) -> Chart:
    """Real starts: seconds to the first token by kind; seconds of loads and promotions."""
    kinds = [kind for kind in ("hit", "loading", "ondemand") if kind in table["kind"].to_list()]
    figure, axes = figures.panels(1, 2, width=4.2, height=3.0)
    for axis, frame, column, names, value in (
        (axes[0, 0], table, "kind", kinds, "ttft_s"),
        (axes[0, 1], data, "what", sorted(data["what"].unique()), "seconds"),
    ):
        for i, name in enumerate(names):
            values = frame.filter(pl.col(column) == name)[value]
            axis.scatter([i] * len(values), values * 1000, s=12, color=figures.PALETTE[i])
            axis.plot([i - 0.2, i + 0.2], [values.median() * 1000] * 2, color="#000000")
        axis.set_xticks(range(len(names)), names)
        axis.set_ylim(bottom=0)
    axes[0, 0].set(xlabel="weights at the start", ylabel="to the first token (ms)")
    axes[0, 1].set(xlabel="what a worker did", ylabel="time (ms)")
    figures.note(figure, "basis: real processes, files and page tables on this machine; no GPU · line: median")
    return figure, pl.concat([table.rename({"ttft_s": "seconds"}), data.rename({"what": "kind"})], how="diagonal")
