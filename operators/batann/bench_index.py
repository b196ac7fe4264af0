"""Bars of the index half beside the peers a user would pick: B1, B2 (search in memory), B5 (build), B8 (cut), PQ.

Search is compared at the smallest beam of each side that reaches the recall target, in queries per CPU-second of one
thread, runs interleaved; each row carries both recalls. Vectors are uint8 for us and DiskANN, float32 for hnswlib and
faiss, as their users have them.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from operators.batann import core as cores
from operators.batann import graph_partition as graphs
from operators.batann import sift
from operators.batann.knn import knn_graph
from operators.batann.memory_search import MemoryIndex
from operators.batann.partitioner import balanced_kmeans, random_blocks
from operators.batann.pq import train_pq
from operators.batann.rivals import peer as started
from operators.batann.rivals import row
from operators.batann.settings import Settings
from operators.batann.truth import recall
from operators.batann.vamana import build_vamana
from operators.batann.vectors import write_bin
from operators.lab.peers import PeerError

HERE = Path(__file__).parent
SIZES = {"ci": 2_000, "laptop": 20_000}  # vectors; other profiles: the settings' n
QUERIES = {"ci": 300, "laptop": 3_000}
PAIRS = {"ci": 2, "laptop": 5}
CUT_SEEDS = {"ci": 2, "laptop": 3}
BEAMS = (10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 27, 30, 35, 40, 50, 60, 80, 120)
LIKE = 20  # beam at which two builds are compared


def rows(settings: Settings, data: Path | None = None) -> list[dict[str, Any]]:
    """All rows of this part; smaller and fewer in the ci profile."""
    n = min(settings.n, SIZES.get(settings.profile, settings.n))
    found = sift.load(n, QUERIES.get(settings.profile, 10_000), root=data, seed=settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder), found)
        bench = _Bench(settings, found, files, PAIRS.get(settings.profile, 7))
        return bench.build_and_search() + bench.hnsw() + bench.pq() + bench.cuts(Path(folder))


def _files(folder: Path, found: sift.SiftData) -> list[str]:
    write_bin(folder / "base.u8bin", found.base)
    write_bin(folder / "query.u8bin", found.queries)
    np.save(folder / "truth.npy", found.truth_ids)
    return [str(folder / name) for name in ("base.u8bin", "query.u8bin", "truth.npy", "cache")]


class _Bench:
    def __init__(self, settings: Settings, found: sift.SiftData, files: list[str], n: int):
        self.settings, self.found, self.files, self.n = settings, found, files, n
        self.native = hasattr(cores.core(), "multilevel")
        self.index: MemoryIndex | None = None
        self.build_s = self._build()

    def _build(self) -> float:
        s = self.settings
        cpu = time.process_time()
        graph = build_vamana(self.found.base, s.R, s.L_build, s.alpha, s.seed, threads=1)
        taken = time.process_time() - cpu
        self.index = self.index or MemoryIndex(self.found.base, graph)
        return taken

    def _ours(self, beam: int) -> tuple[float, float]:
        """Queries per CPU-second and recall."""
        cpu = time.process_time()
        ids = self.index.search(self.found.queries, 10, beam).ids
        return len(ids) / (time.process_time() - cpu), recall(ids, self.found.truth_ids)

    def _reaching(self, search: Callable[[int], tuple[float, float]]) -> int:
        return next((beam for beam in BEAMS if search(beam)[1] >= self.settings.recall_target), BEAMS[-1])

    def _search_row(self, name: str, bar: float, theirs: Callable[[int], tuple[float, float]]) -> dict[str, Any]:
        mine_beam, their_beam = self._reaching(self._ours), self._reaching(theirs)
        pairs = [(self._ours(mine_beam), theirs(their_beam)) for _ in range(self.n)]
        return row(
            bench="mem",
            case=f"search at recall {self.settings.recall_target}, n={len(self.found.base)}, 1 thread",
            ours="batann in memory" if self.native else "batann in memory (numba)",
            peer=name,
            unit="queries/CPU-s",
            ours_samples=[mine[0] for mine, _ in pairs],
            peer_samples=[their[0] for _, their in pairs],
            higher_is_better=True,
            bar=bar,
            ours_recall=pairs[0][0][1],
            peer_recall=pairs[0][1][1],
            reason=f"beam {mine_beam} against {their_beam}",
            data=self.found.mark,
        )

    def build_and_search(self) -> list[dict[str, Any]]:
        """B5, build CPU, and B1, search, beside DiskANN in memory."""
        s = self.settings
        bars = (1.0, 1.5) if self.native else (1 / 1.5, 0.7)
        build = {
            "bench": "build",
            "case": f"graph of n={len(self.found.base)}, R={s.R}, L={s.L_build}",
            "unit": "CPU-s",
        }
        sides = {"ours": "batann", "peer": "diskannpy in memory", "bar": bars[0], "data": self.found.mark}
        try:
            with started(HERE / "peer_diskann.py", *self.files, environment="diskann") as peer:

                def theirs(beam: int) -> tuple[float, float]:
                    got = peer.ask(op="search_memory", L=beam)
                    return got["queries"] / got["cpu_s"], got["recall"]

                times = []
                for again in range(1 if s.profile == "full" else 2):
                    mine = self._build() if again else self.build_s
                    times.append((mine, peer.ask(op="build_memory", R=s.R, L=s.L_build, alpha=s.alpha)["cpu_s"]))
                like = {"ours_recall": self._ours(LIKE)[1], "peer_recall": theirs(LIKE)[1]}
                made = row(
                    **build, **sides, **like, ours_samples=[a for a, _ in times], peer_samples=[b for _, b in times],
                    reason=f"recalls at L={LIKE}",
                )  # fmt: skip
                return [made, self._search_row("diskannpy in memory", bars[1], theirs)]
        except PeerError as error:
            lacking = {"peer": "diskannpy in memory", "reason": str(error), "data": self.found.mark}
            search = row(
                bench="mem", case="search", ours="batann in memory", unit="queries/CPU-s", bar=bars[1], **lacking
            )
            return [row(**build, **sides, reason=str(error)), search]

    def hnsw(self) -> list[dict[str, Any]]:
        """B2: search beside hnswlib, M = 32, ef_construction = 128."""
        try:
            with started(HERE / "peer_others.py", *self.files) as peer:
                peer.ask(op="build_hnsw")

                def theirs(beam: int) -> tuple[float, float]:
                    got = peer.ask(op="search_hnsw", ef=beam)
                    return got["queries"] / got["cpu_s"], got["recall"]

                return [self._search_row("hnswlib", 1.3, theirs)]
        except PeerError as error:
            lacking = {"unit": "queries/CPU-s", "bar": 1.3, "reason": str(error), "data": self.found.mark}
            return [row(bench="mem", case="search", ours="batann in memory", peer="hnswlib", **lacking)]

    def pq(self) -> list[dict[str, Any]]:
        """Error of the codes beside faiss's."""
        base, chunks = self.found.base, self.settings.pq_chunks
        common = {"bench": "build", "case": f"PQ error, {chunks} bytes", "ours": "batann", "peer": "faiss"}
        common |= {"unit": "squared distance", "bar": 1 / 1.02, "data": self.found.mark}
        try:
            with started(HERE / "peer_others.py", *self.files) as peer:
                theirs = peer.ask(op="faiss_pq", chunks=chunks)["error"]
        except PeerError as error:
            return [row(**common, reason=str(error))]
        made = train_pq(base, chunks, seed=self.settings.seed)
        error = float(((made.decode(made.encode(base)) - base) ** 2).sum(axis=1).mean())
        return [row(**common, ours_samples=[error], peer_samples=[theirs])]

    def cuts(self, folder: Path) -> list[dict[str, Any]]:
        """B8's first half: edges cut beside KaMinPar, METIS, balanced k-means and random, median of partition seeds."""
        if not self.native:
            return [row(bench="build", case="cut", ours="gp", peer="kaminpar", unit="share", reason="no native core")]
        s, base = self.settings, self.found.base
        seeds = range(CUT_SEEDS.get(s.profile, self.n))
        starts, ends = graphs.symmetrised(knn_graph(base))
        np.savez(folder / "graph.npz", starts=starts, ends=ends)
        out = []
        for parts in (5, 10):
            mine = [_share(starts, ends, graphs.own(starts, ends, parts, s.eps, seed)) for seed in seeds]
            common = {
                "bench": "build",
                "case": f"cut, S={parts}",
                "ours": "gp",
                "unit": "share",
                "data": self.found.mark,
            }
            others = {"kmeans": (1 / 0.95, balanced_kmeans(base, parts, s.eps, 0))}
            others["random"] = (2.0, random_blocks(len(base), parts, 0))
            for name, (bar, part) in others.items():
                limit = [_share(starts, ends, part)]
                out.append(row(**common, peer=name, bar=bar, ours_samples=mine, peer_samples=limit))
            out += [self._cut_row(name, parts, folder, mine, common) for name in ("kaminpar", "metis")]
        return out

    def _cut_row(self, name: str, parts: int, folder: Path, mine: list[float], common: dict) -> dict[str, Any]:
        message = {"method": name, "graph": str(folder / "graph.npz"), "parts": parts, "eps": self.settings.eps}
        try:
            with started(HERE / "peer_others.py", *self.files) as peer:
                theirs = [peer.ask(op="cut", **message, seed=seed)["cut"] for seed in range(len(mine))]
        except PeerError as error:
            return row(**common, peer=name, bar=1 / 1.15, reason=str(error))
        return row(**common, peer=name, bar=1 / 1.15, ours_samples=mine, peer_samples=theirs)


def _share(starts: np.ndarray, ends: np.ndarray, part: np.ndarray) -> float:
    return graphs.cut(starts, ends, part) / (len(ends) / 2)
