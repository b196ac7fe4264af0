"""BatANN (arXiv 2512.09331): one Vamana graph over many servers; the query travels, not its candidates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "actors": ["Cluster"],
        "knn": ["knn_graph"],
        "layout": ["Index", "IndexCorrupt", "open_index", "verify_index", "write_index", "write_shards"],
        "memory_search": ["search_memory"],
        "model": ["SimConfig", "simulate"],
        "partitioner": ["partition"],
        "pq": ["PQ", "train_pq"],
        "server": ["Server"],
        "settings": ["Settings"],
        "state": ["QueryState"],
        "vamana": ["Graph", "build_vamana"],
        "vectors": ["exact_neighbours", "read_vectors", "recall", "twin"],
    },
)
