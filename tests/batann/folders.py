"""Index folders for the serving tests, made once: one partition, three, and shards; and their queries."""

import functools
import tempfile
from pathlib import Path

import numpy as np

from operators.batann.layout import write_index
from operators.batann.shards import write_shards
from tests.batann.sets import parts_of_an_index, vectors

SERVERS = 3


@functools.cache
def root() -> Path:
    """A folder that lives as long as the test process."""
    return Path(_keep().name)


@functools.cache
def _keep() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="batann-test-")


@functools.cache
def partition() -> np.ndarray:
    """Blocks by the first coordinates: uneven enough to hand over often, even enough to use all servers."""
    x = parts_of_an_index()[0]
    return (np.argsort(np.argsort(x[:, :8].astype(int).sum(1))) * SERVERS // len(x)).astype(np.uint8)


@functools.cache
def index(parts: int) -> Path:
    """An index folder of 1 or 3 partitions over the same graph."""
    x, graph, pq, codes, head = parts_of_an_index()
    folder = root() / f"index-{parts}"
    part = partition() if parts == SERVERS else np.zeros(len(x), np.uint8)
    write_index(folder, x, graph, pq, codes, part, head)
    return folder


@functools.cache
def shards() -> Path:
    """The same partition as scatter-gather's own indexes."""
    folder = root() / "shards"
    write_shards(folder, parts_of_an_index()[0], partition(), R=16, L=32, sample=2000, iters=3)
    return folder


@functools.cache
def queries(count: int = 100) -> np.ndarray:
    return vectors(count, 0, 1)
