"""Stage: every performance bar beside its peer, measured in this run, interleaved, CPU time.

`python -m operators.locks.bench transfer|stop|soak|call|sets` prints one part; without a part all are measured.
"""

import sys
from pathlib import Path

from operators.lab import peers, stage
from operators.locks.settings import Settings

PARTS = ("transfer", "call", "sets", "stop", "soak")


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return peers.schema()
    raise AttributeError(name)


def main(*, settings: Settings, out: Path, part: str | None = None) -> None:
    """Measure ours and every peer; a missing peer gives a row `not measured`.

    Args:
        out: table of comparisons; ratio above 1 means ours is better, bar is the least ratio that passes
        part: only one of transfer, call, sets, stop, soak
    """
    import polars as pl

    from operators.locks import bench_parts

    if part is not None and part not in PARTS:
        raise ValueError(f"part (={part!r}): expected one of {', '.join(PARTS)}")
    quick = settings.profile == "ci"
    rows = [item for name in ([part] if part else PARTS) for item in bench_parts.PARTS[name](settings, quick)]
    schema = peers.schema()
    frame = pl.DataFrame([{name: item.get(name) for name in schema} for item in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings)
    if part:
        with pl.Config(tbl_rows=50, tbl_cols=20, fmt_str_lengths=60, tbl_width_chars=220):
            shown = (
                "case",
                "ours",
                "peer",
                "ours_value",
                "peer_value",
                "unit",
                "ratio",
                "ratio_low",
                "ratio_high",
                "n",
            )
            print(frame.select(*shown, "status"))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in PARTS:
        sys.argv[1:2] = ["--part", sys.argv[1]]
        if "--out" not in sys.argv:
            sys.argv += ["--out", "bench.parquet"]
    stage.run(main)
