"""Stage: every performance bar beside its peer, measured in this run, interleaved, CPU time.

`python -m operators.locks.bench transfer|stop|soak|call|sets` prints one part; without a part all are measured.
"""

from pathlib import Path

from operators.lab import bench, peers, stage
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
    from operators.locks import bench_parts

    bench.measure(bench_parts.PARTS, part, settings, settings.profile == "ci", settings=settings, out=out)


if __name__ == "__main__":
    bench.part_first(PARTS)
    stage.run(main)
