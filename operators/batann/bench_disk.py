"""Bars of the disk search: beside DiskANN's own at equal recall (B3), and 8 live queries beside 1 (B4).

One thread, O_DIRECT, node caches off on both sides, runs interleaved. Both indexes have the same R and L; each side
searches at the smallest beam that reaches the recall target. If the file system refuses O_DIRECT nothing is measured.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from operators.batann import engine, sift
from operators.batann.bench_index import BEAMS, HERE, PAIRS, SIZES
from operators.batann.build import Build
from operators.batann.layout import open_index
from operators.batann.metric import stored
from operators.batann.rivals import peer as started
from operators.batann.rivals import row
from operators.batann.settings import Settings
from operators.batann.truth import recall
from operators.batann.vectors import write_bin
from operators.lab.peers import PeerError

log = logging.getLogger("batann.bench")
QUERIES = {"ci": 300, "laptop": 600}
PEER_W = 8
DISKANN = "diskannpy-ssd"


def rows(settings: Settings, data: Path | None, place: Path) -> list[dict[str, Any]]:
    """B3 by wall and processor time, B4; smaller in the ci profile. Indexes lie under `place` while it runs."""
    n = min(settings.n, SIZES.get(settings.profile, settings.n))
    found = sift.load(n, QUERIES.get(settings.profile, 2000), root=data, seed=settings.seed)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:  # beside the results: /tmp may refuse O_DIRECT
        inside = Path(folder)
        index = open_index(Build(inside / "index", stored(found.base), settings, 2).layout(settings.methods[0], 1))
        bench = _Bench(settings, found, index)
        if bench.page_cache:
            reason = "this file system refuses O_DIRECT: reads would come from the page cache"
            return [row(bench="disk", case="search", ours="batann", peer=DISKANN, unit="queries/s", reason=reason)]
        write_bin(inside / "base.u8bin", found.base)
        write_bin(inside / "query.u8bin", found.queries)
        np.save(inside / "truth.npy", found.truth_ids)
        files = [str(inside / name) for name in ("base.u8bin", "query.u8bin", "truth.npy", "cache")]
        return bench.live() + bench.diskann(files)


class _Bench:
    def __init__(self, settings: Settings, found: sift.SiftData, index: Any):
        self._settings, self._found, self._index = settings, found, index
        self._pairs = PAIRS.get(settings.profile, 7)
        self.page_cache = engine.make_engine(index, (0,), io=settings.io).page_cache

    def _ours(self, L: int, refill: str = "one") -> dict[str, float]:
        s = self._settings
        opened = engine.make_engine(self._index, (0,), io=s.io, live=s.live, refill=refill)
        wall, cpu = time.perf_counter(), time.process_time()
        result = engine.search_disk(opened, self._index.epoch, self._found.queries, s.k, L, s.W, mem_l=s.mem_l)
        taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        return taken | {"recall": recall(result.ids, self._found.truth_ids[:, : s.k])}

    def _reaching(self, search: Callable[[int], dict[str, float]]) -> int:
        target = self._settings.recall_target
        return next((beam for beam in BEAMS if search(beam)["recall"] >= target), BEAMS[-1])

    def _case(self) -> str:
        return f"search at recall {self._settings.recall_target}, n={len(self._found.base)}, 1 thread, O_DIRECT"

    def live(self) -> list[dict[str, Any]]:
        """B4: eight live queries a thread over one."""
        beam, count = self._reaching(self._ours), len(self._found.queries)
        pairs = [(self._ours(beam), self._ours(beam, "single")) for _ in range(self._pairs)]
        return [
            row(
                bench="disk", case=self._case(), ours=f"batann, {self._settings.live} live", peer="1 live",
                unit="queries/s", ours_samples=[count / mine["wall_s"] for mine, _ in pairs],
                peer_samples=[count / one["wall_s"] for _, one in pairs], higher_is_better=True, bar=1.3,
                ours_recall=pairs[0][0]["recall"], peer_recall=pairs[0][1]["recall"], reason=f"beam {beam}",
                data=self._found.mark,
            )
        ]  # fmt: skip

    def diskann(self, files: list[str]) -> list[dict[str, Any]]:
        """B3: DiskANN's disk search at W = 8, the settings' W for ours."""
        s, count = self._settings, len(self._found.queries)
        units = (("queries/s", "wall_s"), ("queries/cpu-s", "cpu_s"))
        common = {"bench": "disk", "case": self._case(), "ours": f"batann, {s.live} live, W={s.W}", "peer": DISKANN}
        common |= {"bar": 1.5, "data": self._found.mark}
        try:
            with started(HERE / "peer_diskann.py", *files, environment="diskann") as peer:
                peer.ask(op="build_disk", R=s.R, L=s.L_build, pq_bytes=s.pq_chunks)

                def theirs(beam: int) -> dict[str, float]:
                    return peer.ask(op="search_disk", L=beam, W=PEER_W, R=s.R, L_build=s.L_build, pq_bytes=s.pq_chunks)

                beams = self._reaching(self._ours), self._reaching(theirs)
                pairs = [(self._ours(beams[0]), theirs(beams[1])) for _ in range(self._pairs)]
        except PeerError as error:
            return [row(**common, unit=unit, reason=str(error)) for unit, _ in units]
        return [
            row(
                **common, unit=unit, higher_is_better=True,
                ours_samples=[count / mine[key] for mine, _ in pairs],
                peer_samples=[count / their[key] for _, their in pairs],
                ours_recall=pairs[0][0]["recall"], peer_recall=pairs[0][1]["recall"],
                reason=f"beam {beams[0]} against {beams[1]} at W={PEER_W}",
            )
            for unit, key in units
        ]  # fmt: skip
