"""What the real workers' manager decided, decided again by the pure policy from the recorded inputs alone."""

from operators.warmserve.actors import fleet
from operators.warmserve.cluster_state import CREATING, Cluster
from operators.warmserve.manager import Manager
from operators.warmserve.policies import policy

T, KIND, MODEL, GPUS, REPLICA, ENGINE, SCORE, REASON = 0, 1, 2, 3, 4, 5, 7, 8


def decision(event):
    """An event without what clocks decide: time, bytes of a cut-off load, and a score that was renewed later."""
    return (*event[KIND : ENGINE + 1], event[SCORE] if event[KIND] == "plan" else None, event[REASON])


class Replay:
    """A pure manager that is told when loads ended, requests came, instances were stopped and the planner ran."""

    def __init__(self, settings, block_bytes, forecast):
        size = settings.real_blocks * block_bytes
        self.cluster = Cluster(fleet(settings, block_bytes), 1, settings.workers, size)
        self.manager = Manager(self.cluster, policy("warmserve"), settings, lambda _: (0, 0))
        self.manager.set_forecast(*forecast)

    def against(self, recorded):
        """Pairs of (recorded, decided again), event by event."""
        at, pairs = 0, []
        while at < len(recorded):
            self.cluster.now = recorded[at][T]
            before = len(self.cluster.events)
            self._input(recorded[at:])
            for action in self.manager.drain_actions():
                if action.kind == "load":
                    self.manager.loading(action.replica)
            made = self.cluster.events[before:]
            assert made, f"nothing was decided where the workers' manager decided {recorded[at]}"
            pairs += [(decision(a), decision(b)) for a, b in zip(recorded[at:], made, strict=False)]
            at += len(made)
        assert at == len(recorded)
        return pairs

    def _input(self, coming):
        """What made the manager decide the first of the events that come."""
        event = coming[0]
        if event[REASON] == "order" and event[KIND] == "plan":
            replica = self.cluster.add_replica(event[MODEL], event[GPUS], "foundation", 1.0)
            self.cluster.note("plan", replica.model, replica.gpus, replica=replica.id, score=1.0, reason="order")
            self.manager.loading(replica)
        elif event[REASON] == "order" and event[KIND] in ("evict", "cancel"):
            self.manager.evict(self.cluster.replicas[event[REPLICA]], "left", "order")
        elif event[KIND] == "plan":
            self.manager._planned = None  # it ran often and found nothing new; here it runs where it did
            self.manager.prewarm()
        elif event[KIND] in ("promote", "evict", "cancel"):
            self.manager.create(next(one[MODEL] for one in coming if one[KIND] == "promote"))
        elif event[KIND] == "load_end":
            self.manager.loaded(self.cluster.replicas[event[REPLICA]])
        elif event[KIND] == "stop":
            instance = self.cluster.instances[event[ENGINE]]
            if instance.state == CREATING:
                self.manager.ready(instance.id)
            self.manager.stop(instance, "order")
        else:
            self.manager.ended(event[ENGINE])
