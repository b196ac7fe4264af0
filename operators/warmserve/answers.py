"""Stage: the questions an operator asks, answered from this run's tables, as Markdown and as a page."""

import html
from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.warmserve.settings import Settings

if TYPE_CHECKING:
    import polars as pl


MARKS = ("<!-- answers begin: written by the stage `answers --readme`, not by hand -->", "<!-- answers end -->")
SHOWN = ("P99 TTFT, sllm_gpu / warmserve", "P99 TTFT, no_proactive / warmserve", "P99 TTFT, warmserve / oracle_hit")


def main(
    *,
    settings: Settings,
    measures: Path,
    regret: Path,
    ratios: Path,
    out: Path,
    out_html: Path,
    readme: Path | None = None,
) -> None:
    """Write what a perfect forecast would add, what was loaded for nothing, and every ratio.

    Args:
        measures: measures.parquet (evaluate)
        regret: cost of forecast errors per model and hour (evaluate)
        ratios: every ratio under every cold start (evaluate)
        out: the answers as Markdown
        out_html: the same as a page
        readme: a file with marks, between which a short form is written
    """
    found = stage.read_table(measures)
    sections = [
        ("What would a perfect forecast add?", *perfect(stage.read_table(regret))),
        ("How many GB were loaded for nothing?", *nothing(found)),
        ("What do the ratios rest on?", *resting(stage.read_table(ratios))),
    ]
    lines = [f"Profile {settings.profile}, settings {settings.digest()}, commit {stage.commit()}."]
    for title, text, table in sections:
        lines += ["", f"### {title}", text, "", *markdown(table)]
    with stage.atomic(out) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    if readme:
        _write_short(readme, stage.read_stamp(measures), sections)
    body = "".join(f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{page(t)}" for title, text, t in sections)
    style = (
        "body{font:14px sans-serif;margin:1.5em}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}"
    )
    with stage.atomic(out_html) as temporary:
        temporary.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style><p>{lines[0]}</p>{body}")


def _write_short(readme: Path, stamp: dict[str, str], sections: list[tuple]) -> None:
    """The answers' words, and the ratios that the headline rests on, between the marks of `readme`."""
    import polars as pl

    before, _, rest = readme.read_text().partition(MARKS[0])
    _, found, after = rest.partition(MARKS[1])
    if not found:
        raise ValueError(f"readme (={readme}): expected the lines {MARKS[0]!r} and {MARKS[1]!r}")
    lines = [MARKS[0], f"From a run of profile {stamp['profile']}, commit {stamp['commit']}, data {stamp['data']}.", ""]
    for title, text, _ in sections:
        lines += [f"- **{title}** {text}"]
    ratios = sections[-1][2]
    table = ratios.filter(pl.col("ratio").is_in(SHOWN)) if len(ratios) else ratios
    lines += ["", *markdown(table), MARKS[1]]
    with stage.atomic(readme) as temporary:
        temporary.write_text(before + "\n".join(lines) + after)


def perfect(regret: "pl.DataFrame") -> tuple[str, "pl.DataFrame"]:
    """Regret against the true mean and peak of every window, per model."""
    import polars as pl

    columns = ("rps", "model", "p99_s", "oracle_p99_s", "p99_lost_s", "gpu_s_lost")
    if regret.is_empty():
        return "Not measured: this size does not run the oracle.", pl.DataFrame(
            schema=dict.fromkeys(columns, pl.String)
        )
    table = regret.group_by("rps", "model").agg(
        *(pl.col(name).mean() for name in ("p99_s", "oracle_p99_s", "p99_lost_s", "gpu_s_lost"))
    )
    worst = table.sort("p99_lost_s", descending=True).row(0, named=True)
    text = (
        f"At most {worst['p99_lost_s']:.3g} s of P99 TTFT (model {worst['model']}, {worst['rps']:g} requests/s), mean"
        f" over seeds; over all models and rates {table['p99_lost_s'].mean():.3g} s of P99 and"
        f" {table['gpu_s_lost'].mean():.3g} GPU-seconds an hour. The bound is the same system told the true mean"
        " and peak load of every window."
    )
    return text, table.sort("rps", "model").select(columns)


def nothing(measures: "pl.DataFrame") -> tuple[str, "pl.DataFrame"]:
    """GB loaded and of them not used, per policy and cold-start model."""
    import polars as pl

    runs = measures.filter(pl.col("gb_loaded").is_not_null() & pl.col("process_pool"))
    table = runs.group_by("policy", "cold", "nodes").agg(
        *(pl.col(name).mean() for name in ("gb_loaded", "gb_wasted", "gb_s_held", "hit_share")), runs=pl.len()
    )
    table = table.with_columns(wasted_share=pl.col("gb_wasted") / pl.col("gb_loaded")).sort("nodes", "cold", "policy")
    own = table.filter(pl.col("policy") == "warmserve").sort("cold", descending=True).row(0, named=True)
    text = (
        f"warmserve loaded {own['gb_loaded']:.0f} GB a run and used all but {own['gb_wasted']:.0f} GB"
        f" ({own['wasted_share']:.0%}; {own['cold']}, mean of {own['runs']} runs)."
    )
    return text, table


def resting(ratios: "pl.DataFrame") -> tuple[str, "pl.DataFrame"]:
    """Every ratio at the points that were run under every cold start."""
    import polars as pl

    text = (
        "Mean over seeds with its 95 % interval, at every rate that was run under both cold starts. `w5`: engine start"
        " and loader as published; `pcie`: weights at PCIe speed, no engine start. Without ready processes everybody"
        " pays the engine start."
    )
    per = ratios.group_by("rps", "alpha").agg(n=pl.struct("cold", "process_pool").n_unique())
    keep = per.filter(pl.col("n") == per["n"].max()) if len(per) else per
    table = ratios.join(keep.drop("n"), on=["rps", "alpha"]).sort("ratio", "rps", "cold", "process_pool")
    return text, table.select("ratio", "rps", "cold", "process_pool", "value", "low", "high", "seeds")


def _cells(table: "pl.DataFrame") -> list[list[str]]:
    def text(value: object) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return [[text(value) for value in row] for row in table.iter_rows()]


def markdown(table: "pl.DataFrame") -> list[str]:
    """A table as Markdown lines."""
    head = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
    return head + [f"| {' | '.join(row)} |" for row in _cells(table)]


def page(table: "pl.DataFrame") -> str:
    """A table as HTML."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in _cells(table))
    return f"<table><tr>{head}</tr>{rows}</table>"


if __name__ == "__main__":
    stage.run(main)
