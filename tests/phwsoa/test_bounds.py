"""Bounds against exact optima, the LP front against every front, heuristics against their definitions."""

import json

import numpy as np
import pytest

from operators.lab import datasets
from operators.phwsoa import bounds, heuristics, lp_round, objectives, sources, twins
from operators.phwsoa.instance import Instance
from tests.phwsoa import cases


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_below_the_exact_optimum(seed):
    from ortools.sat.python import cp_model

    rng = np.random.default_rng(seed)
    made = Instance(rng.integers(1, 60, 12).astype(float) * 12, rng.choice([1.0, 2.0, 3.0], 3), np.ones(3))
    times = made.et().round().astype(int)
    model = cp_model.CpModel()
    x = [[model.new_bool_var("") for _ in range(3)] for _ in range(12)]
    longest = model.new_int_var(0, int(times.sum()), "")
    for i in range(12):
        model.add_exactly_one(x[i])
    for j in range(3):
        model.add(sum(int(times[i, j]) * x[i][j] for i in range(12)) <= longest)
    model.minimize(longest)
    solver = cp_model.CpSolver()
    assert solver.solve(model) == cp_model.OPTIMAL
    assert bounds.lower_bound(made) <= solver.objective_value + 1e-6
    assert objectives.evaluate(made, heuristics.lpt(made))[0, 0] >= solver.objective_value - 1e-6


def test_lp_bounds_of_the_etc_matrices(real_data):
    if not datasets.present(sources.ETC_SET, real_data):
        pytest.skip("needs the ETC set")
    known = json.loads(datasets.path(sources.ETC_SET, "etc_seed0_bounds.json", real_data).read_text())
    for key in twins.ETC_KEYS[:4]:
        made, _ = sources.etc_instance(key, real_data)
        assert bounds.lower_bound(made) == pytest.approx(known[key]["lp_lower_bound"], rel=1e-6)
        for name in ("min_min", "max_min", "sufferage"):
            found = objectives.evaluate(made, heuristics.HEURISTICS[name](made))[0, 0]
            assert found == pytest.approx(known[key][name], rel=1e-6), name


def test_no_front_passes_the_lp_front():
    made = cases.related(200, 10)
    x, f = heuristics.eps_greedy_front(made, 30)
    assert (f[:, 2] >= bounds.pareto_lower_front(made, f[:, 0]) * (1 - 1e-9)).all()
    low, high = bounds.cost_range(made)
    costs = bounds.pareto_lower_front(made, np.array([bounds.lower_bound(made), 1e3 * bounds.lower_bound(made)]))
    assert low * (1 - 1e-9) <= costs[1] <= costs[0] <= high * (1 + 1e-9)
    found = bounds.gap(f, made)
    assert 0.9 < found["hv_ratio"] <= 1 + 1e-9
    assert found["hv_ratio_exact"] <= 1 + 1e-9
    assert x.shape == (30, 200)


@pytest.mark.parametrize("name", heuristics.HEURISTICS)
@pytest.mark.parametrize("kind", ["related", "unrelated", "rigid"])
def test_heuristics_place_every_task_on_a_machine_it_fits_on(name, kind):
    made = getattr(cases, kind)()
    x = heuristics.HEURISTICS[name](made)
    made.check_assignment(x)
    assert objectives.evaluate(made, x)[0, 0] >= bounds.lower_bound(made) * (1 - 1e-7)


def test_order_of_tasks_changes_neither_bound_nor_lpt():
    made = cases.related()
    order = np.random.default_rng(0).permutation(made.n)
    other = Instance(made.length[order], made.mips, made.price)
    assert bounds.lower_bound(made) == pytest.approx(bounds.lower_bound(other), rel=1e-12)
    values = [objectives.evaluate(one, heuristics.lpt(one))[0, 0] for one in (made, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_another_machine_never_raises_the_bound():
    made = cases.related(60, 6)
    more = Instance(made.length, np.append(made.mips, 500.0), np.append(made.price, 0.01))
    assert bounds.lower_bound(more) <= bounds.lower_bound(made) * (1 + 1e-12)


def test_small_instances_work():
    for n, m in ((1, 1), (1, 4), (3, 8)):
        made = cases.related(n, m)
        assert objectives.evaluate(made, heuristics.lpt(made))[0, 0] == pytest.approx(bounds.lower_bound(made), rel=0.6)


def test_rounding_and_annealing_beats_min_min_and_repeats():
    made = cases.unrelated(80, 5)
    x = lp_round.lp_round_ls(made, steps=200_000, seed=1)
    value = objectives.evaluate(made, x)[0, 0]
    assert bounds.lower_bound(made) * (1 - 1e-9) <= value
    assert value < objectives.evaluate(made, heuristics.min_min(made))[0, 0]
    assert np.array_equal(x, lp_round.lp_round_ls(made, steps=200_000, seed=1))
    with pytest.raises(ValueError, match="unrelated"):
        lp_round.lp_round_ls(cases.related())


@pytest.mark.slow
def test_the_heats_are_the_better_ones_on_matrices_of_another_seed(monkeypatch):
    matrices = [twins.etc_twin(key, seed=1) for key in ("u_c_hihi", "u_i_hihi", "u_s_lohi", "u_i_lolo")]
    made = [Instance(times.mean(1), np.ones(16), np.ones(16), etc=times) for times in matrices]
    mean = {}
    for hot in (lp_round.HOT / 3, lp_round.HOT, lp_round.HOT * 3):
        monkeypatch.setattr(lp_round, "HOT", hot)
        found = [lp_round.lp_round_ls(one, steps=40_000_000) for one in made]
        mean[hot] = np.mean([objectives.evaluate(one, x)[0, 0] / bounds.lower_bound(one)
                             for one, x in zip(made, found, strict=True)])  # fmt: skip
    assert min(mean, key=mean.get) == sorted(mean)[1]


def lp_cost(inst: Instance, cap: float) -> float:
    """The LP of `pareto_lower_front` by HiGHS, on aggregated classes, everything scaled to about 1.

    Tasks that may use the same speeds form a class, so with one task longer than `cap` on every machine it is
    infeasible.
    """
    from scipy.optimize import linprog

    speeds, member = np.unique(np.stack([inst.mips, inst.price], 1), axis=0, return_inverse=True)
    count = np.bincount(member.ravel(), minlength=len(speeds))
    total = inst.length.sum()
    need = inst.length / (cap * (1 + 1e-12))  # the slowest speed each task may use
    levels = np.unique(speeds[:, 0])
    slowest = np.searchsorted(levels, need, side="left")
    if slowest.max() >= len(levels):
        return np.inf
    work = np.bincount(slowest, weights=inst.length, minlength=len(levels)) / total
    classes, k = len(levels), len(speeds)
    cost = speeds[:, 1] / speeds[:, 0]
    top = cost.max() or 1.0
    # y[c, v]: share of all work of task class c on machine class v
    allowed = speeds[None, :, 0] >= levels[:, None]
    room = cap * count * speeds[:, 0] / total
    at_most = np.tile(np.eye(k), (1, classes))
    equal = np.kron(np.eye(classes), np.ones(k))
    limits = [(0, None if ok else 0) for ok in allowed.ravel()]
    found = linprog(np.tile(cost / top, classes), A_ub=at_most, b_ub=room, A_eq=equal, b_eq=work, bounds=limits,
                    method="highs")  # fmt: skip
    return float(found.fun * top * total / 3600.0) if found.status == 0 else np.inf


@pytest.mark.parametrize("seed", range(12))
def test_the_cost_front_is_the_lp_of_highs(seed):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 80)), int(rng.integers(1, 12))
    speeds = rng.choice([500.0, 900.0, 1500.0, 2600.0], m)
    made = Instance(np.exp(rng.normal(11, 1.5, n)), speeds, rng.choice([0.01, 0.03, 0.05], m))
    low = bounds.lower_bound(made)
    caps = np.concatenate([low * np.geomspace(0.5, 6, 25), [low]])
    found, expected = bounds.pareto_lower_front(made, caps), [lp_cost(made, cap) for cap in caps]
    assert found == pytest.approx(expected, rel=1e-7)
    assert np.isfinite(found[-1])
    assert np.isinf(found[0])
