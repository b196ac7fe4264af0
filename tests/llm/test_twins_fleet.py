"""Twins of ServeGen's rates and of the answer lengths: schema, determinism, and the match with the real sets."""

import warnings

import numpy as np
import polars as pl
import pytest

from operators.lab import datasets
from operators.llm import importers, twins, twins_servegen

ALPACA = ("alpaca-lengths", "alpaca_52k.parquet")
LENGTHS, PROMPTS = ("alpacaeval-lengths", "lengths.parquet"), ("alpacaeval-lengths", "prompts.parquet")
NQ = ("nq-open", "nq_open_questions.parquet")
MAKERS = {
    ("servegen", "arrivals.parquet"): twins.servegen_arrivals,
    ("servegen", "length_hist_6h.parquet"): twins.servegen_lengths,
    ALPACA: twins.alpaca,
    LENGTHS: twins.alpacaeval_lengths,
    PROMPTS: twins.alpacaeval_prompts,
    NQ: twins.nq_open,
}
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def quantiles(column, levels=LEVELS):
    return np.quantile(column.drop_nulls().to_numpy(), levels)


def close(found, wanted, tolerance=0.15):
    np.testing.assert_allclose(found, wanted, rtol=tolerance)


@pytest.mark.parametrize("key", MAKERS, ids="/".join)
def test_twins_have_the_columns_of_the_inventory(key):
    frame = MAKERS[key](seed=0)
    assert {name: str(kind) for name, kind in frame.schema.items()} == datasets.lookup(key[0]).files[key[1]].columns


@pytest.mark.parametrize("key", MAKERS, ids="/".join)
def test_same_seed_same_twin_another_seed_another(key):
    first, again, other = (MAKERS[key](seed=seed) for seed in (3, 3, 4))
    assert first.equals(again)
    assert not first.equals(other)


def rate_statistics(servegen):
    out = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for model in ("m-large", "m-mid", "m-small"):
            rates = servegen.rates[model]
            day = np.nanmean(rates, axis=1)
            profile = np.nanmean(rates / day[:, None], axis=0)
            log = np.log(rates / day[:, None] / profile)
            out[model] = {
                "mean": np.nanmean(rates),
                "gaps": np.isnan(rates).sum(),
                "peak": (np.nanmax(rates, axis=1) / day).mean(),
                "evening": profile[120:132].mean() / profile[18:36].mean(),
                "spread": np.nanquantile(log, 0.75) - np.nanquantile(log, 0.25),
                "top": servegen.clients.filter(pl.col("model") == model)["share"].max(),
                "clients": servegen.clients.filter(pl.col("model") == model).height,
                "level": np.nanquantile(rates / np.nanmean(rates), 0.5),
            }
    return out


def test_rates_have_the_published_ranges_runs_and_heads():
    for model, (low, high) in {"m-large": (0.73, 1.29), "m-mid": (0.77, 1.16), "m-small": (0.62, 1.55)}.items():
        profile = twins_servegen.daily_profile(twins_servegen.LOADS[model])
        assert (profile.min(), profile.max()) == pytest.approx((low, high), abs=0.005)
        assert profile.mean() == pytest.approx(1)
        assert profile[:36].mean() < 0.9  # low at night
    made = twins.servegen(seed=2)
    for model, runs, windows, top in (("m-large", 0, 0, 0.12), ("m-mid", 6, 62, 0.5), ("m-small", 8, 22, 0.3)):
        gap = np.isnan(made.rates[model]).ravel()
        assert gap.sum() == windows
        assert (np.diff(gap.astype(int)) == 1).sum() == runs
        share = made.clients.filter(pl.col("model") == model)["share"].sort(descending=True)
        assert share[0] == pytest.approx(top, rel=0.1)
    rows = twins.servegen_arrivals(seed=2)
    assert 1.2 <= rows["cv"].median() <= 1.3
    assert (rows["cv"] >= 5).mean() == pytest.approx(0.1, abs=0.02)
    assert (rows["dist"] == "Gamma").mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("seed", [0, 5])
def test_rates_match_the_real_ones(seed, real_data):
    real = rate_statistics(importers.read_servegen(real_data / "servegen"))
    twin = rate_statistics(twins.servegen(seed=seed))
    for model, wanted in real.items():
        found = twin[model]
        assert found["clients"] == wanted["clients"]
        assert found["gaps"] == wanted["gaps"]
        for key, distance in {"mean": 0.05, "peak": 0.2, "evening": 0.15, "top": 0.15, "level": 0.15}.items():
            assert found[key] == pytest.approx(wanted[key], rel=distance), (model, key)
        assert found["spread"] == pytest.approx(wanted["spread"], rel=0.3), model


def test_bins_and_lengths_match_the_real_ones(real_data):
    real, twin = importers.read_servegen(real_data / "servegen"), twins.servegen()
    np.testing.assert_array_equal(twin.edges, real.edges)
    assert real.edges.astype(int).tolist() == twins_servegen.EDGES
    for key, wanted in real.lengths.sort("model", "t_s").group_by("model", "field"):
        found = twin.lengths.filter(pl.col("model") == key[0], pl.col("field") == key[1])
        assert found.height == wanted.height
        assert found["mean"].mean() == pytest.approx(wanted["mean"].mean(), rel=0.15), key
        medians = [
            real.edges[np.searchsorted(np.cumsum(np.mean(frame["hist"].to_list(), axis=0)), 0.5)]
            for frame in (found, wanted)
        ]
        assert medians[0] == pytest.approx(medians[1], rel=0.35), key  # one bin to either side
        assert np.allclose(found["hist"].list.sum(), 1, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 5])
def test_alpacas_lengths_match_the_real_ones(seed, real_data):
    real, twin = datasets.read(*ALPACA, real_data), twins.alpaca(seed=seed)
    assert twin.height == real.height
    for name in ("len_ref", "len_t00", "len_t07", "ref_tokens_est"):
        assert twin[name].null_count() == real[name].null_count()
        close(quantiles(twin[name]), quantiles(real[name]))
        assert twin[name].mean() == pytest.approx(real[name].mean(), rel=0.15)
    logs = [
        np.corrcoef(np.log(frame.select("len_ref", "len_t00", "len_t05", "len_t07").drop_nulls().to_numpy().T))
        for frame in (twin, real)
    ]
    np.testing.assert_allclose(*logs, atol=0.04)
    assert (
        twin["split_seqsched"].value_counts().sort("count").equals(real["split_seqsched"].value_counts().sort("count"))
    )
    assert (twin["len_t07"].drop_nulls() >= 512).mean() == pytest.approx(0.007, abs=0.003)


def test_alpacas_prompts_match_the_real_ones(real_data):
    real, twin = datasets.read(*ALPACA, real_data), twins.alpaca()
    chars = [frame["instruction"].str.len_chars() + frame["input"].str.len_chars() for frame in (twin, real)]
    close(*(quantiles(column) for column in chars))
    assert (twin["input"] != "").mean() == pytest.approx((real["input"] != "").mean(), abs=0.03)
    related = [
        np.corrcoef(np.log(column.filter(frame["len_t07"].is_not_null())), np.log(frame["len_t07"].drop_nulls()))[0, 1]
        for column, frame in zip(chars, (twin, real), strict=True)
    ]
    assert related[0] == pytest.approx(related[1], abs=0.06)


def test_a_prompt_tells_part_of_its_answers_length():
    frame = twins.alpaca(rows=8000).drop_nulls("len_t07")
    words = frame["instruction"].str.split(" ").list.first()
    between = frame.with_columns(word=words, log=pl.col("len_t07").log()).select(pl.col("log").mean().over("word"))
    share = between["log"].var() / frame["len_t07"].log().var()
    assert 0.1 < share < 0.7


def eval_statistics(frame):
    frame = frame.with_columns(pl.col("model").cast(pl.String), log=pl.col("tokens_est").log1p())
    models = frame.group_by("model").agg(pl.col("tokens_est").mean(), pl.col("log").mean())
    left = frame.with_columns(left=pl.col("log") - pl.col("log").mean().over("model"))
    prompts = left.group_by("prompt_id").agg(pl.col("left").mean())["left"].var()
    return {
        "quantiles": quantiles(frame["tokens_est"], (*LEVELS, 0.99)),
        "means": quantiles(models["tokens_est"], (0.1, 0.5, 0.9)),
        "variance": np.array([frame["log"].var(), models["log"].var(), prompts]),
    }


@pytest.mark.parametrize("seed", [0, 5])
def test_alpacaevals_lengths_match_the_real_ones(seed, real_data):
    real = eval_statistics(datasets.read(*LENGTHS, real_data))
    twin = eval_statistics(twins.alpacaeval_lengths(seed=seed))
    close(twin["quantiles"], real["quantiles"])
    close(twin["means"], real["means"])
    close(twin["variance"], real["variance"])


def test_alpacaevals_prompts_match_the_real_ones(real_data):
    real, twin = datasets.read(*PROMPTS, real_data), twins.alpacaeval_prompts()
    assert twin["source"].value_counts().sort("source").equals(real["source"].value_counts().sort("source"))
    levels = (0.05, 0.5, 0.95)
    close(quantiles(twin["prompt"].str.len_chars(), levels), quantiles(real["prompt"].str.len_chars(), levels))
    assert twin["prompt_id"].equals(real["prompt_id"])
    questions = datasets.read(*NQ, real_data)
    assert (
        twins.nq_open()["split"].value_counts().sort("count")["count"].to_list()
        == questions["split"].value_counts().sort("count")["count"].to_list()
    )
