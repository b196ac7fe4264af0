"""hnswlib's, faiss's, KaMinPar's and METIS's side of a comparison, run as a file by the peers' interpreter.

    python peer_others.py BASE.u8bin QUERY.u8bin TRUTH.npy CACHE_FOLDER

then JSON lines on standard input, one answer a line:

    {"op": "build_hnsw", "M": 32, "ef": 128, "threads": 1}       -> {"cpu_s", "wall_s"}
    {"op": "search_hnsw", "ef": 20, "threads": 1}                -> {"cpu_s", "wall_s", "qps", "recall", "queries"}
    {"op": "faiss_pq", "chunks": 32, "sample": 65536}            -> {"error", "cpu_s"}  mean squared error of decoding
    {"op": "cut", "method": "kaminpar", "graph": "g.npz", "parts": 10, "eps": 0.05, "seed": 0} -> {"cut", ...}

hnswlib and faiss take float32: four times the bytes a vector of ours (uint8), as their users have it. The way into
KaMinPar and METIS is this package's own graph_partition.py, read from its file, since that needs NumPy only.
"""

import json
import os
import sys
import time

import numpy as np


def read_bin(path):
    n, d = (int(value) for value in np.fromfile(path, "<u4", 2))
    kind = {"u8bin": np.uint8, "i8bin": np.int8, "fbin": np.float32}[path.rsplit(".", 1)[1]]
    return np.fromfile(path, kind, offset=8).reshape(n, d).astype(np.float32)


class Others:
    def __init__(self, base, query, truth, _cache):
        self.base, self.queries, self.truth = read_bin(base), read_bin(query), np.load(truth)

    def build_hnsw(self, M=32, ef=128, threads=1):
        import hnswlib

        self.hnsw = hnswlib.Index(space="l2", dim=self.base.shape[1])
        cpu, wall = time.process_time(), time.perf_counter()
        self.hnsw.init_index(max_elements=len(self.base), M=M, ef_construction=ef, random_seed=100)
        self.hnsw.add_items(self.base, num_threads=threads)
        return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}

    def search_hnsw(self, ef=20, threads=1, k=10, queries=None):
        asked = self.queries[:queries]
        self.hnsw.set_ef(ef)
        cpu, wall = time.process_time(), time.perf_counter()
        found, _ = self.hnsw.knn_query(asked, k=k, num_threads=threads)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        truth = self.truth[: len(asked), :k]
        recall = float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
        return {"cpu_s": cpu, "wall_s": wall, "qps": len(asked) / wall, "recall": recall, "queries": len(asked)}

    def faiss_pq(self, chunks=32, sample=65_536):
        import faiss

        faiss.omp_set_num_threads(1)
        coder = faiss.ProductQuantizer(self.base.shape[1], chunks, 8)
        cpu = time.process_time()
        coder.train(self.base[:sample])
        taken = time.process_time() - cpu
        decoded = coder.decode(coder.compute_codes(self.base))
        return {"error": float(((decoded - self.base) ** 2).sum(axis=1).mean()), "cpu_s": taken}

    def cut(self, method, graph, parts, eps, seed):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "graph_partition.py")) as file:
            text = file.read().replace("from operators.batann.core import core", "")
        space = {}
        exec(compile(text, "graph_partition.py", "exec"), space)
        arrays = np.load(graph)
        starts, ends = arrays["starts"], arrays["ends"]
        cpu = time.process_time()
        part = space[method](starts, ends, parts, eps, seed)
        taken = time.process_time() - cpu
        largest = float(np.bincount(part, minlength=parts).max() * parts / len(part))
        return {"cut": space["cut"](starts, ends, part) / (len(ends) / 2), "largest": largest, "cpu_s": taken}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = Others(*sys.argv[1:])
    for line in sys.stdin:
        message = json.loads(line)
        print(json.dumps(getattr(peer, message.pop("op"))(**message)), file=answers, flush=True)


if __name__ == "__main__":
    main()
