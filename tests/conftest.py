"""Fixtures every part of the suite uses."""

from pathlib import Path

import pytest

from operators.lab import datasets

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
