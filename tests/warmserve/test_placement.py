"""Placement: equal to brute force and to the official search, laminar, monotone; round robin with its quirks."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.warmserve import placement, placement_check
from operators.warmserve.errors import ConfigError
from operators.warmserve.placement import place, standing
from operators.warmserve.placement_baselines import bruteforce, official_dfs, roundrobin


@pytest.mark.parametrize("reference", [bruteforce, official_dfs])
def test_placement_is_that_of_the_exhaustive_searches(reference):
    rng = np.random.default_rng(11)
    for _ in range(250):
        gpus = int(rng.choice([1, 2, 4, 6, 8]))
        now = placement_check.random_state(rng, int(rng.integers(1, 3)), gpus)
        news = placement_check.random_news(rng, gpus)
        ours, theirs = place(now, *news), reference(now, *news)
        for a, b in zip((ours.node, ours.mask, ours.master), (theirs.node, theirs.mask, theirs.master), strict=True):
            assert np.array_equal(a, b), (now, news)


def test_the_objective_is_brute_force_s_for_uneven_scores():
    rng = np.random.default_rng(3)
    for _ in range(150):
        now = placement_check.random_state(rng, 2, 8)
        now.score[:] = rng.random(len(now.score))
        model, tp, need, score = placement_check.random_news(rng, 8)
        news = (model, tp, need, np.sort(rng.random(len(score)))[::-1])
        found = [placement_check.objective(now, f(now, *news), news[0], news[3]) for f in (place, bruteforce)]
        for a, b in zip(*found, strict=True):
            assert a[:2] == b[:2]
            assert a[2] == pytest.approx(b[2], abs=1e-9)


def test_the_claim_s_check_would_see_a_difference(monkeypatch):
    assert placement_check.largest_gap(0, tries=30) == 0.0
    first_fit = lambda now, *news: official_dfs(standing([], now.free), *news)  # noqa: E731
    monkeypatch.setattr(placement_check, "place", first_fit)
    assert placement_check.largest_gap(0, tries=60) > 0.0


@pytest.mark.slow
def test_the_stand_in_places_the_same():
    from operators.warmserve.standin_place import place_all

    rng = np.random.default_rng(5)
    for _ in range(300):
        gpus = int(rng.choice([2, 4, 8, 64]))
        now = placement_check.random_state(rng, 2, gpus)
        model, tp, need, score = placement_check.random_news(rng, min(gpus, 8))
        ours = place(now, model, tp, need, score)
        node, mask, master = place_all(*now, model.astype(np.int32), tp.astype(np.int32), need.astype(np.int64), score)
        assert np.array_equal(ours.node, node)
        assert np.array_equal(ours.mask, mask)
        assert np.array_equal(ours.master, master)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_a_placed_set_never_crosses_another_or_repeats_a_model(seed):
    rng = np.random.default_rng(seed)
    gpus = int(rng.choice([4, 8, 16, 64]))
    now = placement_check.random_state(rng, 2, gpus)
    news = placement_check.random_news(rng, min(gpus, 8))
    placed = place(now, *news)
    rows = [(int(n), int(m), int(j)) for n, m, j in zip(now.node, now.mask, now.model, strict=True)]
    free = now.free.copy()
    for i, model in enumerate(news[0]):
        node, mask = int(placed.node[i]), int(placed.mask[i])
        if node < 0:
            continue
        assert bin(mask).count("1") == news[1][i]
        for other_node, other, held in rows:
            if other_node == node:
                assert mask & other in (0, mask, other)
                assert not (mask & other and held == model)
        rows.append((node, mask, int(model)))
        free[node, list(placed.gpus(i))] -= news[2][i]
    assert free.min() >= 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([1, 2, 4]))
def test_more_memory_never_places_fewer_equal_replicas(seed, count, k):
    rng = np.random.default_rng(seed)
    free = rng.integers(0, 4, (2, 8))
    news = (np.arange(count), np.full(count, k), np.ones(count, int), np.full(count, 1.0))
    placed = [int((place(standing([], more), *news).node >= 0).sum()) for more in (free, free + 1)]
    assert placed[0] <= placed[1]


def test_a_replica_goes_where_it_harms_least_and_prefers_to_be_on_top():
    now = standing([(0, (0,), 1, 0.9), (0, (1,), 2, 0.2)], np.full((1, 2), 10))
    placed = place(now, [3], [1], [1], [0.5])
    assert (placed.gpus(0), bool(placed.master[0])) == ((1,), True)
    placed = place(now, [3], [1], [1], [0.1])  # on top nowhere
    assert (placed.gpus(0), bool(placed.master[0])) == ((1,), False)
    placed = place(now, [1], [2], [1], [5.0])  # its model lies on GPU 0 already
    assert placed.node[0] == placement.SKIPPED
    with pytest.raises(ConfigError, match="tp"):
        place(now, [1], [3], [1], [1.0])


def test_round_robin_keeps_its_quirks():
    now = standing([(0, (0,), 0, 0.0)], np.full((1, 4), 2))
    # model 1 wants none: the turn stops there, model 2 gets nothing
    assert [row[0] for row in roundrobin(now, [2, 0, 2], [1, 1, 1], [1, 1, 1])] == [0]
    placed = roundrobin(now, [1, 1, 1], [1, 2, 2], [1, 1, 1])
    assert [(model, int(mask)) for model, _, mask in placed] == [(0, 0b10), (1, 0b11), (2, 0b101)]


def test_equal_scores_are_ordered_alike_in_every_process():
    script = (
        "import numpy as np\nfrom operators.warmserve import placement_check as c, placement as p\n"
        "rng = np.random.default_rng(1)\nnow = c.random_state(rng, 2, 8)\nnow.score[:] = 1.0\n"
        "print(p.place(now, *c.random_news(rng, 8)).mask.tolist())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (0, 1, 2)
    }
    assert len(found) == 1


@pytest.mark.skipif(placement._native is None, reason="the native core is not built")
def test_the_native_door_refuses_columns_of_unequal_length():
    one, mask, score = np.zeros(1, np.int32), np.ones(1, np.uint64), np.ones(1)
    none = np.zeros(0, np.int32)
    lying, new = (one, mask, one + 1, one + 1, score), (one, one + 1, np.ones(1, np.int64), score)
    with pytest.raises(ValueError, match="one length"):
        placement._native.place(*lying[:2], none, *lying[3:], np.ones((1, 2), np.int64), *new)
    with pytest.raises(ValueError, match="1 to 64 GPUs"):
        placement._native.place(*lying, np.ones((1, 65), np.int64), *new)
