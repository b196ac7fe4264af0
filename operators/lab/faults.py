"""Faults as inputs: who is killed, stopped or slowed, and when; done with real signals to real processes.

The schedule is pure (`Schedule.due(step)`); `strike` is the only function that touches a process, and it refuses
anything but a pid the caller names. Departure from a chaos tool: nothing here is random, a fault is a line of the
settings and therefore repeatable.
"""

import os
import signal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT}


class Fault(BaseModel):
    """One fault: `kind` happens to process number `rank` just before step `at_step`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["kill", "stop", "continue"] = Field(description="signal: SIGKILL, SIGSTOP or SIGCONT")
    rank: int = Field(ge=0, description="which process of the system, by its rank")
    at_step: int = Field(ge=0, description="just before this step")


class Schedule:
    """Faults in the order they are due; each is handed out once."""

    def __init__(self, faults: tuple[Fault, ...] = ()):
        self._pending = sorted(faults, key=lambda fault: fault.at_step)

    def due(self, step: int) -> list[Fault]:
        """The faults due at or before `step` that were not handed out yet."""
        now = [fault for fault in self._pending if fault.at_step <= step]
        self._pending = self._pending[len(now) :]
        return now


def strike(kind: str, pid: int) -> None:
    """Send the signal of `kind` to one process; ProcessLookupError when it is gone already."""
    if pid <= 1 or pid == os.getpid():
        raise ValueError(f"pid: {pid}; expected a process this run started")
    os.kill(pid, SIGNALS[kind])


def is_alive(pid: int) -> bool:
    """Whether `pid` exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before the open, or between the open and the read
        return False
