"""The explorer: the correct core passes, every broken rule is flagged, bounds are no verdicts."""

import pytest

from operators.locks.errors import LocksError, StateLimit
from operators.locks.explore import MUTANTS, SCENARIOS, Scenario, explore
from operators.locks.runs_proof import MUTANT_SEARCH
from operators.locks.sections import section


def search(one, mutant=None):
    return explore(
        SCENARIOS[one.scenario],
        procs=len(one.ops),
        ops_per_proc=one.ops,
        crashes=one.crashes,
        memory=one.memory,
        mutant=mutant,
    )


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_broken_rule_is_flagged_and_the_correct_core_is_not(mutant):
    one = MUTANT_SEARCH[mutant]
    assert not search(one, mutant).ok
    assert search(one).ok


@pytest.mark.parametrize("por", [True, False])
def test_crashes_lose_and_double_nothing(por):
    found = explore(SCENARIOS["counter"], procs=2, crashes=1, por=por)
    assert found.ok
    assert found.solo_runs > 0
    assert found.unbounded == 0


def test_nested_sections_and_opposite_orders():
    assert explore(SCENARIOS["transfer"], procs=2, crashes=1).ok
    assert explore(SCENARIOS["stacked"], procs=2).ok
    # In opposite orders two sections can refuse each other for ever, with higher tags each time: no end, no violation.
    with pytest.raises(StateLimit):
        explore(SCENARIOS["crossed"], procs=2, limit=100_000)


def test_wrapping_tags_need_their_announcements():
    for ops in ((4, 1), (3, 2)):
        given = {"procs": 2, "ops_per_proc": ops, "tag_bits": 2}
        assert not explore(SCENARIOS["flip"], **given).ok
        assert explore(SCENARIOS["flip"], **given, wrap=True).ok
    assert explore(SCENARIOS["counter"], procs=2, ops_per_proc=(3, 1), crashes=1, tag_bits=2, wrap=True).ok
    with pytest.raises(LocksError, match=r"tag_bits \(=3\)"):
        explore(SCENARIOS["flip"], tag_bits=3)


def test_power_cuts_in_stacked_sections():
    found = explore(SCENARIOS["stacked"], procs=1, ops_per_proc=2, crashes=2, memory="px86")
    assert found.ok
    assert found.power_cuts > 0


def test_a_section_of_the_user(tmp_path):
    def scenario(region, procs, ops):
        cells, locks = region.cells(2, 1), region.locks(1)

        @section
        def double(tx):
            with tx.lock(locks[0]):
                cells[0] *= 2
                cells[1] += cells[0]
                return cells[1]

        return Scenario([[(double, ())] * n for n in ops], [cells])

    assert explore(scenario, procs=2, crashes=1).ok
    assert not explore(scenario, procs=2, mutant="blind").ok


def test_a_bound_is_no_verdict():
    with pytest.raises(StateLimit, match="100 states reached without an end"):
        explore(SCENARIOS["counter"], procs=2, crashes=1, limit=100)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"memory": "tso"}, r"memory \(='tso'\): expected one of sc, px86"),
        ({"mutant": "no"}, r"mutant \(='no'\): expected one of"),
        ({"procs": 5}, r"procs \(=5\)"),
        ({"ops_per_proc": (1, 2, 3)}, "expected one number, or one for each of 2 processes"),
    ],
)
def test_what_cannot_be_explored_is_named(given, words):
    with pytest.raises(LocksError, match=words):
        explore(SCENARIOS["counter"], **given)


@pytest.mark.slow
def test_three_processes_with_a_crash():
    found = explore(SCENARIOS["counter"], procs=3, crashes=1)
    assert found.ok
    assert found.states > 1_000_000


@pytest.mark.slow
def test_two_processes_with_power_cuts():
    assert explore(SCENARIOS["counter"], procs=2, crashes=1, memory="px86").ok
    assert explore(SCENARIOS["stacked"], procs=2, crashes=1, memory="px86").ok
