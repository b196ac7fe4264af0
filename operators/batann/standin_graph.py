"""Kernels of the stand-in for graphs: distances, beam search, robust prune, batch insertion, reachability.

Ports of native/distance.cpp, search.cpp, prune.cpp and vamana.cpp with the same results bit for bit. A key is
distance bits | id << 1 | explored (native/graph.h).
"""

import numpy as np
from numba import types
from numba.extending import overload

from operators.lab.compiled import inner, kernel

NOBODY = np.uint32(2**32 - 1)
LANES = 16


def distance(a, b):
    raise NotImplementedError("for kernels only")


@overload(distance)
def typed_distance(a, b):
    if isinstance(a.dtype, types.Integer):

        def whole(a, b):
            total = np.int32(0)
            for i in range(len(a)):
                diff = np.int32(a[i]) - np.int32(b[i])
                total += diff * diff
            return np.float32(total)

        return whole

    def lanes(a, b):
        lane = np.zeros(LANES, np.float32)
        for i in range(len(a)):
            diff = a[i] - b[i]
            lane[i % LANES] += diff * diff
        width = LANES // 2
        while width:
            for at in range(width):
                lane[at] += lane[at + width]
            width //= 2
        return lane[0]

    return lanes


@inner
def key_of(dist, node, real, bits):
    real[0] = dist
    return np.uint64(bits[0]) << np.uint64(32) | np.uint64(node) << np.uint64(1)


@inner
def node_of(key):
    return np.uint32(key) >> np.uint32(1)


@inner
def dist_of(key, real, bits):
    bits[0] = np.uint32(key >> np.uint64(32))
    return real[0]


@inner
def insert(beam, size, L, key):
    at = np.searchsorted(beam[:size], key)
    for i in range(min(size, L - 1), at, -1):
        beam[i] = beam[i - 1]
    beam[at] = key
    return at


@inner
def search(x, adj, deg, query, starts, L, beam, met, touched, explored, real, bits):
    """Beam in `beam`, explored keys in `explored`; returns (size, hops, distances)."""
    size, first, hops, counted = 0, 0, 0, 0
    node = -1
    while True:
        count = len(starts) if node < 0 else np.int64(deg[node])
        for i in range(count):
            other = starts[i] if node < 0 else adj[node, i]
            if other >= len(x) or met[other]:
                continue
            met[other] = True
            touched[counted] = other
            counted += 1
            key = key_of(distance(query, x[other]), other, real, bits)
            if size == L and key >= beam[size - 1]:
                continue
            at = insert(beam, size, L, key)
            size = min(size + 1, L)
            first = min(first, at)
        while first < size and beam[first] & np.uint64(1):
            first += 1
        if first == size:
            break
        if hops < len(explored):
            explored[hops] = beam[first]
        node = np.int64(node_of(beam[first]))
        beam[first] |= np.uint64(1)
        hops += 1
    for i in range(counted):
        met[touched[i]] = False
    return size, hops, counted


@inner
def prune(x, p, pool, R, alpha, out, real, bits):
    """Robust prune of the keys `pool` to `out`; returns how many (native/prune.cpp)."""
    pool = np.unique(pool & ~np.uint64(1))
    closest = np.full(len(pool), np.inf, np.float32)
    chosen = np.zeros(len(pool), np.bool_)
    dists = np.empty(len(pool), np.float32)
    for i in range(len(pool)):
        dists[i] = dist_of(pool[i], real, bits)
        chosen[i] = node_of(pool[i]) == p  # itself is never a choice
    found = 0
    for sweep in (np.float32(1), alpha):
        for i in range(len(pool)):
            if found == R:
                break
            if chosen[i] or sweep * closest[i] <= dists[i]:
                continue
            chosen[i] = True
            out[found] = node_of(pool[i])
            found += 1
            for v in range(i + 1, len(pool)):
                if not (chosen[v] or alpha * closest[v] <= dists[v]):
                    closest[v] = min(closest[v], distance(x[node_of(pool[i])], x[node_of(pool[v])]))
    return found


@inner
def replace(adj, deg, node, ids, count):
    for i in range(adj.shape[1]):
        adj[node, i] = ids[i] if i < count else NOBODY
    deg[node] = count


@inner
def prune_list(x, adj, deg, node, extra, R, alpha, out, real, bits):
    pool = np.empty(deg[node] + len(extra), np.uint64)
    for i in range(len(pool)):
        other = adj[node, i] if i < deg[node] else np.uint32(extra[i - deg[node]])
        pool[i] = key_of(distance(x[node], x[other]), other, real, bits)
    replace(adj, deg, node, out, prune(x, node, pool, R, alpha, out, real, bits))


@kernel
def insert_batch(x, adj, deg, medoid, batch, R, L, alpha):
    n = len(x)
    real = np.zeros(1, np.float32)
    bits = real.view(np.uint32)
    beam, explored, out = np.empty(L + 1, np.uint64), np.empty(n, np.uint64), np.empty(R, np.uint32)
    met, touched, starts = np.zeros(n, np.bool_), np.empty(n, np.uint32), np.full(1, medoid, np.uint32)
    chosen, found = np.empty((len(batch), R), np.uint32), np.zeros(len(batch), np.int64)
    for i in range(len(batch)):
        _, hops, _ = search(x, adj, deg, x[batch[i]], starts, L, beam, met, touched, explored, real, bits)
        found[i] = prune(x, batch[i], explored[:hops], R, alpha, chosen[i], real, bits)
    edges = np.empty(found.sum(), np.uint64)
    count = 0
    for i in range(len(batch)):
        replace(adj, deg, batch[i], chosen[i], found[i])
        for e in range(found[i]):
            edges[count] = np.uint64(chosen[i, e]) << np.uint64(32) | np.uint64(batch[i])
            count += 1
    edges.sort()
    begin = 0
    while begin < count:
        target = np.int64(edges[begin] >> np.uint64(32))
        end = begin
        while end < count and np.int64(edges[end] >> np.uint64(32)) == target:
            end += 1
        sources = edges[begin:end] & np.uint64(0xFFFFFFFF)
        if deg[target] + len(sources) <= adj.shape[1]:
            for source in sources:
                adj[target, deg[target]] = np.uint32(source)
                deg[target] += 1
        else:
            prune_list(x, adj, deg, target, sources, R, alpha, out, real, bits)
        begin = end


@kernel
def trim(x, adj, deg, R, alpha):
    real = np.zeros(1, np.float32)
    bits = real.view(np.uint32)
    out, none = np.empty(R, np.uint32), np.empty(0, np.uint64)
    for node in range(len(x)):
        if deg[node] > R:
            prune_list(x, adj, deg, node, none, R, alpha, out, real, bits)


@inner
def spread(adj, deg, node, parent, queue):
    queue[0] = node
    at, end = 0, 1
    while at < end:
        node = np.int64(queue[at])
        at += 1
        for e in range(np.int64(deg[node])):
            other = adj[node, e]
            if parent[other] == NOBODY:
                parent[other] = node
                queue[end] = other
                end += 1


@inner
def give_edge(x, adj, deg, node, to, R, parent, real, bits):
    if deg[node] < R:
        adj[node, deg[node]] = to
        deg[node] += 1
        return True
    worst, most = -1, np.uint64(0)
    for e in range(np.int64(deg[node])):
        other = adj[node, e]
        if parent[other] == node:
            continue
        key = key_of(distance(x[node], x[other]), other, real, bits)
        if worst < 0 or key > most:
            worst, most = e, key
    if worst >= 0:
        adj[node, worst] = to
    return worst >= 0


@kernel
def connect(x, adj, deg, medoid, R, L):
    n, given = len(x), 0
    real = np.zeros(1, np.float32)
    bits = real.view(np.uint32)
    parent, queue = np.full(n, NOBODY, np.uint32), np.empty(n, np.uint32)
    beam, none = np.empty(L + 1, np.uint64), np.empty(0, np.uint64)
    met, touched, starts = np.zeros(n, np.bool_), np.empty(n, np.uint32), np.full(1, medoid, np.uint32)
    parent[medoid] = medoid
    spread(adj, deg, np.int64(medoid), parent, queue)
    for node in range(n):
        if parent[node] != NOBODY:
            continue
        size, _, _ = search(x, adj, deg, x[node], starts, L, beam, met, touched, none, real, bits)
        for i in range(size + n):
            near = np.int64(node_of(beam[i])) if i < size else np.int64(i - size)
            if parent[near] != NOBODY and give_edge(x, adj, deg, near, node, R, parent, real, bits):
                parent[node] = near
                break
        spread(adj, deg, np.int64(node), parent, queue)
        given += 1
    return given


@kernel
def search_all(x, adj, deg, queries, starts, L, ids, dists, hops, counted):
    n = len(x)
    real = np.zeros(1, np.float32)
    bits = real.view(np.uint32)
    beam, none = np.empty(L + 1, np.uint64), np.empty(0, np.uint64)
    met, touched = np.zeros(n, np.bool_), np.empty(n, np.uint32)
    for i in range(len(queries)):
        begin = starts[i if len(starts) > 1 else 0]
        size, hops[i], counted[i] = search(x, adj, deg, queries[i], begin, L, beam, met, touched, none, real, bits)
        for j in range(ids.shape[1]):
            ids[i, j] = node_of(beam[j]) if j < size else NOBODY
            dists[i, j] = dist_of(beam[j], real, bits) if j < size else np.inf


@kernel
def distances(a, b, out):
    for i in range(len(a)):
        out[i] = distance(a[i], b[i])


@kernel
def robust_prune(x, p, candidates, alpha, out):
    real = np.zeros(1, np.float32)
    bits = real.view(np.uint32)
    pool = np.empty(len(candidates), np.uint64)
    for i in range(len(candidates)):
        pool[i] = key_of(distance(x[p], x[candidates[i]]), candidates[i], real, bits)
    return prune(x, p, pool, len(out), alpha, out, real, bits)
