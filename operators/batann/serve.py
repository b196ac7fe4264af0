"""Serve an index until Ctrl-C or SIGTERM: servers as Ray actors, or as plain child processes with --no-ray.

    python -m operators.batann.index --base vectors.fbin --dir my-index --servers 4
    python -m operators.batann.serve my-index/layout_gp_4 --replicas 2

Clients of other processes find the servers through the endpoints file (endpoints.py, query.py). A server whose process
ends is started again on its port; until it is back its partitions answer from their replicas, or queries that need them
fail with `partition_down`. A process that is merely stopped is left alone: it may go on. All listeners are on loopback.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from operators.batann.endpoints import Endpoints, check_free

if TYPE_CHECKING:
    from operators.batann.actors import Cluster

NAME = "operators.batann.serve"
POLL_S = 0.1
AGAIN_S = 2.0  # until a restart that failed is tried once more
MODES = ("single", "baton", "rpc", "baton_client_gather", "scatter", "scatter_topn")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "index", type=Path, help="index folder (layout_...), for the scatter modes the shards' (shards_...)"
    )
    made.add_argument("--servers", type=int, help="number of servers (default: one a partition)")
    made.add_argument("--replicas", type=int, default=1, help="servers a partition lives on (default 1)")
    made.add_argument("--mode", choices=MODES, default="baton", help="(default baton)")
    made.add_argument(
        "--port", type=int, default=0, help="port of the first server, the others follow (default: free ones)"
    )
    made.add_argument(
        "--endpoints", type=Path, help="file that tells clients (default: endpoints.json beside the index)"
    )
    made.add_argument(
        "--ray", action=argparse.BooleanOptionalAction, default=True, help="Ray actors (default) or processes"
    )
    made.add_argument(
        "--restart", action=argparse.BooleanOptionalAction, default=True, help="of a server that has ended"
    )
    made.add_argument("--live", type=int, default=8, help="live queries a server (default 8)")
    made.add_argument(
        "--io", choices=("uring", "pread", "mem"), default="uring", help="(default uring; pread where refused)"
    )
    made.add_argument("--iops-cap", type=float, default=0, help="reads/s a server at most; 0: not metered (default)")
    made.add_argument(
        "--cache-nodes", type=int, default=0, help="nodes a server keeps in memory, nearest to where searches start"
    )
    made.add_argument("--debug", action="store_true", help="show a traceback for any error")
    return made


def main(argv: list[str] | None = None) -> None:
    """The command; a user's error ends it with one line."""
    options = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    try:
        with _on(signal.SIGTERM, lambda *_: sys.exit(0)):  # while servers start
            serve(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        if options.debug:
            raise
        sys.exit(f"{NAME}: error: {error}")


def serve(options: argparse.Namespace) -> None:
    """Start, tell, watch, end."""
    endpoints = options.endpoints or options.index.resolve().parent / "endpoints.json"
    check_free(endpoints)
    servers = _servers(options)
    if options.port and not 1024 <= options.port <= 65536 - servers:
        raise ValueError(f"port (={options.port}): expected 1024 to {65536 - servers} for {servers} servers")
    ports = [options.port + server for server in range(servers)] if options.port else []
    with contextlib.ExitStack() as stack:
        cluster = _cluster(options, servers, ports)
        ended = stack.enter_context(_ended_by_signal())  # until the servers have ended: a second Ctrl-C changes nothing
        stack.enter_context(cluster)
        stack.enter_context(
            _file(Endpoints.of(cluster, options.index.resolve(), options.replicas, os.getpid()), endpoints)
        )
        for line in _lines(cluster):
            print(line, flush=True)
        print(f"serving {options.index} ({options.mode}); endpoints: {endpoints}", flush=True)
        watch(cluster, ended, restart=options.restart)
    print("ended", flush=True)


def _servers(options: argparse.Namespace) -> int:
    from operators.batann.actors import SHARDED
    from operators.batann.layout import open_index
    from operators.batann.sharded import shard_folders

    if options.servers is not None or options.mode == "single":
        return options.servers or 1
    return len(shard_folders(options.index)) if options.mode in SHARDED else open_index(options.index).meta.parts


def _cluster(options: argparse.Namespace, servers: int, ports: list[int]) -> "Cluster":
    from operators.batann.actors import Cluster

    launch = "ray" if options.ray else "process"
    engine = {"live": options.live, "io": options.io, "iops_cap": options.iops_cap,
              "cache_nodes": options.cache_nodes}  # fmt: skip
    return Cluster.start(
        options.index, servers, options.mode, replicas=options.replicas, launch=launch, ports=ports, **engine
    )


@contextlib.contextmanager
def _on(number: signal.Signals, do: Callable[..., None]) -> Iterator[None]:
    before = signal.signal(number, do)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    ended = threading.Event()
    with _on(signal.SIGINT, lambda *_: ended.set()), _on(signal.SIGTERM, lambda *_: ended.set()):
        yield ended


@contextlib.contextmanager
def _file(told: Endpoints, path: Path) -> Iterator[None]:
    told.write(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _lines(cluster: "Cluster") -> Iterator[str]:
    for peer, (host, port), pid in zip(cluster.peers.by_id.values(), cluster.addresses, cluster.pids, strict=True):
        parts = ", ".join(str(part) for part in peer.parts)
        yield f"server {peer.id}: {host}:{port}, partitions {parts}, process {pid}"


def watch(cluster: "Cluster", ended: threading.Event, *, restart: bool = True) -> None:
    """Start servers again that have ended, until `ended`; OSError when none is left and restarts are off."""
    due: dict[int, float] = {}  # by server: when to try (again)
    while not ended.wait(POLL_S):
        for server in cluster.dead():
            if server not in due:
                print(f"server {server}: its process has ended", flush=True)
                due[server] = 0.0
        if not restart and len(due) == len(cluster.pids):
            raise OSError("all servers have ended, and restarts are off")
        for server in [server for server, at in due.items() if restart and at <= time.monotonic()]:
            try:
                cluster.restart(server, port=cluster.addresses[server][1])
            except (ValueError, OSError) as error:
                print(f"server {server}: not started again: {error}; next try in {AGAIN_S:g} s", flush=True)
                due[server] = time.monotonic() + AGAIN_S
            else:
                print(f"server {server}: started again, process {cluster.pids[server]}", flush=True)
                del due[server]


if __name__ == "__main__":
    main()
