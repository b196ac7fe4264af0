"""The state on the wire: round trips, and no damaged byte that is taken for a state, in Python and C++ alike."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.batann import state as wire
from operators.batann.engine import native_core
from operators.batann.state import QueryState, StateError

distances = st.floats(0, 1e9, width=32)
entries = st.tuples(st.integers(0, 2**32 - 1), distances)


@st.composite
def states(draw) -> QueryState:
    beam = draw(st.dictionaries(st.integers(0, 2**32 - 1), distances, max_size=20))
    L = draw(st.integers(max(1, len(beam)), 2048))
    W = draw(st.integers(1, 64))
    ordered = sorted(beam.items(), key=lambda pair: (pair[1], pair[0]))
    return QueryState(
        query_id=draw(st.integers(0, 2**64 - 1)),
        epoch=draw(st.integers(0, 2**64 - 1)),
        k=draw(st.integers(1, L)),
        L=L,
        W=W,
        w_now=draw(st.integers(0, W)),
        attempt=draw(st.integers(0, 2**16 - 1)),
        flags=draw(st.integers(0, 15)),
        budget_us=draw(st.integers(0, 2**64 - 1)),
        client_ip=draw(st.integers(0, 2**32 - 1)),
        client_port=draw(st.integers(0, 2**16 - 1)),
        history=tuple(draw(st.lists(st.integers(0, 255), max_size=12))),
        beam=tuple((node, dist, draw(st.integers(0, 1))) for node, dist in ordered),
        full=tuple(draw(st.lists(entries, max_size=20))),
    )


@given(states())
@settings(max_examples=60, deadline=None)
def test_a_state_comes_back_as_it_left(state):
    data = state.to_bytes()
    assert QueryState.from_bytes(data) == state
    assert len(data) == 120 + len(state.history) + 9 * len(state.beam) + 8 * len(state.full) + 4
    assert wire.query_id_of(data) == state.query_id
    assert tuple(wire.history_of(data)) == state.history
    assert wire.client_of(data) == state.client
    if (core := native_core()) is not None:
        assert core.check_state(data) == ""
        assert core.rewrite_state(data) == data


@given(states(), st.data())
@settings(max_examples=60, deadline=None)
def test_no_truncated_or_flipped_byte_is_taken_for_a_state(state, data):
    whole = state.to_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    for damaged in (whole[:cut], whole + b"x", bytes(flipped)):
        with pytest.raises(StateError):
            QueryState.from_bytes(damaged)
        if (core := native_core()) is not None:
            assert core.check_state(damaged)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"L": 0, "k": 0}, "L"),
        ({"L": 2049}, "L"),
        ({"W": 0}, "W"),
        ({"W": 65}, "W"),
        ({"k": 21}, "k"),
        ({"k": 0}, "k"),
        ({"w_now": 5}, "w_now"),
        ({"beam": ((1, 2.0, 0), (2, 1.0, 0))}, "sorted"),
        ({"beam": ((1, 2.0, 0), (1, 2.0, 0))}, "sorted"),
        ({"beam": ((1, float("nan"), 0),)}, "beam"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused_by_both(changes, word):
    data = QueryState(query_id=1, epoch=2).with_changes(**changes).to_bytes()
    with pytest.raises(StateError, match=word):
        QueryState.from_bytes(data)
    if (core := native_core()) is not None:
        assert word in core.check_state(data)


def test_results_parts_and_traces_are_checked():
    refusal = wire.refusal(QueryState(query_id=3, epoch=4, attempt=1, history=(0, 2)).to_bytes(), "busy", 2)
    answer = wire.Answer.from_bytes(refusal)
    assert (answer.query_id, answer.attempt, answer.status, answer.reason) == (3, 1, "failed", "busy")
    assert answer.history == (0, 2)
    for parse in (wire.Answer.from_bytes, wire.part_of_answer, wire.trace_steps):
        for damaged in (b"", refusal[:-1], refusal + b"x", b"\xff" * 90):
            with pytest.raises(StateError):
                parse(damaged)
