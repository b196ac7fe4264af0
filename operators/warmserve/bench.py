"""Stage: every performance bar beside its peer or limit, measured in this run, CPU time.

`python -m operators.warmserve.bench cluster|engines|placing|memory` prints one part; without a part all are measured.
"""

from pathlib import Path

from operators.lab import bench, peers, stage
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
    from operators.warmserve import bench_parts

    bench.measure(
        bench_parts.PARTS, part, settings, data, 2 if settings.profile == "ci" else 5, settings=settings, out=out
    )


if __name__ == "__main__":
    bench.part_first(PARTS)
    stage.run(main)
