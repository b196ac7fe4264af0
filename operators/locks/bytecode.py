"""Bytecode of sections: operations, and the assembler that lays a compiled function out as words of the region.

The numbers are those of native/core.h (enum lk_op, X_*); native/region.c verifies every record before it is used.
"""

import hashlib
import struct
from dataclasses import dataclass, field

OPS = {
    name: number
    for number, name in enumerate(
        [
            "CONST",
            "CONST64",
            "MOV",
            "ADD",
            "SUB",
            "MUL",
            "DIV",
            "MOD",
            "NEG",
            "AND",
            "OR",
            "XOR",
            "SHL",
            "SHR",
            "LT",
            "LE",
            "EQ",
            "NE",
            "NOT",
            "JMP",
            "JZ",
            "JNZ",
            "LOADC",
            "STOREC",
            "LOADN",
            "STOREN",
            "LOCK",
            "UNLOCK",
            "SLOT",
            "ERR",
            "RET",
            "ADDI",
            "MIN",
            "MAX",
            "ADDC",
            "SUBC",
            "ADDI_C",
        ]
    )
}
REGISTERS, MAX_ARGS, MAX_RESULTS, NAME_BYTES = 32, 8, 4, 64
LOCK_MUST, LOCK_ASCENDING = 1, 2
NESTS = {"flat": 0, "stacked": 1}


@dataclass(frozen=True)
class Handle:
    """Where an array of cells, locks or nodes lies: first word (or lock), length, words per element."""

    base: int
    n: int
    stride: int


@dataclass
class Program:
    """A compiled section: instructions as (op, a, b, c, imm), with the source line of each."""

    name: str
    nargs: int
    nres: int
    nest: str
    max_ops: int
    strict: bool
    file: str
    code: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    wide: dict[int, int] = field(default_factory=dict)  # position of a CONST64's second word -> value
    handles: list[Handle] = field(default_factory=list)
    checks: list[tuple[int, int]] = field(default_factory=list)  # argument number, exclusive limit

    def words(self) -> list[int]:
        """The section record: header, code, handles, checks; all unsigned 64-bit words."""
        body = [
            self.wide[at] & (2**64 - 1) if at in self.wide else _pack(*instruction)
            for at, instruction in enumerate(self.code)
        ]
        body += [word for handle in self.handles for word in (handle.base, handle.n, handle.stride)]
        body += [word for check in self.checks for word in check]
        head = [len(self.code), len(self.handles), self.nargs, 0, 0, 0, self.max_ops, NESTS[self.nest]]
        head += [int(self.strict), self.nres, len(self.checks), 24 + len(body)]
        name = self.name.encode()[: NAME_BYTES - 1].ljust(NAME_BYTES, b"\0")
        digest = hashlib.sha256(struct.pack(f"<{len(head) + len(body)}Q", *head, *body)).digest()
        words = [*struct.unpack("<8Q", name), int.from_bytes(digest[:8], "little"), *head]
        return words + [0] * (24 - len(words)) + body


def _pack(op: int, a: int, b: int, c: int, imm: int) -> int:
    return int.from_bytes(struct.pack("<BBBBi", op, a, b, c, imm), "little")
