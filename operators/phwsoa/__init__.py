"""PHWSOA (arXiv 2512.09568): whale-seagull task scheduling on machines, beside bounds, heuristics and exact fronts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "swf": ["EmptyLog", "SwfFormatError", "load_swf"],
        "instance": ["InfeasibleTask", "Instance", "five_class", "rigid", "with_transfer"],
        "objectives": ["Delta", "evaluate"],
        "semantics": ["simulate"],
        "bounds": ["gap", "lower_bound", "pareto_lower_front"],
        "heuristics": ["eps_greedy_front", "heft", "lpt", "max_min", "mct", "min_min", "sufferage"],
        "lp_round": ["lp_round_ls"],
        "optimise": ["Result", "optimise"],
        "islands": ["optimise_islands"],
        "redistribution": ["redistribute"],
        "executor": ["execute"],
        "settings": ["Settings"],
    },
)
