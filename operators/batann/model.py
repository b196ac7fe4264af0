"""A cluster as queues, for sizes no laptop holds: a discrete-event model of batons, scatter-gather and RPC (spec 5).

Every query is a list of visits (server, hops there, reads a hop); a server has one disk (so many reads a second, a
latency on top) and some search threads (us a read for scoring, us a start, us a message); a message takes `link_us`.
First come, first served everywhere; at most `live` states a server, as in the real engine. Closed loop (a window of
queries) or open loop (Poisson). Scatter-gather: a query is one visit to every server at once and ends with the last.

What is not modelled: page caches, network bandwidth (states are a few KB), garbage, failures. Its constants come from
metered runs with one and two servers (calibrate.py) and from the device the settings name, never from the paper.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from operators.lab.compiled import inner, kernel


@dataclass(frozen=True)
class SimConfig:
    """One cluster. Times in us; `iops` reads a second of a server's disk (0: no limit)."""

    servers: int
    threads: int = 8
    live: int = 64  # states a server holds at once
    iops: float = 0.0
    read_us: float = 100.0  # latency of a batch of reads
    score_us: float = 20.0  # thread time a read: sector, exact distance, neighbours
    start_us: float = 50.0  # thread time of a start or an arrival: head search, look-up table
    message_us: float = 20.0  # thread time of a hand-off, an answer, a remote read
    link_us: float = 50.0


@dataclass(frozen=True)
class Visits:
    """Visits of many queries: query i owns `first[i]:first[i + 1]` of `server`, `hops` and `reads` (a hop)."""

    first: np.ndarray
    server: np.ndarray
    hops: np.ndarray
    reads: np.ndarray
    parallel: bool = False  # all visits at once (scatter-gather) instead of one after the other

    def __len__(self) -> int:
        return len(self.first) - 1


@dataclass(frozen=True)
class SimResult:
    """Latencies `(n,)` us, the time all were done in us, reads and busy thread time by server."""

    latency_us: np.ndarray
    span_us: float
    reads: np.ndarray
    busy_us: np.ndarray
    done_us: np.ndarray

    @property
    def qps(self) -> float:
        """Answers a second between the first tenth and the last tenth of the answers."""
        ends = np.sort(self.done_us)
        first, last = int(0.1 * len(ends)), max(int(0.9 * len(ends)) - 1, 0)
        span = ends[last] - ends[first]
        return float((last - first) / span * 1e6) if span > 0 else 0.0


def simulate_cluster(
    visits: Visits, config: SimConfig, *, window: int = 0, rate: float = 0.0, seed: int = 0
) -> SimResult:
    """Run all queries: closed loop with `window` in flight, or open loop at `rate` queries a second (Poisson)."""
    if (window > 0) == (rate > 0):
        raise ValueError(f"window, rate (={window}, {rate}): expected exactly one above 0")
    if len(visits.server) and not 0 <= visits.server.min() <= visits.server.max() < config.servers:
        raise ValueError(f"visits: servers up to {visits.server.max()}; the cluster has {config.servers}")
    count = len(visits)
    arrivals = np.zeros(count)
    if rate:
        arrivals = np.cumsum(np.random.default_rng([seed, 91]).exponential(1e6 / rate, count))
    latency, done = np.zeros(count), np.zeros(count)
    reads, busy = np.zeros(config.servers, np.int64), np.zeros(config.servers)
    costs = np.array(
        [config.iops, config.read_us, config.score_us, config.start_us, config.message_us, config.link_us], np.float64
    )
    first, server = visits.first.astype(np.int64), visits.server.astype(np.int64)
    owner = np.repeat(np.arange(count), np.diff(first))
    thread = np.zeros((config.servers, config.threads))
    queue = np.empty((config.servers, len(server) + 1), np.int64)
    path = (first, server, visits.hops.astype(np.int64), visits.reads.astype(np.int64), owner)
    out = (latency, done, reads, busy)
    _run(path, visits.parallel, config.live, costs, arrivals, window or count, (thread, queue), out)
    return SimResult(latency, float(done.max()) if count else 0.0, reads, busy, done)


ARRIVE, ADMIT, READ, SCORED = 0, 1, 2, 3


@inner
def _work(thread, busy, where, now, work):
    """Give work to the thread of `where` that is free first; when it is done."""
    free = 0
    for each in range(1, thread.shape[1]):
        if thread[where, each] < thread[where, free]:
            free = each
    thread[where, free] = max(now, thread[where, free]) + work
    busy[where] += work
    return thread[where, free]


@inner
def _read(disk, count, where, now, batch, iops, read_us):
    """Read a batch from the disk of `where`; when it has arrived."""
    count[where] += batch
    if iops <= 0:
        return now + read_us
    disk[where] = max(disk[where], now) + batch * 1e6 / iops
    return disk[where] + read_us


@kernel
def _run(path, parallel, live, costs, arrivals, window, room, out):
    """The event loop. Events are (time, order, kind, visit or query, hops left)."""
    first, server, hops, reads, owner = path
    thread, queue = room
    latency, done, count, busy = out
    iops, read_us, score_us, start_us, message_us, link_us = costs
    queries, servers = len(first) - 1, len(busy)
    disk, held = np.zeros(servers), np.zeros(servers, np.int64)
    head, tail = np.zeros(servers, np.int64), np.zeros(servers, np.int64)
    left, began = np.zeros(queries, np.int64), np.zeros(queries)
    events = [(arrivals[query], query, ARRIVE, query, 0) for query in range(min(window, queries))]
    order, sent = queries, len(events)
    while len(events):
        now, _, kind, visit, hop = heapq.heappop(events)
        order += 1
        if kind == ARRIVE:  # `visit` is a query here
            began[visit] = now
            left[visit] = first[visit + 1] - first[visit] if parallel else 1
            for each in range(first[visit], first[visit] + left[visit]):
                heapq.heappush(events, (now + link_us, order, ADMIT, each, 0))
                order += 1
            continue
        where = server[visit]
        if kind == ADMIT and held[where] >= live:
            queue[where, tail[where]] = visit
            tail[where] += 1
        elif kind == SCORED and hop > 0:
            heapq.heappush(
                events, (_read(disk, count, where, now, reads[visit], iops, read_us), order, READ, visit, hop)
            )
        elif kind != SCORED:
            work = score_us * reads[visit]
            hop -= 1
            if kind == ADMIT:
                held[where] += 1
                hop, work = hops[visit], start_us
            ready = _work(thread, busy, where, now, work + (message_us if hop == 0 else 0.0))
            heapq.heappush(events, (ready, order, SCORED, visit, hop))
        else:  # the visit has ended: the next state here, the next visit of this query, or the next query
            held[where] -= 1
            if head[where] < tail[where]:
                heapq.heappush(events, (now, order, ADMIT, queue[where, head[where]], 0))
                head[where] += 1
                order += 1
            query = owner[visit]
            if not parallel and visit + 1 < first[query + 1]:
                heapq.heappush(events, (now + link_us, order, ADMIT, visit + 1, 0))
                continue
            left[query] -= 1
            if left[query] == 0:
                done[query] = now + link_us
                latency[query] = done[query] - began[query]
                if sent < queries:
                    heapq.heappush(events, (max(done[query], arrivals[sent]), order, ARRIVE, sent, 0))
                    sent += 1


def baton_visits(
    queries: int, servers: int, hops: float, spread: float, share: float, reads_per_hop: float, *, seed: int = 0
) -> Visits:
    """Visits drawn from means: hops ~ N(hops, spread), every hop after the first goes on elsewhere with `share`.

    A hand-off goes to a server drawn evenly from the others; reads a hop are rounded up or down at random.
    """
    if servers == 1:
        share = 0.0
    rng = np.random.default_rng([seed, 92])
    totals = np.maximum(1, np.rint(rng.normal(hops, spread, queries))).astype(np.int64)
    first, server, counts, reads = [0], [], [], []
    low = int(np.floor(reads_per_hop))
    for query in range(queries):
        leaves = rng.random(totals[query] - 1) < share
        lengths = np.diff(np.concatenate([[0], np.flatnonzero(leaves) + 1, [totals[query]]]))
        at = int(rng.integers(servers))
        for length in lengths:
            server.append(at)
            counts.append(int(length))
            reads.append(max(1, low + int(rng.random() < reads_per_hop - low)))
            at = (at + int(rng.integers(1, servers))) % servers if servers > 1 else at
        first.append(len(server))
    return Visits(np.array(first), np.array(server), np.array(counts), np.array(reads))


def scatter_visits(queries: int, servers: int, hops: float, reads_per_hop: float, *, seed: int = 0) -> Visits:
    """Every query on every server: `hops` a shard, all at once."""
    rng = np.random.default_rng([seed, 93])
    server = np.tile(np.arange(servers), queries)
    low_hops, low_reads = int(np.floor(hops)), int(np.floor(reads_per_hop))
    counts = np.maximum(1, low_hops + (rng.random(len(server)) < hops - low_hops))
    reads = np.maximum(1, low_reads + (rng.random(len(server)) < reads_per_hop - low_reads))
    return Visits(np.arange(queries + 1) * servers, server, counts, reads, parallel=True)


def saturation(visits: Visits, config: SimConfig, *, window: int) -> float:
    """Queries a second of a closed loop with enough queries in flight."""
    return simulate_cluster(visits, config, window=window).qps


def memory_bytes(n: int, *, chunks: int = 32, servers: int = 10, head_fraction: float = 0.01) -> dict[str, int]:
    """Bytes a server holds in memory for n vectors: PQ codes, the map, its own slots, nodes of the head index."""
    return {
        "pq_bytes": n * chunks,
        "map_bytes": n,
        "slot_bytes": 4 * -(-n // servers),
        "head_nodes": round(n * head_fraction),
    }
