"""The index half's inner loops: the compiled core (native/bind_index.cpp) where it is built, else its stand-in.

Both offer the same functions with the same results, bit for bit (tests/batann/test_core.py):

    insert_batch(x, adj, deg, medoid, batch, R, L, alpha, threads)   Vamana: search, prune, reverse edges; in place
    trim(x, adj, deg, R, alpha, threads)    connect(x, adj, deg, medoid, R, L) -> edges given
    robust_prune(x, p, candidates, alpha, out) -> count
    Searcher(x, adj, deg).search(queries, starts, L, threads, ids, dists, hops, counted)
    distances(a, b, scalar, out)
    kmeans_chunk(x, iters, centroids)    pq_encode(centroids, offsets, x, threads, codes)
    pq_lut(centroids, offsets, query, transposed, lut)    pq_distances(lut, codes, out)
    nearest_leaders(x, points, leaders, threads, nearest)    bucket_neighbours(x, bucket, best)
    multilevel(starts, ends, parts, eps, seed, trials, part) -> cut      (native only)

`multilevel`, the own partitioner, has no stand-in: without a compiler the methods kmeans, random, kaminpar and metis
remain, and partitioner.py says so.
"""

import functools
import logging
from types import ModuleType

log = logging.getLogger("batann.core")


@functools.cache
def core(name: str | None = None) -> ModuleType:
    """The implementation called `native` or `numba`; without a name the native one, else numba with a warning."""
    if name == "numba":
        from operators.batann import standin

        return standin
    if name not in (None, "native"):
        raise ValueError(f"core (={name!r}): expected 'native' or 'numba'")
    try:
        from operators.batann import _native
    except ImportError as error:
        if name == "native":
            raise ValueError(f"core (='native'): not built here ({error}); run `make native`") from None
        log.warning("the native core is not built (run `make native`): numba stands in, several times as slow")
        return core("numba")
    return _native
