"""Fixtures every part of the suite uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from operators.lab import cluster, datasets

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The data folder; the test is skipped, visibly, where there is none."""
    root = datasets.find_root(base=REPOSITORY)
    if root is None:
        pytest.skip("no data folder (data or ../shared/data): compared with real sets only where they are")
    return root


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Path]:
    """Address file of the one Ray head all tests of this process join: a process keeps the first token it was given."""
    with cluster.local_head(cpus=2) as address_file:
        yield address_file
