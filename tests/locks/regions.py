"""Regions for the tests: small, in memory where there is such a place, gone afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from operators.locks.region import MiB, Region


@contextmanager
def small(tmp_path: Path, **sizes: object) -> Iterator[Region]:
    """A region of 4 MiB with 4 slots."""
    given = {"size": 4 * MiB, "max_procs": 4, "descriptors_per_proc": 2} | sizes
    with Region.create(tmp_path / "region", **given) as region:
        yield region
