"""The load window: what it holds, when it asks, when a plan takes effect, what a dead planner costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.metro.loadwindow import LoadWindow, LoadWindowError
from operators.metro.placement import place

START = place(np.ones((1, 4)), 6, 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.lists(st.sampled_from(["step", "deliver", "lose"]), max_size=40))
def test_any_order_of_messages(window_size, step_interval, events):
    window = LoadWindow(START, window_size=window_size, step_interval=step_interval)
    request, history, plans = None, [], 0
    for event in events:
        if event == "step":
            before = window.placement
            assert window.begin_step() is window.placement
            counts = np.full((1, 4), len(history))
            history.append(counts)
            asked = window.observe(counts)
            assert (asked is not None) == (len(history) % step_interval == 0 and request is None)
            if asked is not None:
                assert np.array_equal(asked.load, sum(history[-window_size:]))
                request = asked
            assert window.switches <= plans
            assert window.placement is before or window.switches
        elif request is not None:
            if event == "deliver":
                window.deliver(request, place(request.load, 6, 2))
                plans += 1
            else:
                window.lost(request)
            request = None
        window.validate()
        assert window.planning == (request is not None)


def test_a_plan_takes_effect_between_steps():
    window = LoadWindow(START, window_size=2, step_interval=2)
    assert window.observe([[1, 0, 0, 0]]) is None
    request = window.observe([[9, 0, 0, 0]])
    assert request.load.tolist() == [[10, 0, 0, 0]]
    plan = place(request.load, 6, 2)
    window.deliver(request, plan)
    assert window.placement is START
    assert window.begin_step() is plan
    assert window.switches == 1


def test_a_late_plan_is_counted_not_waited_for():
    window = LoadWindow(START, step_interval=1)
    first = window.observe(np.ones((1, 4)))
    assert window.observe(np.ones((1, 4))) is None
    assert window.overdue == 1
    window.lost(first)
    assert window.observe(np.ones((1, 4))).step == 3


def test_messages_that_do_not_fit():
    window = LoadWindow(START, step_interval=1)
    with pytest.raises(LoadWindowError, match=r"window_size \(=0 steps\): must be >= 1"):
        LoadWindow(START, window_size=0)
    for counts in (np.ones((2, 4)), -np.ones((1, 4))):
        with pytest.raises(LoadWindowError, match="counts"):
            window.observe(counts)
    request = window.observe(np.ones((1, 4)))
    with pytest.raises(LoadWindowError, match="placement"):
        window.deliver(request, place(np.ones((1, 4)), 6, 3))
    window.deliver(request, START)
    with pytest.raises(LoadWindowError, match="in flight is None"):
        window.deliver(request, START)


def test_validate_notices_a_wrong_sum():
    window = LoadWindow(START)
    window.observe(np.ones((1, 4)))
    window._total[0, 0] += 1
    with pytest.raises(LoadWindowError, match="differs from the sum"):
        window.validate()
