"""Numba's stand-in for the native index core: the same functions with the same results, one thread, slower.

The door is core.py, which documents the functions; kernels of graphs are in standin_graph.py. Shapes are checked by the
callers. Not here: `multilevel`, the partitioner.
"""

import numpy as np

from operators.batann import standin_graph as graphs
from operators.batann.standin_graph import distance, key_of, node_of
from operators.lab.compiled import inner, kernel


@inner
def _offer(best, key):
    k = len(best)
    if key >= best[k - 1]:
        return
    at = np.searchsorted(best, key)
    if best[at] == key:
        return
    for i in range(k - 1, at, -1):
        best[i] = best[i - 1]
    best[at] = key


@kernel
def _nearest_leaders(x, points, leaders, nearest):
    real = np.zeros(1, np.float32)
    bits = real.view(np.uint32)
    best = np.empty(nearest.shape[1], np.uint64)
    for i in range(len(points)):
        best[:] = ~np.uint64(0)
        for leader in range(len(leaders)):
            _offer(best, key_of(distance(x[points[i]], x[leaders[leader]]), leader, real, bits))
        for f in range(len(best)):
            nearest[i, f] = node_of(best[f])


@kernel
def _bucket_neighbours(x, bucket, best):
    real = np.zeros(1, np.float32)
    bits = real.view(np.uint32)
    for i in range(len(bucket)):
        for j in range(i + 1, len(bucket)):
            dist = distance(x[bucket[i]], x[bucket[j]])
            _offer(best[bucket[i]], key_of(dist, bucket[j], real, bits))
            _offer(best[bucket[j]], key_of(dist, bucket[i], real, bits))


@kernel
def _nearest_centroids(x, centroids, out):
    for i in range(len(x)):
        least = np.float32(np.inf)
        for j in range(len(centroids)):
            total = np.float32(0)
            for t in range(x.shape[1]):
                diff = centroids[j, t] - x[i, t]
                total += diff * diff
            if total < least:
                least = total
                out[i] = j


def insert_batch(x, adj, deg, medoid, batch, R, L, alpha, threads):
    graphs.insert_batch(x, adj, deg, medoid, batch, R, L, np.float32(alpha))


def trim(x, adj, deg, R, alpha, threads):
    graphs.trim(x, adj, deg, R, np.float32(alpha))


def connect(x, adj, deg, medoid, R, L):
    return graphs.connect(x, adj, deg, medoid, R, L)


def robust_prune(x, p, candidates, alpha, out):
    return graphs.robust_prune(x, p, candidates, np.float32(alpha), out)


class Searcher:
    def __init__(self, x, adj, deg):
        self._graph = x, adj, deg

    def search(self, queries, starts, L, threads, ids, dists, hops, counted):
        graphs.search_all(*self._graph, queries, starts, L, ids, dists, hops, counted)


def distances(a, b, scalar, out):
    graphs.distances(a, b, out)


def nearest_leaders(x, points, leaders, threads, nearest):
    _nearest_leaders(x, points, leaders, nearest)


def bucket_neighbours(x, bucket, best):
    _bucket_neighbours(x, bucket, best)


def kmeans_chunk(x, iters, centroids):
    """Lloyd's algorithm in place; sums in double, in the order of the rows (native/pq.cpp)."""
    count, width = centroids.shape
    found = np.zeros(len(x), np.int64)
    for _ in range(iters):
        _nearest_centroids(x, centroids, found)
        sizes = np.bincount(found, minlength=count)
        for t in range(width):
            sums = np.bincount(found, x[:, t].astype(np.float64), count)
            full = sizes > 0
            centroids[full, t] = (sums[full] / sizes[full]).astype(np.float32)
        shift = np.where(np.arange(width) % 2, -1.0, 1.0).astype(np.float32) / np.float32(1024)
        for empty in np.flatnonzero(sizes == 0):
            largest = int(np.argmax(sizes))
            if sizes[largest] < 2:
                break
            centroids[empty] = centroids[largest] * (1 + shift)
            centroids[largest] = centroids[largest] * (1 - shift)
            sizes[empty] = sizes[largest] // 2
            sizes[largest] -= sizes[empty]


def pq_encode(centroids, offsets, x, threads, codes):
    for chunk in range(len(offsets) - 1):
        some = slice(offsets[chunk], offsets[chunk + 1])
        part = np.ascontiguousarray(x[:, some])
        _nearest_centroids(part, np.ascontiguousarray(centroids[:, some]), codes[:, chunk])


def pq_lut(centroids, offsets, query, transposed, lut):
    squares = (centroids - query) ** 2
    for chunk in range(len(offsets) - 1):
        total = np.zeros(len(centroids), np.float32)
        for t in range(offsets[chunk], offsets[chunk + 1]):
            total += squares[:, t]
        lut[chunk] = total


def pq_distances(lut, codes, out):
    sums = np.zeros((4, len(codes)), np.float32)
    for chunk in range(codes.shape[1]):
        sums[chunk % 4] += lut[chunk, codes[:, chunk]]
    out[:] = (sums[0] + sums[1]) + (sums[2] + sums[3])
