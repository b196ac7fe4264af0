"""The search engine of one server: the native core, or the Python one (search.py) where it is not built.

`make_engine` opens the files of the partitions a server holds and hands the engine what lives in memory. Both engines
have the same methods: submit(state, vector) and submit_rpc / rpc_reply -> "" or why it is refused; poll(wait) ->
[(kind, to, query_id, body)]; fileno(), wake_at(ns), idle(), waiting(), counters(), validate().

Sectors are read with O_DIRECT (io_uring, or pread threads where io_uring is refused); a file system that refuses
O_DIRECT is read through the page cache, with a warning and `page_cache` set. `io="mem"` maps the files: for tests and
for collections that fit, never for figures about disks.
"""

import errno
import logging
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.batann import node_cache
from operators.batann.state import MAX_L, MAX_W, NO_BUDGET, STATUS, Answer, QueryState

if TYPE_CHECKING:
    from operators.batann.layout import Index

log = logging.getLogger("batann.engine")

RESULT, HANDOFF, RPC_REQUEST, RPC_REPLY, TRACED, GATHERED = range(6)
IO = ("uring", "pread", "mem")
REFILL = ("one", "all", "single")
TYPES = ("uint8", "int8", "float32")
MOST_THREADS = 64
BURST_S = 0.02  # a metered server may read this long ahead after a pause


@dataclass
class Opened:
    """An engine, what it holds open, and whether its reads bypass the page cache."""

    engine: Any
    io: str
    page_cache: bool
    native: bool


def native_core() -> Any | None:
    """The compiled module, None where it is not built."""
    try:
        from operators.batann import _native
    except ImportError:
        return None
    return _native


def make_engine(
    index: "Index",
    parts: Sequence[int],
    *,
    server_id: int = 0,
    io: str = "uring",
    threads: int = 1,
    live: int = 8,
    refill: str = "one",
    iops_cap: float = 0,
    read_latency_us: float = 0,
    verify_reads: bool = True,
    native: bool | None = None,
    part_of: np.ndarray | None = None,
    cache_nodes: int = 0,
) -> Opened:
    """An engine over `parts` of an index; several threads share its states (threads.py), `live` of them each.

    `part_of (n,)` uint8 overrides the index's map: an index of one partition then serves any partition of its nodes
    (every server reads the one file), which spares a layout for each. `cache_nodes` nodes near the starts of searches
    are kept in memory (node_cache.py).
    Raises ValueError naming the argument, IndexCorrupt for files that are not the index's.
    """
    _check(io, live, refill, iops_cap, read_latency_us, threads)
    core = native_core() if native is None or native else None
    if native and core is None:
        raise ValueError("native (=True): the native core is not built; run `make native`")
    count = index.meta.parts if part_of is None else int(part_of.max()) + 1
    for part in parts:
        if not 0 <= part < count:
            raise ValueError(f"parts (={part}): this index has partitions 0 to {count - 1}")
    if part_of is not None:
        index = Repartitioned(index, part_of)
    kept = node_cache.load(index, parts, cache_nodes) if cache_nodes else {}
    if core is None:
        from operators.batann.search import PythonEngine

        engine = PythonEngine(index, parts, server_id=server_id, live=live, iops_cap=iops_cap)
        for part, sectors in kept.items():
            engine.keep_sectors(part, *sectors)
        return Opened(engine, "pread", True, False)
    used = "pread" if io == "uring" and not uring_allowed() else io
    if used != io:
        log.warning("io_uring is not allowed here: pread threads stand in")
    options = {
        "server_id": server_id,
        "io": IO.index(used),
        "live": live,
        "refill": REFILL.index(refill),
        "iops_cap": iops_cap / threads,
        "burst": max(4.0, iops_cap / threads * BURST_S),
        "read_latency_us": int(read_latency_us),
        "verify_reads": verify_reads,
    }
    return _opened(core, index, parts, used, threads, options, kept)


def _opened(
    core: Any, index: Any, parts: Sequence[int], io: str, threads: int, options: dict[str, Any], kept: node_cache.Kept
) -> Opened:
    """A native engine a thread, each with the partitions' files open."""
    engines, page_cache = [], io == "mem"
    sizes = {"record_bytes": index.meta.record_bytes, "per_sector": index.meta.records_per_sector}
    for thread in range(threads):
        engines.append(native_engine(core, index, core.engine_config(**options, **sizes, thread=thread)))
        for part in parts:
            page_cache |= _add_part(engines[-1], index, part, io)
            if part in kept:
                engines[-1].keep_sectors(part, *kept[part])
    if threads == 1:
        return Opened(engines[0], io, page_cache, True)
    from operators.batann.threads import EngineGroup

    return Opened(EngineGroup(engines), io, page_cache, True)


class Repartitioned:
    """An index of one partition seen as one of several: every partition's file is the one there is."""

    def __init__(self, index: "Index", part_of: np.ndarray):
        if index.meta.parts != 1 or part_of.shape != (index.meta.n,) or part_of.dtype != np.uint8:
            wanted = f"uint8 ({index.meta.n},) over an index of one partition"
            raise ValueError(f"part_of ({part_of.dtype} {part_of.shape}): expected {wanted}")
        self.meta, self.pq, self.codes, self.head, self.epoch = (
            index.meta,
            index.pq,
            index.codes,
            index.head,
            index.epoch,
        )
        self.map, self.global_ids = np.ascontiguousarray(part_of), index.global_ids
        self.part_path, self.part_ids, self.part_crc = (
            (lambda part, read=read: read(0)) for read in (index.part_path, index.part_ids, index.part_crc)
        )


def native_engine(core: Any, index: "Index", config: Any) -> Any:
    """The compiled engine over an index's memory, without partitions."""
    head = None
    if index.head is not None and len(index.head.ids):
        graph = index.head.graph
        head = (
            np.ascontiguousarray(index.head.ids),
            np.ascontiguousarray(graph.adj),
            np.ascontiguousarray(graph.deg),
            np.ascontiguousarray(index.head.vectors).tobytes(),
            int(graph.medoid),
        )
    meta = index.meta
    return core.Engine(
        n=meta.n,
        d=meta.d,
        type=TYPES.index(str(np.dtype(meta.dtype))),
        max_degree=meta.R,
        medoid=meta.medoid,
        epoch=index.epoch,
        codes=index.codes,
        part_of=index.map,
        centroids=np.ascontiguousarray(index.pq.centroids),
        offsets=np.ascontiguousarray(index.pq.offsets, np.int32),
        head=head,
        config=config,
    )


def _check(io: str, live: int, refill: str, iops_cap: float, read_latency_us: float, threads: int) -> None:
    if io not in IO:
        raise ValueError(f"io (={io!r}): expected one of {', '.join(IO)}")
    if refill not in REFILL:
        raise ValueError(f"refill (={refill!r}): expected one of {', '.join(REFILL)}")
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads (={threads}): expected 1 to {MOST_THREADS}")
    if live < 1:
        raise ValueError(f"live (={live}): expected at least 1")
    if iops_cap < 0 or read_latency_us < 0:
        raise ValueError(f"iops_cap, read_latency_us (={iops_cap}, {read_latency_us}): expected >= 0")


def _add_part(engine: Any, index: "Index", part: int, io: str) -> bool:
    """Open a partition's file; whether its reads go through the page cache."""
    path, ids, crc = index.part_path(part), index.part_ids(part), index.part_crc(part)
    if io == "mem":
        mapped = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        engine.add_part(part, -1, ids, crc, mapped)
        return True
    descriptor, page_cache = open_direct(path)
    engine.add_part(part, descriptor, ids, crc, None)  # the engine closes it
    return page_cache


def open_direct(path: Path) -> tuple[int, bool]:
    """A descriptor for reads past the page cache, or through it where the file system refuses (then True)."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC), False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    log.warning("%s: the file system refuses O_DIRECT; reads go through the page cache", path)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC), True


def uring_allowed() -> bool:
    """Whether the kernel lets this process use io_uring."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(mmap.PAGESIZE)
    descriptor = libc.syscall(425, 2, parameters)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


WORK = ("hops", "reads", "pq_dists", "exact_dists", "total_us", "io_us", "queue_us", "cpu_us")


@dataclass(frozen=True)
class DiskResult:
    """`ids (nq, k)` uint32 (2**32 - 1 where fewer were found), `dists (nq, k)` float32, `work` by name `(nq,)`."""

    ids: np.ndarray
    dists: np.ndarray
    work: dict[str, np.ndarray]


def search_disk(
    opened: Opened,
    epoch: int,
    queries: np.ndarray,
    k: int = 10,
    L: int = 20,
    W: int = 4,
    *,
    mem_l: int = 10,
    flags: int = 0,
) -> DiskResult:
    """Search one index on this machine's disk, without servers: everything in flight through one engine.

    `queries (nq, d)` of the stored type. Raises OSError when a read failed or a sector was damaged.
    """
    check_search(k, L, W)
    ids, dists = as_arrays([None] * len(queries), k)
    work = np.zeros((len(queries), len(WORK)), np.int64)
    if hasattr(opened.engine, "search"):
        raw = np.ascontiguousarray(queries).view(np.uint8).reshape(len(queries), -1)
        failed = opened.engine.search(raw, k, L, W, mem_l, flags, ids, dists, work)
    else:
        options = {"k": k, "L": L, "W": W, "mem_l": mem_l, "flags": flags}
        failed = _search_by_states(opened.engine, epoch, queries, options, ids, dists, work)
    if failed:
        raise OSError(f"a query failed: {failed}")
    return DiskResult(ids, dists, dict(zip(WORK, work.T, strict=True)))


def _search_by_states(
    engine: Any, epoch: int, queries: np.ndarray, options: dict[str, int], ids: np.ndarray, dists: np.ndarray, work: Any
) -> str:
    """The same through states and answers, for engines without `search`; what went wrong, if anything did."""
    for number, query in enumerate(queries):
        state = QueryState(query_id=number, epoch=epoch, budget_us=NO_BUDGET, **options)
        if bad := engine.submit(state.to_bytes(), query.tobytes()):
            raise ValueError(f"queries[{number}]: {bad}")
    answers, idle = [], False
    while not idle:
        idle = engine.idle()
        answers += [Answer.from_bytes(body) for kind, _, _, body in engine.poll(not idle) if kind == RESULT]
    for answer in answers:
        row = answer.query_id
        ids[row, : len(answer.ids)], dists[row, : len(answer.ids)] = answer.ids, answer.dists
        work[row] = [answer.counters[name] for name in WORK]
    return engine.last_error() if any(answer.status == STATUS[2] for answer in answers) else ""


def as_arrays(answers: Sequence[Answer | None], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and distances `(len(answers), k)`, padded with 2**32 - 1 and inf."""
    ids = np.full((len(answers), k), 2**32 - 1, np.uint32)
    dists = np.full((len(answers), k), np.inf, np.float32)
    for row, answer in enumerate(answers):
        if answer is not None:
            ids[row, : len(answer.ids)], dists[row, : len(answer.dists)] = answer.ids, answer.dists
    return ids, dists


def check_search(k: int, L: int, W: int) -> None:
    """ValueError for parameters no search can have."""
    if k < 1:
        raise ValueError(f"k (={k}): expected at least 1")
    if not 1 <= L <= MAX_L:
        raise ValueError(f"L (={L}): expected 1 to {MAX_L}")
    if k > L:
        raise ValueError(f"k (={k}): must be at most L (={L})")
    if not 1 <= W <= MAX_W:
        raise ValueError(f"W (={W}): expected 1 to {MAX_W}")
