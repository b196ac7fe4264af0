"""One Ray head per run: a child process on loopback with a token, which cannot outlive the run that started it.

`start` returns at once; the child brings Ray up (three tries, each from a clean start) while other jobs already run,
and then writes the address file. `connect` waits for that file and joins. With `RAY_ADDRESS` set nothing is started and
`connect` joins that cluster. Without an address file `connect` brings up a private head for its own duration.

Departure from `ray start`: that command and `ray stop` are machine-wide and would touch other people's clusters.
"""

import argparse
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ATTEMPTS = 3
PATIENCE_S = 180.0
OBJECT_STORE_BYTES = 256 * 2**20
PR_SET_PDEATHSIG = 1
# Loopback only, with a token; both are read when ray is imported.
RAY_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class ClusterError(ConnectionError):
    """Ray could not be started or joined; the message ends with Ray's own log."""


def start(address_file: Path | str, *, cpus: int | None = None) -> subprocess.Popen | None:
    """Start the head of this run as a child process and return at once; None when `RAY_ADDRESS` names a cluster.

    `cpus` is the number of CPUs Ray may hand out (default: all). The child writes `address_file` when Ray is up, or its
    reason when it could not be started.
    """
    if os.environ.get("RAY_ADDRESS"):
        return None
    address_file = Path(address_file)
    address_file.parent.mkdir(parents=True, exist_ok=True)
    address_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "operators.lab.cluster", str(address_file), "--parent", str(os.getpid())]
    environment = {**os.environ, **RAY_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    package_root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, environment.get("PYTHONPATH")]))
    # A session of its own: Ctrl-C reaches the run, and the run then stops its head.
    return subprocess.Popen(
        command + (["--cpus", str(cpus)] if cpus else []),
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )


def stop(head: subprocess.Popen | None, *, patience_s: float = 20.0) -> None:
    """End a head started by `start` and everything Ray started under it."""
    if head is None or head.poll() is not None:
        return
    head.terminate()
    try:
        head.wait(patience_s)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait()


@contextlib.contextmanager
def connect(address_file: Path | str | None = None, *, patience_s: float = PATIENCE_S) -> Iterator[Any]:
    """Join the run's cluster and yield the `ray` module; leaves the cluster (never stops it) at the end.

    Order: `RAY_ADDRESS`, then `address_file` (waits up to `patience_s` for it), then a private head.
    Raises ClusterError with the head's own log when it could not be started.
    """
    if os.environ.get("RAY_ADDRESS"):
        with _joined(os.environ["RAY_ADDRESS"]) as ray:
            yield ray
    elif address_file is None:
        with local_head(patience_s=patience_s) as private, connect(private, patience_s=patience_s) as ray:
            yield ray
    else:
        found = _wait_for(Path(address_file), patience_s)
        os.environ.update(RAY_ENVIRONMENT, RAY_AUTH_TOKEN=found["token"])
        with _joined(found["address"]) as ray:
            yield ray


@contextlib.contextmanager
def local_head(*, cpus: int | None = None, patience_s: float = PATIENCE_S) -> Iterator[Path]:
    """A private head for the duration of the block; yields its address file."""
    with tempfile.TemporaryDirectory(prefix="pg-head-") as folder:
        head = start(Path(folder) / "head.json", cpus=cpus)
        try:
            _wait_for(Path(folder) / "head.json", patience_s)
            yield Path(folder) / "head.json"
        finally:
            stop(head)


@contextlib.contextmanager
def _joined(address: str) -> Iterator[Any]:
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="warning", configure_logging=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def _wait_for(address_file: Path, patience_s: float) -> dict[str, str]:
    """The content of an address file whose head is alive; ClusterError on a failed head or when patience ends."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            found = json.loads(address_file.read_text())
            if "error" in found:
                raise ClusterError(found["error"])
            if Path(f"/proc/{found['pid']}").exists():
                return found
        time.sleep(0.05)
    raise ClusterError(f"no Ray head wrote {address_file} within {patience_s:g} s; is the run that started it alive?")


def _die_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when `parent` ends, however it ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the run that wanted this Ray head is gone")


def _bring_up(folder: Path, cpus: int | None) -> str:
    """Start Ray under `folder`, its address; after ATTEMPTS failures ClusterError with the last raylet's log."""
    import ray

    reasons = []
    for attempt in range(ATTEMPTS):
        try:
            context = ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder / str(attempt)),
            )
            return context.address_info["address"]
        except Exception as error:  # Ray raises many kinds here; each is a failed try
            reasons.append(f"try {attempt + 1}: {type(error).__name__}: {error}")
            ray.shutdown()
    raise ClusterError("Ray did not start.\n" + "\n".join(reasons) + "\n" + _last_logs(folder))


def _last_logs(folder: Path, lines: int = 15) -> str:
    """The tails of the logs Ray's own processes wrote in the newest session under `folder`."""
    logs = sorted(folder.glob("*/session_*/logs/*"), key=lambda path: path.stat().st_mtime)
    wanted = [path for path in logs if path.name in ("raylet.out", "raylet.err", "gcs_server.out", "gcs_server.err")]
    tails = [
        f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) for path in wanted[-4:]
    ]
    return "\n".join(tails) or f"no log was written under {folder}"


def _write(address_file: Path, content: dict[str, Any]) -> None:
    temporary = address_file.with_suffix(".part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds the token
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream)
    os.replace(temporary, address_file)


def main(argv: list[str] | None = None) -> None:
    """The head process: bring Ray up, write the address file, wait for SIGTERM, take everything down."""
    parser = argparse.ArgumentParser(prog="python -m operators.lab.cluster", description=main.__doc__)
    parser.add_argument("address_file", type=Path)
    parser.add_argument("--parent", type=int, required=True, help="process whose end ends this head")
    parser.add_argument("--cpus", type=int, default=None)
    options = parser.parse_args(argv)
    _die_with(options.parent)
    folder = Path(tempfile.mkdtemp(prefix="pg-ray-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        address = _bring_up(folder, options.cpus)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # Ray put its own handler there, which prints a dump
        _write(options.address_file, {"address": address, "token": os.environ["RAY_AUTH_TOKEN"], "pid": os.getpid()})
        while True:
            signal.pause()
    except ClusterError as error:
        _write(options.address_file, {"error": str(error)})
        sys.exit(1)
    finally:
        import ray

        ray.shutdown()
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            if json.loads(options.address_file.read_text()).get("pid") == os.getpid():
                options.address_file.unlink()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
