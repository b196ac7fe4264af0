"""Servers that are hosts: each in a network namespace of its own, with its own address, joined by a bridge.

    python -m operators.batann.namespaces INDEX --queries queries.npy --servers 3

Makes a bridge and a pair of virtual interfaces a server, starts the servers inside, queries them from outside over the
bridge, and takes everything down again. Needs the right to make namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN)
and the `ip` command; says so where it has neither. Names carry this process's number: several runs do not meet.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from operators.batann.client import Client, Plan
from operators.batann.host import START_S, ProcessHandle
from operators.batann.layout import open_index
from operators.batann.metric import prepare_queries
from operators.batann.outcomes import Result, result_of
from operators.batann.peers import Peer, Peers, parts_of


class NamespacesRefused(PermissionError):
    """This process may not make network namespaces, or `ip` is missing."""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise NamespacesRefused(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """`count` namespaces on one bridge: the bridge's address (ours) and (namespace, address) of each.

    Addresses are 10.x.y.0/24 with x and y from this process's number. Raises NamespacesRefused.
    """
    if shutil.which("ip") is None:
        raise NamespacesRefused("the `ip` command (iproute2) is not installed")
    if not 1 <= count <= 200:
        raise ValueError(f"servers (={count}): expected 1 to 200 namespaces")
    number = os.getpid() % 60_000
    net, bridge = f"10.{64 + number // 256 % 128}.{number % 256}", f"pgb{number}"
    made = [(f"pgn{number}-{host}", f"{net}.{host + 2}") for host in range(count)]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host, (name, address) in enumerate(made):
            outside, inside = f"pgo{number}-{host}", f"pgi{number}-{host}"
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", inside)
            _ip("-n", name, "link", "set", inside, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield f"{net}.1", made


def search(index_dir: Path, queries: np.ndarray, servers: int, plan: Plan, *, replicas: int = 1) -> Result:
    """Start one server a namespace over the index, search `queries (nq, d)`, take everything down."""
    index = open_index(index_dir)
    queries = np.ascontiguousarray(prepare_queries(queries, index.meta))
    with contextlib.ExitStack() as stack:
        ours, places = stack.enter_context(hosts(servers))
        handles = []
        for server, (name, address) in enumerate(places):
            handle = ProcessHandle(("ip", "netns", "exec", name))
            stack.callback(handle.end)
            parts = list(parts_of(server, servers, index.meta.parts, replicas))
            handle.ask("start", str(Path(index_dir).resolve()), parts, {"server_id": server, "host": address})
            handles.append(handle)
        found = [handle.answer(START_S) for handle in handles]
        peers = Peers(
            [Peer(server, one["address"], tuple(one["parts"]), one["epoch"]) for server, one in enumerate(found)]
        )
        for handle in handles:
            handle.call("configure", peers.to_list())
        client = Client(peers, host=ours)
        stack.callback(client.close)
        outcomes, core, took = client.search(queries, plan, window=16 * servers)
        return result_of(outcomes, core, plan.k, took)


def main(argv: list[str] | None = None) -> None:
    """Search an index with every server in a network namespace of its own; prints rate and states per server."""
    parser = argparse.ArgumentParser(prog="python -m operators.batann.namespaces", description=main.__doc__)
    parser.add_argument("index", type=Path, help="index folder with at least as many partitions as servers")
    parser.add_argument("--queries", type=Path, required=True, help="npy, u8bin, fbin, fvecs, bvecs or parquet")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("-L", type=int, default=40, help="beam entries")
    parser.add_argument("-W", type=int, default=4, help="reads at once")
    options = parser.parse_args(argv)
    from operators.batann.vectors import read_vectors

    plan = Plan(k=options.k, L=options.L, W=options.W, timeout_s=10.0)
    try:
        result = search(options.index, read_vectors(options.queries), options.servers, plan)
    except (ValueError, OSError) as error:
        sys.exit(f"operators.batann.namespaces: error: {error}")
    table = result.stats
    print(f"{len(table)} queries, {len(table) / result.took_s:.0f} queries/s, hand-offs {table['handoffs'].mean():.2f}")
    print(table["status"].value_counts())


if __name__ == "__main__":
    main()
