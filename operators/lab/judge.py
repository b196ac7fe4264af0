"""Stage: judge a system's claims against its tables; the same for every system."""

import html
from pathlib import Path

from operators.lab import claims as evaluator
from operators.lab import stage

PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em }} table {{ border-collapse: collapse }}
td, th {{ border-bottom: 1px solid #ddd; padding: .3em .6em; text-align: left; vertical-align: top }}
.reproduced, .within-tolerance {{ color: #007a3d }} .direction-only {{ color: #9a6a00 }}
.not-reproduced, .contradicted {{ color: #b00020; font-weight: bold }} .not-measured, .out-of-reach {{ color: #777 }}
pre {{ background: #f6f6f6; padding: 1em }} </style></head><body><h1>{title}</h1>
<p>{provenance}</p>
<p><b>paper</b>: the range claimed (for our own bars, the bar). <b>accept</b>: the range accepted, written before the
first run. <b>interval</b>: 95 % over seeds, or the spread of a bench ratio. <b>reproduced</b>: in the claimed range;
<b>within tolerance</b>: inside the accepted one; <b>direction only</b>: outside both, right sign; <b>contradicted</b>:
wrong sign; <b>not measured</b>: synthetic data or a small profile.</p>
<table id="claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>
<h2>Settings</h2><pre>{settings}</pre></body></html>"""
COLUMNS = (
    *("claim", "text", "paper", "accept", "number", "value", "interval", "verdict", "basis", "data", "where", "why"),
)


def main(*, claims: Path, tables: list[Path], settings: Path, out: Path, out_html: Path) -> None:
    """Evaluate every claim of a claims file: value, interval, verdict.

    Args:
        claims: the system's claims.yaml
        tables: Parquet tables; a claim names one by its stem (measures, bench, ...)
        settings: the settings.json of this run
        out: claims.parquet
        out_html: the same as a page for the report
    """
    import polars as pl

    stamps = [stage.read_stamp(path) for path in tables]
    _refuse_mixture(tables, stamps)
    content = evaluator.load(claims)
    first = stamps[0]
    frame = evaluator.evaluate(
        content, {path.stem: stage.read_table(path) for path in tables}, profile=first["profile"]
    )
    commits = "+".join(sorted({found["commit"] for found in stamps}))
    frame = frame.select(
        pl.lit(first["system"]).alias("system"),
        pl.all(),
        profile=pl.lit(first["profile"]),
        settings=pl.lit(first["settings"]),
        commit=pl.lit(commits),
        machine=pl.lit(first["machine"]),
    )
    with stage.atomic(out) as temporary:
        frame.write_parquet(temporary, metadata={**first, "commit": commits})
    with stage.atomic(out_html) as temporary:
        temporary.write_text(page(frame, settings.read_text()))


def _refuse_mixture(tables: list[Path], stamps: list[dict[str, str]]) -> None:
    for path, found in zip(tables, stamps, strict=True):
        if found["settings"] != stamps[0]["settings"]:
            raise ValueError(
                f"{path}: made with settings {found['settings']}, {tables[0]} with {stamps[0]['settings']}"
            )


def page(frame, settings: str) -> str:
    """The claims table as a self-contained page."""
    shown = evaluator.printable(frame)
    rows = []
    for row, text in zip(frame.iter_rows(named=True), shown, strict=True):
        cells = {
            **{key: row.get(key) or "-" for key in COLUMNS},
            **{key: text[key] for key in ("value", "interval", "data")},
        }
        kind = row["verdict"].replace(" ", "-")
        inner = "".join(
            f'<td class="{kind}">{html.escape(str(cells[key]))}</td>'
            if key == "verdict"
            else f"<td>{html.escape(str(cells[key]))}</td>"
            for key in COLUMNS
        )
        rows.append(f"<tr>{inner}</tr>")
    one = frame.row(0, named=True)
    return PAGE.format(
        title=f"{one['system']}: claims and verdicts",
        provenance=html.escape(
            f"profile {one['profile']} · settings {one['settings']} · commit {one['commit']} · {one['machine']}"
        ),
        head="".join(f"<th>{key}</th>" for key in COLUMNS),
        rows="".join(rows),
        settings=html.escape(settings),
    )


if __name__ == "__main__":
    stage.run(main)
