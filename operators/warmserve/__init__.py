"""Prewarming of many models on the GPUs that wait (WarmServe, arXiv 2512.09472): simulated, and real."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "forecast": ["Blend", "band", "csp_forecast", "wape"],
        "placement": ["Placed", "Standing", "place", "standing"],
        "plan": ["replica_counts", "wanted"],
        "reserve": ["kept_blocks"],
        "simulator": ["Result", "Run", "Trace", "simulate"],
        "oracle": ["Forecaster", "History"],
        "manager": ["Manager"],
        "cluster_state": ["Cluster"],
        "ledger": ["Ledger"],
        "pool": ["BlockPool"],
        "worker": ["Worker"],
        "policies": ["POLICIES", "Policy"],
        "settings": ["Settings"],
        "errors": ["ConfigError", "InvariantError"],
    },
)
