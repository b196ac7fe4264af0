"""Islands: several searches side by side that offer each other their archives every `every` generations (a ring).

An Island is pure; `optimise_islands` drives islands in this process or, with `ray`, one process each. Random numbers
belong to (seed, generation, individual), so an island's next generations depend on its state alone: whoever drives it
keeps the state of the last migration, and an island that dies is run again from there. The result is the same bytes as
without the death. Island model of parallel evolutionary search: Tanese 1989; the paper says only "parallel".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from operators.phwsoa.instance import Instance
from operators.phwsoa.optimise import HISTORY, METHODS, Operators, Result, Search, serial, volume

ARRAYS = ("position", "x", "f", "rank", "crowd")
ARCHIVED = ("position", "x", "f", "g")
COUNTS = ("gen", "evals", "delta_evals")
SEED_STRIDE = 1_000_003  # islands of neighbouring seeds share no stream
PATIENCE_S = 600.0
ATTEMPTS = 3

State = dict[str, Any]


class Island:
    """One island: a search of `pop` individuals whose state can be taken out and put back."""

    def __init__(self, inst: Instance, method: str, pop: int, seed: int, number: int, operators: dict[str, Any]):
        how = Operators(**{**operators, "threads": 1})
        self.search = Search(inst, method, how, pop, seed + number * SEED_STRIDE, serial(pop))

    def step(self, generations: int, total: int) -> State:
        """Run `generations` more of `total`; the state after them."""
        for _ in range(generations):
            self.search.step(self.search.gen / total)
        return self.state()

    def immigrate(self, state: State) -> None:
        """Offer another island's archive to this one's."""
        self.search.archive.update(*(state[f"archive_{name}"] for name in ARCHIVED))

    def state(self) -> State:
        """Everything the next generation depends on, as arrays and numbers."""
        s = self.search
        taken = {name: np.array(getattr(s, name)) for name in ARRAYS}
        taken |= {f"archive_{name}": getattr(s.archive, name).copy() for name in ARCHIVED}
        return taken | {name: getattr(s, name) for name in COUNTS} | {"best": s.best}

    def restore(self, state: State) -> None:
        """Put a state back; copies, since what came from another process is read-only (a type of its own)."""
        for name in (*COUNTS, "best"):
            setattr(self.search, name, state[name])
        for name in ARRAYS:
            setattr(self.search, name, np.array(state[name]))
        for name in ARCHIVED:
            setattr(self.search.archive, name, np.array(state[f"archive_{name}"]))

    def validate(self) -> None:
        """Raise ValueError when the archive holds a dominated solution."""
        self.search.archive.validate()


class IslandActor:
    """What runs in an island's process."""

    def __init__(self, *made: Any):
        self._island = Island(*made)

    def pid(self) -> int:
        """This process's id."""
        import os

        return os.getpid()

    def round(self, state: State | None, guest: State | None, generations: int, total: int) -> State:
        """One round from `state` (None: the start), with another island's archive as guest."""
        return one_round(self._island, state, guest, generations, total)


def one_round(island: Island, state: State | None, guest: State | None, generations: int, total: int) -> State:
    """Restore, take the guest's archive in, run; the same in every process."""
    if state is not None:
        island.restore(state)
    if guest is not None:
        island.immigrate(guest)
    return island.step(generations, total)


def optimise_islands(
    inst: Instance, method: str = "phwsoa", *, islands: int = 2, every: int = 20, pop: int = 100,
    generations: int = 500, seed: int = 0, ray: Any = None, kill: Sequence[tuple[int, int]] = (), **operators: Any,
) -> Result:  # fmt: skip
    """Search on `islands` islands of `pop` individuals each; the non-dominated part of all archives.

    Every `every` generations each island is offered the archive of the one before it. `ray` (a connected module) gives
    every island a process of its own; without it they take turns here, with the same result. `kill` pairs (round,
    island) send SIGKILL to an island's process as that round begins: it is started again from its last state. Raises
    ValueError naming argument and value, ConnectionError when an island died three times in one round.
    """
    for name, value, least in (("islands", islands, 1), ("every", every, 1), ("generations", generations, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} (={value!r}): expected a whole number >= {least}")
    if method not in METHODS:
        raise ValueError(f"method (={method!r}): expected one of {', '.join(METHODS)}")
    made = [(inst, method, pop, seed, number, operators) for number in range(islands)]
    driver = _Processes(ray, made, list(kill)) if ray else _InTurn(made)
    states: list[State | None] = [None] * islands
    rows = []
    try:
        for number, first in enumerate(range(0, generations, every)):
            guests = [states[k - 1] if islands > 1 else None for k in range(islands)]
            states = driver.round(number, states, guests, min(every, generations - first), generations)
            rows.append(_row(states, inst))
    finally:
        driver.close()
    return _joined(inst, made[0], states, rows)


def _row(states: Sequence[State], inst: Instance) -> tuple:
    f = np.concatenate([state["archive_f"] for state in states])
    counted = [sum(state[name] for state in states) for name in ("evals", "delta_evals")]
    return states[0]["gen"], *counted, volume(f, inst), *map(float, f.min(0))


def _joined(inst: Instance, made: tuple, states: Sequence[State], rows: list[tuple]) -> Result:
    import polars as pl

    archive = Island(*made).search.archive
    for state in states:
        archive.update(*(state[f"archive_{name}"] for name in ARCHIVED))
    order = np.lexsort(archive.f.T[::-1])
    counters = {name: sum(state[name] for state in states) for name in ("evals", "delta_evals")}
    counters["generations"] = states[0]["gen"]
    history = pl.DataFrame(rows, schema=list(HISTORY), orient="row")
    return Result(archive.x[order], archive.f[order], history, np.zeros(0), counters)


class _InTurn:
    """All islands in this process."""

    def __init__(self, made: list[tuple]):
        self.islands = [Island(*one) for one in made]

    def round(self, number: int, states: list, guests: list, generations: int, total: int) -> list[State]:
        """One round of every island."""
        return [one_round(*one, generations, total) for one in zip(self.islands, states, guests, strict=True)]

    def close(self) -> None:
        """Nothing to end."""


class _Processes:
    """A Ray actor per island; a dead one is made anew and given its round again."""

    def __init__(self, ray: Any, made: list[tuple], kill: list[tuple[int, int]]):
        self.ray, self.made, self.kill = ray, made, kill
        self.remote = ray.remote(IslandActor).options(num_cpus=0, max_restarts=0)
        self.actors = [self.remote.remote(*one) for one in made]

    def round(self, number: int, states: list, guests: list, generations: int, total: int) -> list[State]:
        """One round of every island, side by side."""
        from operators.lab import faults

        asked = [(states[k], guests[k], generations, total) for k in range(len(self.actors))]
        struck = {k: self.ray.get(self.actors[k].pid.remote(), timeout=PATIENCE_S) for r, k in self.kill if r == number}
        waiting = [actor.round.remote(*one) for actor, one in zip(self.actors, asked, strict=True)]
        for pid in struck.values():
            faults.strike("kill", pid)
        return [self._answer(k, reference, asked[k]) for k, reference in enumerate(waiting)]

    def _answer(self, k: int, reference: Any, asked: tuple) -> State:
        for _ in range(ATTEMPTS):
            try:
                return self.ray.get(reference, timeout=PATIENCE_S)
            except self.ray.exceptions.RayActorError:
                self.actors[k] = self.remote.remote(*self.made[k])
                reference = self.actors[k].round.remote(*asked)
        raise ConnectionError(f"island {k}: died {ATTEMPTS} times in one round")

    def close(self) -> None:
        """End every island's process."""
        for actor in self.actors:
            self.ray.kill(actor)
