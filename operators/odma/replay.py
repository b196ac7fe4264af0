"""Carrying out an allocation log again: the same offsets, or the first row where they part."""

import polars as pl

from operators.odma.arena import Arena, Extent, OutOfMemory


class ReplayError(ValueError):
    """The log does not replay: it names the row, what the log says and what the arena gave."""


def replay(log: pl.DataFrame, capacity: int, *, align: int = 16) -> int:
    """Replay `log` (seq, op, request_id, offset, tokens) on a fresh arena; how many operations it had.

    Raises ReplayError at the first operation whose offset differs.
    """
    arena = Arena(capacity, align)
    held: dict[int, Extent] = {}  # by offset: a hybrid's request holds several
    latest: dict[int, int] = {}  # request -> offset of its block that may grow
    for seq, op, request, offset, tokens in log.select("seq", "op", "request_id", "offset", "tokens").iter_rows():
        if op == "reserve":
            found = arena.reserve(tokens)
            _same(seq, op, offset, found)
            held[offset] = found
            latest[request] = offset
        elif op == "release":
            if offset not in held:
                raise ReplayError(f"row {seq}: release of offset {offset}, where nothing is reserved")
            arena.release(held.pop(offset))
        elif op == "grow":
            found = arena.grow(held.pop(latest[request]), tokens)
            _same(seq, op, offset, found if isinstance(found, OutOfMemory) else found[0])
            held[offset], latest[request] = found[0], offset
        elif op == "compact":
            moves = arena.compact(1)
            old, new = moves[0]
            _same(seq, op, offset, new)
            held[offset] = new
            del held[old.offset]
            latest[request] = offset
    arena.validate()
    return len(log)


def _same(seq: int, op: str, offset: int, found: Extent | OutOfMemory) -> None:
    if isinstance(found, OutOfMemory) or found.offset != offset:
        raise ReplayError(f"row {seq}: {op} gave {found}; the log says offset {offset}")
