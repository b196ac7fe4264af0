"""Every error of this system, each naming what was given and what was expected."""

# What a run can agree on instead of a result (native/core.h, enum lk_outcome): kind and what it means.
OUTCOMES = {
    3: ("index", "an index is outside its cells or locks"),
    4: ("overflow", "a value does not fit: cells hold -2**43 to 2**43-1, results 63 bits"),
    5: ("division", "division by zero"),
    6: ("max_ops", "the section used up its max_ops"),
    7: ("log_full", "the section reads or writes more than log_len allows"),
    8: ("locks", "more than 8 locks in one section"),
    9: ("order", "a lock was taken against the declared order"),
    10: ("pool", "no free node"),
    11: ("node", "a node number is outside its pool (0 is no node)"),
}


class LocksError(ValueError):
    """Base of every error of this system."""


class RegionExists(LocksError):
    """There is a file at the path already."""


class RegionCorrupt(LocksError):
    """The file is no region of this version; the message names field, value and what was expected."""


class RegionFull(LocksError):
    """No room for another object or section."""


class NoFreeSlot(LocksError):
    """Every slot, or the one asked for, belongs to a live process."""


class ForkedRegion(LocksError):
    """A region is used in a child process that inherited it; the child must attach for itself."""


class SectionMismatch(LocksError):
    """Another live process runs a section of this name with other code."""


class TransformError(LocksError):
    """A function cannot be made a section: file, line and reason."""

    def __init__(self, file: str, line: int, reason: str):
        super().__init__(f"{file}:{line}: {reason}")
        self.file, self.line, self.reason = file, line, reason


class SectionError(LocksError):
    """A section ended in an error on which all its runners agree; it has changed nothing."""

    def __init__(self, name: str, kind: str, meaning: str, file: str, line: int):
        super().__init__(f"section {name}: {meaning} ({file}:{line})")
        self.kind, self.line = kind, line


class SectionIndexError(SectionError, IndexError):
    """SectionError of kind index or node."""


class SectionOverflow(SectionError, OverflowError):
    """SectionError of kind overflow."""


class PoolExhausted(SectionError):
    """SectionError of kind pool: the pool has no node left."""


class LockOrderError(SectionError):
    """SectionError of kind order: strict mode, acquisition against the declared order."""


class SectionTimeout(LocksError):
    """The call was refused for longer than its timeout; it has not happened."""


class StateLimit(LocksError):
    """The explorer reached its bound before it had seen every state: no verdict."""


ERRORS = {
    "index": SectionIndexError,
    "node": SectionIndexError,
    "overflow": SectionOverflow,
    "pool": PoolExhausted,
    "order": LockOrderError,
}


def section_error(name: str, outcome: int, file: str, line: int) -> SectionError:
    """The error for an agreed outcome."""
    kind, meaning = OUTCOMES[outcome]
    return ERRORS.get(kind, SectionError)(name, kind, meaning, file, line)
