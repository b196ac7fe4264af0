"""Stage: every performance bar beside its peer or limit, measured in this run, CPU time.

`python -m operators.warmserve.bench cluster|engines|placing|memory` prints one part; without a part all are measured.
"""

import sys
from pathlib import Path

from operators.lab import peers, stage
from operators.warmserve.settings import Settings

PARTS = ("cluster", "engines", "placing", "memory")


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return peers.schema()
    raise AttributeError(name)


def main(*, settings: Settings, out: Path, data: Path | None = None, part: str | None = None) -> None:
    """Measure ours and every peer; a missing peer gives a row `not measured`.

    Args:
        out: table of comparisons; ratio above 1 means ours is better, bar is the least ratio that passes
        data: data root; without it the synthetic twins are used
        part: only one of cluster, engines, placing, memory
    """
    import polars as pl

    from operators.warmserve import bench_parts

    if part is not None and part not in PARTS:
        raise ValueError(f"part (={part!r}): expected one of {', '.join(PARTS)}")
    n = 2 if settings.profile == "ci" else 5
    rows = [row for name in ([part] if part else PARTS) for row in bench_parts.PARTS[name](settings, data, n)]
    schema = peers.schema()
    frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
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
