"""GPUs, replicas and instances of a cluster: the tables that the manager decides on, and what must always hold.

Pure and without a clock: every change takes its time as an argument. A GPU either serves one instance or holds replicas
of several models; a replica's weights lie on all GPUs of its set or not at all. Changes are noted twice: as events, and
as segments of each GPU's timeline.
"""

from dataclasses import dataclass, field

import numpy as np

from operators.warmserve.catalogue import BLOCK_BYTES, Model
from operators.warmserve.errors import InvariantError
from operators.warmserve.ledger import Ledger
from operators.warmserve.placement import Standing

QUEUED, LOADING, COMPLETE = "queued", "loading", "complete"
CREATING, RUNNING, STOPPING = "creating", "running", "stopping"


@dataclass(eq=False)
class Replica:
    """Weights of one model on a set of GPUs of one node."""

    id: int
    model: int
    node: int
    gpus: tuple[int, ...]  # of the whole cluster
    mask: int  # the same within the node
    kind: str
    score: float
    state: str = QUEUED
    instance: int | None = None
    load_start_s: float | None = None


@dataclass(eq=False)
class Instance:
    """A promoted replica: an engine that serves."""

    id: int
    model: int
    replica: int
    gpus: tuple[int, ...]
    start_kind: str
    created_s: float
    state: str = CREATING
    kept: int = 0  # KV blocks it may use per GPU


@dataclass
class Segment:
    """What a GPU was from when, in blocks of 2 MiB."""

    t0_s: float
    state: str
    model: int
    weight_blocks: int
    kv_blocks: int


@dataclass
class Cluster:
    """State of `nodes` x `gpus_per_node` GPUs of `pool` bytes each."""

    models: list[Model]
    nodes: int
    gpus_per_node: int
    pool: int
    slots: int = 30
    laminar: bool = True
    now: float = 0.0
    version: int = 0  # rises with every change that placement can see
    replicas: dict[int, Replica] = field(default_factory=dict)
    instances: dict[int, Instance] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    events: list[tuple] = field(default_factory=list)
    timeline: list[tuple] = field(default_factory=list)
    _next_replica: int = 0
    _next_instance: int = 0

    def __post_init__(self) -> None:
        count = self.nodes * self.gpus_per_node
        self.serving: list[int | None] = [None] * count  # instance that has the GPU
        self.holds: list[list[int]] = [[] for _ in range(count)]  # replicas on the GPU
        self.weights = np.zeros(count, np.int64)  # bytes of weights on each
        self.given = np.zeros(count, np.int64)  # bytes a draining instance gives to prewarming
        self._segments = [Segment(0.0, "idle", -1, 0, 0) for _ in range(count)]
        self.down: set[int] = set()  # GPUs whose worker is gone for now
        self.room = np.full((self.nodes, self.gpus_per_node), self.pool, np.int64)

    def note(self, kind: str, model: int, gpus: tuple[int, ...], **more) -> None:
        """One event: (t, kind, model, gpus, replica, engine, bytes, score, reason)."""
        self.events.append(
            (
                *(self.now, kind, model, gpus, more.get("replica", -1), more.get("engine", -1)),
                *(more.get("size", 0.0), more.get("score", 0.0), more.get("reason", "")),
            )
        )

    def size(self, replica: Replica) -> int:
        """Bytes of a replica over all its GPUs."""
        return self.models[replica.model].need * len(replica.gpus)

    def add_replica(self, model: int, gpus: tuple[int, ...], kind: str, score: float, *, held: bool = False) -> Replica:
        """Weights of `model` are to lie on `gpus`; `held`: they do already."""
        node, base = gpus[0] // self.gpus_per_node, gpus[0] // self.gpus_per_node * self.gpus_per_node
        mask = sum(1 << (gpu - base) for gpu in gpus)
        made = Replica(self._next_replica, model, node, gpus, mask, kind, score, COMPLETE if held else QUEUED)
        self._next_replica += 1
        self.replicas[made.id] = made
        self.ledger.open(made.id, self.models[model].name, gpus, kind, score, self.now, held=held)
        for gpu in gpus:
            self.holds[gpu].append(made.id)
            self.weights[gpu] += self.models[model].need
        self.changed(gpus)
        return made

    def remove_replica(self, replica: Replica, outcome: str | None, *, partial: float = 0.0) -> None:
        """Its weights are dropped; `outcome` closes its ledger entry (None: closed already)."""
        if outcome:
            self.ledger.close(replica.id, outcome, self.now, partial=partial, size=self.size(replica))
        del self.replicas[replica.id]
        for gpu in replica.gpus:
            self.holds[gpu].remove(replica.id)
            self.weights[gpu] -= self.models[replica.model].need
        self.changed(replica.gpus)

    def add_instance(self, replica: Replica, start_kind: str) -> Instance:
        """The replica is promoted; its GPUs serve from now on."""
        made = Instance(
            *(self._next_instance, replica.model, replica.id, replica.gpus, start_kind, self.now),
            kept=self.models[replica.model].kv_blocks,
        )
        self._next_instance += 1
        self.instances[made.id] = made
        replica.instance = made.id
        for gpu in replica.gpus:
            self.serving[gpu] = made.id
        self.changed(replica.gpus)
        return made

    def remove_instance(self, instance: Instance) -> None:
        """Its KV is unmapped; its GPUs serve nobody."""
        del self.instances[instance.id]
        for gpu in instance.gpus:
            self.serving[gpu] = None
            self.given[gpu] = 0
        self.changed(instance.gpus)

    def touching(self, gpus: tuple[int, ...], *, but: int | None = None) -> list[Replica]:
        """Replicas on any of these GPUs, by id."""
        found = {identity for gpu in gpus for identity in self.holds[gpu]} - {but}
        return [self.replicas[identity] for identity in sorted(found)]

    def beside(self, instance: Instance) -> list[Replica]:
        """Replicas prewarmed on a draining instance's GPUs."""
        return self.touching(instance.gpus, but=instance.replica)

    def taken_blocks(self, instance: Instance) -> int:
        """KV blocks that weights prewarmed beside an instance take, on the GPU where it is most."""
        model = self.models[instance.model]
        most = max(int(self.weights[gpu]) - model.need for gpu in instance.gpus)
        return -(-most // model.kv_bytes)

    def free_for_serving(self, gpus: tuple[int, ...]) -> bool:
        """Whether no instance has any of these GPUs, and their workers live."""
        return all(self.serving[gpu] is None and gpu not in self.down for gpu in gpus)

    def of_model(self, model: int, *states: str) -> list[Instance]:
        """The model's instances in one of `states`, by id."""
        return [one for one in self.instances.values() if one.model == model and one.state in states]

    def standing(self) -> tuple[Standing, list[Replica]]:
        """What placement sees; weights of draining instances count with score 0."""
        rows = list(self.replicas.values())
        return Standing(
            np.array([row.node for row in rows], np.int32),
            np.array([row.mask for row in rows], np.uint64),
            np.array([row.model for row in rows], np.int32),
            np.array([len(row.gpus) for row in rows], np.int32),
            np.array([0.0 if row.instance is not None else row.score for row in rows], float),
            self.room,
        ), rows

    def changed(self, gpus: tuple[int, ...]) -> None:
        """Renew what is derived of these GPUs, and their timelines."""
        self.version += 1
        for gpu in gpus:
            node, own = divmod(gpu, self.gpus_per_node)
            identity = self.serving[gpu]
            if identity is None:
                room = self.pool - int(self.weights[gpu])
            else:
                need = self.models[self.instances[identity].model].need
                room = int(self.given[gpu]) - (int(self.weights[gpu]) - need)
            usable = len(self.holds[gpu]) < self.slots and gpu not in self.down
            self.room[node, own] = max(room, 0) if usable else 0
            self._renew(gpu)

    def gpu_state(self, gpu: int) -> tuple[str, int]:
        """(state, model) of a GPU: idle, loading, universal, promoting, dedicated or draining."""
        identity = self.serving[gpu]
        if identity is not None:
            instance = self.instances[identity]
            return {CREATING: "promoting", RUNNING: "dedicated", STOPPING: "draining"}[instance.state], instance.model
        if not self.holds[gpu]:
            return "idle", -1
        loading = any(self.replicas[identity].state != COMPLETE for identity in self.holds[gpu])
        return ("loading" if loading else "universal"), -1

    def _renew(self, gpu: int) -> None:
        state, model = self.gpu_state(gpu)
        identity, weights = self.serving[gpu], int(self.weights[gpu]) // BLOCK_BYTES
        kv = 0
        if identity is not None and model >= 0:
            kv = self.instances[identity].kept * self.models[model].kv_bytes // BLOCK_BYTES
        last = self._segments[gpu]
        if (last.state, last.model, last.weight_blocks, last.kv_blocks) == (state, model, weights, kv):
            return
        self._close_segment(gpu, last)
        self._segments[gpu] = Segment(self.now, state, model, weights, kv)

    def _close_segment(self, gpu: int, last: Segment) -> None:
        if self.now > last.t0_s:
            free = self.pool // BLOCK_BYTES - last.weight_blocks - last.kv_blocks
            row = (gpu, last.t0_s, self.now, last.state, last.model, last.weight_blocks, last.kv_blocks, free)
            self.timeline.append(row)

    def finish(self) -> None:
        """End of a run: close the ledger and the timelines."""
        for replica in list(self.replicas.values()):
            if replica.instance is None or self.ledger.entries[replica.id].outcome is None:
                self.ledger.close(replica.id, "left", self.now, size=self.size(replica))
        for gpu, last in enumerate(self._segments):
            self._close_segment(gpu, last)

    def validate(self) -> None:
        """Raise InvariantError when the tables contradict each other."""
        weights = np.zeros_like(self.weights)
        for replica in self.replicas.values():
            for gpu in replica.gpus:
                weights[gpu] += self.models[replica.model].need
                self._check(replica.id in self.holds[gpu], f"replica {replica.id} is not on its GPU {gpu}")
        self._check(bool((weights == self.weights).all()), "weights on a GPU are not the sum of its replicas")
        self._check(bool((weights <= self.pool).all()), "a GPU holds more than its pool")
        for gpu, identities in enumerate(self.holds):
            models = [self.replicas[identity].model for identity in identities]
            self._check(len(set(models)) == len(models), f"GPU {gpu} holds two copies of a model")
        for instance in self.instances.values():
            model = self.models[instance.model]
            self._check(all(self.serving[gpu] == instance.id for gpu in instance.gpus), f"{instance}: GPU of another")
            if instance.state != STOPPING:
                self._check(not self.beside(instance), f"instance {instance.id} shares a dedicated GPU")
            taken = self.taken_blocks(instance)
            self._check(instance.kept + taken <= model.kv_blocks, f"instance {instance.id}: KV and weights overlap")
        if self.laminar:
            self._check_laminar()

    def _check_laminar(self) -> None:
        for node in range(self.nodes):
            sets = {replica.mask for replica in self.replicas.values() if replica.node == node}
            for a in sets:
                for b in sets:
                    self._check(a & b in (0, a, b), f"node {node}: sets {a:b} and {b:b} cross")

    def _check(self, holds: bool, message: str) -> None:
        if not holds:
            raise InvariantError(message, self.events)
