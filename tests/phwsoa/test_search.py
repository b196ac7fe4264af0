"""Operators by closed forms, the archive's invariants, whole searches: same bytes, honest counts, known bounds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.phwsoa import archive, bounds, heuristics, hybrid, mutation, nsga, objectives, soa, start, woa
from operators.phwsoa.optimise import METHODS, optimise, volume
from operators.phwsoa.redistribution import redistribute
from tests.phwsoa import cases


def test_moves_by_hand():
    assert woa.encircle.py_func(3.0, 5.0, 0.5, 1.0) == pytest.approx(5 - 0.5 * 2)
    assert woa.encircle.py_func(3.0, 5.0, -1.5, 2.0) == pytest.approx(5 + 1.5 * 7)
    assert woa.spiral.py_func(3.0, 5.0, 1.0, 0.0) == pytest.approx(7.0)
    assert woa.spiral.py_func(3.0, 5.0, 1.0, 0.5) == pytest.approx(5 - 2 * math.exp(0.5))
    k = math.pi / 4
    rho = math.exp(k)
    assert soa.attack_factor.py_func(k, 1.0, False) == pytest.approx(rho**3 * 0.5 * k)
    assert soa.attack_factor.py_func(6.0, 1.0, True) == -1.0
    assert soa.seagull_gene.py_func(3.0, 5.0, 2.0, 0.5, 0.25) == pytest.approx(abs(6 + 1) * 0.25 + 5)
    assert mutation.mutation_rate.py_func(0.0) == pytest.approx(0.35)
    assert mutation.mutation_rate.py_func(1.0) == pytest.approx(0.05)


@settings(max_examples=50, deadline=None)
@given(x=st.floats(-1e9, 1e9), m=st.integers(1, 300))
def test_repair_folds_into_the_box(x, m):
    for rule in (0, 1):
        assert 0 <= hybrid.repair_gene.py_func(x, m, rule, None) < m
    if 0 <= x < m:
        assert hybrid.repair_gene.py_func(x, m, 0, None) == x


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.sampled_from([2, 3]), count=st.integers(1, 60))
def test_archive_keeps_extremes_and_nothing_dominated(seed, d, count):
    rng = np.random.default_rng(seed)
    kept = archive.Archive(12, 2, d, np.uint8)
    seen = []
    for _ in range(4):
        g = rng.integers(0, 12, (count, d)) / 10.0
        seen.append(g)
        kept.update(np.zeros((count, 2)), np.zeros((count, 2), np.uint8), np.zeros((count, 3)), g)
        kept.validate()
    assert np.concatenate(seen).min(0) == pytest.approx(kept.g.min(0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_volume_agrees_with_counting(seed):
    points = np.random.default_rng(seed).integers(0, 8, (9, 3)) / 8
    cells = (np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.5) / 8
    known = (points[None] <= cells[:, None]).all(2).any(1).mean()
    assert archive.hv3(points) == pytest.approx(known)


def test_ranks_by_definition():
    points = np.random.default_rng(0).random((40, 3))
    rank = nsga.nondominated_ranks(points)
    for a in range(40):
        above = (points <= points[a]).all(1) & (points < points[a]).any(1)
        assert rank[a] == (rank[above].max() + 1 if above.any() else 0)
    order, _, _ = nsga.select_niched(points, 20, nsga.reference_lines(3), np.random.default_rng(0))
    assert len(set(order.tolist())) == 20
    assert len(nsga.reference_lines(3)) == 91


def test_redistribution_never_raises_the_makespan_and_class_scope_keeps_the_cost():
    made = cases.related(120, 12)
    x = np.random.default_rng(0).integers(0, 12, 120)
    before = objectives.evaluate(made, x)[0]
    after, looked = redistribute(made, x)
    assert looked > 0
    assert objectives.evaluate(made, after)[0, 0] < before[0]
    assert np.array_equal(redistribute(made, x, moves=0)[0], x)
    even, _ = redistribute(made, x, scope="class")
    assert objectives.evaluate(made, even)[0] == pytest.approx([before[0], before[1], before[2]], rel=1)
    assert objectives.evaluate(made, even)[0, 2] == pytest.approx(before[2], rel=1e-12)
    assert objectives.evaluate(made, even)[0, 0] <= before[0] + 1e-9


def test_the_plain_halton_start_is_a_trap():
    made = cases.related(300, 20)
    spread = {init: start.mean_hamming(start.start_positions(made, 20, init, 0).astype(np.uint8))
              for init in ("halton", "halton_scrambled", "random")}  # fmt: skip
    assert spread["halton"] < 0.9 * spread["random"]
    assert spread["halton_scrambled"] == pytest.approx(spread["random"], rel=0.05)
    with pytest.raises(ValueError, match="halton_scrambled, halton, random, heuristic"):
        start.start_positions(made, 20, "sobol", 0)


@pytest.mark.parametrize("method", METHODS)
def test_threads_do_not_change_a_search_and_seeds_do(method):
    made = cases.related()
    one, two, other = (
        optimise(made, method, pop=13, generations=6, seed=seed, threads=threads)
        for seed, threads in ((0, 1), (0, 2), (1, 1))
    )
    assert one.front_X.tobytes() == two.front_X.tobytes()
    assert one.history.equals(two.history)
    assert one.front_X.tobytes() != other.front_X.tobytes()
    assert objectives.evaluate(made, one.front_X) == pytest.approx(one.front_F, rel=1e-9)
    assert one.front_F[:, 0].min() >= bounds.lower_bound(made) * (1 - 1e-9)
    assert (np.diff(one.history["hv"].to_numpy()) >= -1e-3).all()


@pytest.mark.parametrize("rule", ["phase", "half", "sequential"])
@pytest.mark.parametrize("kind", ["related", "unrelated", "rigid"])
def test_every_rule_runs_on_every_kind(rule, kind):
    made = getattr(cases, kind)()
    found = optimise(made, "phwsoa", pop=8, generations=4, hybrid_rule=rule, soa_variant="original", draws="gene")
    made.check_assignment(found.front_X)
    assert objectives.evaluate(made, found.front_X) == pytest.approx(found.front_F, rel=1e-9)


def test_the_seeded_hybrid_is_never_worse_than_lpt():
    made = cases.related(200, 10)
    found = optimise(made, "phwsoa_h", pop=20, generations=5)
    known = objectives.evaluate(made, heuristics.lpt(made))[0]
    assert ((found.front_F <= known + 1e-9).all(1)).any()
    greedy = heuristics.eps_greedy_front(made)[1]
    assert volume(found.front_F, made) > 0.98 * volume(greedy, made)


def test_quanta_rigid_tasks_and_measures_of_balance_have_a_table_each():
    from operators.phwsoa import variants
    from operators.phwsoa.settings import Settings

    made, keys = cases.related(40, 5), {"log": "nasa", "n": 40, "m": 5, "data": "synthetic"}
    rows = variants.rows(Settings(pop=8, generations=2, m=5), made, keys, None)
    cost = {(row["variant"], row["policy"]): row["f3"] for row in rows if row["group"] == "billing"}
    for policy in ("lpt", "eps_greedy", "phwsoa_h"):
        assert cost["0 s", policy] < cost["60 s", policy] < cost["3600 s", policy]
    assert cost["3600 s", "phwsoa_h"] <= min(cost["3600 s", "lpt"], cost["3600 s", "eps_greedy"])
    rigid = [row for row in rows if row["group"] == "rigid"]
    assert {row["variant"] for row in rigid} == {"rigid", "rigid, released"}
    assert all(row["f1_over_lb"] >= 1 - 1e-9 and row["n"] == variants.RIGID_N for row in rigid)
    assert {row["variant"] for row in rows if row["group"] == "balance"} == {"cv", "di", "std", "none"}


def test_evaluations_are_counted(monkeypatch):
    made, done = cases.related(), []
    kernel = objectives.evaluate_related

    def counted(low, high, *args):
        done.append(high - low)
        kernel(low, high, *args)

    monkeypatch.setitem(objectives.EVALUATE, made.kind, counted)
    for rule in ("phase", "sequential"):
        done.clear()
        found = optimise(made, "phwsoa", pop=10, generations=5, hybrid_rule=rule)
        assert found.counters["evals"] == sum(done)
    budget = optimise(made, "nsga2", pop=10, max_evals=95)
    assert budget.counters["evals"] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "bees"}, "method .*phwsoa_h"),
        ({"speed": 3}, r"speed \(=3\): unknown; expected one of hybrid_rule"),
        ({"hybrid_rule": "both"}, "phase, half, sequential"),
        ({"pop": 1}, r"pop \(=1\)"),
        ({"redis_moves": -1}, r"redis_moves \(=-1\)"),
    ],
)
def test_unknown_words_name_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimise(cases.related(), **arguments)
