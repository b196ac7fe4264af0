"""What can go wrong, each with the name of the thing at fault: a setting, a file, a reader that does not answer."""

from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A setting or an input is impossible; the message names key, value and what was expected."""

    def __init__(self, key: str, reason: str, value: Any = None):
        shown = f": {value!r}" if value is not None else ""
        super().__init__(f"{key}{shown}; {reason}" if shown else f"{key}: {reason}")
        self.key, self.reason, self.value = key, reason, value

    def __reduce__(self):
        return type(self), (self.key, self.reason, self.value)


class CorruptFile(ValueError):
    """A flow file is damaged or not what its name says; `path` and the place in the file are in the message."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class SourceTimeout(ValueError):
    """A flow was not read in time. The stream is not over: the next call gets the flow when the read returns."""

    def __init__(self, path: Path | str, seconds: float):
        super().__init__(f"{path}: not read within {seconds:g} s; the file system may be slow or the reader dead")
        self.path, self.seconds = str(path), seconds

    def __reduce__(self):
        return type(self), (self.path, self.seconds)


class EpisodeEnd(ValueError):
    """The episode has no further step; call `next_episode()` to start new ones."""
