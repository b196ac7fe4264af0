"""Synthetic twins: same columns as the real sets, statistics within stated distances where the real sets are there."""

import numpy as np
import polars as pl
import pytest

from operators.lab import datasets
from operators.llm import twins, twins_steptime, workloads
from operators.llm.twins_routing import LOAD_SCHEMA, TRACE_SCHEMA, TRACES

LOAD = ("moe_load_dsv3", "dsv3_expert_load.parquet")
EXPERTS = {"Qwen3-30B-A3B": 128, "Mixtral-8x7B": 8, "Qwen1.5-MoE-A2.7B": 60, "FLAME-MoE-290M": 64}


def gini(values):
    x = np.sort(np.asarray(values, float))
    return (2 * np.arange(1, len(x) + 1) - len(x) - 1) @ x / len(x) / x.sum()


def load_statistics(frame):
    """Per phase: mean Gini, mean max/mean; and the layer correlation of the workloads with the first."""
    tokens = {w: part["tokens"].to_numpy().reshape(58, 256) for (w,), part in frame.group_by("workload")}
    phase = dict(frame.select("workload", "phase").unique().iter_rows())
    base = tokens["decode_in1000out1000"]
    out = {}
    for kind in ("decode", "prefill"):
        some = [tokens[w] for w in tokens if phase[w] == kind]
        out[kind] = (
            np.mean([gini(layer) for load in some for layer in load]),
            np.mean([layer.max() / layer.mean() for load in some for layer in load]),
        )
        others = [load for load in some if load is not base]
        out[f"{kind} correlation"] = np.mean([np.corrcoef(a, b)[0, 1] for load in others for a, b in zip(base, load)])  # noqa: B905
    return out


def trace_statistics(frame):
    """Per block: Gini of the counts, experts activated a step, share of the hottest expert."""
    out = {}
    keys = ["model", "source", "layer", "phase"]
    for key, part in frame.group_by(keys, maintain_order=True):
        counts = np.bincount(part["experts"].list.explode().to_numpy(), minlength=EXPERTS[key[0]])
        steps = [step["experts"].list.explode().n_unique() for _, step in part.group_by("step")]
        out[key] = gini(counts), np.mean(steps), counts.max() / len(part)
    return out


def test_load_has_the_schema_and_the_totals():
    frame = twins.dsv3_load(seed=0)
    assert dict(frame.schema) == LOAD_SCHEMA
    assert frame.height == 8 * 58 * 256
    assert frame["tokens"].min() >= 0
    totals = frame.group_by("workload", "layer").agg(pl.col("tokens").sum())
    assert totals.group_by("workload").agg(pl.col("tokens").n_unique())["tokens"].max() == 1


def test_load_statistics_match_the_real_set(real_data):
    twin, real = load_statistics(twins.dsv3_load(seed=0)), load_statistics(datasets.read(*LOAD, real_data))
    for kind in ("decode", "prefill"):
        assert twin[kind][0] == pytest.approx(real[kind][0], abs=0.04)
        assert twin[kind][1] == pytest.approx(real[kind][1], rel=0.25)
        assert twin[f"{kind} correlation"] == pytest.approx(real[f"{kind} correlation"], abs=0.06)


@pytest.mark.parametrize("file", TRACES)
def test_traces_have_the_schema_and_valid_rows(file):
    frame = twins.routing_traces(file, seed=1)
    assert dict(frame.schema) == TRACE_SCHEMA
    for (model,), part in frame.group_by("model"):
        ids = part["experts"].list.explode()
        assert ids.max() < EXPERTS[model]
        assert (part["experts"].list.n_unique() == part["experts"].list.len()).all()


@pytest.mark.parametrize("file", TRACES)
def test_traces_match_the_real_sets(file, real_data):
    real = trace_statistics(datasets.read("moe_routing_traces", file, real_data))
    twin = trace_statistics(twins.routing_traces(file, seed=0))
    assert list(twin) == list(real)
    for key, (unequal, active, hottest) in real.items():
        assert twin[key][0] == pytest.approx(unequal, abs=0.06), key
        assert twin[key][1] == pytest.approx(active, rel=0.10), key
        if key[0].startswith("Qwen3"):  # the hottest expert was fitted for this model only
            assert twin[key][2] == pytest.approx(hottest, rel=0.30), key


@pytest.mark.parametrize("key", twins_steptime.TABLES, ids="/".join)
def test_tables_have_the_columns_of_the_inventory(key):
    frame = twins.table(*key)
    columns = datasets.lookup(key[0]).files[key[1]].columns
    assert {name: str(frame.schema[name]) for name in columns} == columns


def test_same_seed_same_twin_another_seed_another():
    for make in (twins.dsv3_load, lambda *, seed: twins.routing_traces("qwen15_gsm8k.parquet", seed=seed)):
        assert make(seed=3).equals(make(seed=3))
        assert not make(seed=3).equals(make(seed=4))


def test_workload_twin_matches_the_real_requests(real_data):
    real, kind = workloads.read("sharegpt_300", real_data)
    twin = twins.workload("sharegpt_300", seed=0)
    assert kind == "real"
    assert real.schema == twin.schema
    for column, distance in (("input_tokens", 0.1), ("output_tokens", 0.05), ("arrival_s", 0.25)):
        assert twin[column].mean() == pytest.approx(real[column].mean(), rel=distance)
    assert twin["input_tokens"].min() >= real["input_tokens"].min()
    assert twin["output_tokens"].max() <= real["output_tokens"].max()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("input_tokens", 0, "row 1: input_tokens"),
        ("arrival_s", float("nan"), "row 1: arrival_s"),
        ("request_id", "a", "twice"),
    ],
)
def test_impossible_requests_name_the_row(column, value, message):
    good = {"request_id": ["a", "b"], "arrival_s": [0.0, 1.0], "input_tokens": [5, 5], "output_tokens": [2, 2]}
    good[column][1] = value
    with pytest.raises(workloads.TraceError, match=message):
        workloads.checked(pl.DataFrame(good))


def test_unknown_names_list_the_known():
    for call in (lambda: twins.routing_traces("x"), lambda: twins.table("a", "b"), lambda: workloads.read("x")):
        with pytest.raises(KeyError, match="known"):
            call()
