"""diskannpy's side of a comparison, run as a file by the interpreter of the peers' environment (lab.peers).

    python peer_diskann.py BASE.u8bin QUERY.u8bin TRUTH.npy CACHE_FOLDER

then JSON lines on standard input, one answer a line:

    {"op": "build_memory", "R": 64, "L": 128, "alpha": 1.2, "threads": 1}   -> {"cpu_s", "wall_s"}  always built anew
    {"op": "search_memory", "L": 20, "threads": 1, "k": 10}                 -> and "qps", "recall", "queries"
    {"op": "build_disk", "R": 64, "L": 128, "pq_bytes": 32, "threads": 2}   -> {"cpu_s", "wall_s", "reused"}  kept
    {"op": "search_disk", "L": 20, "W": 8, "threads": 1, "queries": 1000}   -> as search_memory; O_DIRECT, no node cache

Nothing of this package is imported: that environment has only diskannpy and the NumPy it needs.
"""

import hashlib
import json
import os
import shutil
import sys
import time

import numpy as np


def read_bin(path):
    n, d = (int(value) for value in np.fromfile(path, "<u4", 2))
    kind = {"u8bin": np.uint8, "i8bin": np.int8, "fbin": np.float32}[path.rsplit(".", 1)[1]]
    return np.fromfile(path, kind, offset=8).reshape(n, d)


class DiskAnn:
    def __init__(self, base, query, truth, cache):
        import diskannpy

        self.library, self.base, self.queries = diskannpy, base, read_bin(query)
        self.truth, self.cache = np.load(truth), cache
        self.memory, self.disk = None, {}

    def _folder(self, name):
        with open(self.base, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return os.path.join(self.cache, f"{name}-{digest}")

    def build_memory(self, R=64, L=128, alpha=1.2, threads=1):
        folder = self._folder("memory")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        cpu, wall = time.process_time(), time.perf_counter()
        self.library.build_memory_index(
            read_bin(self.base), "l2", folder, complexity=L, graph_degree=R, num_threads=threads, alpha=alpha
        )
        taken = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        self.memory = self.library.StaticMemoryIndex(folder, num_threads=1, initial_search_complexity=256)
        return taken

    def search_memory(self, L=20, threads=1, k=10, queries=None):
        return self._search(lambda q: self.memory.batch_search(q, k, L, threads), k, queries)

    def build_disk(self, R=64, L=128, pq_bytes=32, threads=2):
        data = read_bin(self.base)
        folder = self._folder(f"disk-{R}-{L}-{pq_bytes}")
        done = os.path.join(folder, "done.json")
        if os.path.exists(done):
            with open(done) as file:
                return {**json.load(file), "reused": True}
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        cpu, wall = time.process_time(), time.perf_counter()
        self.library.build_disk_index(
            data,
            "l2",
            folder,
            complexity=L,
            graph_degree=R,
            search_memory_maximum=pq_bytes * len(data) / 2**30,
            build_memory_maximum=8.0,
            num_threads=threads,
        )
        taken = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        with open(done, "w") as file:
            json.dump(taken, file)
        return {**taken, "reused": False}

    def search_disk(self, L=20, W=8, threads=1, k=10, queries=None, R=64, L_build=128, pq_bytes=32):
        folder = self._folder(f"disk-{R}-{L_build}-{pq_bytes}")
        if threads not in self.disk:
            # An index opened with one thread's scratch never comes back from loading its centroid: open with two,
            # search with as many as asked for.
            self.disk[threads] = self.library.StaticDiskIndex(
                folder, num_threads=max(2, threads), num_nodes_to_cache=0, cache_mechanism=0
            )
        index = self.disk[threads]
        return self._search(lambda q: index.batch_search(q, k, L, threads, beam_width=W), k, queries)

    def _search(self, search, k, queries):
        asked = self.queries[:queries]
        cpu, wall = time.process_time(), time.perf_counter()
        found = search(asked).identifiers
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        truth = self.truth[: len(asked), :k]
        recall = float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
        return {"cpu_s": cpu, "wall_s": wall, "qps": len(asked) / wall, "recall": recall, "queries": len(asked)}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints; answers go where nothing else does
    peer = DiskAnn(*sys.argv[1:])
    for line in sys.stdin:
        message = json.loads(line)
        print(json.dumps(getattr(peer, message.pop("op"))(**message)), file=answers, flush=True)


if __name__ == "__main__":
    main()
