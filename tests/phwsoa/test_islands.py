"""Islands: the same front in one process, in many, and when one of them is killed."""

import numpy as np
import pytest

from operators.phwsoa.islands import ARCHIVED, Island, optimise_islands
from tests.phwsoa.cases import related

SMALL = {"islands": 2, "every": 3, "pop": 12, "generations": 8, "seed": 4}


def test_more_than_one_island_is_never_worse_than_its_archives_and_counts_all():
    made = related(40, 5)
    found = optimise_islands(made, **SMALL)
    assert found.history["gen"].to_list() == [3, 6, 8]
    assert found.history["hv"].is_sorted()
    assert found.counters["evals"] == found.history["evals"][-1] >= 2 * 12 * 9
    assert np.array_equal(found.front_F, optimise_islands(made, **SMALL).front_F)
    assert not np.array_equal(found.front_F, optimise_islands(made, **SMALL | {"seed": 5}).front_F)


def test_a_state_that_is_put_back_goes_on_alike():
    made = related(40, 5)
    island = Island(made, "phwsoa", 12, 4, 0, {})
    middle = island.step(3, 8)
    end = island.step(2, 8)
    other = Island(made, "phwsoa", 12, 4, 0, {})
    other.restore(middle)
    again = other.step(2, 8)
    for name in ARCHIVED:
        assert np.array_equal(end[f"archive_{name}"], again[f"archive_{name}"]), name
    other.validate()


def test_processes_and_a_killed_one_give_the_same_front(ray_head):
    from operators.lab import cluster

    made = related(40, 5)
    alone = optimise_islands(made, **SMALL)
    with cluster.connect(ray_head) as ray:
        killed = optimise_islands(made, **SMALL, ray=ray, kill=[(1, 0)])
    assert np.array_equal(alone.front_X, killed.front_X)
    assert alone.history.equals(killed.history)


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match=r"islands \(=0\)"):
        optimise_islands(related(5, 2), islands=0)
    with pytest.raises(ValueError, match=r"method \(='whale'\)"):
        optimise_islands(related(5, 2), "whale")
