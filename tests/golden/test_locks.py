"""Blessed numbers of locks: states of the correct core in the explorer. A change here is a decision.

They may change only with the granularity of a step (a shared access more or less in native/core.c, interpret.h or
recover.h), with what `por` joins, or with what a state holds (words of a frame that are forgotten or not). They may not
change with the machine, the compiler or the address the region is mapped at.
"""

import pytest

from operators.locks.explore import SCENARIOS, explore

pytestmark = pytest.mark.golden

# (scenario, calls of each process, crashes, memory, por): states
STATES = {
    ("counter", (1, 1), 0, "sc", True): 987,  # a prototype in Python had 969 in its granularity
    ("counter", (1, 1), 1, "sc", True): 10_668,
    ("transfer", (1, 1), 0, "sc", True): 7_173,
    ("stacked", (2,), 1, "px86", True): 8_197,
}


@pytest.mark.parametrize("config", STATES)
def test_states_of_the_correct_core(config):
    name, ops, crashes, memory, por = config
    found = explore(SCENARIOS[name], procs=len(ops), ops_per_proc=ops, crashes=crashes, memory=memory, por=por)
    assert found.ok
    assert found.states == STATES[config]
