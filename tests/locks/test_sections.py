"""Sections: what the compiler accepts gives what Python gives; what it refuses has file, line and reason."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.locks.bytecode import OPS, Handle, Program
from operators.locks.errors import LockOrderError, SectionError, SectionTimeout, TransformError
from operators.locks.reference import Reference
from operators.locks.sections import section
from tests.locks.regions import small

LIMIT = 7
text = "a string"


@pytest.fixture
def region(tmp_path):
    with small(tmp_path) as made:
        yield made


def test_arithmetic_is_pythons(region):
    locks, cells = region.locks(1), region.cells(4)

    @section
    def mixed(tx, a, b):
        with tx.lock(locks[0]):
            c = a // b + a % b if b != 0 else -1
            d = (a << 2) ^ (b & 5) | (a >> 1)
            e = max(a, b, 3) - min(a, b) + abs(a)
            f = 0
            for i in range(10, 0, -3):
                if i == 4:
                    continue
                f += i
                if f > 15:
                    break
            while f % 5:
                f += 1
            g = 1 < a <= b or not (a == b and a > 0)
            cells[0], cells[1] = c, d
            cells[2] += cells[0] * LIMIT
        return c, d + ~e, f, g

    for a in (-9, -1, 0, 3, 8):
        for b in (-4, 0, 2, 7):
            plain = Reference({cells: cells.to_list()})
            assert mixed.call(region, a, b) == tuple(map(int, plain.call(mixed, a, b)))
            assert cells.to_list() == plain.state[cells]


@settings(max_examples=40, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(-99, 99), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    ),
    nest=st.sampled_from(["flat", "stacked"]),
)
def test_random_calls_match_the_sequential_reference(tmp_path_factory, calls, nest):
    with small(tmp_path_factory.mktemp("random")) as region:
        cells, locks = region.cells(8, 5), region.locks(8)

        @section(nest=nest)
        def step(tx, a, b, amount, kind):
            with tx.lock(locks[a]):
                cells[a] += amount
                before = cells[b]
                with tx.lock(locks[b]) as ok:
                    if ok and kind != 1:
                        cells[b] = before + cells[a] if kind == 0 else cells[b] - amount
                        cells[b] += 1
                if kind == 3:
                    cells[a] = cells[b] % 97
                return cells[a], cells[b], before

        plain = Reference({cells: cells.to_list()})
        for call in calls:
            assert step.call(region, *call) == plain.call(step, *call)
        assert cells.to_list() == plain.state[cells]


def refused(function, *, nest="flat"):
    with pytest.raises(TransformError) as caught:
        section(nest=nest)(function).compile()
    assert caught.value.file.endswith("test_sections.py")
    assert f"test_sections.py:{caught.value.line}:" in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print(a)", "call of print: I/O"),
        ("b = time.time()", "call of time.time: the time differs"),
        ("b = random.random()", "call of random.random: its value differs"),
        ("b = 1.5", "floats are not exact"),
        ("b = a / 2", "use // for whole numbers"),
        ("b = text", "text: globals must be ints, Cells, Locks or Pool"),
        ("b = helper(a)", "call of helper: unknown function"),
        ("b = sorted(a)", "call of sorted: only min, max"),
        ("b = section_under_test(a)", "recursion has no bound"),
        ("b = [a]", "List cannot stand"),
        ("import os", "Import cannot stand"),
        ("b = a ** 2", "operator Pow"),
        ("b = c", "globals must be"),
        ("raise ValueError", "Raise cannot stand"),
    ],
)
def test_what_cannot_be_a_section_is_refused_with_file_line_and_reason(region, tmp_path, body, reason):
    source = (
        "def make(cells, locks, text='x'):\n"
        "    def section_under_test(tx, a):\n"
        "        with tx.lock(locks[0]):\n"
        f"            {body}\n"
        "    return section_under_test\n"
    )
    file = tmp_path / "user.py"
    file.write_text(source)
    scope = {}
    exec(compile(source, str(file), "exec"), scope)
    with pytest.raises(TransformError) as caught:
        section(scope["make"](region.cells(1), region.locks(1))).compile()
    assert (caught.value.file, caught.value.line) == (str(file), 4)
    assert reason in str(caught.value)


def test_a_section_without_source_says_that_the_source_is_needed(region):
    scope = {"section": section, "cells": region.cells(1), "locks": region.locks(1)}
    exec("@section\ndef bare(tx):\n    with tx.lock(locks[0]):\n        cells[0] += 1\n", scope)
    with pytest.raises(TransformError, match=r"<string>:1: the source is needed .* define it in a file"):
        scope["bare"].call(region)


def test_stores_and_reads_need_a_lock(region):
    cells, locks = region.cells(1), region.locks(1)

    def early(tx, a):
        cells[0] = a
        with tx.lock(locks[0]):
            pass

    assert "a store where no lock is held" in refused(early).reason
    first = early.__code__.co_firstlineno
    assert refused(early).line == first + 1

    def late(tx):
        with tx.lock(locks[0]):
            pass
        return cells[0]

    assert "a read where no lock is held" in refused(late).reason

    def none(tx, a):
        return a

    assert "takes no lock" in refused(none).reason


def test_stacked_refuses_a_lock_that_could_undo_what_is_done(region):
    cells, locks = region.cells(3), region.locks(3)

    def twice(tx):
        with tx.lock(locks[0]):
            with tx.lock(locks[1]):
                cells[0] += 1
            with tx.lock(locks[2]):
                cells[1] += 1

    assert "whose effect is done" in refused(twice, nest="stacked").reason
    section(twice).compile()


def test_errors_are_agreed_and_change_nothing(region):
    cells, locks = region.cells(4, 9), region.locks(4)

    @section(max_ops=1000)
    def wrong(tx, kind, i):
        with tx.lock(locks[0]):
            cells[0] = 1
            if kind == 0:
                cells[i + 1] = 2
            if kind == 1:
                cells[1] = 1 << 43
            if kind == 2:
                cells[1] = 5 // (i - i)
            while kind == 3:
                i += 1
            if kind == 4:
                for k in range(40):
                    cells[k % 4] = k

    found = {}
    for kind, name in enumerate(["index", "overflow", "division", "max_ops", "log_full"]):
        with pytest.raises(SectionError) as caught:
            wrong.call(region, kind, 7)
        assert caught.value.kind == name
        assert "test_sections.py:" in str(caught.value)
        found[name] = caught.value
        assert cells.to_list() == [9] * 4
        assert all(locks.holder(k) is None for k in range(4))
    assert isinstance(found["index"], IndexError)
    assert isinstance(found["overflow"], OverflowError)


def test_a_bare_argument_is_checked_before_any_shared_step(region):
    cells, locks = region.cells(4), region.locks(4)

    @section
    def touch(tx, i):
        with tx.lock(locks[i]):
            cells[0] += 1

    for bad in (-1, 4, 2**61):
        with pytest.raises(IndexError):
            touch.call(region, bad)
    assert region.last_call().seq == 0
    with pytest.raises(OverflowError):
        touch.call(region, 2**70)
    with pytest.raises(TypeError):
        touch.call(region, 1, 2)


def test_strict_order_and_refusals(region):
    cells, locks = region.cells(1), region.locks(3)

    @section(locks="ascending")
    def ordered(tx, a, b):
        with tx.lock(locks[a]), tx.lock(locks[b]):
            cells[0] += 1

    ordered.call(region, 0, 2)
    with pytest.raises(LockOrderError, match="against the declared order"):
        ordered.call(region, 2, 0)
    assert cells[0] == 1


def test_a_lock_that_nobody_frees_times_out_and_has_not_happened(region):
    cells, locks = region.cells(1), region.locks(1)

    @section
    def add(tx):
        with tx.lock(locks[0]):
            cells[0] += 1

    add.bind(region)
    region.core.set_mode(True, 0, 0)  # the ablation: nobody helps
    taken = region.core.claim_lock_for_test(locks.place[0])
    try:
        assert add.try_call(region) == (False, None)
        with pytest.raises(SectionTimeout, match="it has not happened"):
            add.call(region, retry=False)
        with pytest.raises(SectionTimeout):
            add.call(region, timeout_s=0.01)
    finally:
        region.core.release_lock_for_test(locks.place[0], taken)
    assert add.try_call(region) == (True, None)
    assert cells[0] == 1


def test_reentrant_locks_and_results(region):
    cells, locks = region.cells(2), region.locks(2)

    for nest in ("flat", "stacked"):

        @section(nest=nest)
        def again(tx, a):
            with tx.lock(locks[a]), tx.lock(locks[a]), tx.lock(locks[1]):
                cells[a] += 1
                return -cells[a], 2, 3, 4

        assert again.call(region, 0)[1:] == (2, 3, 4)
        assert again.call(region, 1)[1:] == (2, 3, 4)
        assert all(locks.holder(k) is None for k in range(2))
        region._sections.clear()


def _record(code, *, handles=(), checks=(), nargs=1, nres=0, wide=()):
    code = [(OPS[name], *rest) for name, *rest in code]
    return Program(
        "made", nargs, nres, "flat", 100, False, "f", code, [1] * len(code), dict(wide), list(handles), list(checks)
    ).words()


RET = ("RET", 0, 0, 0, 0)
IMMEDIATE = [("CONST64", 0, 0, 0, 0), RET]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_record([("JMP", 0, 0, 0, 1), *IMMEDIATE, RET]), "instruction 0: jump out of range"),
        (_record(IMMEDIATE), "runs off its end"),
        (_record([RET, ("CONST64", 0, 0, 0, 0)]), "constant is missing"),
        (_record([("LOADC", 0, 0, 0, 0), RET], handles=[Handle(2**40, 1, 1)]), "handle leads out of the region"),
        (_record([("LOADC", 0, 0, 0, 0), RET], handles=[Handle(0, 4, 1)]), "handle leads out of the region"),
        (_record([("ADDC", 0, 0, 0, 0), RET], handles=[Handle(9000, 2**40, 1)]), "handle leads out of the region"),
        (_record([("LOADN", 0, 0, 0, 1), RET], handles=[Handle(9000, 2**32, 2**32)]), "handle leads out of the region"),
        (_record([("LOCK", 0, 0, 0, 1), RET], handles=[Handle(0, 2**17, 1)]), "handle leads out of the region"),
        (_record([RET], checks=[(1, 5)]), "check of an argument out of range"),
        (_record([("ERR", 0, 0, 0, 2**30)]), "unknown error"),
        ([0] * 7, "sizes do not fit"),
    ],
)
def test_bytecode_that_could_leave_the_region_is_refused(region, record, reason):
    number, why = region.core.section(record)
    assert number == -1
    assert reason in why
    assert region.core.section(_record([("JMP", 0, 0, 0, 2), *IMMEDIATE, RET]))[1] == ""


def test_compiler_and_core_number_their_operations_alike():
    header = (Path(__file__).parents[2] / "operators" / "locks" / "native" / "core.h").read_text()
    names = re.search(r"enum lk_op \{(.*?)OP_LAST", header, re.DOTALL)[1].replace("OP_", "").replace(",", " ").split()
    assert {name: number for number, name in enumerate(names)} == OPS
