"""Bench rows of parts: evaluation, delta evaluation, threads, bounds, heuristics, unrelated machines."""

import time
from typing import Any

import numpy as np

from operators.lab import peers
from operators.phwsoa import bounds, heuristics, instance, objectives, sources, twins
from operators.phwsoa.instance import Instance
from operators.phwsoa.settings import Settings

SOLUTIONS = 200
BAR_EVALUATIONS = 1.0e6
EXTRA = ("lb_kind", "ours_over_bound", "peer_over_bound")


def row(**fields: Any) -> dict[str, Any]:
    """`lab.peers.row` with this system's columns."""
    return peers.row(**{**dict.fromkeys(EXTRA), **fields})


def standard(settings: Settings) -> tuple[Instance, str]:
    """The instance speed is measured on: 1000 tasks like NASA's on 50 machines."""
    return instance.five_class(twins.log_twin("nasa", 1200, 0).filter(_positive()), 1000, 50, 0), "synthetic"


def _positive():
    import polars as pl

    return pl.col("run_time") > 0


def evaluation(settings: Settings) -> list[dict]:
    """Evaluations per second, one thread: ours and a numpy bincount loop in turn."""
    made, data = standard(settings)
    x = np.random.default_rng(0).integers(0, 50, (SOLUTIONS, 1000)).astype(np.uint8)
    out, arrays = np.empty((SOLUTIONS, 3)), tuple(made.arrays)
    repeats = max(5, 4 * settings.bench_repeats)
    ours, numpy_loop = peers.paired(
        lambda: objectives.evaluate_many(x, arrays, 0, 0.0, out),
        lambda: objectives.reference(made, x),
        n=repeats,
        clock=time.perf_counter,
    )
    rates = [SOLUTIONS / seconds for seconds in ours]
    theirs = [SOLUTIONS / seconds for seconds in numpy_loop]
    for _ in range(60):
        began = time.perf_counter()
        objectives.evaluate_many(x, arrays, 0, 0.0, out)
        rates.append(SOLUTIONS / (time.perf_counter() - began))
    same = {"bench": "evaluation", "unit": "evaluations/s", "higher_is_better": True, "data": data, "ours": "evaluate"}
    return [
        row(**same, case="1000 x 50", peer="numpy bincount", ours_samples=rates[:repeats], peer_samples=theirs, bar=30),
        row(**same, case="best of N", peer="the bar", ours_samples=[max(rates)], peer_samples=[BAR_EVALUATIONS], bar=1),
        _delta(made, x[0], settings, data),
        _threads(made, x, settings, data),
    ]


def _delta(made: Instance, x: np.ndarray, settings: Settings, data: str) -> dict:
    """Moves per second by delta evaluation against full evaluations."""
    rng, count = np.random.default_rng(1), 20_000
    tasks, targets = rng.integers(0, made.n, count), rng.integers(0, made.m, count)
    arrays, out, many = tuple(made.arrays), np.empty(3), np.repeat(x[None], SOLUTIONS, 0)
    loads = np.bincount(x, weights=made.length, minlength=made.m) / made.mips
    ours, full = peers.paired(
        lambda: objectives.move_many(x.copy(), tasks, targets, arrays, 0, 0.0, loads.copy(), np.zeros(made.m), out),
        lambda: objectives.evaluate_many(many, arrays, 0, 0.0, np.empty((SOLUTIONS, 3))),
        n=settings.bench_repeats,
    )
    return row(bench="delta", case="1000 x 50", ours="delta evaluation", peer="full evaluation", unit="moves/s",
               ours_samples=[count / s for s in ours], peer_samples=[SOLUTIONS / s for s in full],
               higher_is_better=True, data=data)  # fmt: skip


def _threads(made: Instance, x: np.ndarray, settings: Settings, data: str) -> dict:
    """Evaluations per second with two threads and with one."""
    from concurrent.futures import ThreadPoolExecutor

    many = np.tile(x, (50, 1))
    arrays, out, half = tuple(made.arrays), np.empty((len(many), 3)), len(many) // 2
    kernel = objectives.EVALUATE[made.kind]
    with ThreadPoolExecutor(2) as pool:

        def both() -> None:
            parts = ((0, half), (half, len(many)))
            for one in [pool.submit(kernel, low, high, many, arrays, 0, 0.0, out) for low, high in parts]:
                one.result()

        two, one = peers.paired(
            both,
            lambda: kernel(0, len(many), many, arrays, 0, 0.0, out),
            n=2 * settings.bench_repeats,
            clock=time.perf_counter,
        )
    return row(bench="threads", case="1000 x 50", ours="2 threads", peer="1 thread", unit="evaluations/s",
               ours_samples=[len(many) / s for s in two], peer_samples=[len(many) / s for s in one],
               higher_is_better=True, data=data)  # fmt: skip


def bound_cost(settings: Settings) -> list[dict]:
    """Milliseconds of the closed-form bound."""
    made, data = standard(settings)
    spent = []
    for _ in range(1 + settings.bench_repeats):
        began = time.perf_counter()
        bounds.lower_bound(made)
        spent.append(1e3 * (time.perf_counter() - began))
    return [row(bench="bound", case="1000 x 50", ours="lower_bound", peer="the bar", unit="ms", ours_samples=spent[1:],
                peer_samples=[1.0], bar=1, data=data)]  # fmt: skip


def table(settings: Settings, made: Instance, keys: dict, searched: dict[str, float]) -> list[dict]:
    """Makespan of every simple heuristic beside the seeded hybrid's on one instance; the bound and the greedy front."""
    low, kind = bounds.lower_bound_kind(made)
    rivals = {name: objectives.evaluate(made, make(made))[0, 0] for name, make in heuristics.HEURISTICS.items()}
    rivals["eps_greedy"] = heuristics.eps_greedy_front(made)[1][:, 0].min()
    rivals["lower_bound"] = low
    return [
        row(bench="makespan", case=f"{keys['log']} {keys['n']} x {keys['m']}", ours=ours, peer=peer, unit="s",
            ours_samples=[best], peer_samples=[float(other)], data=keys["data"], lb_kind=kind,
            ours_over_bound=best / low, peer_over_bound=float(other / low))
        for ours, best in searched.items() for peer, other in rivals.items()
    ]  # fmt: skip


def unrelated(settings: Settings, root) -> list[dict]:
    """LP rounding with annealing on the ETC matrices, beside the LP bound, Min-Min, Sufferage (and CP-SAT)."""
    from operators.phwsoa.lp_round import lp_round_ls

    rows = []
    for number, key in enumerate(settings.etc_matrices):
        made, data = sources.etc_instance(key, root)
        low, kind = bounds.lower_bound_kind(made)
        if number == 0:
            lp_round_ls(made, steps=1000)  # compiles
        x = lp_round_ls(made, seconds=settings.etc_seconds, seed=settings.seed, threads=2)
        ours = float(objectives.evaluate(made, x)[0, 0])
        names = ("lpt", "min_min", "max_min", "sufferage")
        rivals = {name: float(objectives.evaluate(made, heuristics.HEURISTICS[name](made))[0, 0]) for name in names}
        same = {"bench": "etc", "case": f"{key} {settings.etc_seconds:g} s", "ours": "lp_round_ls", "unit": "s",
                "ours_samples": [ours], "data": data, "lb_kind": kind, "ours_over_bound": ours / low}  # fmt: skip
        rows += [row(**same, peer=peer, peer_samples=[value], peer_over_bound=value / low)
                 for peer, value in {"LP bound": low, **rivals}.items()]  # fmt: skip
        if settings.cpsat_seconds and number in (0, 4):
            rows.append(row(**same, peer="CP-SAT", **_cpsat(made, settings.cpsat_seconds, low)))
    return rows


def _cpsat(made: Instance, seconds: float, low: float) -> dict:
    """CP-SAT's best makespan within `seconds`, two workers; times rounded to 1e-5 of the bound."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return {"reason": "ortools is not installed"}
    times = np.ceil(made.etc / low * 1e5).astype(np.int64)
    model = cp_model.CpModel()
    x = [[model.new_bool_var("") for _ in range(made.m)] for _ in range(made.n)]
    longest = model.new_int_var(0, int(3e5), "")
    for i in range(made.n):
        model.add_exactly_one(x[i])
    for j in range(made.m):
        model.add(sum(int(times[i, j]) * x[i][j] for i in range(made.n)) <= longest)
    model.minimize(longest)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds, solver.parameters.num_workers = seconds, 2
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return {"reason": f"no solution within {seconds:g} s"}
    chosen = np.array([[solver.value(one) for one in line] for line in x]).argmax(1)
    value = float(objectives.evaluate(made, chosen)[0, 0])
    return {"peer_samples": [value], "peer_over_bound": value / low}
