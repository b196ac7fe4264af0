"""The measured experiment: its plan, its table, and what is read out of the table."""

import contextlib
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from operators.lab import cluster as head
from operators.lab import stage
from operators.metro import actors, batches, cold, experiment, measure, measured
from operators.metro.settings import Cpu, Settings

SMALL = Settings(
    cpu=Cpu(experts=16, hidden=32, width=6, gpus=4, ratios=(1.0, 1.5), reps=2, batches=(4, 8)), seed=3, profile="ci"
)


class InProcess:
    """A Cluster's measuring side without Ray: the same RankActor objects, called directly."""

    def __init__(self, ray, placement, *, router, width, hidden, seed, parallel):
        self._seed = seed
        make = lambda rank: actors.RankActor(rank, capacity=placement.slots_per_gpu, width=width, hidden=hidden)  # noqa: E731
        self._ranks = [make(rank) for rank in range(placement.num_gpus)]
        self.rearrange(placement)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for rank in self._ranks:
            rank.counters()

    def rearrange(self, placement):
        for gpu, rank in enumerate(self._ranks):
            slots = np.arange(gpu * placement.slots_per_gpu, (gpu + 1) * placement.slots_per_gpu)
            rank.load(0, slots, placement.phys2log[0, slots], self._seed)

    def measure(self, rank, jobs, evict):
        return self._ranks[rank].measure(jobs, evict)


@pytest.fixture
def in_process(monkeypatch):
    """Stages find InProcess where they look for Ray."""
    monkeypatch.setattr(actors, "Cluster", InProcess)
    monkeypatch.setattr(
        head, "connect", lambda address: contextlib.nullcontext(SimpleNamespace(put=lambda x: x, get=lambda x: x))
    )
    monkeypatch.setattr(cold, "l3_bytes", lambda: 4096)


@pytest.mark.parametrize("experts", [16, 128])
def test_the_stage_writes_every_rank_of_every_step(in_process, tmp_path, experts):
    settings = SMALL.model_copy(update={"cpu": SMALL.cpu.model_copy(update={"experts": experts})})
    measure.main(settings=settings, out=tmp_path / "measured.parquet", out_faults=tmp_path / "faults.parquet")
    assert stage.read_table(tmp_path / "faults.parquet").is_empty()
    frame = stage.read_table(tmp_path / "measured.parquet", measure.SCHEMA)
    assert frame["data"].unique().to_list() == ["synthetic"]
    assert frame["batches"].unique().to_list() == ["real" if experts == 128 else "synthesised"]
    routed = frame.filter(pl.col("router") != "sweep")
    steps = routed.group_by("router", "r", "nested", "B", "rep").agg(pl.col("n").sum(), pl.col("A").max(), pl.len())
    assert (steps["n"] == steps["B"] * 8).all()
    assert (steps["len"] == 4).all()
    assert len(steps) == (1 + 4 + 2) * 2 * 2  # r = 1; four routers at r = 1.5; primary and adaptive nested
    assert (
        routed.group_by("router", "r", "nested", "B").agg(same=pl.col("A").max() == pl.col("lam").max())["same"]
    ).all()
    assert (frame["bytes"] == frame["A"] * 3 * 6 * 32 * 4).all()
    assert not frame["cache_resident"].any()
    assert set(frame.filter(pl.col("router") == "sweep")["rank"]) == {0}


def test_real_batch_is_the_64_tokens_of_layer_12(real_data):
    batch = experiment.read_batch(Cpu(), data=real_data, seed=0)
    assert (batch.layer, batch.data, batch.batches, batch.topk.shape) == (12, "real", "real", (64, 8))
    assert [len(np.unique(batch.first(count)[1])) for count in (8, 16, 32, 64)] == [31, 39, 51, 60]
    with pytest.raises(ValueError, match="has 64 tokens"):
        batch.first(65)
    # lambdas of the settled placement: specification, section 5
    golden = {
        1.5: {"even": [8, 13, 15, 16], "metro": [5, 5, 7, 9], "exact": [4, 5, 7, 8]},
        1.0: {"primary": [5, 6, 8, 8]},
    }
    settings = Settings(ratios=tuple(golden), routers=("primary", "even", "metro", "exact"))
    for r, nested, placement in experiment.placements(batch, settings.cpu, settings.ratios, avoid_same_gpu=False):
        if not nested:
            jobs = experiment.jobs_of(batch, placement, settings, r=r, nested=nested, cost=None)
            for router, lams in golden[r].items():
                assert [job.lam for job in jobs if job.router == router] == lams


def test_a_smaller_set_of_experts_keeps_tokens_distinct():
    batch = experiment.read_batch(Cpu(experts=32), data=None, seed=1)
    assert batch.batches == "synthesised"
    assert batches.counts(batch.topk, 32).sum() == 64 * 8  # refuses repeated and foreign ids
    np.testing.assert_allclose(batch.gates.sum(1), 1, rtol=1e-5)


def made(router, r, B, times, *, activated=None, tokens=8, nested=False, lam=1):
    """Rows of one step: `times` are ms of its ranks, measured twice (the second is the slower)."""
    activated = activated or [1] * len(times)
    common = {"router": router, "r": r, "B": B, "nested": nested, "lam": lam, "layer": 12, "seed": 0, "data": "real",
              "batches": "real", "stream_GBps": 10.0}  # fmt: skip
    return [
        common
        | {"rank": rank, "rep": rep, "A": A, "n": tokens, "cpu_ns": int(ms * 1e6 * (1 + rep)), "bytes": A * 5 * 10**6}
        for rep in (0, 1)
        for rank, (ms, A) in enumerate(zip(times, activated, strict=True))
    ]


def swept(time_of):
    rows = []
    for A in (1, 2, 4, 8, 16):
        for tokens in (1, 2, 4, 8, 16):
            n = A * tokens
            rows += made("sweep", 1.5, tokens, [time_of(A, n)], activated=[A], tokens=n, lam=A)
    return rows


def test_regression_finds_the_law_it_was_given():
    frame = pl.DataFrame(swept(lambda A, n: 0.5 + 2.0 * A + 0.25 * n))
    rows = {(row["subset"], row["model"]): row for row in measured.regression(frame).to_dicts()}
    assert len(rows) == 9
    for subset, points in (("<=2", 10), ("<=8", 20), ("all", 25)):
        row = rows[subset, "A+n"]
        assert (row["r2"], row["points"]) == (pytest.approx(1.0), points)
        assert [row["intercept_ms"], row["per_expert_ms"], row["per_token_ms"]] == pytest.approx([0.5, 2.0, 0.25])
    assert rows["<=2", "A"]["r2"] > 0.99 > rows["all", "A"]["r2"]
    assert rows["all", "A"]["per_token_ms"] is None
    reading = pl.DataFrame(swept(lambda A, n: 1.5 * A))
    assert measured.regression(reading).filter(pl.col("model") == "A")["r2"].to_list() == pytest.approx([1, 1, 1])


def test_makespan_is_the_slowest_rank_and_the_crossover_lies_between():
    rows = swept(lambda A, n: 1.0 + 2.0 * A + 0.1 * n)
    for B, even, metro, none in ((8, 6.0, 3.0, 2.5), (16, 5.0, 4.0, 4.4), (32, 4.0, 6.0, 5.0)):
        rows += made("even", 1.5, B, [1.0, even], lam=4) + made("metro", 1.5, B, [metro, 2.0], activated=[2, 1], lam=2)
        rows += made("primary", 1.0, B, [none, none / 2])
        rows += made("adaptive", 1.5, B, [min(even, metro)]) + made("adaptive", 1.5, B, [none], nested=True)
        rows += made("primary", 1.5, B, [none * 0.5], nested=True)
    frame = pl.DataFrame(rows)
    spans = measured.makespans(frame).filter((pl.col("router") == "metro") & (pl.col("B") == 8)).to_dicts()[0]
    assert (spans["makespan_ms"], spans["slowest"], spans["activated"], spans["lam"]) == (3.0, 0, 3, 2)
    assert spans["predicted_ms"] == pytest.approx(1.0 + 2.0 * 2 + 0.1 * 8)
    ratios = measured.ratios(frame).filter(pl.col("against") == "even").sort("B")
    assert ratios["ratio"].to_list() == pytest.approx([2.0, 1.25, 4 / 6])
    assert ratios["lam_ratio"].to_list() == [2.0] * 3
    cross = {row["against"]: row for row in measured.crossover(frame).to_dicts()}
    assert (cross["even"]["last_win_B"], cross["none"]["last_win_B"]) == (16, 16)
    assert 16 < cross["even"]["crossover_B"] < 32
    assert cross["even"]["best_ratio"] == 2.0
    gaps = measured.adaptive_gap(frame).sort("nested", "B")
    assert gaps["best"].to_list() == ["primary", "metro", "even", *["primary"] * 3]
    assert gaps["gap"].to_list() == pytest.approx([3 / 2.5, 1, 1, 2, 2, 2])


def test_crossover_without_a_win_and_without_a_loss():
    assert measured._crossing(np.array([8, 16]), np.array([0.9, 0.8])) == 8
    assert measured._crossing(np.array([8, 16]), np.array([1.2, 1.1])) is None
    assert measured._crossing(np.array([8, 16, 32]), np.array([0.9, 1.2, 0.8])) == pytest.approx(2 ** (4 + 0.5))


def test_stream_fraction_compares_each_run_with_the_read_before_it():
    frame = measured.stream_fraction(pl.DataFrame(swept(lambda A, n: A)))
    assert frame["tokens_per_expert"].to_list() == [1, 2, 4, 8, 16]
    assert frame["high"].to_list() == [0.5] * 5
    assert frame["low"].to_list() == [0.25] * 5


def test_the_cache_is_read_from_the_machine_and_evicted():
    assert cold.l3_bytes() >= 0
    assert cold.evict_bytes(0) == 32 * 2**20
    assert cold.evict_bytes(33 * 2**20) == 66 * 2**20
    assert cold.evict_bytes(2**31) == cold.LARGEST_BUFFER
