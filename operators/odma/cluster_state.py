"""Where every request of a real run is, and what happens to it when its device dies. Pure: no Ray, no clock.

Promise: a request of a dead device is queued again once, in front, its KV lost and recomputed, counted as a restart; if
its second device dies too it fails with DeviceLost. Reserved bytes of a dead device count as zero from then on.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from operators.odma.errors import DeviceLost
from operators.odma.real_device import Report, Request

MOST_RESTARTS = 1


def choose(reserved: np.ndarray, queued: np.ndarray) -> int:
    """The device with least reserved bytes, the shortest queue among equals, the lowest number among those."""
    return int(np.lexsort((np.arange(len(reserved)), queued, reserved))[0])


@dataclass
class Record:
    """What became of one request."""

    request: Request
    device: int = -1
    restarts: int = 0
    refusals: int = 0
    reserved_last: int = 0
    copies: int = 0
    grown: int = 0
    corrupt: int = 0
    error: str = ""
    order: int = -1


@dataclass
class ClusterState:
    """Requests waiting, on devices, finished and failed."""

    devices: int
    records: dict[int, Record] = field(default_factory=dict)
    waiting: deque = field(default_factory=deque)
    on: dict[int, set] = field(default_factory=dict)
    reserved: dict[int, int] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.on = {device: set() for device in range(self.devices)}
        self.reserved = dict.fromkeys(range(self.devices), 0)

    def submit(self, requests: list[Request]) -> None:
        """New requests join the queue; ValueError for a number that is known already."""
        for request in requests:
            if request.number in self.records:
                raise ValueError(f"request {request.number}: submitted twice")
            self.records[request.number] = Record(request)
            self.waiting.append(request.number)

    def dispatch(self, alive: list[int], most: int) -> dict[int, list[Request]]:
        """Up to `most` waiting requests for each device alive: least reserved first, then fewest requests."""
        given: dict[int, list[Request]] = {device: [] for device in alive}
        held = np.array([self.reserved[device] for device in alive], float)
        counts = np.array([len(self.on[device]) for device in alive])
        for _ in range(min(len(self.waiting), most * len(alive))):
            place = choose(held, counts)
            number = self.waiting.popleft()
            request = self.records[number].request
            given[alive[place]].append(request)
            self.on[alive[place]].add(number)
            self.records[number].device = alive[place]
            held[place] += request.input_tokens + request.reserve
            counts[place] += 1
        return given

    def report(self, device: int, report: Report) -> list[int]:
        """A device's round: what finished; refused requests wait again, in front and in order."""
        for number, reserved, copies, grown, corrupt in report.finished:
            record = self.records[number]
            record.reserved_last, record.copies, record.grown, record.corrupt = reserved, copies, grown, corrupt
            record.order = len(self.finished)
            self.finished.append(number)
            self.on[device].discard(number)
        for number in sorted(report.refused, reverse=True):
            self.records[number].refusals += 1
            self.on[device].discard(number)
            self.waiting.appendleft(number)
        self.reserved[device] = report.reserved
        return [number for number, *_ in report.finished]

    def lost(self, device: int) -> list[int]:
        """A device died: its requests wait again, those that had lost one before fail. The numbers queued again."""
        again = []
        for number in sorted(self.on[device], reverse=True):
            record = self.records[number]
            if record.restarts >= MOST_RESTARTS:
                record.error = str(DeviceLost(f"request {number}: device {device} died, the second one"))
                self.failed.append(number)
                continue
            record.restarts += 1
            self.waiting.appendleft(number)
            again.append(number)
        self.on[device].clear()
        self.reserved[device] = 0
        return again[::-1]

    @property
    def done(self) -> bool:
        """Whether every request has finished or failed."""
        return len(self.finished) + len(self.failed) == len(self.records)

    def validate(self) -> None:
        """Each request is in exactly one place; nobody restarted too often. AssertionError otherwise."""
        places = [
            *self.waiting,
            *self.finished,
            *self.failed,
            *(number for held in self.on.values() for number in held),
        ]
        assert sorted(places) == sorted(self.records), "a request is lost or in two places"
        assert all(record.restarts <= MOST_RESTARTS for record in self.records.values())
        assert all(value >= 0 for value in self.reserved.values())
