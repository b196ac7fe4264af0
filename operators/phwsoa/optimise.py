"""The optimisers behind one call: the hybrid, its parts, the baselines; one loop, one evaluation, one archive.

Every method keeps the same external archive and counts evaluations the same way, so fronts can be compared. The
schedule of a method (how far mobility has fallen) follows the share of its budget that is spent, so methods that need
several evaluations per individual end at the same count as the others, not at the same generation. `_h` and
`seeded=True` put solutions of simple heuristics into the first population (at most a fifth) and offer all of them to
the archive; these evaluations count.
"""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.phwsoa import archive as pareto
from operators.phwsoa import bounds, hybrid, nsga, objectives, start
from operators.phwsoa.ga import breed
from operators.phwsoa.instance import Instance
from operators.phwsoa.redistribution import SCOPES

if TYPE_CHECKING:
    import polars as pl

METHODS = ("phwsoa", "phwsoa_h", "woa", "soa", "ga", "pewoa_like", "gcwoa_like", "nsga2", "nsga3")
SINGLE = ("woa", "soa", "ga", "pewoa_like", "gcwoa_like")
HISTORY = ("gen", "evals", "delta_evals", "hv", "best_f1", "best_f2", "best_f3")


@dataclass(frozen=True)
class Operators:
    """Switches of a search; each value is checked when a search begins."""

    hybrid_rule: str = "phase"
    soa_variant: str = "bounded"
    init: str = "halton_scrambled"
    repair: str = "reflect"
    draws: str = "individual"
    mutation: bool = True
    redis_moves: int = 50
    redis_prob: float = 0.2
    redis_scope: str | None = None
    elite_prob: float | None = None
    theta: float = 0.1
    balance: str = "cv"
    billing_quantum_s: float = 0.0
    objectives: int = 3
    fitness: str = "makespan"
    archive: int = 100
    seeded: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        allowed = {
            "hybrid_rule": ("phase", "half", "sequential"), "soa_variant": ("bounded", "original"),
            "init": start.INITS, "repair": hybrid.REPAIRS, "draws": ("individual", "gene"), "objectives": (2, 3),
            "balance": objectives.BALANCES, "fitness": ("makespan", "scalar"),
            "redis_scope": (None, *SCOPES),
        }  # fmt: skip
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} (={getattr(self, name)!r}): expected one of {', '.join(map(str, values))}")
        least = {"redis_moves": 0, "redis_prob": 0, "theta": 0, "billing_quantum_s": 0, "archive": 4, "threads": 1}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} (={getattr(self, name)!r}): expected >= {low}")


@dataclass(frozen=True, eq=False)
class Result:
    """A search's front: genes `front_X` (k, n), objectives `front_F` (k, 3); history; seconds per generation."""

    front_X: np.ndarray
    front_F: np.ndarray
    history: "pl.DataFrame"
    seconds: np.ndarray
    counters: dict[str, int]


@dataclass(eq=False)
class Search:
    """State of one search; `step` runs one generation."""

    inst: Instance
    method: str
    how: Operators
    pop: int
    seed: int
    pool: Callable[..., Any] = field(repr=False)

    def __post_init__(self) -> None:
        self.arrays = tuple(self.inst.arrays)
        self.cost = (objectives.balance_code(self.how.balance), float(self.how.billing_quantum_s))
        self.axes = [0, 1, 2] if self.how.objectives == 3 else [0, 2]
        self.archive = pareto.Archive(self.how.archive, self.inst.n, len(self.axes), self.inst.gene_type)
        self.lines = nsga.reference_lines(len(self.axes))
        self.evals = self.delta_evals = self.gen = 0
        self.best: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._first_population()

    def _box(self, f: np.ndarray) -> np.ndarray:
        scaled = f.copy()
        if self.how.balance == "std":  # seconds; in bounds, to stand beside the others
            scaled[:, 1] /= bounds.lower_bound(self.inst)
        return np.ascontiguousarray(bounds.box3(scaled, self.inst)[:, self.axes])

    def _evaluated(self, x: np.ndarray) -> np.ndarray:
        f = np.empty((len(x), 3))
        objectives.evaluate_many(x, self.arrays, *self.cost, f)
        self.evals += len(x)
        return f

    def _genes(self, position: np.ndarray) -> np.ndarray:
        x = position.astype(self.inst.gene_type)
        a = self.inst.arrays
        for p, g in np.argwhere(a.pes[None, :] > a.vm_pes[x]):
            while a.pes[g] > a.vm_pes[x[p, g]]:
                x[p, g] = (x[p, g] + 1) % self.inst.m
            position[p, g] = x[p, g] + 0.5
        return x

    def _first_population(self) -> None:
        position = start.start_positions(self.inst, self.pop, self.how.init, self.seed)
        x = self._genes(position)
        if self.how.seeded or self.how.init == "heuristic" or self.method == "phwsoa_h":
            seeds = start.heuristic_seeds(self.inst)
            chosen = start.chosen_seeds(len(seeds), self.pop)
            x[: len(chosen)] = seeds[chosen]
            position[: len(chosen)] = seeds[chosen] + 0.5
            f = self._evaluated(seeds)
            self.archive.update(seeds + 0.5, seeds, f, self._box(f))
        f = self._evaluated(x)
        if self.method == "gcwoa_like":
            mirrored = start.opposites(position, self.inst.m)
            other_x = self._genes(mirrored)
            other = self._evaluated(other_x)
            better = other[:, 0] < f[:, 0]
            position[better], x[better], f[better] = mirrored[better], other_x[better], other[better]
        self.position, self.x, self.f = position, x, f
        self.archive.update(position, x, f, self._box(f))
        self._remember(position, x, f)
        self.rank, self.crowd = self._merit(f)

    def _merit(self, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.method in SINGLE:
            return np.argsort(np.argsort(self._fitness(f), kind="stable")), np.zeros(len(f))
        order, rank, crowd = nsga.select_crowded(self._box(f), len(f))
        back = np.argsort(order)
        return rank[back], crowd[back]

    def _fitness(self, f: np.ndarray) -> np.ndarray:
        """What single-objective methods minimise: makespan, or the mean of all three scaled to their ranges."""
        if self.how.fitness == "makespan":
            return f[:, 0]
        every = np.concatenate([f, self.archive.f])
        low = every.min(0)
        span = every.max(0) - low
        return ((f - low) / np.where(span > 0, span, 1.0)).mean(1)

    def _remember(self, position: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        """Keep the best solution so far of a single-objective method."""
        if self.method not in SINGLE:
            return
        fitness = self._fitness(f)
        k = int(fitness.argmin())
        if self.best is None or fitness[k] < self._fitness(self.best[2][None])[0]:
            self.best = (position[k].copy(), x[k].copy(), f[k].copy())

    def step(self, progress: float) -> None:
        """One generation."""
        self.gen += 1
        if self.method in ("ga", "nsga2", "nsga3"):
            chance, resets = (0.9, 1.0) if self.method == "ga" else (1.0, 3.0)
            x, f = np.empty_like(self.x), np.empty((self.pop, 3))
            self.pool(breed, self.seed, self.gen, chance, resets, self.arrays, self.x, self.rank, self.crowd, x)
            self.pool(objectives.EVALUATE[self.arrays[0]], x, self.arrays, *self.cost, f)
            self.evals += self.pop
            y = x + 0.5
        else:
            made = hybrid.Offspring(self.position, self.inst.gene_type, self.pool)
            made.make(self.seed, self.gen, self._knobs(progress), self.arrays, self._guides())
            self.evals += made.evals
            self.delta_evals += made.delta_evals
            y, x, f = made.y, made.x, made.f
        self.archive.update(y, x, f, self._box(f))
        self._remember(y, x, f)
        self._select(y, x, f)

    def _guides(self) -> tuple[np.ndarray, np.ndarray]:
        if self.method in SINGLE:
            return self.best[0][None], np.ones(1)
        return self.archive.position, self.archive.roulette()

    def _knobs(self, progress: float) -> hybrid.Knobs:
        how, plain = self.how, self.method in SINGLE
        rule = hybrid.RULES.index(self.method if plain else how.hybrid_rule)
        return hybrid.Knobs(
            rule, how.soa_variant == "bounded", how.draws == "gene", hybrid.REPAIRS.index(how.repair),
            how.mutation and not plain, self._elite(), float(how.redis_prob),
            0 if plain else int(how.redis_moves), float(how.theta),
            SCOPES.index(self._scope()), *self.cost, float(progress),
        )  # fmt: skip

    def _scope(self) -> str:
        """Scope of redistribution: the paper's idea (`full`) for the faithful method, `mixed` for the seeded one."""
        return self.how.redis_scope or ("mixed" if self.method == "phwsoa_h" else "full")

    def _elite(self) -> float:
        """Share of offspring that are archive members changed a little: ours, and only of the seeded hybrid."""
        default = 0.5 if self.method == "phwsoa_h" else 0.0
        return float(default if self.how.elite_prob is None else self.how.elite_prob)

    def _select(self, y: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        """Whales replace their parents, as in the base algorithm; the others keep the best of both generations."""
        if self.method in SINGLE and self.method != "ga":
            self.position, self.x, self.f = y, x, f
            return
        both_x, both_f = np.concatenate([self.x, x]), np.concatenate([self.f, f])
        if self.method == "ga":
            order = np.argsort(self._fitness(both_f), kind="stable")[: self.pop]
            self.rank, self.crowd = np.arange(self.pop), np.zeros(self.pop)
        elif self.method == "nsga3":
            rng = np.random.default_rng([self.seed, 2, self.gen])
            order, self.rank, self.crowd = nsga.select_niched(self._box(both_f), self.pop, self.lines, rng)
        else:
            order, self.rank, self.crowd = nsga.select_crowded(self._box(both_f), self.pop)
        if self.method in ("phwsoa", "phwsoa_h"):  # breeders know genes only
            self.position = np.concatenate([self.position, y])[order]
        self.x, self.f = both_x[order], both_f[order]

    def row(self) -> tuple:
        """What the history keeps of this generation."""
        f = self.archive.f.min(0)
        return self.gen, self.evals, self.delta_evals, volume(self.archive.f, self.inst), *map(float, f)


def volume(f: np.ndarray, inst: Instance) -> float:
    """Three-objective hypervolume of objectives `(k, 3)` (imbalance as cv) in the unit box."""
    return float(pareto.hv3(np.ascontiguousarray(bounds.box3(f, inst))))


def serial(pop: int) -> Callable[..., None]:
    """A caller of kernels over all individuals in this thread."""
    return _pooled(pop, 1, None)


def _pooled(pop: int, threads: int, executor: ThreadPoolExecutor | None) -> Callable[..., None]:
    """A caller that splits individuals over threads; results do not depend on the split."""

    def call(kernel: Callable, *args: Any, count: int = pop) -> None:
        if executor is None:
            kernel(0, count, *args)
            return
        edges = [count * k // threads for k in range(threads + 1)]
        waiting = [executor.submit(kernel, low, high, *args) for low, high in itertools.pairwise(edges)]
        for one in waiting:
            one.result()

    return call


def optimise(
    inst: Instance,
    method: str = "phwsoa",
    *,
    pop: int = 100,
    generations: int = 500,
    max_evals: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    **operators: Any,
) -> Result:
    """Search good schedules of `inst`; the archive's front, history and counters.

    Ends after `generations`, or as soon as `max_evals` evaluations or `max_seconds` are spent (with either, it goes on
    as long as they last). `operators` are the fields of `Operators`. With the same arguments the result is the same
    for any number of threads, unless `max_seconds` is given. Raises ValueError naming argument, value, what is allowed.
    """
    if method not in METHODS:
        raise ValueError(f"method (={method!r}): expected one of {', '.join(METHODS)}")
    known = Operators.__dataclass_fields__
    for name in operators:
        if name not in known:
            raise ValueError(f"{name} (={operators[name]!r}): unknown; expected one of {', '.join(known)}")
    for name, value, least in (("pop", pop, 2), ("generations", generations, 0), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} (={value!r}): expected a whole number >= {least}")
    how = Operators(**operators)
    executor = ThreadPoolExecutor(how.threads) if how.threads > 1 else None
    try:
        search = Search(inst, method, how, pop, seed, _pooled(pop, how.threads, executor))
        return _run(search, generations, max_evals, max_seconds)
    finally:
        if executor:
            executor.shutdown()


def _run(search: Search, generations: int, max_evals: int | None, max_seconds: float | None) -> Result:
    import polars as pl

    rows, seconds, began = [search.row()], [], time.perf_counter()
    while True:
        spent = search.gen / max(1, generations)
        if max_seconds is not None:
            spent = (time.perf_counter() - began) / max_seconds
        elif max_evals is not None:
            spent = search.evals / max_evals
        if spent >= 1.0 or (max_evals is not None and search.evals >= max_evals):
            break
        tick = time.perf_counter()
        search.step(min(1.0, spent))
        rows.append(search.row())
        seconds.append(time.perf_counter() - tick)
    order = np.lexsort(search.archive.f.T[::-1])
    counters = {"evals": search.evals, "delta_evals": search.delta_evals, "generations": search.gen}
    return Result(
        search.archive.x[order], search.archive.f[order], pl.DataFrame(rows, schema=list(HISTORY), orient="row"),
        np.array(seconds), counters,
    )  # fmt: skip
