"""The manager: which instance to start where, which to stop, what to prewarm, what to take back (paper, design).

One pure state machine for the simulator and for the real workers. It decides on `Cluster` and emits actions; the caller
carries them out and reports what came of it (`loaded`, `ready`, `ended`, `crashed`). Requests are routed by the
caller; the manager sees counts. Departures: complete replicas to promote are chosen by least worth of what the
promotion drops; a promoted replica takes no score while it serves (`plan_compat="official"` reproduces the double
count).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from operators.warmserve import autoscale, placement, plan
from operators.warmserve.cluster_state import (
    COMPLETE,
    CREATING,
    LOADING,
    RUNNING,
    STOPPING,
    Cluster,
    Instance,
    Replica,
)
from operators.warmserve.errors import InvariantError
from operators.warmserve.placement_baselines import roundrobin
from operators.warmserve.policies import Policy
from operators.warmserve.reserve import kept_blocks
from operators.warmserve.settings import Settings

HIT, ON_LOADING, ON_DEMAND = "hit", "loading", "ondemand"


class Action(NamedTuple):
    """What the caller must do: load or cancel a replica, drop its weights, start or stop an instance, set its KV."""

    kind: str  # load | cancel | drop | start | stop | limit
    replica: Replica | None = None
    instance: Instance | None = None


Usage = Callable[[int], tuple[int, int]]  # instance id -> requests it has, KV blocks in use


class Manager:
    """Decides for one cluster under one policy. `usage` tells requests and KV blocks in use of an instance."""

    def __init__(self, cluster: Cluster, policy: Policy, settings: Settings, usage: Usage):
        self.cluster, self.policy, self.settings, self.usage = cluster, policy, settings, usage
        self.actions: list[Action] = []
        self.mean = np.zeros(len(cluster.models))
        self.peak = np.zeros(len(cluster.models))
        self._planned: tuple | None = None

    def drain_actions(self) -> list[Action]:
        """The actions since the last call."""
        actions, self.actions = self.actions, []
        return actions

    def set_forecast(self, mean: Sequence[float], peak: Sequence[float]) -> None:
        """Forecast load of every model for the window that begins."""
        self.mean, self.peak = np.maximum(mean, 0.0), np.maximum(peak, 0.0)

    # Instances -----------------------------------------------------------------------------------------------------

    def create(self, model: int) -> Instance | None:
        """Start an instance of the model where its weights lie, load, or will be loaded; None: no GPUs are free."""
        found = self._promotable(model)
        if found is None:
            gpus = self._gpus_on_demand(model)
            if gpus is None:
                return None
            kind, replica = ON_DEMAND, None
        else:
            replica, gpus = found, found.gpus
            kind = HIT if replica.state == COMPLETE else ON_LOADING
        for other in self.cluster.touching(gpus, but=replica.id if replica else None):
            self.evict(other, "evicted_promotion", "promotion")
        if replica is None:
            replica = self.cluster.add_replica(model, gpus, plan.ONDEMAND, 0.0, held=self.policy.always_hit)
            if not self.policy.always_hit:
                self.actions.append(Action("load", replica))
        size = self.cluster.size(replica)
        self.cluster.ledger.close(replica.id, "hit", self.cluster.now, size=size)
        instance = self.cluster.add_instance(replica, kind)
        self.cluster.note("promote", model, gpus, replica=replica.id, engine=instance.id, reason=kind)
        self.actions.append(Action("start", replica, instance))
        return instance

    def _promotable(self, model: int) -> Replica | None:
        """A complete replica, else a loading one, whose GPUs serve nobody."""
        best, least = None, None
        for replica in self.cluster.replicas.values():
            if replica.model != model or replica.instance is not None:
                continue
            if not self.cluster.free_for_serving(replica.gpus):
                continue
            lost = sum(other.score for other in self.cluster.touching(replica.gpus, but=replica.id))
            waits = {COMPLETE: 0, LOADING: 1}.get(replica.state, 2)
            started = 0.0 if replica.load_start_s is None else replica.load_start_s
            key = (waits, started if waits == 1 else 0.0, lost, replica.node, replica.gpus)
            if least is None or key < least:
                best, least = replica, key
        return best

    def _gpus_on_demand(self, model: int) -> tuple[int, ...] | None:
        """First node with enough GPUs that serve nobody, there those with fewest replicas."""
        cluster, tp = self.cluster, self.cluster.models[model].tp
        for node in range(cluster.nodes):
            first = node * cluster.gpus_per_node
            free = [gpu for gpu in range(first, first + cluster.gpus_per_node) if cluster.free_for_serving((gpu,))]
            if len(free) >= tp:
                if self.policy.placement == "aware":
                    free.sort(key=lambda gpu: (len(cluster.holds[gpu]), gpu))
                return tuple(sorted(free[:tp]))
        return None

    def ready(self, identity: int) -> Instance:
        """The instance serves."""
        instance = self.cluster.instances[identity]
        replica = self.cluster.replicas[instance.replica]
        if replica.state != COMPLETE or instance.state != CREATING:
            raise InvariantError(f"promotion of replica {replica.id} ({replica.state})", self.cluster.events)
        instance.state = RUNNING
        self.cluster.changed(instance.gpus)
        return instance

    def stop(self, instance: Instance, reason: str) -> None:
        """The instance takes no new request and ends with its last one."""
        instance.state = STOPPING
        self.cluster.note("stop", instance.model, instance.gpus, engine=instance.id, reason=reason)
        self.cluster.changed(instance.gpus)
        self.actions.append(Action("stop", instance=instance))

    def ended(self, identity: int) -> None:
        """The stopping instance has no request left; its weights stay where the policy keeps them."""
        cluster = self.cluster
        instance = cluster.instances[identity]
        if instance.state != STOPPING:
            raise InvariantError(f"instance {identity} ended while {instance.state}", cluster.events)
        replica = cluster.replicas[instance.replica]
        cluster.note("end", instance.model, instance.gpus, engine=identity)
        cluster.remove_instance(instance)
        cluster.remove_replica(replica, None)
        if self.policy.keep_weights:
            cluster.add_replica(replica.model, replica.gpus, plan.RESIDENT, 0.0, held=True)
        else:
            self.actions.append(Action("drop", replica))

    # Replicas ------------------------------------------------------------------------------------------------------

    def loading(self, replica: Replica) -> None:
        """The load of a replica begins."""
        replica.state, replica.load_start_s = LOADING, self.cluster.now
        entry = self.cluster.ledger.entries[replica.id]
        entry.load_start_s = self.cluster.now
        self.cluster.note("load_start", replica.model, replica.gpus, replica=replica.id)
        self.cluster.changed(replica.gpus)

    def loaded(self, replica: Replica) -> None:
        """All weights of a replica lie on its GPUs."""
        if replica.state != LOADING:
            raise InvariantError(f"replica {replica.id} loaded while {replica.state}", self.cluster.events)
        size = self.cluster.models[replica.model].weight_bytes
        replica.state = COMPLETE
        if replica.instance is None:
            self.cluster.ledger.load_end(replica.id, self.cluster.now, size)
        else:
            self.cluster.ledger.loaded_later(replica.id, self.cluster.now, size)
        self.cluster.note("load_end", replica.model, replica.gpus, replica=replica.id, size=float(size))
        self.cluster.changed(replica.gpus)

    def evict(self, replica: Replica, outcome: str, reason: str) -> None:
        """Drop a replica's weights; a load under way is cut off."""
        kind = "evict" if replica.state == COMPLETE else "cancel"
        if kind == "cancel" and outcome != "crashed":
            outcome = "cancelled"
        self.actions.append(Action("drop" if kind == "evict" else "cancel", replica))
        partial = self.partial_bytes(replica)
        self.cluster.note(
            *(kind, replica.model, replica.gpus),
            **{"replica": replica.id, "size": partial, "score": replica.score, "reason": reason},
        )
        self.cluster.remove_replica(replica, outcome, partial=partial)

    def partial_bytes(self, replica: Replica) -> float:
        """Bytes of a load under way, by the time it has run."""
        if replica.state != LOADING or replica.load_start_s is None:
            return 0.0
        model = self.cluster.models[replica.model]
        share = (self.cluster.now - replica.load_start_s) / model.load_s if model.load_s > 0 else 1.0
        return model.weight_bytes * min(max(share, 0.0), 1.0)

    def take_back(self, identity: int) -> None:
        """A draining instance needs more KV than was left to it: evict what was prewarmed beside it until R fits."""
        instance = self.cluster.instances[identity]
        model, (requests, used) = self.cluster.models[instance.model], self.usage(identity)
        beside = sorted(self.cluster.beside(instance), key=lambda one: (one.score, -one.id))
        need = kept_blocks(model.kv_blocks, requests, min(used, model.kv_blocks), self.settings.batch)
        need = max(need, instance.kept + 1)
        while beside and model.kv_blocks - self.cluster.taken_blocks(instance) < need:
            self.cluster.note("takeback", instance.model, instance.gpus, engine=identity, replica=beside[0].id)
            self.evict(beside.pop(0), "evicted_takeback", "kv")
        self._limit(instance)

    def _limit(self, instance: Instance) -> None:
        kept = self.cluster.models[instance.model].kv_blocks - self.cluster.taken_blocks(instance)
        if kept != instance.kept:
            instance.kept = kept
            self.cluster.changed(instance.gpus)
            self.actions.append(Action("limit", instance=instance))

    def crashed(self, gpu: int) -> list[Instance]:
        """A worker died: every replica on its GPU is lost, on all its ranks; the instances that served are returned.

        The GPU is down until `restarted`.
        """
        lost = []
        self.cluster.down.add(gpu)
        for replica in self.cluster.touching((gpu,)):
            if replica.instance is None:
                self.evict(replica, "crashed", "crash")
                continue
            instance = self.cluster.instances[replica.instance]
            lost.append(instance)
            if replica.state != COMPLETE:
                partial = self.partial_bytes(replica)
                self.cluster.ledger.crashed(replica.id, partial)
                self.cluster.note(
                    "cancel", replica.model, replica.gpus, replica=replica.id, size=partial, reason="crash"
                )
            self.cluster.remove_instance(instance)
            self.actions.append(Action("cancel", replica))
            self.cluster.remove_replica(replica, None)
        self.cluster.changed((gpu,))
        self.cluster.note("crash", -1, (gpu,), reason="worker")
        return lost

    def restarted(self, gpu: int) -> None:
        """A fresh worker has the GPU."""
        self.cluster.down.discard(gpu)
        self.cluster.changed((gpu,))
        self.cluster.note("restart", -1, (gpu,), reason="worker")

    # Loops ---------------------------------------------------------------------------------------------------------

    def autoscale(self, load: Sequence[float]) -> None:
        """Start and stop instances by the load of every model (mean requests in flight of the last seconds)."""
        settings = self.settings
        for model in range(len(self.cluster.models)):
            count = len(self.cluster.of_model(model, RUNNING, CREATING))
            change = autoscale.change(load[model], count, settings.batch, settings.scale_low, settings.scale_high)
            if not self.resize(model, change):
                return

    def resize(self, model: int, change: int, reason: str = "load") -> bool:
        """Create or stop `change` instances of the model; False when a creation failed."""
        if change < 0:
            oldest = self.cluster.now - self.settings.protect_s
            running = [one for one in self.cluster.of_model(model, RUNNING) if one.created_s < oldest]
            running.sort(key=lambda one: (self.usage(one.id)[0], one.id))
            for instance in running[:-change]:
                self.stop(instance, reason)
        return all(self.create(model) is not None for _ in range(change))

    def prewarm(self) -> None:
        """Score the replicas that lie ready and prewarm those that are missing, where GPUs wait."""
        if not self.policy.prewarm:
            return
        self._give()
        wanted = [self._wanted(model) for model in range(len(self.cluster.models))]
        key = (self.cluster.version, tuple(map(tuple, wanted)))
        if key == self._planned:
            return
        missing = [item for model in range(len(wanted)) for item in self._score_existing(model, wanted[model])]
        if self.policy.placement == "roundrobin":
            self._place_in_turn([len(items) for items in wanted])
        else:
            self._place_best(sorted(missing, key=plan.order_key(self.settings.rule)))
        self._planned = (self.cluster.version, key[1])

    def _wanted(self, model: int) -> list[plan.Wanted]:
        running = len(self.cluster.of_model(model, RUNNING, CREATING))
        rank_s = self.cluster.models[model].rank_s
        return plan.wanted(self.mean[model], self.peak[model], running, self.settings.batch, rank_s)

    def _score_existing(self, model: int, wanted: list[plan.Wanted]) -> list[tuple[plan.Wanted, int, int]]:
        """Give the replicas that exist their scores; the wanted ones that are missing."""
        official = self.settings.plan_compat == "official"
        mine = [one for one in self.cluster.replicas.values() if one.model == model]
        mine = [one for one in mine if one.instance is None or official]
        mine.sort(key=lambda one: (one.state != COMPLETE, one.node, one.gpus))
        for rank, replica in enumerate(mine):
            replica.score = wanted[rank].score if rank < len(wanted) else 0.0
        return [(item, model, rank) for rank, item in enumerate(wanted) if rank >= len(mine)]

    def _give(self) -> None:
        """What draining instances give to prewarming by now."""
        if not self.policy.proactive:
            return
        for instance in self.cluster.instances.values():
            if instance.state != STOPPING:
                continue
            model, (requests, used) = self.cluster.models[instance.model], self.usage(instance.id)
            used = min(used, model.kv_blocks)
            kept = kept_blocks(model.kv_blocks, requests, used, self.settings.batch, self.settings.reserve)
            given = (model.kv_blocks - kept) * model.kv_bytes
            if given != self.cluster.given[instance.gpus[0]]:
                self.cluster.given[list(instance.gpus)] = given
                self.cluster.changed(instance.gpus)

    def _place_best(self, missing: list[tuple[plan.Wanted, int, int]]) -> None:
        if not missing or self.cluster.room.max() < min(model.need for model in self.cluster.models):
            return
        models = self.cluster.models
        which = np.array([model for _, model, _ in missing], np.int32)
        placed = placement.place(
            self.cluster.standing()[0],
            which,
            [models[model].tp for model in which],
            [models[model].need for model in which],
            [item.score for item, _, _ in missing],
        )
        for i, (item, model, _) in enumerate(missing):
            if placed.node[i] != placement.SKIPPED:
                self._prewarm(model, int(placed.node[i]), placed.gpus(i), item.kind, item.score)

    def _place_in_turn(self, counts: list[int]) -> None:
        models = self.cluster.models
        tp, need = [model.tp for model in models], [model.need for model in models]
        for model, node, mask in roundrobin(self.cluster.standing()[0], counts, tp, need):
            gpus = tuple(bit for bit in range(64) if int(mask) >> bit & 1)
            self._prewarm(model, node, gpus, plan.FOUNDATION, 0.0)

    def _prewarm(self, model: int, node: int, gpus: tuple[int, ...], kind: str, score: float) -> None:
        first = node * self.cluster.gpus_per_node
        replica = self.cluster.add_replica(model, tuple(first + gpu for gpu in gpus), kind, score)
        self.cluster.note("plan", model, replica.gpus, replica=replica.id, score=score, reason=kind)
        self.actions.append(Action("load", replica))
        for identity in {self.cluster.serving[gpu] for gpu in replica.gpus} - {None}:
            self._limit(self.cluster.instances[identity])
