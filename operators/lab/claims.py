"""Claims as data: one pure evaluator from measures to value, interval and verdict.

`workflows/<system>/claims.yaml` holds what a paper says (and what we say of our own work) together with the range we
accept and why, written before the first run. This module is the only reader of those files. `evaluate` never sees a
policy's code, and no figure of a claim reaches the code that produces results.

A claims file is a mapping: `policy` names the column that tells policies apart, `unit` the columns that pair a policy
with its baseline and identify one repetition, `claims` the list. Each claim selects rows by `conditions` (column ->
value or list of values), pairs `of` with `against` on the unit columns, turns each pair into a number by `form`, and
aggregates per seed (`over`: mean, max or min); value and 95 % interval are taken over the seeds. A table without seeds
may bring a measure's own interval in columns `<measure>_low` and `<measure>_high`.
"""

import argparse
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    import polars as pl

NEUTRAL = {"ratio": 1.0, "reduction": 0.0}  # neither better nor worse
PROFILE_SIZE = {"ci": 0, "laptop": 1, "full": 2, "paper": 3}
VERDICTS = (
    "reproduced",
    "within tolerance",
    "direction only",
    "not reproduced",
    "contradicted",
    "not measured",
    "out of reach",
)
# Two-sided 97.5 % points of Student's t for 1..30 degrees of freedom; beyond, the normal's is within 2 %.
T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class ClaimError(ValueError):
    """A claims file is wrong: it names the claim, the key and what was expected."""


class Range(BaseModel):
    """A closed interval; an open end is left out. `exclusive` leaves the bounds themselves out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float | None = None
    high: float | None = None

    def holds(self, value: float, slack: float = 1e-9) -> bool:
        """Whether `value` lies inside, up to rounding."""
        return (self.low is None or value >= self.low - slack) and (self.high is None or value <= self.high + slack)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f">= {self.low:g}"
        return f"<= {self.high:g}" if self.high is not None else "-"


class Source(BaseModel):
    """Where a claim stands: a paper (arXiv id) and the place in it, or `own` for a bar of ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: str | None = None
    where: str


class Needs(BaseModel):
    """What a run must have before the claim may be judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Literal["real", "any"] = "real"
    profile: Literal["ci", "laptop", "full", "paper"] = "laptop"


class Claim(BaseModel):
    """One claim, as written in claims.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]+$")]
    text: str
    source: Source
    conditions: dict[str, Any] = {}
    table: str = "measures"
    measure: str | None = None
    of: str | None = None
    against: str | None = None
    along: str | None = None  # form `order`: the column whose values must rank the measure
    form: Literal["value", "ratio", "reduction", "order", "bound", "exact"] | None = None
    of_what: Literal["value", "ratio", "reduction"] = "value"  # forms order, bound, exact: of which number
    over: Literal["mean", "max", "min"] = "mean"
    paper: Range | None = None
    accept: Range | None = None
    reason: str
    basis: Literal["real", "calibrated", "modelled", "out of reach"]
    calibrated_on: tuple[str, ...] = ()
    needs: Needs = Needs()

    @model_validator(mode="after")
    def _complete(self) -> "Claim":
        if self.basis == "out of reach":
            return self
        if self.measure is None or self.form is None:
            raise ValueError("measure and form are required unless basis is 'out of reach'")
        if self.number in ("ratio", "reduction") and not (self.of and self.against):
            raise ValueError(f"form {self.form} of a {self.number} needs both `of` and `against`")
        if self.form == "order" and not self.along:
            raise ValueError("form order needs `along`, the column whose rising values must rank the measure")
        if self.form not in ("order", "exact") and self.accept is None:
            raise ValueError(f"form {self.form} needs `accept`")
        return self

    @property
    def number(self) -> str:
        """Which number is computed of a pair: value, ratio or reduction."""
        return self.form if self.form in ("value", "ratio", "reduction") else self.of_what

    @property
    def words(self) -> str:
        """What the value is, in words."""
        if self.basis == "out of reach":
            return "-"
        who = f" of {self.of}" if self.of else ""
        against = f" against {self.against}" if self.number != "value" else ""
        what = f"{self.over} {self.number if against else 'value'} of {self.measure}{who}{against}"
        return f"rise over {self.along} of the {what}" if self.along else what


class ClaimsFile(BaseModel):
    """A whole claims.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    unit: tuple[str, ...]
    claims: tuple[Claim, ...]


def load(path: Path) -> ClaimsFile:
    """Read and check one claims file; ClaimError names claim, key and what was expected."""
    try:
        content = ClaimsFile.model_validate(yaml.safe_load(Path(path).read_text()))
    except yaml.YAMLError as error:
        raise ClaimError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(str(part) for part in item["loc"])
        raise ClaimError(f"{path}: {where} (={item['input']!r:.80}): {item['msg']}") from None
    repeated = [name for name, count in Counter(claim.id for claim in content.claims).items() if count > 1]
    if repeated:
        raise ClaimError(f"{path}: claim id {repeated[0]!r} stands twice; ids must be unique")
    return content


def check_unique(ids: Mapping[str, Iterable[str]]) -> None:
    """Raise ClaimError when two systems (the keys of `ids`) hold one claim id."""
    owner: dict[str, str] = {}
    for system, names in ids.items():
        for name in names:
            if owner.setdefault(name, system) != system:
                raise ClaimError(f"claim id {name!r} stands in both {owner[name]} and {system}; ids must be unique")


def evaluate(content: ClaimsFile, tables: dict[str, "pl.DataFrame"], *, profile: str) -> "pl.DataFrame":
    """One row per claim: value, 95 % interval over seeds, number of seeds and cells, verdict, data.

    `tables` maps a claim's `table` to its measures. Raises ClaimError for a measure or condition that is no column.
    """
    import polars as pl

    rows = [_row(content, claim, tables, profile) for claim in content.claims]
    return pl.DataFrame(rows, schema=schema())


def schema() -> dict[str, Any]:
    """Columns of claims.parquet without those of the stamp."""
    import polars as pl

    text, number = pl.String, pl.Float64
    return {
        "claim": text,
        "text": text,
        "where": text,
        "paper": text,
        "accept": text,
        "number": text,
        "value": number,
        "low": number,
        "high": number,
        "cell_low": number,
        "cell_high": number,
        "seeds": pl.Int64,
        "cells": pl.Int64,
        "verdict": text,
        "basis": text,
        "data": text,
        "batches": text,
        "why": text,
    }


def _row(content: ClaimsFile, claim: Claim, tables: dict[str, "pl.DataFrame"], profile: str) -> dict[str, Any]:
    row = {
        "claim": claim.id,
        "text": claim.text,
        "where": f"{claim.source.paper}, {claim.source.where}" if claim.source.paper else claim.source.where,
        "paper": str(claim.paper) if claim.paper else "-",
        "accept": str(claim.accept) if claim.accept else "-",
        "number": claim.words,
        "basis": claim.basis,
        "why": claim.reason,
    }
    if claim.basis == "out of reach":
        return row | {"verdict": "out of reach"}
    table = _table(claim, tables)
    cells = _cells(content, claim, table)
    if cells.is_empty():
        return row | {"verdict": "not measured", "why": "this run has no row under the claim's conditions"}
    row |= _summary(claim, cells) | {"data": "+".join(sorted(cells["data"].unique()))}
    if "batches" in cells.columns:
        row["batches"] = "+".join(sorted(cells["batches"].drop_nulls().unique()))
    excuse = _excuse(claim, row["data"], profile)
    if excuse:
        return row | {"verdict": "not measured", "why": excuse}
    return row | {"verdict": verdict(claim, row["value"], cells, (row["low"], row["high"]))}


def _table(claim: Claim, tables: dict[str, "pl.DataFrame"]) -> "pl.DataFrame":
    if claim.table not in tables:
        raise ClaimError(f"claim {claim.id}: table {claim.table!r} is unknown; there are {', '.join(tables)}")
    table = tables[claim.table]
    for column in (claim.measure, *claim.conditions, *filter(None, [claim.along])):
        if column not in table.columns:
            raise ClaimError(
                f"claim {claim.id}: {column!r} is no column of {claim.table}; it has {', '.join(table.columns)}"
            )
    return table


def _cells(content: ClaimsFile, claim: Claim, table: "pl.DataFrame") -> "pl.DataFrame":
    """The claim's numbers, one per cell: columns of the unit, `data`, `number`."""
    import polars as pl

    for column, wanted in claim.conditions.items():
        kind, values = table.schema[column], wanted if isinstance(wanted, list) else [wanted]
        try:
            table = table.filter(pl.col(column).is_in(pl.Series(values).cast(kind).implode()))
        except pl.exceptions.InvalidOperationError:
            raise ClaimError(f"claim {claim.id}: condition {column} (={wanted!r}): the column is {kind}") from None
    table = table.filter(pl.col(claim.measure).is_not_null())
    unit = [column for column in content.unit if column in table.columns]
    drawn = [column for column in ("batches",) if column in table.columns]
    keep = list(dict.fromkeys([*unit, "data", *drawn, *filter(None, [claim.along])]))
    ours = table.filter(pl.col(content.policy) == claim.of) if claim.of else table
    if claim.number == "value":
        ends = {end: f"{claim.measure}_{end}" for end in ("low", "high") if f"{claim.measure}_{end}" in table.columns}
        return ours.select(*keep, number=pl.col(claim.measure).cast(pl.Float64), **ends)
    peer = table.filter(pl.col(content.policy) == claim.against)
    if peer.select(unit).is_duplicated().any():
        raise ClaimError(f"claim {claim.id}: {claim.against} has several rows per unit {unit}; narrow the conditions")
    pairs = ours.join(peer.select(*unit, peer_value=claim.measure), on=unit, nulls_equal=True)
    ratio = pl.col(claim.measure).cast(pl.Float64) / pl.col("peer_value").cast(pl.Float64)
    return pairs.select(*keep, number=ratio if claim.number == "ratio" else 1.0 - ratio)


def _summary(claim: Claim, cells: "pl.DataFrame") -> dict[str, Any]:
    import polars as pl

    aggregate = getattr(pl.col("number"), claim.over)()
    seeds = (
        cells.group_by("seed").agg(aggregate)["number"]
        if "seed" in cells.columns
        else cells.select(aggregate)["number"]
    )
    if claim.form == "order":
        seeds = _rises(claim, cells)
    mean, count = float(seeds.mean()), len(seeds)
    half = T975[min(count - 2, 29)] * float(seeds.std()) / count**0.5 if count > 1 else None
    own = cells.select("low", "high").row(0) if len(cells) == 1 and "low" in cells.columns else (None, None)
    return {
        "value": mean,
        "low": own[0] if half is None else mean - half,
        "high": own[1] if half is None else mean + half,
        "cell_low": float(cells["number"].min()),
        "cell_high": float(cells["number"].max()),
        "seeds": count,
        "cells": len(cells),
    }


def _rises(claim: Claim, cells: "pl.DataFrame") -> "pl.Series":
    """Per seed: the mean number at the largest value of `along` less that at the smallest."""
    import polars as pl

    ends = pl.col(claim.along).is_in([cells[claim.along].min(), cells[claim.along].max()])
    means = cells.filter(ends).group_by("seed", claim.along).agg(pl.col("number").mean()).sort(claim.along)
    return means.group_by("seed", maintain_order=True).agg(rise=pl.col("number").last() - pl.col("number").first())[
        "rise"
    ]


def _excuse(claim: Claim, data: str, profile: str) -> str | None:
    if claim.needs.data == "real" and data != "real":
        return "needs real data; this run used synthetic twins"
    if PROFILE_SIZE[profile] < PROFILE_SIZE[claim.needs.profile]:
        return f"needs profile {claim.needs.profile} or larger; this run is {profile}"
    return None


Interval = tuple[float | None, float | None]


def verdict(claim: Claim, value: float, cells: "pl.DataFrame", interval: Interval = (None, None)) -> str:
    """The verdict on a measured value, by the claim's form; a calibrated-on claim is never `reproduced`."""
    if claim.form == "order":
        found = _ranked(claim, cells)
    elif claim.paper and claim.paper.holds(value):
        found = "reproduced"
    elif claim.accept and claim.accept.holds(value):
        found = "within tolerance"
    else:
        found = _direction(claim, value, interval)
    return "within tolerance" if found == "reproduced" and claim.calibrated_on else found


def _ranked(claim: Claim, cells: "pl.DataFrame") -> str:
    """Order claims: the mean number must rise strictly with `along`.

    A gain that is said to grow must be one: where the last reduction or ratio is on the wrong side, the order alone is
    `direction only`.
    """
    import polars as pl

    means = cells.group_by(claim.along).agg(pl.col("number").mean()).sort(claim.along)["number"].to_list()
    if len(means) < 2:
        return "not measured"
    if all(a < b for a, b in itertools.pairwise(means)):
        return "reproduced" if means[-1] > NEUTRAL.get(claim.number, -math.inf) else "direction only"
    return "direction only" if means[-1] > means[0] else "contradicted"


def _direction(claim: Claim, value: float, interval: Interval) -> str:
    """Outside every range: is the sign that of the claim, or the other? Neither, where the interval holds both."""
    reference = claim.paper or claim.accept
    neutral = NEUTRAL.get(claim.number)
    if claim.form in ("bound", "exact") or neutral is None or reference is None:
        return "not reproduced"
    ends = [end - neutral for end in (reference.low, reference.high) if end is not None]
    claimed = sum(ends)
    if claimed == 0 or min(ends) < 0 < max(ends):
        return "not reproduced"
    if None not in interval and interval[0] <= neutral <= interval[1]:
        return "not reproduced"
    return "direction only" if (value - neutral) * claimed > 0 else "contradicted"


SHOWN = ("system", "claim", "paper", "value", "interval", "verdict", "basis", "data")


def printable(frame: "pl.DataFrame") -> list[dict[str, str]]:
    """Rows of claims.parquet as text for a table: system, claim, paper, value, interval, verdict, basis, data."""
    rows = []
    for row in frame.iter_rows(named=True):
        value = "-" if row["value"] is None else f"{row['value']:.4g}"
        interval = "-" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}"
        drawn = {"synthesised": ", drawn", "real+synthesised": ", partly drawn"}.get(row["batches"] or "", "")
        data = f"{row['data']}{drawn}" if row["data"] else "-"
        shown = {key: row[key] or "-" for key in SHOWN if key in row}
        rows.append({**shown, "value": value, "interval": interval, "data": data})
    return rows


def main(argv: list[str] | None = None) -> None:
    """Print the claims table of one or more systems, and fail when a claim has no verdict."""
    import polars as pl
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m operators.lab.claims", description=main.__doc__)
    parser.add_argument("tables", nargs="+", type=Path, help="claims.parquet of each system")
    options = parser.parse_args(argv)
    frame = pl.concat([pl.read_parquet(path) for path in options.tables])
    try:
        check_unique({system: rows["claim"] for (system,), rows in frame.partition_by("system", as_dict=True).items()})
    except ClaimError as error:
        sys.exit(f"error: {error}")
    colours = dict(zip(VERDICTS, ("green", "green", "yellow", "red", "bold red", "dim", "dim"), strict=True))
    table = Table(title="Claims and verdicts", title_justify="left")
    for name in SHOWN:
        table.add_column(name, no_wrap=name in ("system", "verdict"), overflow="fold")
    for row in printable(frame):
        table.add_row(*(row[name] for name in SHOWN), style=colours.get(row["verdict"]))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    console.print(" · ".join(f"{count} {name}" for name, count in Counter(frame["verdict"]).most_common()))
    for why, count in Counter(frame.filter(pl.col("verdict") == "not measured")["why"]).most_common():
        console.print(f"not measured, {count}: {why}")
    without = frame.filter(~pl.col("verdict").is_in(VERDICTS))
    if len(without):
        sys.exit(f"claims without a verdict: {', '.join(without['claim'])}")


if __name__ == "__main__":
    main()
