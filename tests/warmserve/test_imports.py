"""The public names come without Ray, Snakemake or matplotlib; figures and answers are made of small runs too."""

import subprocess
import sys

import polars as pl

from operators.warmserve import answers, charts, run_tables, simulator, whatif
from tests.warmserve.traces import history, settings, trace


def test_public_names_are_light():
    script = (
        "import sys\nfrom operators.warmserve import place, csp_forecast, simulate\n"
        "heavy = {'ray', 'snakemake', 'matplotlib', 'numba'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def tables(name: str):
    one = trace(1)
    result = simulator.simulate(one, settings(), history(), name=name)
    names = ["7b-a", "7b-b", "13b", "70b"]
    frame = pl.DataFrame(
        {
            "request_id": [f"r{i}" for i in range(len(one.model))],
            "arrival_s": one.arrival_s,
            "input_tokens": one.input_tokens,
            "output_tokens": one.output_tokens,
            "model": [names[model] for model in one.model],
        }
    )
    keys = {
        **{"policy": name, "cold": "w5", "process_pool": True, "nodes": 2, "rps": 2.0, "alpha": 0.5, "seed": 1},
        **{"data": "synthetic", "basis": "calibrated"},
    }
    return result, run_tables.of_result(result, frame, keys, 300.0)


def test_tables_have_their_schemas_and_balance():
    from operators.lab import stage
    from operators.warmserve import measures

    result, made = tables("warmserve")
    for name, schema in run_tables.SCHEMAS.items():
        stage.check_schema(made[name], schema, what=name)
    found = measures.of_ledger(made["ledger"].lazy(), made["events"].lazy())
    assert found["ledger_gap_bytes"].to_list() == [0.0]
    broken = made["ledger"].with_columns(pl.col("bytes_loaded") * 1.01)
    assert measures.of_ledger(broken.lazy(), made["events"].lazy())["ledger_gap_bytes"][0] > 0
    gpu = made["gpu"]
    assert (gpu["t1_s"] > gpu["t0_s"]).all()
    spans = gpu.group_by("gpu").agg((pl.col("t1_s") - pl.col("t0_s")).sum())
    assert (spans["t1_s"] - result.end_s).abs().max() < 1e-6  # every GPU is something at every time


def test_answers_are_words_and_tables():
    empty = pl.DataFrame(schema=dict.fromkeys(("rps", "model", "p99_s"), pl.Float64))
    assert "Not measured" in answers.perfect(empty)[0]
    lines = answers.markdown(pl.DataFrame({"a": [1.23456, None], "b": ["x", "y"]}))
    assert lines == ["| a | b |", "|---|---|", "| 1.235 | x |", "| - | y |"]


def test_every_variant_of_whatif_is_a_valid_setting():
    assert whatif.VARIANTS[0] == {}
    for change in whatif.VARIANTS:
        settings(**change)


def test_charts_say_when_there_is_nothing():
    figure, table = charts.fit_residuals(pl.DataFrame(schema={"request_id": pl.String}))
    assert figure is not None
    assert table.is_empty()
