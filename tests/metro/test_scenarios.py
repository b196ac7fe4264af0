"""From raw runs to measures: every policy beside EPLB and no replication, each with the dispatch it runs with."""

import polars as pl
import pytest

from operators.metro import scenarios

LAYER = {"even": 100.0, "metro": 80.0, "primary": 90.0}


def tpot():
    rows = []
    for router, r, comm, context in (
        (router, r, comm, context)
        for router in LAYER
        for r in (1.0, 1.5)
        for comm in ("allgather", "alltoall")
        for context in (4608.0, 8192.0)
    ):
        layer = 95.0 if r == 1.0 else LAYER[router]
        layer += (10.0 if comm == "allgather" else 0.0) + context / 1000
        rows.append(
            {
                "model": "m",
                "accelerator": "a100-40g",
                "gpus": 8,
                "workload": "w",
                "batches": "synthesised",
                "data": "real",
                "basis": "calibrated",
                "router": router,
                "r": r,
                "batch_per_gpu": 32.0,
                "seed": 0,
                "comm": comm,
                "lookup": "levels",
                "context": context,
                "tpot_us": 48 * layer,
                "layer_us": layer,
                "ffn_us": layer / 2,
                "comm_us": 5.0,
                "comm_extra_us": 1.0,
                "t_attn_us": 3.0,
                "t_other_us": 4.0,
                "lam": 1.0,
                "lam_over_exact": 1.0,
                "activated": 1.0,
                "router_us": 1.0,
            }
        )
    return pl.DataFrame(rows).with_columns(pl.col("gpus", "seed").cast(pl.Int32))


def routing():
    rows = [
        {
            "model": "m",
            "workload": "w",
            "phase": "decode",
            "batches": "synthesised",
            "data": "real",
            "router": router,
            "r": r,
            "G": 8,
            "B": 256,
            "batch_per_gpu": 32.0,
            "seed": 0,
            "layer": layer,
            "lam": 10 + layer,
            "lam_exact": 10,
            "activated_sum": 60,
            "tokens": [10, 20, 30],
            "time_us": 2.0,
        }
        for router in LAYER
        for r in (1.0, 1.5)
        for layer in (0, 1)
    ]
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def decoded():
    frame = scenarios.decode(tpot(), routing(), comm="allgather", batch_per_gpu=32, global_batch=1024)
    return {(row["router"], row["r"]): row for row in frame.iter_rows(named=True)}


def test_each_policy_runs_with_its_own_dispatch_at_the_real_systems_context(decoded):
    assert decoded["metro", 1.5]["comm"] == "allgather"
    assert decoded["even", 1.5]["comm"] == "alltoall"
    assert decoded["metro", 1.0]["comm"] == "alltoall"
    assert decoded["even", 1.5]["layer_us"] == pytest.approx(108.192)
    assert decoded["metro", 1.5]["layer_us"] == pytest.approx(98.192)


def test_no_replication_stands_beside_every_ratio(decoded):
    assert decoded["none", 1.5]["layer_us"] == decoded["primary", 1.0]["layer_us"] == decoded["even", 1.0]["layer_us"]
    assert decoded["none", 1.5]["tpot_s"] == pytest.approx(48 * (95.0 + 8.192) / 1e6)


def test_measures_are_made_from_the_runs(decoded):
    row = decoded["metro", 1.5]
    assert row["ffn_saving_us"] == pytest.approx((108.192 - 98.192) / 2)
    assert row["comm_extra_share"] == pytest.approx(1 / 98.192)
    assert row["lam"] == 10.5
    assert row["lam_over_exact"] == pytest.approx(1.1)
    assert row["imbalance"] == pytest.approx(1.5)
    assert row["paper_batch"] is True
    assert row["scenario"] == "decode"
    assert row["data"] == "real"


def test_real_batches_of_one_layer_are_kept_apart():
    real = tpot().with_columns(batches=pl.lit("real"))
    frame = scenarios.decode(real, routing(), comm="allgather", batch_per_gpu=32, global_batch=1024)
    assert frame["scenario"].unique().to_list() == ["decode_single"]


def test_pareto_compares_each_policy_on_its_own_frontier():
    rows = [
        {
            "model": "m",
            "accelerator": "b200",
            "gpus": 8,
            "grid": "paper",
            "r": 1.5,
            "seed": 0,
            "batches": "synthesised",
            "data": "real",
            "basis": "calibrated",
            "router": router,
            "comm": comm,
            "lookup": "levels",
            "batch": batch,
            "tpot_us": time,
            "throughput_per_gpu": batch / time,
        }
        for router, comm, batch, time in (
            ("even", "alltoall", 64, 10.0),
            ("even", "alltoall", 256, 20.0),
            ("metro", "allgather", 256, 10.0),
            ("metro", "alltoall", 9999, 1.0),
            ("even", "allgather", 9999, 1.0),
        )
    ]
    found = scenarios.pareto(pl.DataFrame(rows), comm="allgather")
    assert found["pareto_ratio"].max() == pytest.approx(4.0)
    assert found["router"].unique().to_list() == ["metro"]


def test_a_cache_resident_experiment_gives_no_rows():
    measured = pl.DataFrame({"cache_resident": [True], "rank": [0], "seed": [0], "data": ["real"], "batches": ["real"]})
    assert scenarios.cpu(measured).is_empty()
    assert scenarios.cpu_fit(measured).is_empty()
    assert scenarios.cpu(measured).schema == pl.Schema(scenarios.SCHEMA)
