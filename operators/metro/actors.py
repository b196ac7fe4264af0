"""Expert ranks as Ray actors and the cluster that drives them, with real faults (METRO, expert parallelism).

`Cluster.step` is one MoE layer of one batch: decide slots, send the batch to every rank that serves part of it, add the
partial outputs in rank order. Who decides is an option: `one` (the cluster decides and sends slots, like an engine's
scheduler) or `replicated` (every rank runs the same router on the same batch and nobody sends decisions, the paper's
allGather dispatch); both give the same slots, and in the second mode that is checked in every step.

Promise under faults. A rank that dies during a step is marked dead, and the whole step is done again without it:
partial outputs of a failed try are thrown away, so no token is lost or counted twice. A rank that does not answer
within `deadline_s` is a straggler: named in the result, routed round like a dead one, and taken back once it has
answered what it owed. If an expert with tokens has no live copy, the router's RoutingError names expert and layer;
nothing waits for ever. A dead rank comes back by `restart`: a new process, which joins only after its weights are
loaded and validated.

Ray carries batches of a millisecond or more here; it is never inside a measured time.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from operators.lab import faults
from operators.metro.expert_rank import ExpertRank

if TYPE_CHECKING:  # a rank's process needs neither routers nor numba unless it decides for itself
    from operators.metro.placement import Placement

LOAD_PATIENCE_S = 120.0
NOT_STARTED = ("RayActorError", "GetTimeoutError", "ActorUnschedulableError")  # of ray.exceptions


class ClusterError(ConnectionError):
    """The ranks cannot go on: they disagree, did not start, or none is left."""


class Decider:
    """The router as one place, or every rank, runs it: the same batch gives the same slots everywhere."""

    def __init__(self, placement: "Placement", router: str, *, cost: Any = None, seed: int = 0):
        from operators.metro.routing import ROUTERS

        if router not in ROUTERS:
            raise ValueError(f"router (={router!r}): unknown; known: {', '.join(ROUTERS)}")
        self._placement, self._cost, self._seed = placement, cost, seed
        self._route = ROUTERS[router]

    def slots(self, layer: int, topk: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """The slot of every (token, k); RoutingError when an expert with tokens has no live copy."""
        routing = self._route(self._placement.layer(layer), topk, cost=self._cost, seed=self._seed, alive=alive)
        return routing.slot


class RankActor:
    """What runs in a rank's process: an ExpertRank, and a Decider in replicated mode."""

    def __init__(self, rank: int, *, capacity: int, width: int, hidden: int):
        self._rank = ExpertRank(rank, capacity=capacity, width=width, hidden=hidden)
        self._decider: Decider | None = None
        self._cold = None

    def hello(self) -> tuple[int, str]:
        """Process id and Ray node of this rank."""
        import os

        import ray

        return os.getpid(), ray.get_runtime_context().get_node_id()

    def decide_with(self, placement: "Placement", router: str, cost: Any, seed: int) -> None:
        """Become a decider (replicated mode)."""
        self._decider = Decider(placement, router, cost=cost, seed=seed)

    def load(self, layer: int, slots: np.ndarray, experts: np.ndarray, seed: int) -> int:
        """Load or generate weights, then check every invariant."""
        written = self._rank.load(layer, slots, experts, seed=seed)
        self._rank.validate()
        return written

    def forward(self, layer, x, topk, weights, slot, alive):
        """Partial output, what it cost, and the slots used (decided here when `slot` is None)."""
        if slot is None:
            slot = self._decider.slots(layer, topk, alive)
        partial, stats = self._rank.forward(layer, x, topk, weights, slot)
        return partial, stats, slot

    def measure(self, jobs: list[tuple], evict_bytes: int) -> list[dict[str, Any]]:
        """Cold, timed runs of `jobs` (layer, x, topk, weights, slot), one after the other; see cold.py."""
        from operators.metro.cold import ColdTimer

        if self._cold is None:
            self._cold = ColdTimer(self._rank, evict_bytes)
        return [self._cold.run(*job) for job in jobs]

    def inspect(self, layer: int, slot: int) -> bytes:
        """A hash of the weights in a slot."""
        import hashlib

        return hashlib.sha256(self._rank.weights(layer, slot).tobytes()).digest()

    def counters(self) -> dict[str, int]:
        """The rank's totals, after checking its invariants."""
        self._rank.validate()
        return self._rank.counters()


@dataclass(frozen=True, eq=False)
class StepResult:
    """One layer's output and how it came about."""

    output: np.ndarray  # (T, d) f32
    slot: np.ndarray  # (T, k)
    ranks: dict[int, dict[str, int]]  # what each rank that took part reports
    tries: int = 1
    died: tuple[int, ...] = ()  # ranks found dead in this step
    stragglers: tuple[int, ...] = ()  # ranks that missed the deadline in this step


@dataclass
class _Member:
    actor: Any
    pid: int
    node: str
    owed: Any = None  # the call a straggler has not answered yet
    alive: bool = True
    stopped: bool = False  # by a SIGSTOP of ours


class Cluster:
    """Expert ranks of one placement as Ray actors; see the module's text for what it promises.

    `ray` is the connected module (operators.lab.cluster.connect). At most `parallel` ranks compute at once. `schedule`
    holds faults by step number. `capacity`: slots of a rank, when a later placement needs more than this one. Use it as
    a context manager: the actors end with the block.
    """

    def __init__(
        self,
        ray: Any,
        placement: "Placement",
        *,
        router: str,
        width: int,
        hidden: int,
        seed: int = 0,
        cost: Any = None,
        deciders: Literal["one", "replicated"] = "one",
        deadline_s: float = 10.0,
        parallel: int = 2,
        capacity: int = 0,
        schedule: Sequence[faults.Fault] = (),
    ):
        if parallel < 1 or not deadline_s > 0:
            raise ValueError(f"parallel, deadline_s (={parallel}, {deadline_s}): expected >= 1 and > 0")
        self._ray, self.placement = ray, placement
        self._sizes = {"width": width, "hidden": hidden, "capacity": max(capacity, placement.slots_per_gpu)}
        self._router, self._cost, self._seed = router, cost, seed
        self._decider = Decider(placement, router, cost=cost, seed=seed)
        self._replicated, self.deadline_s, self._parallel = _is_replicated(deciders), deadline_s, parallel
        self.steps = 0  # begun so far
        self.inject(schedule)
        self._members: list[_Member] = []

    def __enter__(self) -> "Cluster":
        try:
            self._members = self._join(range(self.placement.num_gpus))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def alive(self) -> np.ndarray:
        """Which ranks take part `(G,)` bool."""
        return np.array([member.alive for member in self._members])

    @property
    def pids(self) -> list[int]:
        return [member.pid for member in self._members]

    def step(self, layer: int, x: np.ndarray, topk: np.ndarray, weights: np.ndarray) -> StepResult:
        """The layer's output for x `(T, d)`, topk and gates `(T, k)`.

        Raises RoutingError (expert and layer) when the ranks alive cannot serve it, ClusterError when none is left.
        """
        for fault in self._schedule.due(self.steps):
            self.strike(fault.kind, fault.rank)
        self.steps += 1
        self.take_back()
        x, topk = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(topk, np.int64)
        batch = tuple(map(self._ray.put, (x, topk, np.ascontiguousarray(weights, np.float32))))
        died, slow = [], []
        for tries in range(1, 2 * len(self._members) + 2):
            alive = self.alive
            if not alive.any():
                raise ClusterError(f"no rank is left (died {died}, stragglers {slow})")
            slot = self._decider.slots(layer, topk, alive)
            answers, dead, late = self._ask(layer, batch, slot, alive)
            died, slow = died + dead, slow + late
            if not dead and not late:
                return self._combined(x, slot, answers, tries, died, slow)
        raise ClusterError(f"layer {layer}: ranks kept failing (died {died}, stragglers {slow})")

    def _ask(self, layer, batch, slot, alive) -> tuple[dict[int, Any], list[int], list[int]]:
        """Answers by rank, and the ranks found dead and late; stops asking after the first failure."""
        needed = np.unique(slot // self.placement.slots_per_gpu)
        waiting = np.flatnonzero(alive).tolist() if self._replicated else needed.tolist()
        sent: dict[Any, tuple[int, float]] = {}
        answers, dead, late = {}, [], []
        while sent or (waiting and not dead and not late):
            while waiting and len(sent) < self._parallel and not dead and not late:
                rank = waiting.pop(0)
                given = (None, alive) if self._replicated else (slot, None)
                reference = self._members[rank].actor.forward.remote(layer, *batch, *given)
                sent[reference] = (rank, time.monotonic() + self.deadline_s)
                self._dispatched(rank)
            left = max(0.0, min(deadline for _, deadline in sent.values()) - time.monotonic())
            ready, _ = self._ray.wait(list(sent), timeout=left)
            for reference in ready:
                rank, _ = sent.pop(reference)
                answer = self._received(reference)
                if answer is None:
                    dead.append(rank)
                    self._members[rank].alive = False
                else:
                    answers[rank] = answer
            if not ready:
                for reference, (rank, deadline) in list(sent.items()):
                    if deadline <= time.monotonic():
                        del sent[reference]
                        late.append(rank)
                        self._members[rank].alive, self._members[rank].owed = False, reference
        return answers, dead, late

    def _dispatched(self, rank: int) -> None:
        """Called when a batch is on its way to `rank`; tests strike here."""

    def _received(self, reference: Any) -> Any:
        """A call's answer, None when its rank is dead; errors the rank raised are raised as they were."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            return None
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def _combined(self, x, slot, answers, tries, died, slow) -> StepResult:
        output = np.zeros_like(x)
        for rank in sorted(answers):
            partial, _, used = answers[rank]
            if not np.array_equal(used, slot):
                raise ClusterError(f"rank {rank} decided other slots than the rest: routing must be deterministic")
            output += partial
        stats = {rank: answers[rank][1] for rank in sorted(answers)}
        served = sum(part["tokens"] for part in stats.values())
        if served != slot.size:
            raise ClusterError(f"{served} of {slot.size} assignments were served")
        return StepResult(output, slot, stats, tries, tuple(died), tuple(slow))

    def inject(self, schedule: Sequence[faults.Fault]) -> None:
        """Replace the faults to come; `at_step` counts this cluster's steps from its start."""
        outside = [fault.rank for fault in schedule if fault.rank >= self.placement.num_gpus]
        if outside:
            raise ValueError(f"faults: rank {outside[0]}; there are ranks 0 to {self.placement.num_gpus - 1}")
        self._schedule = faults.Schedule(tuple(schedule))

    def strike(self, kind: str, rank: int) -> None:
        """Send a fault's signal to the process of `rank`; nothing happens when it is dead already."""
        member = self._members[rank]
        if member.node != self._ray.get_runtime_context().get_node_id():
            raise ClusterError(f"rank {rank}: runs on another machine; faults reach only this one")
        if faults.is_alive(member.pid):
            faults.strike(kind, member.pid)
            member.stopped = kind == "stop"

    def take_back(self) -> np.ndarray:
        """Let stragglers that have answered by now take part again; which ranks take part `(G,)`."""
        for member in self._members:
            if member.owed is not None and self._ray.wait([member.owed], timeout=0)[0]:
                member.alive, member.owed = self._received(member.owed) is not None, None
        return self.alive

    def restart(self, rank: int) -> None:
        """Replace the process of `rank` (killed if it still runs) by a new one that has loaded its weights."""
        self._end(self._members[rank])
        self._members[rank] = self._join([rank])[0]

    def measure(self, rank: int, jobs: Any, evict_bytes: int) -> Any:
        """A reference to the answers of `RankActor.measure`."""
        return self._members[rank].actor.measure.remote(jobs, evict_bytes)

    def ask(self, rank: int, method: str, *args: Any) -> Any:
        """The answer of one method of a rank's actor."""
        return self._ray.get(getattr(self._members[rank].actor, method).remote(*args), timeout=LOAD_PATIENCE_S)

    def rearrange(self, placement: "Placement") -> int:
        """Switch to another placement between two steps; returns how many experts were written.

        Positions that keep their expert are left alone; ranks that are down load when they come back.
        """
        room = self._sizes["capacity"]
        if placement.num_gpus != self.placement.num_gpus or placement.slots_per_gpu > room:
            raise ValueError(
                f"placement ({placement.num_gpus} GPUs of {placement.slots_per_gpu} slots): expected "
                f"{self.placement.num_gpus} GPUs of at most {room} slots"
            )
        self.placement = placement
        self._decider = Decider(placement, self._router, cost=self._cost, seed=self._seed)
        actors = {rank: member.actor for rank, member in enumerate(self._members) if member.alive}
        return sum(self._load(actors))

    def decide(self, deciders: Literal["one", "replicated"]) -> None:
        """Change who decides from the next step on."""
        self._replicated = _is_replicated(deciders)
        if self._replicated:
            ranks = np.flatnonzero(self.alive).tolist()
            self._ray.get([self._tell_router(self._members[rank].actor) for rank in ranks], timeout=LOAD_PATIENCE_S)

    def _tell_router(self, actor: Any) -> Any:
        return actor.decide_with.remote(self.placement, self._router, self._cost, self._seed)

    def _join(self, ranks: Iterable[int]) -> list[_Member]:
        """New processes for `ranks`, each with its weights loaded; ends them again when one does not come up."""
        actors = {rank: self._actor(rank) for rank in ranks}
        try:
            homes = self._ray.get([actor.hello.remote() for actor in actors.values()], timeout=LOAD_PATIENCE_S)
            self._load(actors)
        except tuple(map(vars(self._ray.exceptions).get, NOT_STARTED)) as error:
            for actor in actors.values():
                self._ray.kill(actor)
            raise ClusterError(f"ranks {list(actors)} did not start within {LOAD_PATIENCE_S:g} s: {error}") from error
        return [_Member(actor, *home) for actor, home in zip(actors.values(), homes, strict=True)]

    def _actor(self, rank: int) -> Any:
        """A new actor for `rank`. Ranks go round the machines, as GPUs do; Ray's own SPREAD only tries to."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = sorted(node["NodeID"] for node in self._ray.nodes() if node["Alive"])
        home = NodeAffinitySchedulingStrategy(nodes[rank % len(nodes)], soft=False)
        remote = self._ray.remote(RankActor).options(num_cpus=0, max_restarts=0, scheduling_strategy=home)
        return remote.remote(rank, **self._sizes)

    def _load(self, actors: dict[int, Any]) -> list[int]:
        """Load every layer's slots into the ranks given; how many experts each call wrote."""
        per_gpu, calls = self.placement.slots_per_gpu, []
        if self._replicated:
            self._ray.get([self._tell_router(actor) for actor in actors.values()], timeout=LOAD_PATIENCE_S)
        for rank, actor in actors.items():
            slots = np.arange(rank * per_gpu, (rank + 1) * per_gpu)
            for layer, expert_of in enumerate(self.placement.phys2log):
                calls.append(actor.load.remote(layer, slots, expert_of[slots], self._seed))
        return self._ray.get(calls, timeout=LOAD_PATIENCE_S)

    def _end(self, member: _Member) -> None:
        """Ray asks the process to end; one that is stopped or does not answer gets SIGKILL, which reaches it anyway."""
        here = member.node == self._ray.get_runtime_context().get_node_id()
        if here and (member.stopped or not member.alive) and faults.is_alive(member.pid):
            faults.strike("kill", member.pid)
        self._ray.kill(member.actor)

    def close(self) -> None:
        """End all ranks."""
        members, self._members = self._members, []
        for member in members:
            self._end(member)


def _is_replicated(deciders: str) -> bool:
    if deciders not in ("one", "replicated"):
        raise ValueError(f"deciders (={deciders!r}): expected 'one' or 'replicated'")
    return deciders == "replicated"
