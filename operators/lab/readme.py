"""The verdict block of README.md: written from a run's results, with its commit, machine and date; never typed.

The block carries a hash of its own text, so that an edit by hand is noticed by a test.
"""

import argparse
import datetime
import hashlib
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import claims, overview, stage

if TYPE_CHECKING:
    import polars as pl

BEGIN = "<!-- verdicts: written by `make readme`, sha256 {digest} -->"
END = "<!-- end of verdicts -->"
PATTERN = re.compile(r"<!-- verdicts: written by `make readme`, sha256 (\w+) -->\n(.*?)" + re.escape(END), re.DOTALL)
FIGURE = "results/overview.svg"


class ReadmeError(ValueError):
    """The block is missing, was edited by hand, or there is no run to write it from."""


def digest(text: str) -> str:
    """Short hash of a block's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def block_of(readme: str) -> str:
    """The verdict block's text; ReadmeError when it is missing or was edited by hand."""
    found = PATTERN.search(readme)
    if not found:
        raise ReadmeError("README.md: no verdict block; run `make readme`")
    if digest(found[2]) != found[1]:
        raise ReadmeError("README.md: the verdict block was edited by hand; run `make readme`")
    return found[2]


def with_block(readme: str, text: str) -> str:
    """README with its verdict block replaced by `text`."""
    begin = BEGIN.format(digest=digest(text))
    place = re.compile(r"<!-- verdicts: .*? -->\n.*?" + re.escape(END), re.DOTALL)
    if not place.search(readme):
        raise ReadmeError(f"README.md: nowhere to write; it needs a line `{BEGIN.format(digest='0')}` and one `{END}`")
    return place.sub(lambda _: f"{begin}\n{text}{END}", readme)


def render(frames: "dict[str, pl.DataFrame]", titles: dict[str, str], date: str) -> str:
    """The block: a table of systems with verdict counts, and every claim of every system folded under it."""
    one = next(iter(frames.values())).row(0, named=True)
    lines = [
        f"Written {date}, {one['machine']}; `run` is each system's profile and commit.",
        "",
        "| system | what it is | run | claims | " + " | ".join(claims.VERDICTS) + " |",
        "|---|---|---|---:|" + "---:|" * len(claims.VERDICTS),
    ]
    for system, frame in frames.items():
        counts = Counter(frame["verdict"])
        cells = " | ".join(str(counts[name]) for name in claims.VERDICTS)
        first = frame.row(0, named=True)
        run = f"{first['profile']} `{first['commit']}`"
        name = f"[{system}](workflows/{system}/README.md)"
        lines.append(f"| {name} | {titles[system]} | {run} | {len(frame)} | {cells} |")
    for system, frame in frames.items():
        lines += ["", f"<details><summary>{system}: every claim</summary>", ""]
        lines += [
            "| claim | paper or bar | value | 95 % interval | verdict | basis | data |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in claims.printable(frame):
            cells = ("claim", "paper", "value", "interval", "verdict", "basis", "data")
            lines.append("| " + " | ".join(row[key] for key in cells) + " |")
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Write the verdict block of README.md and its figure from results/."""
    import polars as pl

    parser = argparse.ArgumentParser(prog="python -m operators.lab.readme", description=main.__doc__)
    parser.parse_args(argv)
    root = Path(__file__).parents[2]
    frames = {}
    for system in overview.systems(root):
        path = root / "results" / system / "claims.parquet"
        if not path.exists():
            sys.exit(f"error: {path.relative_to(root)} is missing; run `make run` first")
        frames[system] = pl.read_parquet(path)
        if claims.PROFILE_SIZE[frames[system]["profile"][0]] < claims.PROFILE_SIZE["laptop"]:
            sys.exit(f"error: {system} was run at {frames[system]['profile'][0]}; the table needs laptop or larger")
    readme = root / "README.md"
    titles = {system: overview.title(root, system) for system in frames}
    text = render(frames, titles, datetime.date.today().isoformat())
    with stage.atomic(readme) as temporary:
        temporary.write_text(with_block(readme.read_text(), text))
    figure = root / "results" / "metro" / "figures" / "overview.svg"
    if figure.exists():
        shutil.copyfile(figure, root / FIGURE)


if __name__ == "__main__":
    main()
