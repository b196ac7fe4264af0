"""METRO (arXiv 2512.09277): routing that balances activated experts, beside EPLB placement and the exact optimum."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "placement": ["Placement", "PlacementError", "place"],
        "routing": ["ROUTERS", "Routing", "RoutingError", "TraceError", "route_counts"],
        "greedy": ["metro"],
        "baselines": ["even"],
        "optimum": ["check_certificate", "exact"],
        "advice": ["advise"],
        "costaware": ["adaptive"],
        "settings": ["Settings"],
    },
)
