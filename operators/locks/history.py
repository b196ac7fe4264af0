"""Recorded histories: a recorder for calls of one process, the etcd and kv histories of the data set, and their twin.

The twin has the real set's shape by construction (see `twin_register`, `twin_kv`), written by the same text writer that
the parser reads, with verdicts known by construction.
"""

import csv
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.locks.check import Op
from operators.locks.errors import LocksError

if TYPE_CHECKING:
    import polars as pl

SET = "jepsen_histories"
EDN = re.compile(r":(\w+) (:\w+|\"[^\"]*\"|\d+|nil)")


class Recorder:
    """Calls of one process: (op, args, result, t_invoke_ns, t_return_ns), kept in memory and written as Parquet."""

    def __init__(self, process: int):
        self.process, self.rows = process, []

    @contextmanager
    def call(self, op: str, *args: int) -> Iterator[dict[str, Any]]:
        """Record the block as one call; put its result into the yielded dict. An exception leaves it open."""
        row = {"process": self.process, "op": op, "args": list(args), "result": None}
        row |= {"t_invoke_ns": time.monotonic_ns(), "t_return_ns": None}
        self.rows.append(row)
        out: dict[str, Any] = {}
        yield out
        row["result"], row["t_return_ns"] = out.get("result"), time.monotonic_ns()

    def table(self) -> "pl.DataFrame":
        import polars as pl

        schema = {"process": pl.Int64, "op": pl.String, "args": pl.List(pl.Int64), "result": pl.Int64}
        return pl.DataFrame(self.rows, schema=schema | {"t_invoke_ns": pl.Int64, "t_return_ns": pl.Int64})

    def write(self, path: Path) -> None:
        self.table().write_parquet(path)

    def ops(self) -> list[Op]:
        return [
            Op(row["process"], row["op"], tuple(row["args"]), row["result"], row["t_invoke_ns"], row["t_return_ns"])
            for row in self.rows
        ]


def parse_register(text: str, what: str) -> list[Op]:
    """An etcd log: one register; line numbers are times. A read that timed out says nothing and is left out."""
    open_calls: dict[int, tuple[int, str, str]] = {}
    ops: list[Op] = []
    for number, line in enumerate(text.splitlines()):
        words = line.split(maxsplit=6)
        if len(words) < 6 or words[0] != "INFO" or words[4] not in (":invoke", ":ok", ":fail", ":info"):
            raise LocksError(f"{what}:{number + 1}: {line!r}; expected `INFO jepsen.util - PROCESS :TYPE :F VALUE`")
        process, kind, function, value = int(words[3]), words[4], words[5][1:], words[6] if len(words) > 6 else "nil"
        if kind == ":invoke":
            open_calls[process] = (number, function, value)
        elif kind != ":info" and process in open_calls:
            began, function, asked = open_calls.pop(process)
            op = _register_op(process, kind, function, asked, value, began, number)
            if op is not None:
                ops.append(op)
    ops += [_register_op(p, ":info", f, asked, "", began, None) for p, (began, f, asked) in open_calls.items()]
    return sorted(ops, key=lambda op: op.t_invoke)


def _register_op(
    process: int, kind: str, function: str, asked: str, value: str, began: int, ended: int | None
) -> Op | None:
    """One call; None for a read that failed (no information). A failed cas compared and differed: a definite result."""
    numbers = tuple(int(word) for word in re.findall(r"-?\d+", asked))
    if function == "read":
        if kind == ":fail":
            return None
        result = None if kind == ":info" else "nil" if value == "nil" else int(value)
        return Op(process, "read", (), result, began, ended)
    result = (kind == ":ok") if function == "cas" and kind in (":ok", ":fail") else None
    return Op(process, function, numbers, result, began, ended)


def parse_kv(text: str, what: str) -> dict[str, list[Op]]:
    """A kv history by key; line numbers are times."""
    open_calls: dict[int, tuple[int, dict[str, str]]] = {}
    keys: dict[str, list[Op]] = {}
    for number, line in enumerate(text.splitlines()):
        found = {key: value.strip('":') for key, value in EDN.findall(line)}
        if not {"process", "type", "f", "key"} <= set(found):
            raise LocksError(f"{what}:{number + 1}: {line!r}; expected an EDN map with :process :type :f :key :value")
        process = int(found["process"])
        if found["type"] == "invoke":
            open_calls[process] = (number, found)
            continue
        began, asked = open_calls.pop(process)
        keys.setdefault(asked["key"], []).append(_kv_op(process, asked, found["value"], began, number))
    for process, (began, asked) in open_calls.items():
        keys.setdefault(asked["key"], []).append(_kv_op(process, asked, None, began, None))
    return {key: sorted(ops, key=lambda op: op.t_invoke) for key, ops in keys.items()}


def _kv_op(process: int, asked: dict[str, str], value: str | None, began: int, ended: int | None) -> Op:
    is_get = asked["f"] == "get"
    return Op(process, asked["f"], () if is_get else (asked["value"],), value if is_get else None, began, ended)


def read_real(root: Path) -> Iterator[tuple[str, str, bool]]:
    """(name, text, linearizable) of every history of the data set, verified."""
    from operators.lab import datasets

    verdicts = datasets.path(SET, "verdicts.csv", root)
    for row in csv.DictReader(verdicts.read_text().splitlines()):
        name = row["file"]
        place = name if name.startswith("kv/") else f"etcd/{name}"
        yield name, datasets.path(SET, place, root).read_text(), row["linearizable"] in ("true", "True", "1", "yes")


def write_register(events: Sequence[tuple[int, str, str, str]]) -> str:
    """Events (process, type, function, value) as an etcd log."""
    return "".join(f"INFO  jepsen.util - {p}\t:{kind}\t:{f}\t{value}\n" for p, kind, f, value in events)


def write_kv(events: Sequence[tuple[int, str, str, int, str]]) -> str:
    """Events (process, type, function, key, value) as a kv history."""
    return "".join(
        f'{{:process {p}, :type :{kind}, :f :{f}, :key "{key}", :value "{value}"}}\n'
        for p, kind, f, key, value in events
    )
