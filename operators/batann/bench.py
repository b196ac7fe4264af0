"""Stage: every performance bar beside its peer, measured in this run, interleaved."""

from pathlib import Path
from typing import Any

from operators.batann.settings import Settings
from operators.lab import stage


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        from operators.batann import rivals

        return rivals.schema()
    raise AttributeError(name)


def main(*, settings: Settings, out: Path, data: Path | None = None, address: Path | None = None) -> None:
    """Measure ours and every peer that is installed; a missing peer gives a row `not measured`.

    Args:
        out: table of comparisons; ratio above 1 means ours is better, bar is the least ratio that passes
        data: data root; without it the synthetic twin is used
        address: address file of the run's Ray head, for the comparison with Ray calls
    """
    import polars as pl

    from operators.batann import bench_disk, bench_index, rivals

    rows = (
        bench_index.rows(settings, data) + bench_disk.rows(settings, data, out.parent) + _transport(settings, address)
    )
    schema = rivals.schema()
    frame = pl.DataFrame([{name: item.get(name) for name in schema} for item in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings)


def _transport(settings: Settings, address: Path | None) -> list[dict[str, Any]]:
    """B10 and B11: a hand-off one way, hand-offs a second over sockets and over Ray calls."""
    import statistics

    import numpy as np

    from operators.batann import bench_transport as transport
    from operators.batann.rivals import row
    from operators.lab import cluster as head

    small = settings.profile == "ci"
    trips, piped, calls, repeats = (200, 4000, 200, 2) if small else (1500, 24_000, 3000, 5)
    state = transport.state_of(transport.STATE_BYTES)
    batches = dict.fromkeys((1, settings.batch))  # the same number on both sides
    with transport.Pair() as pair, head.connect(address) as ray:
        ways = [float(np.median(pair.one_way_us(state, trips))) for _ in range(repeats)]
        rates = {
            batch: [
                (pair.rate(state, piped, batch), transport.ray_rate(ray, state, calls * batch, batch))
                for _ in range(repeats)
            ]
            for batch in batches
        }
    return [
        row(
            bench="transport", case="one way, 4 KiB", ours="sockets", peer="bar", unit="us",
            ours_samples=[statistics.median(ways)], peer_samples=[60.0], bar=1.0,
        ),
        *(rate_row(batch, pairs) for batch, pairs in rates.items()),
    ]  # fmt: skip


def rate_row(batch: int, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Hand-offs a second of both sides, `batch` states a frame and a Ray call; the bar stands at one."""
    from operators.batann.rivals import row

    return row(
        bench="transport", case=f"hand-offs a second, batch {batch}", ours="sockets", peer="Ray calls", unit="1/s",
        ours_samples=[ours for ours, _ in pairs], peer_samples=[theirs for _, theirs in pairs],
        higher_is_better=True, bar=10.0 if batch == 1 else None,
    )  # fmt: skip


if __name__ == "__main__":
    stage.run(main)
