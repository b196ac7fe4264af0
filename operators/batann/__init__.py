"""BatANN (arXiv 2512.09331): one Vamana graph over many servers; the query travels, not its candidates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "actors": ["Cluster"],
        "head": ["Head", "build_head"],
        "knn": ["knn_graph"],
        "layout": ["Index", "IndexCorrupt", "open_index", "write_index"],
        "memory_search": ["MemoryIndex", "search_memory"],
        "model": ["SimConfig", "simulate_cluster"],
        "partitioner": ["partition"],
        "pq": ["PQ", "train_pq"],
        "server": ["Server"],
        "settings": ["Settings"],
        "state": ["QueryState"],
        "vamana": ["Graph", "build_vamana"],
        "shards": ["write_shards"],
        "sift": ["twin"],
        "truth": ["exact_neighbours", "recall"],
        "vectors": ["open_vectors", "read_vectors"],
        "verify": ["verify_index"],
    },
)
