"""Stages end to end at a tiny size: one seed is one result, logs replay, advice is given, and imports stay light."""

import subprocess
import sys
import zlib

import numpy as np
import polars as pl
import pytest

from operators.odma import evaluate, policies, scenarios, simulate, trace
from operators.odma.settings import Settings

TINY = Settings(sets=("alpaca",), prompts=500, reference_prompts=200, seeds=1, loads=(0.8,), alphas=(0.4, 1.0),
                policies=("static", "odma", "oracle", "paged"), frontier_classes=(4,), frontier_levels=(0.9,),
                devices=2)  # fmt: skip
KINDS = ("requests", "samples", "alloc", "measured")
OUTS = ("measures", "accuracy", "coverage", "crossover", "fragmentation")


def make(folder, settings=TINY):
    """Trace, two policies, evaluate; every table by name."""
    trace.main(settings=settings, out_split=folder / "split", out_predictions=folder / "predictions",
               out_predictor=folder / "predictor", out_traces=folder / "trace")  # fmt: skip
    for policy in settings.policies:
        outs = {f"out_{kind}": folder / kind / policy for kind in KINDS}
        simulate.main(settings=settings, policy=policy, traces=folder / "trace", predictor=folder / "predictor", **outs)
    parts = {kind: [folder / kind / policy for policy in settings.policies] for kind in KINDS[1:]}
    evaluate.main(settings=settings, predictions=folder / "predictions", split=folder / "split",
                  predictor=folder / "predictor", traces=folder / "trace", **parts,
                  **{f"out_{name}": folder / name for name in OUTS})  # fmt: skip
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".json", ".npz")]
    return {str(path.relative_to(folder)): pl.read_parquet(path) for path in files}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"))


def test_one_seed_is_one_result(tables, tmp_path):
    again = make(tmp_path)
    assert tables.keys() == again.keys()
    for name, table in tables.items():
        assert table.equals(again[name]), name


def test_tables_say_what_they_must(tables):
    measures = tables["measures"]
    assert set(measures["scenario"]) == {"grid", "count", "drift", "frontier", "cluster"}
    assert measures["failed"].sum() == 0
    assert measures.filter(pl.col("policy") == "paged_at_1")["alpha"].unique().to_list() == [1.0]
    for name in ("util_live", "util_final", "util_device", "external"):
        assert measures[name].is_between(0, 1).all(), name
    assert tables["fragmentation"].filter(pl.col("policy") != "paged")["replayed"].all()
    crossed = tables["crossover"]
    assert set(crossed.select("load", "prefill").rows()) == {(a, b) for a in ("t0", "0.8") for b in (True, False)}
    found = tables["accuracy"].filter(pl.col("predictor") == "second sample")
    assert (found["over_ceiling"] == 0).all()
    assert {"static", "switch", "switch-after-500"} <= set(tables["coverage"]["stream"])
    assert set(tables["requests/odma"]["basis"]) == {"modelled"}
    grid = measures.filter((pl.col("scenario") == "grid") & (pl.col("policy") == "static"))
    assert (grid["util_final_gain"] == 0).all()


def test_shares_of_a_load_are_kept(tables):
    names = {str(name) for name in scenarios.names(TINY)}
    assert names == {"alpaca-t0-none-0", "alpaca-0.8-none-0", "alpaca-t0-switch-0"}
    arrivals = tables["trace/alpaca-0.8-none-0.parquet"]["arrival_s"]
    assert arrivals[0] == 0
    assert arrivals.is_sorted()
    assert (tables["trace/alpaca-t0-none-0.parquet"]["arrival_s"] == 0).all()


def test_evaluate_without_its_inputs_says_which():
    with pytest.raises(ValueError, match="predictions: missing"):
        evaluate.main(settings=TINY)


@pytest.mark.parametrize("prompts", [False, True])
def test_advice_for_a_trace(tmp_path, capsys, prompts):
    rng = np.random.default_rng(0)
    long = rng.random(600) < 0.3
    table = pl.DataFrame(
        {"input_tokens": rng.integers(20, 60, 600), "output_tokens": np.where(long, 400, 30) + rng.integers(0, 40, 600)}
    )
    if prompts:
        table = table.with_columns(
            instruction=pl.Series(
                [f"{'tell' if x else 'name'} {zlib.crc32(bytes([i % 90]))}" for i, x in enumerate(long)]
            )
        )
    table.write_parquet(tmp_path / "mine.parquet")
    evaluate.main(settings=TINY, advise=tmp_path / "mine.parquet")
    said = capsys.readouterr().out
    assert "take: " in said
    assert "loses" in said
    assert ("odma, " in said) == prompts
    assert "safety pool" in said


def test_advice_needs_tokens(tmp_path):
    pl.DataFrame({"input_tokens": [1, 2]}).write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="no column 'output_tokens'"):
        evaluate.main(settings=TINY, advise=tmp_path / "bad.parquet")
    pl.DataFrame({"input_tokens": [1, 2], "output_tokens": [3, 0]}).write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="row 1: output_tokens is 0"):
        evaluate.main(settings=TINY, advise=tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": [0.9, 0.5]}, "levels"),
        ({"alphas": [0.5, 1.5]}, "alphas .=1.5"),
        ({"policies": ["static", "oracle"]}, "'odma' is missing"),
        ({"policies": ["best"]}, "policies"),
        ({"sets": ["nq"]}, "sets"),
        ({"page": 24}, "multiple of align"),
        ({"level": 0.85}, "must be one of levels"),
        ({"faults": [{"target": "device", "action": "lie"}]}, "only the predictor can lie"),
        ({"faults": [{"target": "buckets", "action": "slow"}]}, "bucket manager"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Settings.checked(values)


def test_unknown_policies_list_the_known():
    with pytest.raises(ValueError, match=r"policy .=.fifo'.: unknown; known: odma"):
        scenarios.policy("fifo", TINY, type("Past", (), {"train_lengths": np.ones(3)})(), 512)
    with pytest.raises(ValueError, match=r"unknown; known: alpaca"):
        TINY.longest("nq")
    assert policies.static(512).contiguous
    assert not policies.paged().contiguous


def test_the_library_is_light():
    code = (
        "import sys\nfrom operators.odma import Arena, optimal_buckets, LengthPredictor, simulate_device\n"
        "heavy = {'ray', 'matplotlib', 'lightgbm', 'torch', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
