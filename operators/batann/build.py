"""Building an index step by step, each finished step kept: a build that was killed goes on where it stopped.

    pq.npz codes.npz graph.npz head.npz knn.npz partition_METHOD_S.npz     steps, with the key of their input
    layout_METHOD_S/                     the index folder (layout.py)
    shards_METHOD_S/shard-NN/            scatter-gather's own indexes (shards.py)

A step's key is the fingerprint of the vectors and of the options it depends on; a file with another key is made anew.
The graph, by far the longest step, also keeps unfinished states (vamana.Checkpoint).
"""

import logging
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from operators.batann.head import Head, build_head
from operators.batann.knn import knn_graph
from operators.batann.layout import write_index
from operators.batann.metric import Stored
from operators.batann.partitioner import partition
from operators.batann.pq import PQ, train_pq
from operators.batann.settings import Settings
from operators.batann.shards import made_from, write_shards
from operators.batann.vamana import Graph, build_vamana, fingerprint
from operators.lab import stage

log = logging.getLogger("batann.build")
SAY_S = 2.0


@dataclass
class Build:
    """The steps of one index under `dir`, from vectors as compared inside (`metric.stored`)."""

    dir: Path
    data: Stored
    settings: Settings
    threads: int = 1
    steps: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        self.dir = Path(self.dir)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.x = np.ascontiguousarray(self.data.vectors)
        self._x_key = fingerprint(self.x, self.settings.seed)

    def pq(self) -> PQ:
        s = self.settings
        made = self._kept(
            "pq.npz",
            (s.pq_chunks, s.pq_sample, s.pq_iters),
            lambda: vars(
                train_pq(self.x, s.pq_chunks, sample=s.pq_sample, iters=s.pq_iters, seed=s.seed, threads=self.threads)
            ),
        )
        return PQ(made["centroids"], made["offsets"])

    def codes(self, pq: PQ) -> np.ndarray:
        key = (self.settings.pq_chunks, self.settings.pq_sample, self.settings.pq_iters)
        return self._kept("codes.npz", key, lambda: {"codes": pq.encode(self.x, threads=self.threads)})["codes"]

    def graph(self) -> Graph:
        s = self.settings
        checkpoint = self.dir / "graph.unfinished.npz"

        def make() -> dict[str, Any]:
            return vars(
                build_vamana(
                    self.x, s.R, s.L_build, s.alpha, s.seed, self.threads, progress=said("graph"), checkpoint=checkpoint
                )
            )

        made = self._kept("graph.npz", (s.R, s.L_build, s.alpha), make)
        return Graph(made["adj"], made["deg"], int(made["medoid"]))

    def head(self) -> Head:
        s = self.settings

        def make() -> dict[str, Any]:
            head = build_head(self.x, s.head_fraction, s.head_R, s.head_L, s.alpha, s.seed)
            return {"ids": head.ids, "adj": head.graph.adj, "deg": head.graph.deg, "medoid": head.graph.medoid}

        made = self._kept("head.npz", (s.head_fraction, s.head_R, s.head_L, s.alpha), make)
        return Head(made["ids"], Graph(made["adj"], made["deg"], int(made["medoid"])), self.x[made["ids"]])

    def knn(self) -> np.ndarray:
        s = self.settings

        def make() -> dict[str, Any]:
            options = {"repetitions": s.knn_repetitions, "fanout": s.knn_fanout, "threads": self.threads}
            return {"knn": knn_graph(self.x, s.knn_k, progress=said("knn"), **options)}

        return self._kept("knn.npz", (s.knn_k, s.knn_repetitions, s.knn_fanout), make)["knn"]

    def partition(self, method: str, parts: int) -> np.ndarray:
        s = self.settings
        key = (method, parts, s.eps, s.knn_k, s.knn_repetitions, s.knn_fanout)

        def make() -> dict[str, Any]:
            from_vectors = method in ("kmeans", "random") or parts == 1
            return {"part": partition(self.x if from_vectors else self.knn(), parts, method, s.eps, s.seed)}

        return self._kept(f"partition_{method}_{parts}.npz", key, make)["part"]

    def layout(self, method: str, parts: int) -> Path:
        """The index folder of one partition; made only when what is there came from other input."""
        pq, graph, head, part = self.pq(), self.graph(), self.head(), self.partition(method, parts)
        folder = self.dir / f"layout_{method}_{parts}"
        arrays = (graph.adj, pq.centroids, part[:, None], head.ids[:, None])
        key = fingerprint(self.x, *(fingerprint(array) for array in arrays), self.data.metric, self.data.scale)
        with self._timed(folder.name, method=method, servers=parts) as step:
            step["reused"] = made_from(folder, key)
            if not step["reused"]:
                marks = {"made_from": key, "method": method, "seed": self.settings.seed}
                options = {"dim_in": self.data.dim_in, "scale": self.data.scale, "parts": parts, "extra": marks}
                codes = self.codes(pq)
                write_index(folder, self.x, graph, pq, codes, part, head, metric=self.data.metric, **options)
        return folder

    def shards(self, method: str, parts: int) -> list[Path]:
        """Scatter-gather's indexes of one partition."""
        s, part = self.settings, self.partition(method, parts)
        with self._timed(f"shards_{method}_{parts}", method=method, servers=parts):
            return write_shards(
                self.dir / f"shards_{method}_{parts}", self.x, part, R=s.R, L=s.L_build, alpha=s.alpha,
                chunks=s.pq_chunks, sample=s.pq_sample, iters=s.pq_iters, head_fraction=s.head_fraction,
                head_R=s.head_R, head_L=s.head_L, seed=s.seed, threads=self.threads, metric=self.data.metric,
                dim_in=self.data.dim_in, scale=self.data.scale, progress=said("shards"),
            )  # fmt: skip

    def _kept(self, name: str, key: tuple, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The arrays of step `name`: from its file when its key fits, else made, timed and written."""
        path, full = self.dir / name, f"{self._x_key}-{fingerprint(np.zeros((1, 1), np.uint8), *key)}"
        step = path.stem
        if any(done["step"] == step for done in self.steps):
            return dict(np.load(path))
        found = _read(path, full)
        reused = found is not None
        if found is None:
            log.info("%s: making", step)
            cpu, wall = time.process_time(), time.perf_counter()
            found = make()
            found |= {"key": full, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
            with stage.atomic(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **found)
        log.info("%s: %s (%.1f CPU-s)", step, "kept" if reused else "made", found["cpu_s"])
        times = {"cpu_s": float(found["cpu_s"]), "wall_s": float(found["wall_s"]), "reused": reused}
        self.steps.append({"step": step, "method": "", "servers": 0, **times})
        return found

    def _timed(self, name: str, **marks: Any) -> "_Timed":
        return _Timed(self.steps, {"step": name, "reused": False, **marks})


class _Timed:
    """A step without a file of arrays: its times go into the list when the block ends well."""

    def __init__(self, steps: list[dict[str, Any]], step: dict[str, Any]):
        self.steps, self.step = steps, step

    def __enter__(self) -> dict[str, Any]:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self.step

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.step |= {"cpu_s": time.process_time() - self._cpu, "wall_s": time.perf_counter() - self._wall}
            log.info(
                "%s: %s (%.1f s)", self.step["step"], "kept" if self.step["reused"] else "done", self.step["wall_s"]
            )
            self.steps.append(self.step)


def _read(path: Path, key: str) -> dict[str, Any] | None:
    try:
        with np.load(path) as file:
            return dict(file) if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def said(what: str) -> Callable[[int, int], None]:
    """A progress callback that logs at most every two seconds, and the end."""
    last = [time.monotonic()]

    def say(done: int, of: int) -> None:
        if done == of or time.monotonic() - last[0] > SAY_S:
            last[0] = time.monotonic()
            log.info("%s: %d of %d", what, done, of)

    return say
