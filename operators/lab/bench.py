"""The bench stage of a system whose comparisons come in parts: `python -m operators.<s>.bench PART` prints one."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import peers, stage

if TYPE_CHECKING:
    from operators.lab.settings import Settings

SHOWN = ("case", "ours", "peer", "ours_value", "peer_value", "unit", "ratio", "ratio_low", "ratio_high", "n", "status")


def measure(
    parts: Mapping[str, Callable[..., list[dict]]], part: str | None, *given: Any, settings: "Settings", out: Path
) -> None:
    """Write the rows of `part(*given)` to `out`, those of all `parts` when it is None; one part is printed too.

    Raises ValueError naming the part and those there are.
    """
    import polars as pl

    if part is not None and part not in parts:
        raise ValueError(f"part (={part!r}): expected one of {', '.join(parts)}")
    schema = peers.schema()
    rows = [row for name in ([part] if part else parts) for row in parts[name](*given)]
    frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings)
    if part:
        with pl.Config(tbl_rows=50, tbl_cols=20, fmt_str_lengths=60, tbl_width_chars=220):
            print(frame.select(*SHOWN))


def part_first(parts: Sequence[str]) -> None:
    """Let a part stand alone as the first word of the command line; it is written to bench.parquet."""
    if len(sys.argv) > 1 and sys.argv[1] in parts:
        sys.argv[1:1] = ["--part"]
        if "--out" not in sys.argv:
            sys.argv += ["--out", "bench.parquet"]
