"""Loads of weights in simulated time: one at a time per GPU, first come first served; a replica's ranks load together.

A replica begins when it is first on all of its GPUs. The caller is told what begins and schedules the end.
"""

from collections import deque

from operators.warmserve.cluster_state import Replica


class LoadChannel:
    """Queues of loads, one per GPU."""

    def __init__(self, gpus: int):
        self._queues: list[deque[Replica]] = [deque() for _ in range(gpus)]
        self._active: set[int] = set()

    def add(self, replica: Replica) -> list[Replica]:
        """Queue a load; what begins now."""
        for gpu in replica.gpus:
            self._queues[gpu].append(replica)
        return self._begin(replica.gpus)

    def remove(self, replica: Replica) -> list[Replica]:
        """A load is complete or cancelled; what begins now. Unknown replicas are ignored (cancelling twice is fine)."""
        self._active.discard(replica.id)
        for gpu in replica.gpus:
            if replica in self._queues[gpu]:
                self._queues[gpu].remove(replica)
        return self._begin(replica.gpus)

    def _begin(self, gpus: tuple[int, ...]) -> list[Replica]:
        begun = []
        for gpu in gpus:
            if not self._queues[gpu]:
                continue
            first = self._queues[gpu][0]
            if first.id not in self._active and all(self._queues[other][0] is first for other in first.gpus):
                self._active.add(first.id)
                begun.append(first)
        return begun
