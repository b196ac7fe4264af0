"""Real workers and the manager as Ray actors: the pure `Manager` decides, messages carry it out (paper, design).

Promise. Worker killed: its replicas are closed in the ledger as `crashed`, other ranks of a group drop their part, the
worker is started again and the next tick plans anew; its requests are queued once more (see frontend.py). Manager
killed: workers go on serving; a new one rebuilds its tables from their reports. A dead incarnation's word is ignored.

Ray carries life cycle and one message per request; weights and KV stay in each worker's memory. Workers belong to the
front end's process, so they outlive the manager.
"""

import time
from typing import Any

from operators.warmserve import autoscale, catalogue
from operators.warmserve.cluster_state import COMPLETE, CREATING, RUNNING, STOPPING, Cluster, Instance, Replica
from operators.warmserve.manager import Manager
from operators.warmserve.policies import policy
from operators.warmserve.settings import Settings
from operators.warmserve.worker import Worker

NOTHING = -1


def remote_worker(ray: Any, gpu: int, epoch: int, blocks: int) -> Any:
    """The Ray shell of a worker: threads, because it loads while it serves."""
    return ray.remote(Worker).options(num_cpus=0, max_concurrency=16, max_restarts=0).remote(gpu, epoch, blocks)


def fleet(settings: Settings, block_bytes: int) -> list[catalogue.Model]:
    """The models of the real run: two on one GPU, one over two; sizes in blocks of the small pools."""
    weight = settings.real_weight_blocks * block_bytes // 2
    kv = (settings.real_blocks * block_bytes - weight) // block_bytes
    common = {"need": weight, "kv_bytes": block_bytes, "kv_blocks": kv, "prefill_s": 0.0, "decode_s": 0.0}
    common |= {"hot_s": 0.0, "load_s": 0.05, "engine_s": 0.0}
    return [
        catalogue.Model(name=name, tp=tp, weight_bytes=weight * tp, rank_s=weight / 2**30 / 32, **common)
        for name, tp in (("one", 1), ("two", 1), ("wide", 2))
    ]


class Control:
    """The manager's process: tables, loops, and the messages under way."""

    def __init__(self, settings: Settings, manifest: dict[str, dict], handles: list[Any], block_bytes: int):
        import ray

        self._ray, self.settings, self.manifest, self.handles = ray, settings, manifest, list(handles)
        self.models = fleet(settings, block_bytes)
        count = len(self.handles)
        self.cluster = Cluster(self.models, 1, count, settings.real_blocks * block_bytes)
        self.requests: dict[int, int] = {}  # in flight per instance
        self.manager = Manager(self.cluster, policy("warmserve"), settings, lambda i: (self.requests.get(i, 0), 0))
        self.epochs, self.began = [0] * count, time.monotonic()
        self.name = time.monotonic_ns()  # of this incarnation; a later manager's is greater
        self.numbers = [0] * count  # orders given to each worker
        self.messages: dict[Any, tuple] = {}  # reference -> (what, gpu, replica or instance)
        self.missing: dict[int, set[int]] = {}  # replica -> GPUs whose load is not complete
        self.mapping: dict[int, set[int]] = {}  # instance -> GPUs whose promotion is under way
        self.dead: set[int] = set()
        self.loads = [autoscale.LoadAverage(settings.scale_window_s, settings.tick_s) for _ in self.models]
        self.pause_us, self.automatic, self._last_tick = 0, False, 0.0
        self.measured: list[tuple] = []  # (what, seconds) of loads and promotions

    # What the front end calls

    def hello(self) -> int:
        """The manager's pid."""
        import os

        return os.getpid()

    def route(self, name: str) -> tuple[int, list[int], str] | None:
        """(instance, GPUs, how it was started) for one more request; None while none is ready."""
        self._clock()
        model = self._index(name)
        running = [one for one in self.cluster.of_model(model, RUNNING) if self._count(one) < self.settings.batch]
        if running:
            best = min(running, key=lambda one: (self._count(one), one.id))
            self.requests[best.id] = self._count(best) + 1
            return best.id, list(best.gpus), best.start_kind
        if not self.cluster.of_model(model, CREATING):
            self.manager.create(model)
            self._act()
        return None

    def done(self, identity: int) -> None:
        """A request of an instance is answered or lost."""
        self._clock()
        if identity in self.requests:
            self.requests[identity] = max(self.requests[identity] - 1, 0)
        self._end_if_empty(identity)

    def lost(self, gpus: list[int], epochs: list[int]) -> None:
        """The front end saw a request fail: look at these workers now, so that it is not sent there again."""
        self._clock()
        for gpu, epoch in zip(gpus, epochs, strict=True):
            if gpu in self.dead or epoch != self.epochs[gpu]:
                continue
            try:
                self._ray.get(self.handles[gpu].hello.remote(), timeout=30)
            except self._ray.exceptions.RayActorError:
                self._lost(gpu)

    def prewarm(self, name: str, gpus: list[int]) -> int:
        """Load a model's weights onto idle GPUs now, as the planner would; the replica."""
        self._clock()
        replica = self.cluster.add_replica(self._index(name), tuple(gpus), "foundation", 1.0)
        self.cluster.note("plan", replica.model, replica.gpus, replica=replica.id, score=1.0, reason="order")
        self._load(replica)
        return replica.id

    def stop(self, name: str) -> list[int]:
        """Stop the model's instances; their ids."""
        self._clock()
        running = self.cluster.of_model(self._index(name), RUNNING)
        for instance in running:
            self.manager.stop(instance, "order")
        self._act()
        return [instance.id for instance in running]

    def configure(self, automatic: bool | None = None, pause_us: int | None = None) -> None:
        """Turn the loops on or off; slow mode of promotions."""
        self.automatic = self.automatic if automatic is None else automatic
        self.pause_us = self.pause_us if pause_us is None else pause_us

    def forecast(self, mean: list[float], peak: list[float]) -> None:
        """Forecast load for the planner."""
        self.manager.set_forecast(mean, peak)

    def clear(self) -> None:
        """Drop what is prewarmed and serves nobody."""
        self._clock()
        for replica in list(self.cluster.replicas.values()):
            if replica.instance is None:
                self.manager.evict(replica, "left", "order")
        self._act()

    def tick(self) -> list[int]:
        """Handle what came back, run the loops; GPUs whose worker must be started again."""
        self._clock()
        if self.messages:
            ready, _ = self._ray.wait(list(self.messages), num_returns=len(self.messages), timeout=0.002)
            for reference in ready:
                self._answer(reference, *self.messages.pop(reference))
        for gpu in range(len(self.handles)):
            if gpu not in self.dead and not any(what[:2] == ("ping", gpu) for what in self.messages.values()):
                self._send(self.handles[gpu].hello.remote(), "ping", gpu, NOTHING)
        if self.automatic and self.cluster.now - self._last_tick >= self.settings.tick_s:
            self._last_tick = self.cluster.now
            self.manager.prewarm()
            self._act()
        return sorted(self.dead)

    def restarted(self, gpu: int, handle: Any, epoch: int) -> None:
        """A fresh worker has the GPU."""
        self._clock()
        self.handles[gpu], self.epochs[gpu], self.numbers[gpu] = handle, epoch, 0
        self.dead.discard(gpu)
        self.manager.restarted(gpu)

    def rebuild(self, in_flight: dict[int, int], epochs: list[int]) -> int:
        """Tables of a new manager from the workers' reports; half-loaded replicas are dropped. How many were kept."""
        self._clock()
        self.epochs, self.requests = list(epochs), dict(in_flight)
        reports = {}
        for gpu in range(len(self.handles)):
            try:  # an order, so that what the dead manager still has under way comes too late
                reports[gpu] = self._ray.get(self._order(gpu, "report"), timeout=30)
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
                self.dead.add(gpu)
                self.cluster.down.add(gpu)
        where: dict[int, dict[int, dict]] = {}
        for gpu, report in reports.items():
            for replica, held in report["held"].items():
                where.setdefault(replica, {})[gpu] = held
        self.cluster._next_replica = max(where, default=-1) + 1
        serving = {r["serving"]["replica"]: r["serving"] for r in reports.values() if r["serving"]}
        self.cluster._next_instance = max([s["instance"] for s in serving.values()] + list(in_flight), default=-1) + 1
        kept = 0
        for replica, ranks in sorted(where.items()):
            model = self._index(next(iter(ranks.values()))["model"])
            whole = len(ranks) == self.models[model].tp and all(held["complete"] for held in ranks.values())
            if not whole:
                for gpu in ranks:
                    self._order(gpu, "drop", self.epochs[gpu], replica)
                continue
            self._adopt(replica, model, tuple(sorted(ranks)), serving.get(replica))
            kept += 1
        return kept

    def tables(self) -> dict[str, Any]:
        """Cluster (closed) and measured times, at the end of a run."""
        self._clock()
        for instance in list(self.cluster.instances.values()):
            replica = self.cluster.replicas[instance.replica]
            self.cluster.remove_instance(instance)
            self.cluster.remove_replica(replica, None)
        self.cluster.finish()
        self.cluster.ledger.validate()
        return {"cluster": self.cluster, "measured": self.measured}

    def events(self) -> list[tuple]:
        """Events so far."""
        return self.cluster.events

    def outcomes(self) -> list[str]:
        """Outcomes in the ledger so far."""
        return [entry.outcome for entry in self.cluster.ledger.entries.values() if entry.outcome]

    def states(self) -> list[str]:
        """State of every GPU by the tables."""
        return [self.cluster.gpu_state(gpu)[0] for gpu in range(len(self.handles))]

    def validate(self) -> bool:
        """Invariants of the tables."""
        self.cluster.validate()
        return True

    # Carrying out

    def _clock(self) -> None:
        self.cluster.now = time.monotonic() - self.began

    def _index(self, name: str) -> int:
        for index, model in enumerate(self.models):
            if model.name == name:
                return index
        raise ValueError(f"model (={name!r}): expected one of {', '.join(model.name for model in self.models)}")

    def _count(self, instance: Instance) -> int:
        return self.requests.get(instance.id, 0)

    def _adopt(self, identity: int, model: int, gpus: tuple[int, ...], serving: dict | None) -> None:
        after, self.cluster._next_replica = self.cluster._next_replica, identity
        replica = self.cluster.add_replica(model, gpus, "resident", 0.0, held=True)
        self.cluster._next_replica = after
        if serving is None:
            return
        after, self.cluster._next_instance = self.cluster._next_instance, serving["instance"]
        self.cluster.ledger.close(replica.id, "hit", self.cluster.now)
        instance = self.cluster.add_instance(replica, "hit")
        self.cluster._next_instance = after
        instance.state = STOPPING if serving["state"] == "draining" else RUNNING
        self.cluster.changed(gpus)
        self._end_if_empty(instance.id)

    def _act(self) -> None:
        for action in self.manager.drain_actions():
            if action.kind == "load":
                self._load(action.replica)
            elif action.kind in ("drop", "cancel"):
                self._drop(action.replica)
            elif action.kind == "start":
                if action.replica.state == COMPLETE:
                    self._promote(action.instance, action.replica)
            elif action.kind == "stop":
                self._drain(action.instance)

    def _load(self, replica: Replica) -> None:
        self.manager.loading(replica)
        self.missing[replica.id] = set(replica.gpus)
        for rank, gpu in enumerate(replica.gpus):
            name = self.models[replica.model].name
            spec = {**self.manifest[f"{name}-{rank}"], "model": name}
            reference = self._order(gpu, "load", self.epochs[gpu], replica.id, spec)
            self._send(reference, "load", gpu, replica.id)

    def _drop(self, replica: Replica) -> None:
        self.missing.pop(replica.id, None)
        for gpu in replica.gpus:
            if gpu not in self.dead:
                self._order(gpu, "drop", self.epochs[gpu], replica.id)

    def _promote(self, instance: Instance, replica: Replica) -> None:
        self.mapping[instance.id] = set(replica.gpus)
        for gpu in replica.gpus:
            reference = self._order(gpu, "promote", self.epochs[gpu], replica.id, instance.id, self.pause_us)
            self._send(reference, "promote", gpu, instance.id)

    def _drain(self, instance: Instance) -> None:
        for gpu in instance.gpus:
            give = self.models[instance.model].kv_blocks // 2
            self._order(gpu, "drain", self.epochs[gpu], instance.id, give)
        self._end_if_empty(instance.id)

    def _end_if_empty(self, identity: int) -> None:
        instance = self.cluster.instances.get(identity)
        if instance is None or instance.state != STOPPING or self._count(instance):
            return
        self.manager.ended(identity)
        resident = max(self.cluster.touching(instance.gpus), key=lambda one: one.id)
        for gpu in instance.gpus:
            self._order(gpu, "end", self.epochs[gpu], identity, resident.id)
        self._act()

    def _order(self, gpu: int, what: str, *arguments) -> Any:
        """Give a worker its next order; the reference of its answer."""
        number = self.numbers[gpu]
        self.numbers[gpu] += 1
        return self.handles[gpu].obey.remote(self.name, number, what, *arguments)

    def _send(self, reference: Any, what: str, gpu: int, identity: int) -> None:
        self.messages[reference] = (what, gpu, identity, self.epochs[gpu])

    def _answer(self, reference: Any, what: str, gpu: int, identity: int, epoch: int) -> None:
        if epoch != self.epochs[gpu]:
            return  # a dead incarnation's word
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            if gpu not in self.dead:
                self._lost(gpu)
            return
        except self._ray.exceptions.RayTaskError as error:
            self._refused(what, identity, str(error.cause or error))
            return
        if what == "load":
            self._loaded(gpu, identity, found)
        elif what == "promote" and identity in self.mapping:
            self.measured.append(("promote", found["map_s"]))
            self.mapping[identity].discard(gpu)
            if not self.mapping[identity]:
                del self.mapping[identity]
                if identity in self.cluster.instances:
                    self.manager.ready(identity)

    def _loaded(self, gpu: int, identity: int, found: dict) -> None:
        replica = self.cluster.replicas.get(identity)
        if replica is None or identity not in self.missing or not found["complete"]:
            return
        self.measured.append(("load", found["seconds"]))
        self.missing[identity].discard(gpu)
        if not self.missing[identity]:
            del self.missing[identity]
            self.manager.loaded(replica)
            if replica.instance is not None:
                self._promote(self.cluster.instances[replica.instance], replica)

    def _lost(self, gpu: int) -> None:
        self.dead.add(gpu)
        for instance in self.manager.crashed(gpu):
            self.mapping.pop(instance.id, None)
            self.requests.pop(instance.id, None)
        self._act()

    def _refused(self, what: str, identity: int, reason: str) -> None:
        """A worker refused: its weights are not what was reported; they are dropped and the instance given up."""
        self.cluster.note("cancel", -1, (), engine=identity, reason=reason[:120])
        instance = self.cluster.instances.get(identity)
        if what != "promote" or instance is None:
            return
        self.mapping.pop(identity, None)
        replica = self.cluster.replicas[instance.replica]
        self.cluster.remove_instance(instance)
        self._drop(replica)
        self.cluster.remove_replica(replica, None)
