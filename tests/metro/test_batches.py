"""Batches: the sampler's law, facts of the real sets, which load places and which is evaluated."""

import numpy as np
import polars as pl
import pytest

from operators.metro import batches, draws
from operators.metro.batches import TraceError
from operators.metro.settings import Settings


def inclusion(load: np.ndarray, tokens: int, k: int) -> np.ndarray:
    return batches.counts(batches.sample_topk(load, tokens, k, 1), len(load)) / tokens


@pytest.mark.parametrize("patience", [batches.PATIENCE, 0])
def test_draws_follow_gumbel_top_k(patience, monkeypatch):
    load = np.array([40.0, 20.0, 10.0, 5.0, 3.0, 1.0, 0.0, 0.5])
    keys = np.log(np.maximum(load, 1e-300)) + np.random.default_rng(0).gumbel(size=(200_000, 8))
    expected = np.bincount(np.argsort(-keys, axis=1)[:, :3].ravel(), minlength=8) / 200_000
    if patience == 0:  # the exact way that skewed loads end in, written out
        rng, found = np.random.default_rng(2), np.zeros(8)
        for token in range(20_000):
            taken = np.full(8, -1)
            for _ in range(3):
                expert = batches._draw_remaining.py_func(load, taken, token, rng.random())
                taken[expert] = token
                found[expert] += 1
        assert np.abs(found / 20_000 - expected).max() < 0.015
    else:
        found = inclusion(load, 200_000, 3)
        assert found[6] == 0.0
        assert np.abs(found - expected).max() < 0.006


def test_draws_of_a_load_with_one_giant():
    found = inclusion(np.array([1e9, 1.0, 1.0, 2.0]), 20_000, 2)
    assert found[0] == 1.0
    assert np.abs(found[1:] - [0.25, 0.25, 0.5]).max() < 0.02


def test_draws_repeat_with_their_seed_and_have_no_repeats():
    load = np.random.default_rng(0).random(64) ** 4
    first, again, other = (batches.sample_topk(load, 50, 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert batches.check_topk(first, 64) is not None


@pytest.mark.parametrize(
    ("load", "message"),
    [([1.0, 0.0, 0.0], "1 experts have any; k = 2"), ([1.0, -1.0], "finite values >= 0"), ([[1.0]], "shape")],
)
def test_loads_that_cannot_be_drawn_from(load, message):
    with pytest.raises(TraceError, match=message):
        batches.sample_topk(np.array(load), 3, 2, 0)


def test_unknown_name_lists_the_known():
    with pytest.raises(TraceError, match="known: deepseek-v3, qwen3-30b"):
        batches.load("gpt-2")
    with pytest.raises(TraceError, match=r"row 1 has 1 ids; row 0 has 2 \(ragged\)"):
        batches.topk_of(pl.DataFrame({"experts": [[1, 2], [3]]}))


def gini(values: np.ndarray) -> float:
    ordered = np.sort(values)
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def test_facts_of_the_real_qwen_batches(real_data):
    frame = batches.load("qwen3-30b", real_data)
    assert frame["data"].unique().to_list() == ["real"]
    small, large = (batches.topk_of(frame.filter(pl.col("source") == name)) for name in ("step_b64", "step_b1024"))
    assert [len(np.unique(small[:size])) for size in (8, 16, 32, 64)] == [31, 39, 51, 60]
    assert batches.counts(small, 128).max() == 42
    assert np.count_nonzero(batches.counts(large, 128)) == 83
    assert [round(gini(batches.counts(topk, 128)), 2) for topk in (small, large)] == [0.77, 0.80]
    assert len(np.unique(large, axis=0)) == 944
    sets, repeats = np.unique(np.sort(large, axis=1), axis=0, return_counts=True)
    assert (len(sets), repeats.max()) == (648, 89)


def test_facts_of_the_real_expert_loads(real_data):
    source = draws.deepseek(Settings(), real_data)
    assert source.place.shape == (58, 256)
    ginis = [gini(row) for row in source.place]
    assert (round(min(ginis), 2) >= 0.23, round(max(ginis), 2) <= 0.54, round(np.mean(ginis), 2)) == (True, True, 0.35)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(source.place, source.evaluate, strict=True)]
    assert round(float(np.mean(correlation)), 2) == 0.87
    active = [len(np.unique(batches.sample_topk(row, 256, 8, at))) for at, row in enumerate(source.place)]
    assert 250 <= np.mean(active) <= 254


def test_sources_place_on_one_load_and_evaluate_another():
    settings = Settings(layers=2, steps=1, seeds=1)
    found = {(source.model, source.workload): source for source in draws.sources(settings)}
    assert {source.data for source in found.values()} == {"synthetic"}
    dsv3 = found["deepseek-v3", "decode_in1800out100"]
    assert dsv3.placed_on == "decode_in1000out1000"
    assert not np.array_equal(dsv3.place, dsv3.evaluate)
    assert dsv3.batches == "synthesised"
    for model in ("qwen3-30b", "qwen3-235b"):
        qwen = found[model, "b1024_marginals"]
        assert qwen.evaluate.shape == (2, 128)
        assert not np.array_equal(qwen.evaluate[0], qwen.evaluate[1])  # ids permuted per layer
        assert np.array_equal(np.sort(qwen.evaluate[0]), np.sort(qwen.evaluate[1]))
    assert found["qwen3-30b", "step_b64"].placed_on == "its own counts"
    assert found["qwen3-30b", "step_b1024"].given[0][1].shape == (1, 512, 8)
    assert [step for step, _ in found["qwen1.5-moe", "gsm8k25"].given] == list(range(2, 90))
    assert found["flame-moe-290m", "dynande"].given[0][1].shape == (2, 64, 6)
    assert len(list(draws.real_batches(settings))) == 6


def test_a_layers_draw_does_not_depend_on_the_others():
    few, more = (draws.deepseek(Settings(layers=count)) for count in (1, 3))
    assert np.array_equal(few.draw(0, 8, 1)[0], more.draw(0, 8, 1)[0])
    assert not np.array_equal(few.draw(0, 8, 1), few.draw(1, 8, 1))


def test_unknown_workload_and_model():
    with pytest.raises(TraceError, match="workload 'decode_in7': not in the load data; known: decode_in1000out1000"):
        draws.deepseek(Settings(place_on="decode_in7"))
    with pytest.raises(TraceError, match="no routing data to draw batches from"):
        draws.qwen("mixtral-8x7b", Settings())
