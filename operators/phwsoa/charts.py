"""The figures of PHWSOA: each function returns a figure and the table it drew.

Every figure that compares searches also shows what a simple heuristic reaches. Methods whose formulas are only partly
known carry `_like`. matplotlib is imported only by `figures`.
"""

from typing import Any

import numpy as np
import polars as pl

from operators.lab import figures

Chart = tuple[Any, pl.DataFrame]
SHOWN = ("phwsoa", "phwsoa_h", "woa", "ga", "nsga2", "nsga3", "pewoa_like", "gcwoa_like")
LOOK = figures.look(list(SHOWN))
MARKS = ["lpt", "eps_greedy", "mct", "max_min", "min_min", "round_robin"]


def _data(frame: pl.DataFrame) -> str:
    return "data: " + "+".join(sorted(frame["data"].unique()))


def gaps(measures: pl.DataFrame) -> Chart:
    """Makespan over the bound, a bar per policy: heuristics first, then searches."""
    frame = measures.filter((pl.col("settings") == "default") & (pl.col("policy") != "executor"))
    first = frame["n"].max() if frame["n"].n_unique() == 1 else 1000
    frame = frame.filter(pl.col("n") == first)
    table = frame.group_by("log", "n", "m", "policy", "data", maintain_order=True).agg(
        pl.col("f1_over_lb").median(), low=pl.col("f1_over_lb").min(), high=pl.col("f1_over_lb").max(),
        lb_kind=pl.col("lb_kind").first(), seeds=pl.len(),
    )  # fmt: skip
    logs = table["log"].unique(maintain_order=True).to_list()
    figure, axes = figures.panels(1, len(logs), height=5.2, width=4.6)
    for axis, log in zip(axes[0], logs, strict=True):
        rows = table.filter(pl.col("log") == log).sort("f1_over_lb", descending=True)
        simple = [name in (*MARKS, "sufferage", "heft", "lower_bound") for name in rows["policy"]]
        colours = ["#999999" if one else "#0072B2" for one in simple]
        places = np.arange(len(rows))
        spread = [rows["f1_over_lb"] - rows["low"], rows["high"] - rows["f1_over_lb"]]
        axis.barh(places, rows["f1_over_lb"], color=colours, xerr=spread, error_kw={"lw": 0.8})
        axis.set_yticks(places, rows["policy"])
        for place, value in zip(places, rows["high"], strict=True):
            axis.text(value + 0.06, place, f"{value:.4f}" if value < 1.005 else f"{value:.2f}", va="center", fontsize=7)
        axis.set_xlim(0, table["high"].max() * 1.15)
        axis.set_title(f"{log}, {rows['n'][0]} x {rows['m'][0]} (bound: {rows['lb_kind'][0]})", fontsize=9)
        axis.set_xlabel("makespan / lower bound (1 is optimal)")
    figures.note(figure, f"grey: heuristics of milliseconds; blue: searches, equal evaluations; {_data(frame)}")
    return figure, table


def front(points: pl.DataFrame, bounds: pl.DataFrame) -> Chart:
    """Makespan against cost of the fronts of one seed, with the exact LP front."""
    seed, n = points["seed"].min(), points["n"].max() if points["n"].n_unique() == 1 else 1000
    points = points.filter((pl.col("settings") == "default") & (pl.col("seed") == seed) & (pl.col("n") == n))
    bounds = bounds.filter(pl.col("n") == n)
    logs, parts = points["log"].unique(maintain_order=True).to_list(), []
    figure, axes = figures.panels(1, len(logs), height=3.8, width=4.6)
    for axis, log in zip(axes[0], logs, strict=True):
        line = bounds.filter(pl.col("log") == log)
        axis.plot(line["lp_cap"] / line["lb"], line["lp_cost"], color="black", lw=1.2, label="LP: no schedule below")
        for name in ("woa", "nsga2", "phwsoa", "phwsoa_h", "eps_greedy", "lpt"):
            rows = points.filter((pl.col("log") == log) & (pl.col("method") == name))
            if rows.is_empty():
                continue
            rows = rows.select("log", "method", "data", x=pl.col("f1") / pl.col("lb"), cost="f3")
            look = LOOK.get(name, {"color": "#E69F00" if name == "eps_greedy" else "black", "marker": "x"})
            size = 60 if name == "lpt" else 10
            axis.scatter(rows["x"], rows["cost"], s=size, label=name, alpha=0.75, **look)
            parts.append(rows)
        axis.set_title(log, fontsize=9)
        axis.set_xlabel("makespan / lower bound")
        axis.set_ylabel("cost (our price table)")
        axis.set_xlim(0.8, 6.2)
    axes[0, -1].legend(fontsize=7)
    figures.note(figure, f"points of three-objective archives, seed {seed}; {_data(points)}")
    return figure, pl.concat(parts)


def convergence(history: pl.DataFrame, timings: pl.DataFrame, bounds: pl.DataFrame) -> Chart:
    """Best makespan over the bound against evaluations and against seconds (first log, median over seeds)."""
    keys = ["log", "n", "method", "settings", "seed", "gen"]
    spent = timings.sort(keys).with_columns(elapsed=pl.col("seconds").cum_sum().over(keys[:-1]))
    frame = history.join(spent.select(*keys, "elapsed"), on=keys, how="left").with_columns(
        pl.col("elapsed").fill_null(0.0)
    )
    log = frame["log"][0]
    frame = frame.filter((pl.col("log") == log) & (pl.col("settings") == "default") & (pl.col("n") == frame["n"][0]))
    bound = float(bounds.filter((pl.col("log") == log) & (pl.col("n") == frame["n"][0]))["lb"][0])
    table = frame.group_by("log", "method", "gen", maintain_order=True).agg(
        evals=pl.col("evals").median(), seconds=pl.col("elapsed").median(),
        f1_over_lb=pl.col("best_f1").median() / bound, data=pl.col("data").first(),
    )  # fmt: skip
    figure, axes = figures.panels(1, 2, height=3.6, width=4.4)
    for axis, x in zip(axes[0], ("evals", "seconds"), strict=True):
        for name in SHOWN:
            rows = table.filter(pl.col("method") == name).sort("gen")
            if len(rows):
                axis.plot(rows[x], rows["f1_over_lb"], color=LOOK[name]["color"], label=name)
        axis.axhline(1, color="black", lw=1, ls=":", label="lower bound" if x == "evals" else None)
        axis.set_ylabel("best makespan / lower bound")
        axis.set_yscale("log")
        figures.plain_ticks(axis.yaxis)
        if x == "seconds":
            axis.set_xscale("symlog", linthresh=0.01)
            axis.set_xlim(left=0)
        axis.set_xlabel("full evaluations" if x == "evals" else "seconds of search (this machine)")
    axes[0, 0].legend(fontsize=7)
    figures.note(figure, f"{log}; median over seeds; redistribution's delta evaluations not counted; {_data(frame)}")
    return figure, table


def ablation(table: pl.DataFrame) -> Chart:
    """Makespan over the bound and delta evaluations of each variant of the hybrid."""
    frame = table.group_by("log", "group", "policy", "data", maintain_order=True).agg(
        pl.col("f1_over_lb").median(), pl.col("start_f1_over_lb").median(), pl.col("start_hamming").median(),
        pl.col("f2_cv").median(), pl.col("hv3").median(), pl.col("evals").median(), pl.col("delta_evals").median(),
        low=pl.col("f1_over_lb").min(), high=pl.col("f1_over_lb").max(),
    )  # fmt: skip
    log = frame["log"][0]
    rows = frame.filter(pl.col("log") == log).reverse()
    figure, axes = figures.panels(1, 2, height=4.6, width=4.6, sharey=True)
    places = np.arange(len(rows))
    colours = ["#999999" if group == "reference" else "#0072B2" for group in rows["group"]]
    axes[0, 0].barh(places, rows["f1_over_lb"], color=colours)
    axes[0, 0].set_yticks(places, rows["policy"])
    axes[0, 0].set_xlabel("makespan / lower bound")
    axes[0, 1].barh(places, rows["delta_evals"].fill_null(0) / 1e6, color=colours)
    axes[0, 1].set_xlabel("delta evaluations of redistribution (millions)")
    figures.note(figure, f"{log}; phwsoa, equal full evaluations, one switch changed at a time; {_data(rows)}")
    return figure, frame


def variants(table: pl.DataFrame) -> Chart:
    """Cost under billing quanta, makespan of rigid tasks, and both measures of balance."""
    figure, axes = figures.panels(1, 3, height=3.6, width=3.8)
    panels = (
        ("billing", "f3_over_least", "least cost / cost of busy seconds", "billed by started quanta of"),
        ("rigid", "f1_over_lb", "makespan / lower bound (loose here)", "jobs keep their processors"),
    )
    for axis, (group, column, label, title) in zip(axes[0], panels, strict=False):
        rows = table.filter(pl.col("group") == group)
        cases, names = (rows[name].unique(maintain_order=True).to_list() for name in ("variant", "policy"))
        for k, (name, look) in enumerate(figures.look(names).items()):
            values = rows.filter(pl.col("policy") == name)[column]
            places = np.arange(len(cases)) + (k - (len(names) - 1) / 2) * 0.8 / len(names)
            bars = axis.bar(places, values, 0.75 / len(names), color=look["color"], label=name)
            axis.bar_label(bars, fmt="%.3g", fontsize=6)
        axis.set_xticks(range(len(cases)), cases)
        axis.set(ylabel=label, title=title)
        axis.margins(y=0.25)
        axis.legend(fontsize=7, ncols=2, loc="upper left")
    rows, axis = table.filter(pl.col("group") == "balance"), axes[0, 2]
    names = [
        f"{policy}, {variant}" if policy != "lpt" else "lpt" for policy, variant in rows["policy", "variant"].rows()
    ]
    for k, (column, label) in enumerate((("f2_cv", "std / mean"), ("f2_di", "(max - min) / mean"))):
        axis.bar(np.arange(len(rows)) + 0.4 * k - 0.2, rows[column], 0.38, label=label)
    axis.set_xticks(range(len(rows)), names, rotation=20, fontsize=7)
    axis.set(ylabel="imbalance of finish times (1)", title="measure that is minimised", yscale="log", ylim=(None, 1.0))
    axis.legend(fontsize=7)
    first = table.row(0, named=True)
    figures.note(figure, f"{first['log']}, one seed; billing and balance: {first['n']} x {first['m']}; {_data(table)}")
    return figure, table


def loads(made: Any, solutions: dict[str, np.ndarray], low: float, keys: dict[str, Any]) -> Chart:
    """Finish time of every machine under each method's shortest schedule."""
    names = list(solutions)
    figure, axes = figures.panels(1, len(names), height=3.0, width=2.6, sharey=True)
    parts = []
    for axis, name in zip(axes[0], names, strict=True):
        seconds = np.bincount(solutions[name], weights=made.et()[np.arange(made.n), solutions[name]], minlength=made.m)
        axis.bar(np.arange(made.m), np.sort(seconds / low)[::-1], color=LOOK.get(name, {"color": "#999999"})["color"])
        axis.axhline(1, color="black", lw=1, ls=":")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("machine, fullest first")
        axis.xaxis.get_major_locator().set_params(integer=True)
        parts.append(
            pl.DataFrame({"method": [name] * made.m, "vm": np.arange(made.m), "finish_over_lb": seconds / low})
        )
    axes[0, 0].set_ylabel("finish / lower bound")
    figures.note(figure, f"{keys['log']}, {keys['n']} x {keys['m']}; dotted: lower bound; data: {keys['data']}")
    return figure, pl.concat(parts)


def start(made: Any, pop: int, seed: int) -> Chart:
    """Machines of the first and of the last task in start populations of three kinds."""
    from operators.phwsoa.start import start_positions

    figure, axes = figures.panels(1, 3, height=3.0, width=2.9, sharey=True)
    parts = []
    for axis, init in zip(axes[0], ("halton", "halton_scrambled", "random"), strict=True):
        position = start_positions(made, pop, init, seed)
        a, b = position[:, -2], position[:, -1]
        axis.scatter(a, b, s=10, color="#0072B2")
        axis.set_xlim(0, made.m)
        axis.set_ylim(0, made.m)
        axis.set_title(init, fontsize=9)
        axis.set_xlabel(f"machine of task {made.n - 2}")
        parts.append(pl.DataFrame({"init": [init] * pop, "x": a, "y": b}))
    axes[0, 0].set_ylabel(f"machine of task {made.n - 1}")
    figures.note(figure, f"{pop} individuals, {made.n} tasks on {made.m} machines; plain Halton needs a prime per task")
    return figure, pl.concat(parts)


def executed(table: pl.DataFrame) -> Chart:
    """Measured against planned finish of each task."""
    figure, axes = figures.panels(1, 2, height=3.4, width=4.0)
    for axis, case in zip(axes[0], ("plain", "faults"), strict=True):
        rows = table.filter(pl.col("case") == case)
        again = rows.filter(pl.col("attempts") > 1)
        once = rows.filter(pl.col("attempts") == 1)
        axis.scatter(once["planned_finish"], once["finish"], s=10, color="#0072B2", label="first attempt")
        axis.scatter(again["planned_finish"], again["finish"], s=14, color="#D55E00", label="second attempt or later")
        top = float(table["finish"].max() or 1)
        axis.plot([0, top], [0, top], color="black", lw=0.8, ls=":")
        axis.set_title("undisturbed" if case == "plain" else "with the settings' faults", fontsize=9)
        axis.set_xlabel("planned finish (s)")
        axis.set_ylabel("measured finish (s)")
        axis.legend(fontsize=7)
    figures.note(figure, f"real processes, time scaled; dotted: as planned; {_data(table)}")
    return figure, table
