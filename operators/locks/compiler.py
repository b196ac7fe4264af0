"""From a restricted Python function to section bytecode.

What may stand in a section: ints, `if`/`while`/`for range`, `with tx.lock(locks[i])` (nested, `as ok` for a try), cells
and node fields read and written under a lock, `tx.alloc`/`tx.free` of a pool, min/max/abs/len, and a return of at most
four ints. Everything else cannot be run twice with one effect, and is refused with file, line and reason.

The outermost lock is held to the end of the function. A lock that is taken refuses the whole section (which has done
nothing yet, and is tried again) unless it is written `as ok`.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from operators.locks.bytecode import (
    LOCK_ASCENDING,
    LOCK_MUST,
    MAX_ARGS,
    MAX_RESULTS,
    OPS,
    REGISTERS,
    Program,
)
from operators.locks.errors import TransformError
from operators.locks.expressions import Expressions
from operators.locks.handles import Cells, Locks

COMPUTED = {
    OPS[name]
    for name in [
        "CONST",
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
        "NOT",
        "LOADC",
        "LOADN",
        "SLOT",
        "ADDI",
        "MIN",
        "MAX",
    ]
}


def compile_section(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    nest: str = "flat",
    max_ops: int = 10_000,
    locks: str | None = None,
) -> Program:
    """Compile `function(tx, ...)` with the handles it refers to bound; TransformError where that is impossible."""
    file, first = inspect.getsourcefile(function) or function.__code__.co_filename, function.__code__.co_firstlineno
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, piped into python, made by exec or built in
        raise TransformError(file, first, "the source is needed to make a section; define it in a file") from None
    tree = ast.parse(textwrap.dedent(source))
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TransformError(file, first, "a section is a plain function (def)")
    names = inspect.getclosurevars(function)
    program = _Compiler(node, file, first, {**names.globals, **names.nonlocals}, nest, max_ops, locks).program
    program.name = name or program.name
    return program


class _Compiler(Expressions):
    def __init__(self, node, file, first, scope, nest, max_ops, locks):
        self.file, self.offset, self.scope = file, first - 1, scope
        self.name, self.nest, self.strict = node.name, nest, locks == "ascending"
        self.registers: dict[str, int] = {}
        self.next = 0
        self.held: list[tuple[int, int, int]] = []  # (ok register, index register, handle) of each `with`
        self.loops: list[dict[str, Any]] = []
        self.committed_inside = False  # an inner level of `stacked` has ended: its effect stands
        self.handles: dict[int, int] = {}
        self.took_lock = False
        parameters = self._parameters(node)
        self.assigned = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self.program = Program(node.name, len(parameters), _results(node, self), nest, max_ops, self.strict, file)
        self.line = node
        for name in [*parameters, *sorted(self.assigned - set(parameters))]:
            self._register(name)
        self.temporary, self.landing = self.next, -1  # registers from here on hold intermediate values
        self.defined = set(parameters)
        for name in sorted(self.assigned - set(parameters)):
            self._constant(0, self.registers[name])  # a variable no path has set is 0 for every runner
        for statement in node.body:
            self._statement(statement)
        self._return(None, node)
        if not self.took_lock:
            raise self._error(node, "takes no lock; a section needs `with tx.lock(...)`")

    def _error(self, node: ast.AST, reason: str) -> TransformError:
        return TransformError(self.file, getattr(node, "lineno", 1) + self.offset, reason)

    def _parameters(self, node: ast.FunctionDef) -> list[str]:
        given = node.args
        if given.vararg or given.kwarg or given.kwonlyargs or given.defaults or not given.args:
            raise self._error(node, "expected plain parameters: the transaction first, then ints")
        self.tx = given.args[0].arg
        if len(given.args) - 1 > MAX_ARGS:
            raise self._error(node, f"{len(given.args) - 1} arguments; at most {MAX_ARGS}")
        return [argument.arg for argument in given.args[1:]]

    # ---- registers and instructions ----

    def _register(self, name: str | None = None) -> int:
        if name in self.registers:
            return self.registers[name]
        if self.next == REGISTERS:
            raise self._error(self.line, f"more than {REGISTERS} variables and intermediate values at once")
        self.next += 1
        if name is not None:
            self.registers[name] = self.next - 1
        return self.next - 1

    def _emit(self, op: str, a: int = 0, b: int = 0, c: int = 0, imm: int = 0) -> int:
        self.program.code.append((OPS[op], a, b, c, imm))
        self.program.lines.append(getattr(self.line, "lineno", 1) + self.offset)
        return len(self.program.code) - 1

    def _move(self, into: int, value: int) -> None:
        """`into` = `value`; an intermediate value that was just computed is computed there at once."""
        code, here = self.program.code, len(self.program.code)
        fresh = code and value >= self.temporary and value == code[-1][1] and here != self.landing
        if fresh and code[-1][0] in COMPUTED and here - 1 not in self.program.wide:
            code[-1] = (code[-1][0], into, *code[-1][2:])
            return
        self._emit("MOV", into, value)

    def _aim(self, at: int, target: int | None = None) -> None:
        """Let the jump at `at` go to `target` (default: here)."""
        if target is None:
            self.landing = len(self.program.code)
        target = len(self.program.code) if target is None else target
        self.program.code[at] = (*self.program.code[at][:4], target - at - 1)

    def _constant(self, value: int, into: int) -> None:
        if -(2**31) <= value < 2**31:
            self._emit("CONST", into, imm=value)
        elif -(2**63) <= value < 2**63:
            self._emit("CONST64", into)
            self.program.wide[self._emit("CONST")] = value
        else:
            raise self._error(self.line, f"{value} does not fit 64 bits")

    # ---- statements ----

    def _statement(self, node: ast.stmt) -> None:
        self.line, before = node, self.next
        method = getattr(self, f"_do_{type(node).__name__}", None)
        if method is None:
            raise self._error(node, f"{type(node).__name__} cannot stand in a section")
        method(node)
        self.next = before  # intermediate values end with their statement

    def _do_Pass(self, node):
        pass

    def _do_Expr(self, node):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return  # a docstring
        self._value(node.value)

    def _do_Assign(self, node):
        if len(node.targets) != 1:
            raise self._error(node, "one target per assignment")
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):  # all values before any target
            if len(target.elts) != len(node.value.elts):
                raise self._error(node, "as many values as targets")
            values = []
            for value in node.value.elts:
                values.append(self._register())
                self._move(values[-1], self._value(value))
            for one, value in zip(target.elts, values, strict=True):
                self._store(one, value)
            return
        self._store(target, self._value(node.value))

    def _do_AnnAssign(self, node):
        if node.value is not None:
            self._do_Assign(ast.copy_location(ast.Assign([node.target], node.value), node))

    def _do_AugAssign(self, node):
        target = node.target
        if isinstance(target, ast.Subscript) and isinstance(node.op, ast.Add | ast.Sub):
            handle = self._handle(target.value, Cells)
            if handle is not None and self.held:  # one operation: the commonest update there is
                given = node.value.value if isinstance(node.value, ast.Constant) else None
                if type(given) is int and abs(given) < 2**31:
                    by = given if isinstance(node.op, ast.Add) else -given
                    self._emit("ADDI_C", 0, self._value(target.slice), handle, by)
                    return
                value, index = self._value(node.value), self._value(target.slice)
                self._emit("ADDC" if isinstance(node.op, ast.Add) else "SUBC", value, index, handle)
                return
        read = ast.parse(ast.unparse(target), mode="eval").body
        for part in ast.walk(read):
            ast.copy_location(part, node)
        self._store(target, self._binary(node.op, read, node.value, node))

    def _store(self, target: ast.expr, value: int) -> None:
        if isinstance(target, ast.Name):
            if target.id == self.tx:
                raise self._error(target, f"{target.id} cannot be assigned")
            self.defined.add(target.id)
            self._move(self.registers[target.id], value)
        elif isinstance(target, ast.Subscript):
            self._access(target, "STORE", value)
        else:
            raise self._error(target, f"cannot assign to {ast.unparse(target)}")

    def _do_If(self, node):
        skip = self._emit("JZ", self._value(node.test))
        committed = self.committed_inside
        self._block(node.body)
        after_body, self.committed_inside = self.committed_inside, committed
        if node.orelse:
            end = self._emit("JMP")
            self._aim(skip)
            self._block(node.orelse)
            self._aim(end)
        else:
            self._aim(skip)
        self.committed_inside |= after_body

    def _block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _do_While(self, node):
        if node.orelse:
            raise self._error(node, "else of a loop cannot stand in a section")
        top = len(self.program.code)
        leave = self._emit("JZ", self._value(node.test))
        self._loop(node.body, top)
        self._aim(self._emit("JMP"), top)
        self._aim(leave)
        self._end_loop()

    def _do_For(self, node):
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
            raise self._error(node, "a for loop runs over range(...)")
        if not isinstance(node.target, ast.Name) or node.orelse or call.keywords or not 1 <= len(call.args) <= 3:
            raise self._error(node, "expected `for name in range(start, stop, step)` without else")
        start, stop, step = [ast.Constant(0), call.args[0], ast.Constant(1)] if len(call.args) == 1 else (
            [*call.args, ast.Constant(1)][:3]
        )  # fmt: skip
        sign = step.operand if isinstance(step, ast.UnaryOp) and isinstance(step.op, ast.USub) else step
        if not isinstance(sign, ast.Constant) or not isinstance(sign.value, int) or sign.value == 0:
            raise self._error(node, "the step of range must be a constant other than 0")
        by = sign.value if sign is step else -sign.value
        count, end = self._register(), self._register()
        name = self.registers[node.target.id]
        self.defined.add(node.target.id)
        self._emit("MOV", count, self._value(ast.copy_location(start, node)))
        self._emit("MOV", end, self._value(stop))
        test, top = self._register(), len(self.program.code)
        self._emit("LT", test, *((count, end) if by > 0 else (end, count)))
        leave = self._emit("JZ", test)
        self._emit("MOV", name, count)
        loop = self._loop(node.body, None)
        for at in loop["continues"]:
            self._aim(at)
        self._emit("ADDI", count, count, imm=by)
        self._aim(self._emit("JMP"), top)
        self._aim(leave)
        self._end_loop()

    def _loop(self, body: list[ast.stmt], top: int | None) -> dict[str, Any]:
        loop = {"breaks": [], "continues": [], "top": top, "held": len(self.held)}
        self.loops.append(loop)
        inner = any(isinstance(n, ast.With) for statement in body for n in ast.walk(statement))
        if inner and self.held and self.nest == "stacked":
            self.committed_inside = True  # of the iteration before
        self._block(body)
        if top is not None:
            for at in loop["continues"]:
                self._aim(at, top)
        return loop

    def _end_loop(self) -> None:
        for at in self.loops.pop()["breaks"]:
            self._aim(at)

    def _do_Break(self, node):
        self._jump_out(node, "breaks")

    def _do_Continue(self, node):
        self._jump_out(node, "continues")

    def _jump_out(self, node, kind: str) -> None:
        for held in reversed(self.held[self.loops[-1]["held"] :]):
            self._unlock(held)
        self.loops[-1][kind].append(self._emit("JMP"))

    def _do_With(self, node):
        for item in node.items:
            self._enter(item, node)
        self._block(node.body)
        for _ in node.items:
            self._unlock(self.held.pop())
            if self.held and self.nest == "stacked":
                self.committed_inside = True

    def _unlock(self, held: tuple[int, int, int]) -> None:
        if self.nest == "stacked":  # `flat` keeps every lock to the end
            self._emit("UNLOCK", *held)

    def _enter(self, item: ast.withitem, node: ast.With) -> None:
        call = item.context_expr
        if not (isinstance(call, ast.Call) and self._is_tx(call.func, "lock") and len(call.args) == 1):
            raise self._error(node, f"`with {ast.unparse(call)}`: expected `with tx.lock(locks[i])`")
        place = call.args[0]
        handle = self._handle(place.value, Locks) if isinstance(place, ast.Subscript) else None
        if handle is None:
            raise self._error(node, f"tx.lock({ast.unparse(place)}): expected an element of Locks, as locks[i]")
        index = self._register()
        self._check_argument(place.slice, handle)
        self._move(index, self._value(place.slice))
        if item.optional_vars is not None and not isinstance(item.optional_vars, ast.Name):
            raise self._error(node, "expected `as name`")
        must = item.optional_vars is None
        if must and self.held and self.committed_inside:
            raise self._error(
                node,
                "a lock that refuses the section stands after an inner section whose effect is done (nest='stacked'); "
                "take it before, or write `as ok`",
            )
        ok = self._register() if must else self.registers[item.optional_vars.id]
        if not must:
            self.defined.add(item.optional_vars.id)
        flags = (LOCK_MUST if must or not self.took_lock else 0) | (LOCK_ASCENDING if self.strict else 0)
        self._emit("LOCK", ok, index, handle, flags)
        self.held.append((ok, index, handle))
        self.took_lock = True

    def _do_Return(self, node):
        self._return(node.value, node)

    def _return(self, value: ast.expr | None, node: ast.AST) -> None:
        if value is None or (isinstance(value, ast.Constant) and value.value is None):
            self._emit("RET", 0, imm=0)
            return
        values = value.elts if isinstance(value, ast.Tuple) else [value]
        first = self._register()
        places = [first] + [self._register() for _ in values[1:]]
        for place, one in zip(places, values, strict=True):
            self._move(place, self._value(one))
        self._emit("RET", first, imm=len(values))


def _results(node: ast.FunctionDef, compiler: _Compiler) -> int:
    """How many ints the function returns; every return must agree."""
    counts = {}
    for found in ast.walk(node):
        if isinstance(found, ast.Return):
            none = found.value is None or (isinstance(found.value, ast.Constant) and found.value.value is None)
            counts[0 if none else len(found.value.elts) if isinstance(found.value, ast.Tuple) else 1] = found
    if len(counts) > 1:
        raise compiler._error(next(iter(counts.values())), "every return must give the same number of ints")
    count = next(iter(counts), 0)
    if count > MAX_RESULTS:
        raise compiler._error(counts[count], f"returns {count} ints; at most {MAX_RESULTS}")
    return count
