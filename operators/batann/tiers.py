"""Stage: the work of a query - hops, hand-offs, reads, distances, state sizes - for sizes, servers and partitions.

Real indexes, real states, real code, no sockets (local.py): nothing here depends on time. Tiers of the collection give
what the extrapolation to 100M and 1B is fitted on; the identity of W = 1 is counted here, query by query.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.batann.settings import Settings
from operators.lab import stage

if TYPE_CHECKING:
    import numpy as np

    from operators.batann.build import Build
    from operators.batann.local import LocalResult

NEAR_L = 40  # beams around recall .95; larger ones only where the paper speaks of them
SCATTER_L = 30  # shards reach the same recall with smaller beams
IDENTITY_MODES = ("baton", "rpc", "baton_client_gather")


def _schema() -> dict:
    import polars as pl

    whole, number = pl.Int64, pl.Float64
    return {
        "scenario": pl.String,  # work | identity
        "mode": pl.String,
        "n": whole,
        "S": whole,
        "method": pl.String,
        "seed": whole,  # of the partition
        "W": whole,
        "L": whole,
        "queries": whole,
        "recall": number,
        "hops": number,
        "hops_spread": number,  # standard deviation over queries
        "handoffs": number,
        "share": number,
        "reads": number,
        "pq_dists": number,
        "state_bytes": number,
        "differing": whole,  # queries that are not the single server's, scenario identity
        "data": pl.String,
    }


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return _schema()
    raise AttributeError(name)


def main(*, settings: Settings, index: Path, out: Path, data: Path | None = None) -> None:
    """Search every tier without sockets and count the work.

    Args:
        index: folder of the run's index (index stage); tiers are built in it
        out: table of mean work per tier, servers, partition, W and L
        data: data root; without it the synthetic twin is used
    """
    import polars as pl

    schema = _schema()
    rows = list(_rows(settings, index, data))
    frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
    stage.write_table(frame, out, schema=schema, settings=settings, data=rows[0]["data"])


def _rows(settings: Settings, folder: Path, data: Path | None) -> Iterator[dict[str, Any]]:
    import os

    from operators.batann import sift
    from operators.batann.build import Build
    from operators.batann.metric import stored
    from operators.batann.truth import exact_neighbours

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    sizes = sorted({*settings.extrapolation.tiers, settings.n})
    found = sift.load(sizes[-1], settings.work_queries, settings.truth_k, root=data, seed=settings.seed)
    for n in sizes:
        base = found.base[:n]
        truth, _ = exact_neighbours(base, found.queries, settings.truth_k)
        place = folder if n == settings.n else folder / f"tier-{n}"
        tier = Tier(settings, Build(place, stored(base, settings.metric), settings, threads), found.queries, truth)
        for row in tier.rows():
            yield row | {"n": n, "queries": len(found.queries), "data": found.mark}


class Tier:
    """One size of the collection: its index of one partition, and every way to spread it."""

    def __init__(self, settings: Settings, build: "Build", queries: "np.ndarray", truth: "np.ndarray"):
        from operators.batann.layout import open_index

        self._settings, self._build, self._queries, self._truth = settings, build, queries, truth
        self._index = open_index(build.layout(settings.methods[0], 1))
        self._main = len(build.x) == settings.n
        self._near = [L for L in settings.work_L if L <= NEAR_L] or list(settings.work_L)

    def rows(self) -> Iterator[dict[str, Any]]:
        settings = self._settings
        widths = sorted({1, *settings.W_list})
        alone = [
            self._row("single", 1, "", settings.seed, W, L, None)
            for W in widths
            for L in (settings.work_L if self._main else self._near)
        ]
        yield from alone
        around = {W: self._around([row for row in alone if row["W"] == W]) for W in widths}
        for S in settings.tier_servers:
            for seed in range(settings.seed, settings.seed + settings.extrapolation.partition_seeds):
                for method in self._methods(seed):
                    part = self._partition(method, S, seed)
                    own = method == settings.partition
                    for W in widths if own else (1,):
                        beams = around[W]
                        if seed == settings.seed:
                            beams = settings.work_L if own and self._main else self._near
                        for L in beams:
                            yield self._row("baton", S, method, seed, W, L, part)
        for S in settings.tier_servers:
            if S in settings.servers and "scatter" in settings.modes and len(self._build.x) <= settings.n:
                yield from self._scatter(S, widths)
        if self._main:
            yield from self._identity()

    def _around(self, rows: list[dict[str, Any]]) -> list[int]:
        """Near beams on both sides of the recall target and the next: other partitions move recall by little."""
        reached = [row["L"] for row in rows if row["L"] in self._near and row["recall"] >= self._settings.recall_target]
        at = self._near.index(min(reached)) if reached else len(self._near) - 1
        return self._near[max(0, at - 1) : at + 2]

    def _methods(self, seed: int) -> tuple[str, ...]:
        """All partitions at the run's own size, the settings' one at the other tiers and seeds."""
        return self._settings.methods if self._main and seed == self._settings.seed else (self._settings.partition,)

    def _partition(self, method: str, S: int, seed: int) -> "np.ndarray":
        from operators.batann.partitioner import partition

        if seed == self._settings.seed:
            return self._build.partition(method, S)
        given = self._build.x if method == "kmeans" else self._build.knn()
        return partition(given, S, method=method, eps=self._settings.eps, seed=seed)

    def _search(self, W: int, L: int, part: "np.ndarray | None", mode: str = "baton") -> "LocalResult":
        from operators.batann.local import LocalCluster

        cluster = LocalCluster(self._index, part_of=part)
        result = cluster.search(self._queries, self._settings.k, L, W, mode=mode, mem_l=self._settings.mem_l)
        cluster.counters()
        return result

    def _row(
        self, mode: str, S: int, method: str, seed: int, W: int, L: int, part: "np.ndarray | None"
    ) -> dict[str, Any]:
        return {"mode": mode, "S": S, "method": method, "seed": seed, "W": W, "L": L} | self._work(
            self._search(W, L, part)
        )

    def _work(self, result: "LocalResult") -> dict[str, Any]:
        import numpy as np

        from operators.batann.truth import recall

        return {
            "scenario": "work",
            "recall": recall(result.ids, self._truth[:, : self._settings.k]),
            "hops": result.mean("hops"),
            "hops_spread": float(np.std([answer.counters["hops"] for answer in result.answers])),
            "handoffs": result.handoffs,
            "share": result.share,
            "reads": result.mean("reads"),
            "pq_dists": result.mean("pq_dists"),
            "state_bytes": float(np.mean(result.state_bytes)) if result.state_bytes else None,
        }

    def _scatter(self, S: int, widths: list[int]) -> Iterator[dict[str, Any]]:
        """Scatter-gather on the same partition: every shard's own index, answers merged; reads summed over shards."""
        from operators.batann.sharded import ShardedSearch
        from operators.batann.truth import recall

        k, method, seed = self._settings.k, self._settings.partition, self._settings.seed
        self._build.shards(method, S)
        sharded = ShardedSearch(self._build.dir / f"shards_{method}_{S}")
        for W in widths:
            for L in [beam for beam in self._near if beam <= SCATTER_L] or self._near[:1]:
                ids, means = sharded.search(self._queries, k, L, W, mem_l=self._settings.mem_l)
                marks = {"scenario": "work", "mode": "scatter", "S": S, "method": method, "seed": seed, "W": W, "L": L}
                yield marks | means | {"recall": recall(ids, self._truth[:, :k])}

    def _identity(self) -> Iterator[dict[str, Any]]:
        """W = 1: queries whose ids, distances, hops, reads or PQ distances are not the single server's."""
        import numpy as np

        settings = self._settings
        L = self._near[-1]
        alone = _facts(self._search(1, L, None))
        for S in settings.tier_servers:
            for method in (*settings.methods, "shuffled"):
                part = self._build.partition(settings.partition if method == "shuffled" else method, S)
                if method == "shuffled":
                    part = np.random.default_rng([settings.seed, 5]).permutation(part)
                for mode in IDENTITY_MODES:
                    found = _facts(self._search(1, L, part, mode))
                    differing = sum(a != b for a, b in zip(alone, found, strict=True))
                    yield {
                        "scenario": "identity", "mode": mode, "S": S, "method": method, "seed": settings.seed, "W": 1,
                        "L": L, "differing": differing,
                    }  # fmt: skip


def _facts(result: "LocalResult") -> list[tuple]:
    """What must not change with the number of servers, a tuple a query."""
    names = ("hops", "reads", "pq_dists", "exact_dists")
    return [
        (result.ids[row].tobytes(), result.dists[row].tobytes(), *(answer.counters[name] for name in names))
        for row, answer in enumerate(result.answers)
    ]


if __name__ == "__main__":
    stage.run(main)
