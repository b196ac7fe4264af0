"""The sequential reference: the same Python functions, one after the other on plain lists, with locks that do nothing.

Independent of compiler and core: what a section must do is what Python says its function does.
"""

import itertools
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from operators.locks.handles import Cells, Locks, Pool
from operators.locks.sections import Section

Call = tuple[Section, tuple[int, ...]]


class _Nodes:
    def __init__(self, pool: Pool):
        _, n, stride = pool.place
        self.fields, self.free = {}, list(range(n, 0, -1))
        self.stride = stride

    def __getitem__(self, at: tuple[int, int]) -> int:
        return self.fields.get(at, 0)

    def __setitem__(self, at: tuple[int, int], value: int) -> None:
        self.fields[at] = value


class _Lock:
    def __enter__(self) -> int:
        return 1

    def __exit__(self, *_: object) -> None:
        pass


class _Tx:
    """A transaction that is alone: every lock is free."""

    def lock(self, _: Any) -> _Lock:
        return _Lock()

    def alloc(self, pool: _Nodes) -> int:
        return pool.free.pop()

    def free(self, pool: _Nodes, node: int) -> int:
        pool.free.append(node)
        return node


class Reference:
    """Plain state of the handles that some sections use, and the sections' own Python functions over it."""

    def __init__(self, cells: dict[Cells, Sequence[int]] | None = None):
        self.state: dict[Any, Any] = {cells_: list(values) for cells_, values in (cells or {}).items()}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Cells):
            return self.state.setdefault(value, [0] * len(value))
        if isinstance(value, Locks):
            return range(len(value))
        if isinstance(value, Pool):
            if value not in self.state:
                self.state[value] = _Nodes(value)
            return self.state[value]
        return value

    def call(self, section: Section, *args: int) -> Any:
        """What the function returns; the state changes as it says."""
        function = section.function
        scope = {
            name: self._plain(value) if isinstance(value, Cells | Locks | Pool) else value
            for name, value in function.__globals__.items()
        }
        closure = tuple(types.CellType(self._plain(cell.cell_contents)) for cell in function.__closure__ or ())
        plain = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, closure)
        return plain(_Tx(), *args)


def as_words(result: Any) -> tuple[int, int, int, int]:
    """A section's result as the explorer reports it."""
    values = () if result is None else result if isinstance(result, tuple) else (result,)
    return (*map(int, values), *([0] * (4 - len(values))))


def interleavings(lengths: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Every order of calls that keeps each process's own order, as process numbers."""
    letters = [process for process, length in enumerate(lengths) for _ in range(length)]
    return iter(sorted(set(itertools.permutations(letters))))


def outcomes(calls: Sequence[Sequence[Call]], watch: Sequence[Cells]) -> set[tuple]:
    """Final values of `watch` and results of every call, for every sequential order of the calls."""
    found = set()
    start = {cells: cells.to_list() for cells in watch}
    for order in interleavings(len(mine) for mine in calls):
        reference = Reference(start)
        at, results = [0] * len(calls), [[] for _ in calls]
        for process in order:
            section, args = calls[process][at[process]]
            results[process].append(as_words(reference.call(section, *args)))
            at[process] += 1
        values = tuple(value for cells in watch for value in reference.state[cells])
        found.add((values, tuple(map(tuple, results))))
    return found
