"""Ask running servers (serve.py): answers, rates, latencies, recall, and the whole path of one query.

    python -m operators.batann.query --endpoints my-index/endpoints.json --queries q.npy -k 10 -L 40 -W 4
    python -m operators.batann.query --endpoints my-index/endpoints.json --queries q.npy --explain 3

Closed loop with `--window` queries in flight, or with `--rate` queries/s an open loop. Every query ends: as ok, as
partial (a budget ran out) or as failed with its reason; the exit code is 1 when any has failed.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.batann.client import MODES, Client, Outcome, Plan
from operators.batann.endpoints import Endpoints
from operators.batann.state import ADAPTIVE, TRACE

if TYPE_CHECKING:
    from operators.batann.outcomes import Result

NAME = "operators.batann.query"
WINDOW = 16  # queries in flight a server
OPEN_WINDOW = 4096
WORK = {
    "hops": "hops",
    "handoffs": "hand-offs",
    "reads": "reads",
    "pq_dists": "PQ distances",
    "bytes_sent": "bytes sent",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--endpoints", type=Path, required=True, help="file the serving process wrote")
    made.add_argument(
        "--queries", type=Path, required=True, help="vectors: npy, u8bin, i8bin, fbin, fvecs, bvecs, parquet"
    )
    made.add_argument("-k", type=int, default=10, help="answers a query (default 10)")
    made.add_argument("-L", type=int, default=40, help="beam entries (default 40)")
    made.add_argument("-W", type=int, default=4, help="reads at once (default 4)")
    made.add_argument("--mode", choices=MODES, help="another mode of the same servers (default: the one they serve)")
    made.add_argument("--topn", type=int, default=2, help="shards asked in mode scatter_topn (default 2)")
    made.add_argument("--adaptive", action="store_true", help="few reads at once while the beam is far off")
    made.add_argument("--window", type=int, help=f"queries in flight (default {WINDOW} a server)")
    made.add_argument("--rate", type=float, help="queries/s of an open loop with exponential gaps")
    made.add_argument(
        "--deadline-ms", type=float, help="budget of a query; what is found by then comes back as partial"
    )
    made.add_argument("--timeout-s", type=float, default=2.0, help="until a query is tried once more (default 2)")
    made.add_argument("--truth", type=Path, help="exact neighbours: ibin, or a table query, rank, id")
    made.add_argument("--out", type=Path, help="answers as a table query, rank, id, dist")
    made.add_argument("--explain", type=int, metavar="N", help="only query N: its servers, nodes and times")
    made.add_argument("--debug", action="store_true", help="show a traceback for any error")
    return made


def main(argv: list[str] | None = None) -> None:
    """The command; a user's error ends it with one line."""
    options = parser().parse_args(argv)
    try:
        failed = ask(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        if options.debug:
            raise
        sys.exit(f"{NAME}: error: {error}")
    sys.exit(1 if failed else 0)


def ask(options: argparse.Namespace) -> bool:
    """Send the queries and print what came of them; whether any failed."""
    endpoints = Endpoints.read(options.endpoints)
    queries = _queries(options, endpoints)
    truth = _truth(options, len(queries)) if options.truth else None
    plan = _plan(options, endpoints.mode_for(options.mode))
    window = options.window or (OPEN_WINDOW if options.rate else WINDOW * len(endpoints.servers))
    client = Client(endpoints.peers)
    try:
        result = _search(client, queries, plan, endpoints, window, options.rate)
    finally:
        client.close()
    lines = explained(options.explain, result.outcomes[0]) if options.explain is not None else summary(result, truth)
    for line in lines:
        print(line)
    if options.out:
        write_answers(result, options.out)
    return any(outcome.status == "failed" for outcome in result.outcomes)


def _plan(options: argparse.Namespace, mode: str) -> Plan:
    from operators.batann.engine import check_search

    check_search(options.k, options.L, options.W)
    for name in ("rate", "window", "deadline_ms", "timeout_s", "topn"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} (={value}): expected more than 0")
    flags = (ADAPTIVE if options.adaptive else 0) | (TRACE if options.explain is not None else 0)
    return Plan(
        k=options.k, L=options.L, W=options.W, mode=mode, flags=flags, timeout_s=options.timeout_s,
        deadline_ms=options.deadline_ms, topn=options.topn,
    )  # fmt: skip


def _queries(options: argparse.Namespace, endpoints: Endpoints) -> np.ndarray:
    """The queries as the index compares them; one of them with --explain."""
    from operators.batann.metric import prepare_queries
    from operators.batann.vectors import read_vectors

    queries = read_vectors(options.queries)
    if options.explain is not None:
        if not 0 <= options.explain < len(queries):
            raise ValueError(f"explain (={options.explain}): expected a query from 0 to {len(queries) - 1}")
        queries = queries[options.explain : options.explain + 1]
    return np.ascontiguousarray(prepare_queries(queries, endpoints.shape))


def _truth(options: argparse.Namespace, count: int) -> np.ndarray:
    """Exact neighbours `(nq, k)` of the queries."""
    from operators.batann import trace, vectors

    if options.explain is not None:
        raise ValueError("truth: not with --explain; recall is that of all queries")
    read = vectors.read_truth if options.truth.suffix == ".ibin" else trace.read_truth
    truth = read(options.truth)[0]
    if len(truth) < count or truth.shape[1] < options.k:
        raise ValueError(
            f"truth (={options.truth}): {truth.shape[1]} neighbours of {len(truth)} queries; expected at least"
            f" {options.k} of {count}"
        )
    return truth[:count, : options.k]


def _search(
    client: Client, queries: np.ndarray, plan: Plan, endpoints: Endpoints, window: int, rate: float | None
) -> "Result":
    from operators.batann.outcomes import result_of

    core_options: dict[str, Any] = {}
    if plan.mode == "scatter_topn":
        from operators.batann.sharded import medoid_vector, nearest, shard_folders

        centres = np.stack([medoid_vector(folder) for folder in shard_folders(endpoints.index)])
        core_options["nearest_parts"] = lambda vector, n: nearest(centres, np.frombuffer(vector, queries.dtype), n)
    outcomes, core, took_s = client.search(queries, plan, window=window, rate=rate, **core_options)
    return result_of(outcomes, core, plan.k, took_s)


def summary(result: "Result", truth: np.ndarray | None = None) -> Iterator[str]:
    """What one reads after a run: rate, latencies, work, recall, how queries ended."""
    from operators.batann.truth import recall

    stats, count = result.stats, len(result.outcomes)
    steady = f" ({result.steady_qps:.1f} in the steady part)" if result.steady_qps else ""
    yield f"{count} queries in {result.took_s:.3f} s: {count / result.took_s:.1f} queries/s{steady}"
    answered = stats.filter(stats["status"] != "failed")
    if answered.height:
        latency = answered["latency_us"].to_numpy() / 1e3
        points = ", ".join(f"p{point} {np.percentile(latency, point):.2f}" for point in (50, 95, 99))
        yield f"latency (ms): mean {latency.mean():.2f}, {points}"
        yield "a query: " + ", ".join(f"{answered[name].mean():.1f} {word}" for name, word in WORK.items())
    if truth is not None:
        yield f"recall@{truth.shape[1]}: {recall(result.ids, truth):.4f}"
    ends = Counter((outcome.status, outcome.reason) for outcome in result.outcomes)
    words = [
        f"{number} {status}" + (f" ({reason})" if reason else "") for (status, reason), number in ends.most_common()
    ]
    yield "ended: " + ", ".join(words) + f"; tried again: {result.client['retries']}"


def explained(number: int, outcome: Outcome) -> Iterator[str]:
    """The path of one query: a line a visit of a server, with the nodes explored there and when."""
    visits: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for answer in outcome.answers:
        visits |= {(visit, server): [] for visit, server in enumerate(answer.history)}
    for visit, server, node, us in outcome.trace:
        visits.setdefault((visit, server), []).append((node, us))
    reason = f" ({outcome.reason})" if outcome.reason else ""
    yield (
        f"query {number}: {outcome.status}{reason}, {outcome.latency_us / 1e3:.2f} ms,"
        f" {_counted(len(visits), 'visit')}, {_counted(len(outcome.trace), 'node')} explored,"
        f" first asked: server {outcome.first_server}"
    )
    for (visit, server), steps in sorted(visits.items()):
        nodes = ", ".join(f"{node} (+{us} us)" for node, us in steps)
        yield f"  visit {visit}: server {server}: {nodes or 'no node explored here'}"
    pairs = zip(outcome.ids, outcome.dists, strict=True)
    yield "  answer: " + ", ".join(f"{node} ({dist:g})" for node, dist in pairs)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def write_answers(result: "Result", path: Path) -> None:
    """Answers as a table query, rank, id, dist; a query that found fewer has fewer rows."""
    import polars as pl

    from operators.batann.outcomes import NONE
    from operators.lab import stage

    count, k = result.ids.shape
    frame = pl.DataFrame(
        {
            "query": np.repeat(np.arange(count, dtype=np.int32), k),
            "rank": np.tile(np.arange(k, dtype=np.int16), count),
            "id": result.ids.ravel(),
            "dist": result.dists.ravel(),
        }
    )
    with stage.atomic(path) as temporary:
        frame.filter(pl.col("id") != NONE).write_parquet(temporary)


if __name__ == "__main__":
    main()
