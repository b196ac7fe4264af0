"""Serving times from routing rows: parts add up, dispatches differ, METRO wins and loses where it should."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.llm import steptime, tables, workloads
from operators.llm.moe_cost import MoeCost
from operators.metro import continuous, pareto, serving
from operators.metro.continuous import Engine, Rank, Request, Work
from tests.metro.routed_rows import MODEL, WORKLOADS, routed_rows


@pytest.fixture(scope="module")
def step():
    return steptime.step_tables(MODEL, accelerator="b200", system="b200_sxm", framework="VLLM", dtype="fp8_block")


@pytest.fixture(scope="module")
def rows():
    return routed_rows()


def tpot(step, rows, batch, **options):
    return serving.tpot(step, serving.decode(step, rows.filter(pl.col("B") == batch), context=2048, **options))


def test_parts_sum_to_the_layer_and_the_layers_to_tpot(step, rows):
    runs = tpot(step, rows, 512)
    parts = ["t_moe_us", "t_dispatch_us", "t_combine_us", "t_router_us", "t_attn_us", "t_other_us"]
    np.testing.assert_allclose(runs.select(pl.sum_horizontal(parts)).to_series(), runs["layer_us"])
    np.testing.assert_allclose(58 * runs["layer_us"] + runs["t_rest_us"], runs["tpot_us"])
    np.testing.assert_allclose(runs["t_dispatch_us"] + runs["t_combine_us"], runs["t_comm_us"])
    assert runs.height == 9
    assert (runs["lam_over_exact"] >= 1).all()


def test_no_router_time_at_ratio_one_and_for_local_rules(step, rows):
    runs = tpot(step, rows, 128, router_overhead_us=26.0)
    charged = runs.filter(pl.col("t_router_us") > 0)
    assert set(charged["router"]) == {"metro", "exact"}
    assert charged["r"].min() > 1
    assert (charged["t_router_us"] == 26).all()
    at_one = runs.filter(pl.col("r") == 1.0)["tpot_us"]
    assert at_one.min() == at_one.max()
    measured = tpot(step, rows, 128).filter((pl.col("router") == "metro") & (pl.col("r") > 1))
    assert (measured["t_router_us"] == 5).all()


def test_dispatch_of_both_kinds(step, rows):
    gathered, sent = tpot(step, rows, 512), tpot(step, rows, 512, comm="alltoall")
    assert (sent["comm_extra_us"] == 0).all()
    np.testing.assert_allclose(gathered["comm_extra_us"], gathered["t_dispatch_us"] - sent["t_dispatch_us"])


def test_metro_wins_when_memory_bound_and_not_always(step, rows):
    def best(batch):
        runs = tpot(step, rows, batch)
        none = runs.filter((pl.col("r") == 1) & (pl.col("router") == "even"))["tpot_us"][0]
        found = {
            router: runs.filter((pl.col("r") == 1.5) & (pl.col("router") == router))["tpot_us"][0]
            for router in ("even", "metro")
        }
        return none, found["even"], found["metro"]

    none, even, metro = best(128)
    assert metro < even
    assert none < metro  # copies only cost here: no replication is best of all
    none, even, metro = best(8192)
    assert metro > even  # past the crossover tokens decide


def test_another_context_changes_attention_only(step, rows):
    direct = serving.tpot(step, serving.decode(step, rows.filter(pl.col("B") == 512), context=8192))
    moved = serving.with_context(step, tpot(step, rows, 512), 8192)
    np.testing.assert_allclose(moved["tpot_us"], direct["tpot_us"])


def test_prefill_grows_with_requests_and_packs_short_prompts(step, rows):
    some = rows.filter((pl.col("B") == 8192) & (pl.col("router") == "even"))
    times = {n: serving.ttft(step, some, requests_per_gpu=n, input_tokens=4096, chunk=8192) for n in (8, 16, 32)}
    means = [frame["ttft_us"].mean() for frame in times.values()]
    assert means == sorted(means)
    assert times[8]["prefill_steps"].to_list() == [4] * 3
    short = serving.ttft(step, some, requests_per_gpu=8, input_tokens=256, chunk=8192)
    assert short["prefill_steps"].to_list() == [1] * 3


def test_mix_throughput_limits():
    # no prefill work: batch tokens each TPOT; no decode: the prefill rate
    assert serving.mix_throughput(100, 0, 10, 1.0, 1e4) == pytest.approx(100 / 1e4 * 1e6)
    assert serving.mix_throughput(100, 50, 0, 0.25, 1e4) == pytest.approx(0.25e6)


def test_bad_rows_name_the_column(step, rows):
    with pytest.raises(serving.ServingError, match=r"B: \[128, 512, 8192\]"):
        serving.decode(step, rows, context=10)
    with pytest.raises(serving.ServingError, match="lists of 16 to 16; expected 8"):
        serving.per_gpu(rows, "activated", 8)


def test_pareto_grids_frontier_and_equal_tpot(step):
    loads, _ = pareto.loads(MODEL, WORKLOADS, 2, None, 0)
    counts = pareto.draw(loads[WORKLOADS[1]], (128, 1024), 8, 1, 0)
    runs = pareto.sweep(
        step,
        gpus=4,
        sizes=(128, 1024),
        ratios=(1.0, 1.5),
        routers=("even", "metro"),
        place_load=loads[WORKLOADS[0]],
        counts=counts,
        context=2048,
        router_us={"metro": 5.0},
    )
    assert runs.height == 3 * 2 * 2 * 3  # splits x batches x ratios x (even twice, metro once)
    one = runs.filter((pl.col("r") == 1.0) & (pl.col("comm") == "allgather"))
    both = one.group_by("batch", "tp").agg(pl.col("tpot_us").n_unique())
    assert (both["tpot_us"] == 1).all()
    front = pareto.frontier(runs)
    assert front["tpot_us"].is_sorted()
    assert front["throughput_per_gpu"].is_sorted()
    ratio = pareto.equal_tpot_ratio(runs, runs)
    assert (ratio["pareto_ratio"] == 1).all()
    assert set(pareto.PAPER_BATCHES) <= set(pareto.FINE_BATCHES)
    assert 64 not in pareto.grid_batches("paper", "deepseek-v3")


def fixed_step(work: list[Work]) -> float:
    return 1e3 + 10.0 * max(part.tokens for part in work)


requests = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 3000), st.integers(1, 30)), min_size=1, max_size=30)


@settings(max_examples=30, deadline=None)
@given(requests, st.integers(1, 3), st.integers(1, 8))
def test_every_request_is_served_once_and_tokens_add_up(listed, ranks, places):
    table = pl.DataFrame(listed, schema=["arrival_s", "input_tokens", "output_tokens"], orient="row")
    table = workloads.checked(table.with_columns(request_id=pl.int_range(pl.len()).cast(pl.String)))
    seen = []

    def step_us(work):
        seen.append([(part.chunk, part.n_decode) for part in work])
        assert all(part.tokens <= 64 and part.n_decode <= places for part in work)
        return fixed_step(work)

    served = continuous.serve(table, step_us, Engine(ranks=ranks, max_num_seqs=places, max_num_batched_tokens=64))
    assert sorted(served["request_id"]) == sorted(table["request_id"])
    assert (served["ttft_us"] > 0).all()
    chunks, decodes = (sum(part[at] for work in seen for part in work) for at in (0, 1))
    assert chunks == table["input_tokens"].sum()
    assert decodes == table["output_tokens"].sum() - table.height  # the first token comes with the prompt


def test_scheduler_keeps_running_requests_first_and_its_invariants():
    rank = Rank(Engine(ranks=1, max_num_seqs=2, max_num_batched_tokens=8))
    rank.waiting.extend(Request(name, 0.0, inputs, 2) for name, inputs in (("a", 10), ("b", 3), ("c", 1)))
    assert rank.schedule() == Work(8, 0.0, 0, 0.0, 0)
    rank.validate()
    rank.finish(1.0)
    work = rank.schedule()  # a's last 2, then b; c finds no place
    assert (work.chunk, work.sampled, len(rank.waiting)) == (5, 2, 1)
    rank.finish(2.0)
    work = rank.schedule()
    assert (work.n_decode, work.kv_decode) == (2, (11 + 4) / 2)
    assert [request.name for request in rank.finish(3.0)] == ["a", "b"]
    rank.validate()


def test_engine_limits_are_checked():
    with pytest.raises(ValueError, match=r"max_num_batched_tokens \(=4\)"):
        Engine(max_num_batched_tokens=4)
    with pytest.raises(ValueError, match=r"ranks \(=0\)"):
        Engine(ranks=0)


def test_an_unloaded_request_takes_its_own_time():
    rtx = tables.load_rtx()
    rtx = dataclasses.replace(rtx, moe=rtx.moe.with_fit(MoeCost.fit(rtx.moe)))
    curve = continuous.expert_curve(rtx, np.ones((1, 128)), gpus=2, top_k=8, most=4096)
    assert (np.diff(curve[1]) > 0).all()
    cost = continuous.RtxStep(rtx, *curve)
    table = pl.DataFrame({"request_id": ["x"], "arrival_s": [1.0], "input_tokens": [3000], "output_tokens": [3]})
    served = continuous.serve(workloads.checked(table), cost)
    idle = Work(0, 0.0, 0, 0.0, 0)
    prefill = [cost([Work(2048, 0.0, 0, 0.0, 0), idle]), cost([Work(952, 2048.0, 0, 0.0, 1), idle])]
    assert served["ttft_us"][0] == pytest.approx(sum(prefill))
    decode = [cost([Work(0, 0.0, 1, float(context), 1), idle]) for context in (3001, 3002)]
    assert served["tpot_us"][0] == pytest.approx(np.mean(decode))
