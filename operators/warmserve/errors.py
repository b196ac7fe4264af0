"""Errors of warmserve: what a user gave wrong, and what must never happen."""

from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration cannot work; the message names key, value and what was expected."""


class InvariantError(AssertionError):
    """The state contradicts itself. `events` are the last ones before it was noticed."""

    def __init__(self, message: str, events: Iterable[object] = ()):
        self.events = list(events)[-20:]
        super().__init__(message + "".join(f"\n  {event}" for event in self.events))
