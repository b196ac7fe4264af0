"""One run at a time in one results folder, by a kernel lock that cannot outlive its holder.

Snakemake's own lock is a file and stays behind when a run is killed; this one is released with the process.
"""

import fcntl
import os
from pathlib import Path
from typing import TextIO


class RunLockError(ValueError):
    """Another run uses the results folder."""


def acquire(path: Path | str) -> TextIO:
    """Hold the lock at `path` until the returned file is closed; RunLockError names the holder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = open(path, "a+")  # noqa: SIM115  it must stay open: closing it releases the lock
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        stream.close()
        raise RunLockError(f"{path.parent} is in use by a run with pid {holder}; wait for it or stop it") from None
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream
