"""ODMA (arXiv 2512.09427): predicted answer lengths, one contiguous KV block each, beside paging, S3 and the oracle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arena": ["Arena", "Extent", "OutOfMemory"],
        "buckets": ["Bucket", "BucketManager", "expected_reservation", "optimal_buckets"],
        "conformal": ["Conformal", "split"],
        "device": ["DeviceSpec", "crossover", "simulate_cluster", "simulate_device"],
        "errors": ["ConfigError", "InvalidExtent", "NotFitted"],
        "policies": ["Policy", "constant_quantile", "hybrid", "odma", "oracle", "paged", "s3", "safety_pool", "static"],
        "predictor": ["LengthPredictor", "Prediction"],
        "settings": ["Settings"],
    },
)
