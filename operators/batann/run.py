"""Stage: queries through real servers - processes, sockets, O_DIRECT reads - with a declared meter as the bottleneck.

One machine's disk and cores cannot grow with the number of servers, so each server has a token bucket of `iops_cap`
reads/s; everything else is as it is (spec 5, way a). Every mode runs at the smallest beam that reaches the recall
target for its own number of servers and W, found beforehand without sockets (the answers are the same). Modes and
widths take turns, `repeats` times. Then: latency at given rates, and a server killed with and without replicas.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.batann.settings import Settings
from operators.lab import stage

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from operators.batann.actors import Cluster
    from operators.batann.outcomes import Result

log = logging.getLogger("batann.run")
TRACED_QUERIES = 40
FAULT_SERVERS, FAULT_QUERIES = 3, 600
LEAST_QUERIES = 40
COMPARED = ("baton", "scatter")


def _schemas() -> dict[str, dict]:
    import polars as pl

    from operators.batann import outcomes

    text, whole, number = pl.String, pl.Int64, pl.Float64
    config = {
        "scenario": text,  # metered | open | fault | refill; in hops also local: the same steps without sockets
        "mode": text,
        "n": whole,
        "S": whole,
        "method": text,
        "W": whole,
        "L": whole,
        "transport": text,
        "seed": whole,  # of the repetition
        "iops_cap": number,
        "read_latency_us": number,
        "link_delay_us": number,
        "rate": number,  # queries/s asked for; 0: closed loop
        "replicas": whole,
        "fault": text,
        "refill": text,  # scenario refill: one | all | single
        "data": text,
    }
    per_query = {name: kind for name, kind in outcomes.SCHEMA().items() if name != "history"}
    summary = {"queries": whole, "recall": number, "qps": number, "steady_qps": number, "late": whole, "retries": whole}
    servers = {
        **dict.fromkeys(
            ("server", "reads", "submitted", "finished", "left", "failed", "batons_in", "batons_out"), whole
        ),
        **dict.fromkeys(("frames_in", "frames_out", "bytes_in", "bytes_out", "malformed", "vectors_held"), whole),
        **dict.fromkeys(("busy_us", "rss_bytes", "private_bytes", "explored"), whole),
        "cpu_s": number,
        "loop_s": number,
        "page_cache": pl.Boolean,
        "io": text,
    }
    return {
        "runs": {**config, **per_query, "hits": whole, "correct": pl.Boolean},
        "summary": {**config, **summary, "bad_answers": whole},
        "servers": {**config, **servers},
        "hops": {**config, "query": whole, "hop": whole, "visit": whole, "server": whole, "node": whole, "us": whole},
    }


def __getattr__(name: str) -> dict:
    names = {"SCHEMA": "runs", "SUMMARY_SCHEMA": "summary", "SERVERS_SCHEMA": "servers", "HOPS_SCHEMA": "hops"}
    if name in names:
        return _schemas()[names[name]]
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    index: Path,
    query: Path,
    truth: Path,
    out: Path,
    out_summary: Path,
    out_servers: Path,
    out_hops: Path,
    address: Path | None = None,
) -> None:
    """Run every mode over servers and widths, then rates and faults.

    Args:
        index: folder of the run's index (index stage)
        query: the queries (trace stage)
        truth: their exact neighbours (trace stage)
        out: one row a query
        out_summary: one row a run: QPS, recall
        out_servers: counters of every server after a cluster's runs, and of the client (server -1)
        out_hops: every step of some queries: server, node, time
        address: address file of the run's Ray head
    """
    import polars as pl

    from operators.batann import trace
    from operators.batann.vectors import read_vectors
    from operators.lab import cluster as head

    ids, _, mark = trace.read_truth(truth)
    run = Run(settings, Path(index), read_vectors(query), ids, mark)
    with head.connect(address) as ray:
        run.everything(ray)
    schemas = _schemas()
    for name, path in (("runs", out), ("summary", out_summary), ("servers", out_servers), ("hops", out_hops)):
        schema = schemas[name]
        frame = pl.concat(run.tables[name]) if run.tables[name] else pl.DataFrame(schema=schema)
        stage.write_table(frame, path, schema=schema, settings=settings, data=mark)


@dataclass(frozen=True)
class Beam:
    """The beam of one mode, number of servers and W, and the mean reads a query takes with it."""

    L: int
    reads: float
    recall: float


class Run:
    """All runs of the stage; `tables` collects their rows."""

    def __init__(self, settings: Settings, index: Path, queries: "np.ndarray", truth: "np.ndarray", mark: str):
        self._settings, self._index, self._queries, self._mark = settings, index, queries, mark
        self._truth = truth[:, : settings.k]
        self.tables: dict[str, list[pl.DataFrame]] = {"runs": [], "summary": [], "servers": [], "hops": []}

    def everything(self, ray: Any) -> None:
        """Metered runs for every number of servers, rates at the largest, faults."""
        self._ray = ray
        for S in self._settings.servers:
            self._servers(S)
        self._refills()
        self._faults()

    def _modes(self, S: int) -> list[str]:
        """Baton and scatter-gather everywhere; the other modes at the largest number of servers."""
        if S == 1:
            return ["baton"]
        largest = max(self._settings.servers) == S
        return [mode for mode in self._settings.modes if mode != "single" and (largest or mode in COMPARED)]

    def _folder(self, mode: str, S: int) -> Path:
        method = self._settings.methods[0] if S == 1 else self._settings.partition
        return self._index / (f"shards_{method}_{S}" if mode.startswith("scatter") else f"layout_{method}_{S}")

    def _start(self, mode: str, S: int, **options: Any) -> "Cluster":
        from operators.batann.actors import Cluster

        s = self._settings
        metered = {
            "threads": s.threads, "live": s.live, "refill": s.refill, "batch": s.batch, "iops_cap": s.iops_cap,
            "io": s.io,
            "read_latency_us": s.read_latency_us, "link_delay_us": s.link_delay_us,
        } | options  # fmt: skip
        replicas = metered.pop("replicas", 1)
        kind = "single" if S == 1 else mode
        return Cluster.start(self._folder(mode, S), S, kind, s.transport, replicas, ray=self._ray, **metered)

    def _config(self, scenario: str, mode: str, S: int, W: int, L: int, seed: int, **more: Any) -> dict[str, Any]:
        s = self._settings
        return {
            "scenario": scenario, "mode": mode, "n": s.n, "S": S, "method": s.partition, "W": W, "L": L,
            "transport": s.transport, "seed": seed, "iops_cap": s.iops_cap, "read_latency_us": s.read_latency_us,
            "link_delay_us": s.link_delay_us, "rate": 0.0, "replicas": 1, "fault": "", "refill": s.refill,
            "data": self._mark,
        } | more  # fmt: skip

    def _servers(self, S: int) -> None:
        """All modes of one number of servers, taking turns."""
        settings, modes = self._settings, self._modes(S)
        beams = {(mode, W): self._beam(mode, S, W) for mode in modes for W in settings.W_list}
        kinds = {mode: mode if mode.startswith("scatter") else "baton" for mode in modes}
        clusters = {kind: self._start(kind, S) for kind in dict.fromkeys(kinds.values())}
        idle = {kind: cluster.stats() for kind, cluster in clusters.items()}
        explored = dict.fromkeys(clusters, 0)
        try:
            for seed in range(settings.repeats):
                for (mode, W), beam in beams.items():
                    config = self._config("metered", mode, S, W, beam.L, seed)
                    count = self._count(S * settings.iops_cap / beam.reads if settings.iops_cap else 1000.0)
                    result = self._search(clusters[kinds[mode]], config, seed * count, count)
                    explored[kinds[mode]] += int(sum(row["reads"] for row in result.stats.iter_rows(named=True)))
            if max(settings.servers) == S:
                for mode in ("baton", "scatter"):
                    if mode in kinds:
                        explored[mode] += self._rates(clusters[mode], mode, S, beams)
            for kind, cluster in clusters.items():
                explored[kind] += self._trace(cluster, kind, S, beams)
                self._note_servers(cluster, self._config("metered", kind, S, 0, 0, 0), explored[kind], idle[kind])
        finally:
            for cluster in clusters.values():
                cluster.close()

    def _count(self, qps: float) -> int:
        return max(LEAST_QUERIES, int(qps * self._settings.run_s))

    def _search(
        self,
        cluster: "Cluster",
        config: dict[str, Any],
        start: int,
        count: int,
        *,
        rate: float | None = None,
        **more: Any,
    ) -> "Result":
        """One run of `count` queries from `start` on (round and round); its rows."""
        import numpy as np

        s = self._settings
        numbers = np.arange(start, start + count) % len(self._queries)
        result = cluster.search(
            self._queries[numbers], s.k, config["L"], config["W"], rate, mem_l=s.mem_l,
            mode=None if config["S"] == 1 else config["mode"], timeout_s=s.timeout_s if not rate else 10.0,
            max_hops=s.max_hops, max_handoffs=s.max_handoffs, seed=config["seed"], **more,
        )  # fmt: skip
        self._note(result, numbers, config)
        return result

    def _note(
        self,
        result: "Result",
        numbers: "np.ndarray",
        config: dict[str, Any],
        expected: "np.ndarray | None" = None,
        afterwards: int = 0,
    ) -> None:
        """Rows of a run; `expected` are all queries' undisturbed ids, `afterwards` bad answers once it was over."""
        import numpy as np
        import polars as pl

        from operators.batann.faulted import bad_answers

        hits = (result.ids[:, :, None] == self._truth[numbers][:, None, :]).any(2).sum(1)
        schemas, fixed = _schemas(), [pl.lit(value).alias(name) for name, value in config.items()]
        answered = result.stats.drop("history")
        ok = (answered["status"] == "ok").to_numpy()
        expected = None if expected is None else expected[numbers]
        same = np.ones(len(numbers), bool) if expected is None else (result.ids == expected).all(1)
        rows = answered.with_columns(
            *fixed, hits=pl.Series(hits), correct=pl.Series(same | ~ok), query=pl.Series(numbers)
        )
        self.tables["runs"].append(rows.select(pl.col(name).cast(kind) for name, kind in schemas["runs"].items()))
        bad = bad_answers(result, expected, replicas=config["replicas"], fault=config["fault"]) + afterwards
        summary = config | {
            "queries": len(numbers), "recall": float(hits.sum() / (len(numbers) * self._truth.shape[1])),
            "qps": len(numbers) / result.took_s, "steady_qps": result.steady_qps, "late": result.client["late"],
            "retries": result.client["retries"], "bad_answers": bad,
        }  # fmt: skip
        self.tables["summary"].append(pl.DataFrame([summary], schema=schemas["summary"]))
        shown = {name: config[name] for name in ("scenario", "mode", "S", "W", "L", "rate", "fault", "replicas")}
        log.info("%s: %.1f queries/s, recall %.3f", shown, summary["steady_qps"], summary["recall"])

    def _rates(self, cluster: "Cluster", mode: str, S: int, beams: dict[tuple[str, int], Beam]) -> int:
        """Open loop at shares of what the slower of baton and scatter-gather can take; nodes explored."""
        settings, explored = self._settings, 0
        compared = [key for key in beams if key[0] in COMPARED]
        slowest = max(compared, key=lambda key: beams[key].reads if key[1] == settings.W else 0)
        limit = S * settings.iops_cap / beams[slowest].reads if settings.iops_cap else 100.0
        for share in settings.rates:
            beam = beams.get((mode, settings.W)) or next(beam for key, beam in beams.items() if key[0] == mode)
            W = settings.W if (mode, settings.W) in beams else next(key[1] for key in beams if key[0] == mode)
            config = self._config("open", mode, S, W, beam.L, 0, rate=share * limit)
            result = self._search(cluster, config, 0, self._count(share * limit), rate=share * limit, window=4096)
            explored += int(result.stats["reads"].sum())
        return explored

    def _trace(self, cluster: "Cluster", mode: str, S: int, beams: dict[tuple[str, int], Beam]) -> int:
        """Every step of some queries; nodes explored."""
        import polars as pl

        (_, W), beam = next((key, beam) for key, beam in beams.items() if key[0] == mode)
        config = self._config("metered", mode, S, W, beam.L, 0)
        result = cluster.search(self._queries[:TRACED_QUERIES], self._settings.k, beam.L, W, trace=True, timeout_s=10.0)
        rows = [
            config | {"query": query, "hop": hop, "visit": visit, "server": server, "node": node, "us": us}
            for query, outcome in enumerate(result.outcomes)
            for hop, (visit, server, node, us) in enumerate(outcome.trace)
        ]
        self.tables["hops"].append(pl.DataFrame(rows, schema=_schemas()["hops"]))
        if mode == "baton":
            self._trace_locally(S, beams)
        return int(result.stats["reads"].sum())

    def _trace_locally(self, S: int, beams: dict[tuple[str, int], Beam]) -> None:
        """Every step of every query without sockets: what the model draws its visits from."""
        import polars as pl

        from operators.batann.layout import open_index
        from operators.batann.local import LocalCluster
        from operators.batann.state import TRACE

        cluster = LocalCluster(open_index(self._folder("baton", S)))
        for W in self._settings.W_list:
            beam = beams["baton", W]
            result = cluster.search(self._queries, self._settings.k, beam.L, W, mem_l=self._settings.mem_l, flags=TRACE)
            config = self._config("local", "baton", S, W, beam.L, 0)
            columns = ("query", "hop", "visit", "server", "node", "us")
            rows = [
                (query, hop, visit, server, node, us)
                for query, visits in result.visits.items()
                for visit, (server, steps) in enumerate(visits)
                for hop, (node, us) in enumerate(steps)
            ]
            frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
                pl.lit(value).alias(name) for name, value in config.items()
            )
            schema = _schemas()["hops"]
            self.tables["hops"].append(frame.select(pl.col(name).cast(kind) for name, kind in schema.items()))

    def _note_servers(self, cluster: "Cluster", config: dict[str, Any], explored: int, idle: list[dict]) -> None:
        """Counters; processor time counts from when the servers had started."""
        import polars as pl

        schema = _schemas()["servers"]
        stats = [
            row | {name: row[name] - before[name] for name in ("cpu_s", "loop_s")}
            for row, before in zip(cluster.stats(), idle, strict=True)
        ]
        rows = [config | row | {"explored": explored} for row in [*stats, cluster.client_stats()]]
        frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
        self.tables["servers"].append(frame)

    def _beam(self, mode: str, S: int, W: int) -> Beam:
        """The smallest beam that reaches the recall target, found without sockets."""
        from operators.batann.beams import beam_for
        from operators.batann.truth import recall

        found: dict[int, tuple[float, float]] = {}
        searcher = self._searcher(mode, S)

        def recall_at(L: int) -> float:
            if L not in found:
                ids, reads = searcher(W, L)
                found[L] = recall(ids, self._truth), reads
            return found[L][0]

        settings = self._settings
        L = beam_for(recall_at, settings.recall_target, low=settings.k, high=max(settings.L_list))
        recall_at(L)
        return Beam(L, found[L][1], found[L][0])

    def _searcher(self, mode: str, S: int) -> Any:
        """(W, L) -> ids `(nq, k)` and mean reads, of a cluster of this mode, without sockets."""
        from operators.batann.layout import open_index
        from operators.batann.local import LocalCluster

        k, mem_l = self._settings.k, self._settings.mem_l
        if not mode.startswith("scatter"):
            cluster = LocalCluster(open_index(self._folder(mode, S)))

            def through_one_graph(W: int, L: int) -> tuple:
                flag = mode if mode in ("rpc", "baton_client_gather") else "baton"
                result = cluster.search(self._queries, k, L, W, mode=flag, mem_l=mem_l)
                return result.ids, result.mean("reads")

            return through_one_graph
        from operators.batann.sharded import ShardedSearch

        sharded = ShardedSearch(self._folder(mode, S))

        def through_shards(W: int, L: int) -> tuple:
            topn = 2 if mode == "scatter_topn" else None
            ids, means = sharded.search(self._queries, k, L, W, mem_l=mem_l, topn=topn)
            return ids, means["reads"]

        return through_shards

    def _refills(self) -> None:
        """One disk, one thread, no servers: when a live place is filled again (paper, inter-query balancing)."""
        import time

        import polars as pl

        from operators.batann import engine
        from operators.batann.layout import open_index

        s = self._settings
        index = open_index(self._folder("baton", 1))
        for seed in range(-1, s.repeats):  # the first round warms up
            for L in s.refill_L:
                for refill in engine.REFILL:
                    opened = engine.make_engine(index, (0,), io=s.io, live=s.live, refill=refill)
                    began = time.perf_counter()
                    found = engine.search_disk(opened, index.epoch, self._queries, s.k, L, s.W, mem_l=s.mem_l)
                    took = time.perf_counter() - began
                    hits = (found.ids[:, :, None] == self._truth[:, None, :]).any(2).sum()
                    config = self._config("refill", "single", 1, s.W, L, seed, refill=refill, iops_cap=0.0)
                    row = config | {"queries": len(self._queries), "recall": float(hits / self._truth.size)}
                    row |= {"qps": len(self._queries) / took, "steady_qps": len(self._queries) / took}
                    schema = _schemas()["summary"]
                    if seed >= 0:
                        frame = pl.DataFrame([{name: row.get(name) for name in schema}], schema=schema)
                        self.tables["summary"].append(frame)

    def _faults(self) -> None:
        """Kill a server in the middle of a run, with and without replicas; then the settings' own faults."""
        from operators.batann.settings import Fault

        able = [S for S in self._settings.servers if S >= FAULT_SERVERS]
        if not able:
            return
        S, W = able[0], 1
        kill = (Fault(kind="kill", server=1, at_query=FAULT_QUERIES // 3),)
        for replicas in (1, 2):
            self._fault("kill", kill, S, W, replicas)
        if self._settings.faults:
            self._fault("settings", self._settings.faults, max(self._settings.servers), W, self._settings.replicas)

    def _fault(self, name: str, schedule: tuple, S: int, W: int, replicas: int) -> None:
        import numpy as np

        from operators.batann.faulted import bad_after_restart

        beam, afterwards = self._beam("baton", S, W), 0
        config = self._config("fault", "baton", S, W, beam.L, 0, replicas=replicas, fault=name, iops_cap=0.0)
        numbers = np.arange(FAULT_QUERIES) % len(self._queries)
        with self._start("baton", S, replicas=replicas, iops_cap=0) as cluster:
            expected = cluster.search(self._queries, self._settings.k, beam.L, W, mem_l=self._settings.mem_l).ids
            result = cluster.search(
                self._queries[numbers], self._settings.k, beam.L, W, mem_l=self._settings.mem_l, schedule=schedule,
                timeout_s=self._settings.timeout_s,
            )  # fmt: skip
            if name == "kill" and replicas == 1:
                killed = [fault.server for fault in schedule]
                afterwards = bad_after_restart(cluster, killed, self._queries, expected, beam, self._settings)
        self._note(result, numbers, config, expected, afterwards)


if __name__ == "__main__":
    stage.run(main)
