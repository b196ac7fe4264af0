"""Expressions of a section: each method returns the register that holds the value. Used by compiler.py."""

import ast
import builtins

from operators.locks.bytecode import Handle
from operators.locks.handles import Cells, Locks, Pool

BINARY = {
    ast.Add: "ADD",
    ast.Sub: "SUB",
    ast.Mult: "MUL",
    ast.FloorDiv: "DIV",
    ast.Mod: "MOD",
    ast.BitAnd: "AND",
    ast.BitOr: "OR",
    ast.BitXor: "XOR",
    ast.LShift: "SHL",
    ast.RShift: "SHR",
}
COMPARE = {ast.Lt: ("LT", False), ast.LtE: ("LE", False), ast.Gt: ("LT", True), ast.GtE: ("LE", True)}
COMPARE |= {ast.Eq: ("EQ", False), ast.NotEq: ("NE", False)}
POOL_ERROR = 10
REASONS = {
    **dict.fromkeys(("print", "open", "input", "breakpoint", "exec", "eval"), "I/O and the like cannot be undone"),
    **dict.fromkeys(("time", "datetime"), "the time differs between runners"),
    **dict.fromkeys(("random", "secrets", "uuid", "numpy", "np", "os"), "its value differs between runners"),
}


class Expressions:
    """The half of the compiler that knows values; the other half (statements, registers) is in compiler.py."""

    def _value(self, node: ast.expr) -> int:
        method = getattr(self, f"_of_{type(node).__name__}", None)
        if method is None:
            raise self._error(node, f"{ast.unparse(node)}: {type(node).__name__} cannot stand in a section")
        return method(node)

    def _of_Constant(self, node):
        if not isinstance(node.value, int):
            kind = "floats are not exact" if isinstance(node.value, float) else "only ints"
            raise self._error(node, f"{ast.unparse(node)}: {kind}; a section computes with ints")
        into = self._register()
        self._constant(int(node.value), into)
        return into

    def _of_Name(self, node):
        if node.id in self.defined:
            return self.registers[node.id]
        if node.id in self.assigned:
            raise self._error(node, f"{node.id}: read before it is assigned")
        value = self.scope.get(node.id)
        if isinstance(value, int):
            into = self._register()
            self._constant(int(value), into)
            return into
        if isinstance(value, Cells | Locks | Pool):
            raise self._error(node, f"{node.id}: use an element of it, as {node.id}[i]")
        what = REASONS.get(node.id, "globals must be ints, Cells, Locks or Pool")
        raise self._error(node, f"{node.id}: {what}")

    def _of_UnaryOp(self, node):
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return self._of_Constant(ast.copy_location(ast.Constant(-node.operand.value), node))
        value = self._value(node.operand)
        if isinstance(node.op, ast.UAdd):
            return value
        into = self._register()
        if isinstance(node.op, ast.Invert):  # ~x = -x - 1
            self._emit("NEG", into, value)
            self._emit("ADDI", into, into, imm=-1)
        else:
            self._emit("NOT" if isinstance(node.op, ast.Not) else "NEG", into, value)
        return into

    def _of_BinOp(self, node):
        return self._binary(node.op, node.left, node.right, node)

    def _binary(self, op: ast.operator, left: ast.expr, right: ast.expr, node: ast.AST) -> int:
        name = BINARY.get(type(op))
        if name is None:
            hint = "; use // for whole numbers" if isinstance(op, ast.Div) else ""
            raise self._error(node, f"operator {type(op).__name__} is not exact on ints{hint}")
        a = self._value(left)
        if isinstance(op, ast.Add | ast.Sub) and isinstance(right, ast.Constant) and type(right.value) is int:
            by = right.value if isinstance(op, ast.Add) else -right.value
            if abs(by) < 2**31:
                into = self._register()
                self._emit("ADDI", into, a, imm=by)
                return into
        b, into = self._value(right), self._register()
        self._emit(name, into, a, b)
        return into

    def _of_Compare(self, node):
        into, ends = self._register(), []
        left = self._value(node.left)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            if type(op) not in COMPARE:
                raise self._error(node, f"{type(op).__name__} cannot stand in a section")
            name, swapped = COMPARE[type(op)]
            right = self._value(right_node)
            self._emit(name, into, *((right, left) if swapped else (left, right)))
            left = right
            ends.append(self._emit("JZ", into))
        for at in ends:
            self._aim(at)
        if len(ends) == 1:  # no chain: the jump goes nowhere
            self.program.code.pop()
            self.program.lines.pop()
        return into

    def _of_BoolOp(self, node):
        into, ends = self._register(), []
        for value in node.values:
            self._emit("MOV", into, self._value(value))
            ends.append(self._emit("JZ" if isinstance(node.op, ast.And) else "JNZ", into))
        for at in ends:
            self._aim(at)
        return into

    def _of_IfExp(self, node):
        into = self._register()
        skip = self._emit("JZ", self._value(node.test))
        self._emit("MOV", into, self._value(node.body))
        end = self._emit("JMP")
        self._aim(skip)
        self._emit("MOV", into, self._value(node.orelse))
        self._aim(end)
        return into

    def _of_Subscript(self, node):
        return self._access(node, "LOAD", self._register())

    def _of_Tuple(self, node):
        raise self._error(node, "a tuple can only be returned")

    # ---- handles and calls ----

    def _handle(self, node: ast.expr, kind: type) -> int | None:
        """Number of the handle that `node` names, if it is one of `kind`."""
        value = self.scope.get(node.id) if isinstance(node, ast.Name) else None
        if not isinstance(value, kind):
            return None
        if id(value) not in self.handles:
            self.handles[id(value)] = len(self.program.handles)
            self.program.handles.append(Handle(*value.place))
        return self.handles[id(value)]

    def _check_argument(self, index: ast.expr, handle: int) -> None:
        """An index that is a bare argument is checked before any shared step."""
        if isinstance(index, ast.Name) and index.id not in self.assigned and index.id in self.registers:
            number = self.registers[index.id]
            if number < self.program.nargs:
                check = (number, self.program.handles[handle].n)
                if check not in self.program.checks:
                    self.program.checks.append(check)

    def _access(self, node: ast.Subscript, kind: str, register: int) -> int:
        if not self.held:
            what = "store" if kind == "STORE" else "read"
            raise self._error(node, f"{ast.unparse(node)}: a {what} where no lock is held")
        handle = self._handle(node.value, Cells)
        if handle is not None:
            self._emit(f"{kind}C", register, self._value(node.slice), handle)
            return register
        handle = self._handle(node.value, Pool)
        if handle is None:
            raise self._error(node, f"{ast.unparse(node)}: expected cells[i] or pool[node, field]")
        pair = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
        name = pair[1] if len(pair) == 2 else None
        value = name.value if isinstance(name, ast.Constant) else self.scope.get(getattr(name, "id", ""))
        stride = self.program.handles[handle].stride
        if not isinstance(value, int) or not 0 <= value < stride:
            raise self._error(node, f"{ast.unparse(node)}: the field must be a constant from 0 to {stride - 1}")
        self._emit(f"{kind}N", register, self._value(pair[0]), handle, value)
        return register

    def _is_tx(self, func: ast.expr, name: str) -> bool:
        return (
            isinstance(func, ast.Attribute)
            and func.attr == name
            and isinstance(func.value, ast.Name)
            and func.value.id == self.tx
        )

    def _of_Call(self, node):
        if self._is_tx(node.func, "alloc") or self._is_tx(node.func, "free"):
            return self._pool_call(node, node.func.attr)
        name = ast.unparse(node.func)
        if node.keywords:
            raise self._error(node, f"{name}: keyword arguments cannot stand in a section")
        if name == "len" and len(node.args) == 1:
            handle = self._handle(node.args[0], Cells | Locks | Pool)
            if handle is not None:
                into = self._register()
                self._constant(self.program.handles[handle].n, into)
                return into
        if name in ("min", "max") and len(node.args) >= 2:
            return self._extreme(name, node.args)
        if name == "abs" and len(node.args) == 1:
            return self._extreme("max", [node.args[0], ast.copy_location(ast.UnaryOp(ast.USub(), node.args[0]), node)])
        raise self._error(node, f"call of {name}: {self._why_not(name)}")

    def _why_not(self, name: str) -> str:
        if name == self.name:
            return "recursion has no bound"
        found = REASONS.get(name.split(".")[0])
        if found:
            return found
        known = name in self.scope or hasattr(builtins, name)
        return "only min, max, abs, len, tx.lock, tx.alloc and tx.free can be called" if known else "unknown function"

    def _extreme(self, name: str, values: list[ast.expr]) -> int:
        best = self._value(values[0])
        for value in values[1:]:
            other, into = self._value(value), self._register()
            self._emit(name.upper(), into, best, other)
            best = into
        return best

    def _pool_call(self, node: ast.Call, what: str) -> int:
        """Free lists are cells, one list per slot, so alloc and free are updates of the section like any other."""
        handle = self._handle(node.args[0], Pool) if node.args else None
        if handle is None or len(node.args) != (1 if what == "alloc" else 2):
            raise self._error(node, f"expected tx.{what}(pool{'' if what == 'alloc' else ', node'})")
        if not self.held:
            raise self._error(node, f"tx.{what}: a store where no lock is held")
        pool = self.scope[node.args[0].id]
        free = self.handles.setdefault(id(pool.free), len(self.program.handles))
        if free == len(self.program.handles):
            self.program.handles.append(Handle(*pool.free.place))
        slot, head, link = self._register(), self._register(), self._register()
        self._emit("SLOT", slot)
        self._emit("LOADC", head, slot, free)
        if what == "alloc":
            some = self._emit("JNZ", head)
            self._emit("ERR", imm=POOL_ERROR)
            self._aim(some)
            self._emit("LOADN", link, head, handle, 0)
            self._emit("STOREC", link, slot, free)
            return head
        given = self._value(node.args[1])
        self._emit("STOREN", head, given, handle, 0)
        self._emit("STOREC", given, slot, free)
        return given
