"""A peer's process: mealpy, pymoo or pygmo on our evaluation, one JSON line in, one out.

Runs under the peers' interpreter, with this repository on its path for the evaluation function only. Evaluations are
counted here, not believed. What the libraries print goes to standard error.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np

from operators.phwsoa import objectives
from operators.phwsoa.instance import Instance


class Counted:
    """Our evaluation with a count."""

    def __init__(self, inst: Instance):
        self.inst, self.count = inst, 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.count += len(x)
        return objectives.evaluate(self.inst, x)


def mealpy_run(inst: Instance, evaluate: Counted, *, name: str, pop: int, evals: int, seed: int) -> float:
    """Makespan a single-objective mealpy optimiser ends at."""
    from mealpy import FloatVar, bio_based, evolutionary_based, swarm_based

    makers = {
        "OriginalWOA": lambda e: swarm_based.WOA.OriginalWOA(epoch=e, pop_size=pop),
        "HI_WOA": lambda e: swarm_based.WOA.HI_WOA(epoch=e, pop_size=pop),
        "DevSOA": lambda e: bio_based.SOA.DevSOA(epoch=e, pop_size=pop),
        "BaseGA": lambda e: evolutionary_based.GA.BaseGA(epoch=e, pop_size=pop),
    }
    top = inst.m - 1e-9

    def fitness(x: np.ndarray) -> float:
        return float(evaluate(np.clip(x, 0, top).astype(inst.gene_type)[None])[0, 0])

    problem = {
        **{"obj_func": fitness, "bounds": FloatVar(lb=[0.0] * inst.n, ub=[top] * inst.n), "minmax": "min"},
        **{"log_to": None, "save_population": False},
    }
    best = makers[name](max(1, evals // pop - 1)).solve(problem, seed=seed)
    return float(best.target.fitness)


def pymoo_run(inst: Instance, evaluate: Counted, *, name: str, pop: int, evals: int, seed: int) -> float:
    """Makespan pymoo's NSGA-II ends at: integer genes, uniform crossover, reset of three genes, default survival."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Schedule(Problem):
        def __init__(self):
            super().__init__(n_var=inst.n, n_obj=3, xl=0, xu=inst.m - 1, vtype=int)

        def _evaluate(self, x, out, *args, **kwargs):
            out["F"] = evaluate(np.asarray(x).astype(inst.gene_type))

    class Reset(Mutation):
        def _do(self, problem, x, *args, random_state=None, **kwargs):
            rng = random_state or np.random.default_rng(seed)
            mask = rng.random(x.shape) < 3.0 / inst.n
            return np.where(mask, rng.integers(0, inst.m, x.shape), x)

    method = NSGA2(pop_size=pop, sampling=IntegerRandomSampling(), crossover=UX(), mutation=Reset())
    found = minimize(Schedule(), method, ("n_eval", evals), seed=seed, verbose=False)
    return float(np.atleast_2d(found.F)[:, 0].min())


def pygmo_run(inst: Instance, evaluate: Counted, *, name: str, pop: int, evals: int, seed: int) -> float:
    """Makespan pygmo's NSGA-II ends at: integer genes, its default operators, whole generations evaluated at once."""
    import pygmo

    class Schedule:
        def fitness(self, x):
            return evaluate(np.asarray(x)[None].astype(inst.gene_type))[0]

        def batch_fitness(self, xs):
            return evaluate(np.asarray(xs).reshape(-1, inst.n).astype(inst.gene_type)).ravel()

        def get_nobj(self):
            return 3

        def get_nix(self):
            return inst.n

        def get_bounds(self):
            return [0] * inst.n, [inst.m - 1] * inst.n

    method = pygmo.nsga2(gen=max(1, evals // pop - 1), seed=seed)
    method.set_bfe(pygmo.bfe(pygmo.member_bfe()))
    start = pygmo.population(pygmo.problem(Schedule()), size=pop, seed=seed)
    return float(pygmo.algorithm(method).evolve(start).get_f()[:, 0].min())


def main() -> None:
    """Answer requests until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    inst, tools = None, {"mealpy": mealpy_run, "pymoo": pymoo_run, "pygmo": pygmo_run}
    for line in sys.stdin:
        request = json.loads(line)
        tool = request.pop("tool")
        if tool == "instance":
            inst = Instance(**{name: np.array(values) for name, values in request.items()})
            objectives.evaluate(inst, np.zeros((1, inst.n), inst.gene_type))
            answer = {}
        else:
            evaluate = Counted(inst)
            began, cpu = time.perf_counter(), time.process_time()
            makespan = tools[tool](inst, evaluate, **request)
            answer = {"makespan": makespan, "evals": evaluate.count, "seconds": time.perf_counter() - began,
                      "cpu": time.process_time() - cpu}  # fmt: skip
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
