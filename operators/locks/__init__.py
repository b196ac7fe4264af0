"""Recoverable lock-free locks between processes (arXiv 2512.09710): sections any process can finish for another."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "region": ["RecoveryReport", "Region", "Status"],
        "sections": ["Section", "section"],
        "structures": ["Bank", "DList", "HashMap", "LeafTree", "SortedList"],
        "history": ["Recorder"],
        "check": ["linearizable"],
        "explore": ["explore"],
        "doctor": ["examine"],
        "settings": ["Settings"],
        "errors": [
            "LockOrderError",
            "LocksError",
            "NoFreeSlot",
            "RegionCorrupt",
            "RegionExists",
            "SectionError",
            "SectionMismatch",
            "SectionTimeout",
            "StateLimit",
            "TransformError",
        ],
    },
)
