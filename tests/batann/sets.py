"""Small sets the tests of the index half share: the twin of the SIFT set, made once."""

import functools

import numpy as np

from operators.batann import sift
from operators.batann.head import build_head
from operators.batann.pq import train_pq
from operators.batann.vamana import build_vamana


@functools.cache
def vectors(n: int = 2000, seed: int = 0, stream: int = 0) -> np.ndarray:
    """The first n vectors of a twin; do not write to it."""
    found = sift.twin(n, seed, stream=stream)
    found.flags.writeable = False
    return found


@functools.cache
def graph(n: int = 2000, R: int = 24, L: int = 48):
    return build_vamana(vectors(n), R, L, threads=1)


@functools.cache
def parts_of_an_index(n: int = 2000):
    """Vectors, graph, PQ, codes and head of a small index."""
    x = vectors(n)
    pq = train_pq(x, 16, iters=3)
    return x, graph(n), pq, pq.encode(x), build_head(x, 0.02, 16, 32)
