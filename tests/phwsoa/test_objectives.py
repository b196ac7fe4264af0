"""Objectives against a plain numpy loop, simulation against hand cases, deltas against full evaluation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.phwsoa import bounds, objectives, semantics
from operators.phwsoa.instance import Instance
from tests.phwsoa import cases


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30),
    m=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    balance=st.sampled_from(objectives.BALANCES),
    quantum=st.sampled_from([0, 60, 3600]),
)
def test_evaluation_agrees_with_numpy(n, m, seed, balance, quantum):
    x = np.random.default_rng(seed).integers(0, m, (3, n))
    for made in (cases.related(n, m, seed), cases.unrelated(n, m, seed)):
        found = objectives.evaluate(made, x, balance=balance, billing_quantum_s=quantum)
        known = objectives.reference(made, x, balance=balance, billing_quantum_s=quantum)
        assert found == pytest.approx(known, rel=1e-9, abs=1e-9)
        assert found[:, 0].min() >= bounds.lower_bound(made) * (1 - 1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["related", "unrelated", "rigid"]))
def test_deltas_agree_with_full_evaluation_and_undo_goes_back(seed, kind):
    made, rng = getattr(cases, kind)(20, 4, seed), np.random.default_rng(seed)
    first = rng.integers(0, 4, 20)
    delta = objectives.Delta(made, first)
    before = delta.objectives
    for _ in range(15):
        found = delta.move(int(rng.integers(20)), int(rng.integers(4)))
        assert found == pytest.approx(objectives.evaluate(made, delta.x)[0], rel=1e-9, abs=1e-9)
    for _ in range(15):
        found = delta.undo()
    assert found == pytest.approx(before, rel=1e-9, abs=1e-9)
    assert np.array_equal(delta.x, first)
    with pytest.raises(ValueError, match="no move"):
        delta.undo()


def test_a_finish_admits_one_waiting_task():
    made = Instance(np.full(5, 10.0), [1.0], [1.0], pes=[4, 1, 1, 1, 1], vm_pes=[4])
    start, _ = semantics.simulate(made, np.zeros(5, int))
    assert start.tolist() == [0, 10, 20, 30, 40]
    start, _ = semantics.simulate(made, np.zeros(5, int), semantics="fcfs")
    assert start.tolist() == [0, 10, 10, 10, 10]


def test_time_sharing_by_hand():
    made = Instance([10.0, 20.0], [1.0], [1.0])
    assert semantics.simulate(made, [0, 0], "time")[1].tolist() == pytest.approx([20, 30])


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 25), m=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_single_pe_makespan_is_the_same_under_space_and_time_sharing(n, m, seed):
    made, x = cases.related(n, m, seed), np.random.default_rng(seed).integers(0, m, n)
    space, shared = (semantics.simulate(made, x, name)[1].max() for name in ("space", "time"))
    assert space == pytest.approx(shared, rel=1e-9)
    assert space == pytest.approx(objectives.evaluate(made, x)[0, 0], rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rigid_tasks_never_use_more_pes_than_there_are(seed):
    made, x = cases.rigid(25, 3, seed), np.random.default_rng(seed).integers(0, 3, 25)
    start, finish = semantics.simulate(made, x)
    assert (start >= made.release).all()
    assert (finish > start).all()
    for vm in range(3):
        for moment in start[x == vm]:
            here = (x == vm) & (start <= moment) & (finish > moment)
            assert made.pes[here].sum() <= 4
    assert finish.max() >= bounds.lower_bound(made) * (1 - 1e-9)


def test_unknown_words_are_refused():
    made = cases.related()
    with pytest.raises(ValueError, match="'space' or 'time'"):
        semantics.simulate(made, np.zeros(60, int), "fair")
    with pytest.raises(ValueError, match="cv, di, std"):
        objectives.evaluate(made, np.zeros((1, 60), int), balance="x")
