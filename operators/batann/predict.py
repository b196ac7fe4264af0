"""Predictions at sizes nobody here can build: work by extrapolation, rates and latencies by the queueing model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from operators.batann import model
from operators.batann.beams import at_recall
from operators.batann.extrapolate import Prediction, power_law

if TYPE_CHECKING:
    import polars as pl

    from operators.batann.settings import Settings

CLOSED_QUERIES, OPEN_QUERIES = 3000, 3000
OPEN_QPS = 1000.0  # the rate latencies are given at
PREDICTED_W = (1, 8)
SEED = 11


class Predictor:
    """Rows of predictions.parquet from the tiers' work and the calibrated costs."""

    def __init__(self, settings: "Settings", work: "pl.DataFrame", costs: dict[str, float]):
        import polars as pl

        self._settings, self._costs = settings, costs
        self._work = work.filter(pl.col("scenario") == "work")
        self._servers = sorted({S for S in self._work["S"].to_list() if S > 1})
        self._widths = [W for W in PREDICTED_W if W in self._work["W"].to_list()]

    def rows(self) -> Iterator[dict[str, Any]]:
        for n in self._settings.extrapolation.targets:
            for name, value in model.memory_bytes(n, chunks=self._settings.pq_chunks).items():
                size = {100_000_000: "100m", 1_000_000_000: "1b"}.get(n, str(n))
                yield self._row(f"{name}_{size}", "baton", n, 10, 0, Prediction(float(value), None, None))
            for S in self._servers:
                yield from self._of(n, S)
            yield from self._between(n)

    @staticmethod
    def _row(quantity: str, mode: str, n: int, S: int, W: int, found: Prediction) -> dict[str, Any]:
        marks = {"quantity": quantity, "mode": mode, "n": n, "S": S, "W": W}
        return marks | {"value": found.value, "value_low": found.low, "value_high": found.high}

    def _extrapolated(self, column: str, mode: str, S: int, W: int, n: float) -> Prediction | None:
        """A column at the recall target for every size and partition seed, carried to n."""
        import polars as pl

        rows = self._work.filter(
            (pl.col("mode") == mode) & (pl.col("S") == S) & (pl.col("W") == W)
            & pl.col("method").is_in(["", self._settings.partition])
        )  # fmt: skip
        sizes, values = [], []
        for (size, _), group in rows.group_by("n", "seed", maintain_order=True):
            group = group.sort("L")
            value = at_recall(group["recall"], group[column], self._settings.recall_target)
            if value == value and value > 0:
                sizes.append(size)
                values.append(value)
        if len(set(sizes)) < 2:
            return None
        return power_law(sizes, values, n, interval=self._settings.extrapolation.interval)

    def _of(self, n: int, S: int) -> Iterator[dict[str, Any]]:
        """Work, saturation and latency of one size and number of servers."""
        for W in self._widths:
            work = {name: self._extrapolated(name, "baton", S, W, n) for name in ("hops", "share", "reads", "handoffs")}
            if any(found is None for found in work.values()):
                continue
            for name, found in work.items():
                yield self._row(name, "baton", n, S, W, found)
            results = {"baton": self._baton(S, work, n)}
            shard = {name: self._extrapolated(name, "scatter", S, W, n) for name in ("hops", "reads")}
            if all(shard.values()):
                results["scatter"] = self._scatter(S, shard)
            for mode, (visits, config) in results.items():
                yield from self._rates(mode, visits, config, n, S, W)

    def _baton(self, S: int, work: dict[str, Prediction], n: int) -> tuple[model.Visits, model.SimConfig]:
        from operators.batann.simulate import device

        hops, reads = work["hops"].value, work["reads"].value
        share = min(0.99, work["handoffs"].value / hops)
        visits = model.baton_visits(CLOSED_QUERIES, S, hops, 0.05 * hops, share, max(1.0, reads / hops), seed=SEED)
        return visits, device(self._settings, self._costs, S)

    def _scatter(self, S: int, shard: dict[str, Prediction]) -> tuple[model.Visits, model.SimConfig]:
        from operators.batann.simulate import device

        hops, reads = shard["hops"].value, shard["reads"].value / S
        return model.scatter_visits(CLOSED_QUERIES, S, hops, max(1.0, reads / hops), seed=SEED), device(
            self._settings, self._costs, S
        )

    def _rates(
        self, mode: str, visits: model.Visits, config: model.SimConfig, n: int, S: int, W: int
    ) -> Iterator[dict[str, Any]]:
        import numpy as np

        qps = model.saturation(visits, config, window=64 * S)
        yield self._row("qps", mode, n, S, W, Prediction(qps, None, None))
        if qps > OPEN_QPS:
            found = model.simulate_cluster(visits, config, rate=OPEN_QPS, seed=SEED)
            yield self._row("latency_ms_1000qps", mode, n, S, W, Prediction(found.latency_us.mean() / 1e3, None, None))
        if mode == "scatter":
            self._half_sg = qps / 2
        half = getattr(self, "_half_sg", None)
        if half:
            found = model.simulate_cluster(visits, config, rate=half, seed=SEED)
            p99 = float(np.percentile(found.latency_us, 99)) / 1e3
            yield self._row("p99_ms_half_sg", mode, n, S, W, Prediction(p99, None, None))

    def _between(self, n: int) -> Iterator[dict[str, Any]]:
        """Ratios between what `_of` found."""
        found = {
            (row["quantity"], row["mode"], row["S"], row["W"]): row["value"]
            for S in self._servers
            for row in self._of(n, S)
        }
        for S in self._servers:
            for W in self._widths:
                yield from self._ratio(
                    "qps_ratio_scatter", "baton", n, S, W, found, ("qps", "baton", S, W), ("qps", "scatter", S, W)
                )
            one, eight = ("hops", "baton", S, 1), ("hops", "baton", S, 8)
            yield from self._ratio("hops_ratio_w1_w8", "baton", n, S, 0, found, one, eight)
            quantity = "latency_ms_1000qps"
            wide, narrow = (quantity, "baton", S, 8), (quantity, "baton", S, 1)
            yield from self._ratio("latency_ratio_w8_w1", "baton", n, S, 0, found, wide, narrow)
        for W in self._widths:
            ten, five = ("latency_ms_1000qps", "baton", 10, W), ("latency_ms_1000qps", "baton", 5, W)
            yield from self._ratio("latency_ratio_10_5", "baton", n, 10, W, found, ten, five)

    def _ratio(
        self, quantity: str, mode: str, n: int, S: int, W: int, found: dict, above: tuple, below: tuple
    ) -> Iterator[dict]:
        if above in found and below in found and found[below]:
            yield self._row(quantity, mode, n, S, W, Prediction(found[above] / found[below], None, None))
