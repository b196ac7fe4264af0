"""The request schema, the importers of public logs, and the twins of the traces."""

import json

import numpy as np
import polars as pl
import pytest

from operators.llm import importers, workloads
from operators.llm.importers import SchemaError
from operators.llm.workloads import TraceError, validate

GOOD = {
    "request_id": ["a", "b", "c"],
    "arrival_s": [0.0, 1.0, 1.0],
    "input_tokens": [5, 6, 7],
    "output_tokens": [2] * 3,
}


def changed(column, row, value):
    values = {name: list(column) for name, column in GOOD.items()}
    values[column][row] = value
    return pl.DataFrame(values, strict=False)


def test_a_valid_table_keeps_its_optional_columns_in_exact_types():
    made = validate(pl.DataFrame(GOOD).with_columns(model=pl.lit("m"), other=pl.lit(1)))
    assert dict(made.schema) == workloads.REQUESTS | {"model": pl.String}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame(GOOD).clear(), "no rows"),
        (pl.DataFrame(GOOD).drop("arrival_s"), "no column 'arrival_s'"),
        (changed("output_tokens", 1, 0), "row 1: output_tokens is 0; must be > 0"),
        (changed("input_tokens", 2, -4), "row 2: input_tokens is -4"),
        (changed("input_tokens", 2, None), "row 2: input_tokens is None"),
        (changed("arrival_s", 1, float("nan")), "row 1: arrival_s is nan"),
        (changed("arrival_s", 0, -1.0), "row 0: arrival_s is -1.0"),
        (changed("arrival_s", 1, 3.0), "row 2: arrival_s is 1.0; before the row above"),
        (changed("request_id", 2, "a"), "'a' occurs twice"),
        (changed("request_id", 2, None), "row 2: request_id is None"),
    ],
)
def test_impossible_tables_are_refused_with_their_row(frame, message):
    with pytest.raises(TraceError, match=message):
        validate(frame)


def test_a_needed_column_must_be_there_and_filled():
    with pytest.raises(TraceError, match="no column 'model'"):
        validate(pl.DataFrame(GOOD), need=("model",))
    with pytest.raises(TraceError, match="row 1: model is None"):
        validate(pl.DataFrame(GOOD | {"model": ["m", None, "m"]}), need=("model",))


def test_an_azure_week_wraps_to_monday_and_counts_bad_rows(tmp_path):
    rows = [
        ("2024-05-12 00:00:00.0000000+00:00", 10, 2),  # a Sunday: the week's last day
        ("2024-05-13 01:00:00.5000000+00:00", 11, 3),  # Monday
        ("no time", 12, 4),
        ("2024-05-14 00:00:00.000000+00:00", 13, 0),
        ("2024-05-14 02:00:00.000000+00:00", 14, 5),
    ]
    path = tmp_path / "week.csv"
    pl.DataFrame(rows, schema=["TIMESTAMP", "ContextTokens", "GeneratedTokens"], orient="row").write_csv(path)
    week, dropped = importers.read_azure_week(path, "conv")
    assert dropped == 2
    assert week["input_tokens"].to_list() == [11, 14, 10]
    assert week["arrival_s"].to_list() == [3600.5, 86_400 + 7200, 6 * 86_400]
    monday, _ = importers.read_azure_week(path, "conv", day=0)
    assert monday["arrival_s"].to_list() == [3600.5]
    with pytest.raises(ValueError, match=r"day \(=7\)"):
        importers.read_azure_week(path, "conv", day=7)
    with pytest.raises(ValueError, match="'mail'"):
        importers.read_azure_week(path, "mail")


def test_burstgpt_failures_are_dropped_and_counted(tmp_path):
    path = tmp_path / "b.csv"
    rows = [(5, "ChatGPT", 30, 10, 40, "x"), (7, "GPT-4", 20, 0, 20, "x"), (9, "GPT-4", 8, 1, 9, "x")]
    names = ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(path)
    made, dropped = importers.read_burstgpt(path)
    assert dropped == 1
    assert made["arrival_s"].to_list() == [0.0, 4.0]
    assert made["model"].to_list() == ["ChatGPT", "GPT-4"]


def test_mooncake_keeps_its_blocks(tmp_path):
    path = tmp_path / "m.parquet"
    pl.DataFrame(
        {
            "timestamp_ms": [0, 0, 3000],
            "input_tokens": [5, 6, 7],
            "output_tokens": [1, 1, 1],
            "hash_ids": [[0], [1], [0]],
        }
    ).write_parquet(path)
    made = importers.read_mooncake(path)
    assert made["arrival_s"].to_list() == [0.0, 0.0, 3.0]
    assert made["hash_ids"].to_list() == [[0], [1], [0]]


def measured_folder(folder, meta):
    times = {"queued_s": [0.0, 1.0], "scheduled_s": [0.0, 1.0], "first_token_s": [0.1, 1.2], "last_token_s": [0.9, 2.0]}
    rows = {"request_id": ["a", "b"], "input_tokens": [5, 6], "output_tokens": [3, 4], **times}
    pl.DataFrame(rows).write_parquet(folder / "gpu_model_requests.parquet")
    (folder / "gpu_model_meta.json").write_text(json.dumps(meta))


def test_a_measured_run_carries_its_engines_limits(tmp_path):
    args = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "data_parallel_size": 2}
    measured_folder(tmp_path, {"engine_kwargs": args, "kv_cache": {"num_kv_tokens": 4096, "block_size": 32}})
    assert importers.measured_runs(tmp_path) == ["gpu_model"]
    run = importers.read_vllm_measured(tmp_path, "gpu_model")
    wanted = {
        "max_num_seqs": 8,
        "token_budget": 64,
        "kv_tokens": 4096,
        "block": 32,
        "data_parallel": 2,
        "lockstep": False,
    }
    assert run.meta == wanted
    measured_folder(tmp_path, {"engine_kwargs": args})
    assert importers.read_vllm_measured(tmp_path, "gpu_model").kv_tokens is None
    measured_folder(tmp_path, {"engine_kwargs": args | {"enable_expert_parallel": True}})
    assert importers.read_vllm_measured(tmp_path, "gpu_model").lockstep
    measured_folder(tmp_path, {"engine_kwargs": {}})
    with pytest.raises(SchemaError, match=r"gpu_model_meta\.json: no engine_kwargs\.max_num_seqs"):
        importers.read_vllm_measured(tmp_path, "gpu_model")


def test_servegen_gaps_are_missing_not_zero(tmp_path):
    rows = {"model": ["m"] * 4, "client": [0, 1, 0, 0], "t_s": [0, 0, 1200, 86_400], "rate_rps": [1.0, 2.0, 4.0, 0.5]}
    pl.DataFrame(rows | {"cv": [1.0, 2.0, 3.0, 2.0]}).write_parquet(tmp_path / "arrivals.parquet")
    lengths = {"model": ["m"], "t_s": [0], "field": ["input_tokens"], "mean": [9.0], "hist": [[0.5, 0.5]]}
    pl.DataFrame(lengths).write_parquet(tmp_path / "length_hist_6h.parquet")
    (tmp_path / "length_bin_left_edges.json").write_text("[0, 8]")
    made = importers.read_servegen(tmp_path)
    assert made.rates["m"].shape == (2, 144)
    np.testing.assert_array_equal(made.rates["m"][0, :4], [3.0, np.nan, 4.0, np.nan])
    assert made.rates["m"][1, 0] == 0.5
    assert made.clients["share"].to_list() == pytest.approx([5.5 / 7.5, 2 / 7.5])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: pl.DataFrame({"Timestamp": [1]}).write_csv(path), r"b\.csv: no column 'Model'; found Timestamp"),
        (lambda path: None, r"b\.csv: no such file"),
    ],
)
def test_other_forms_name_file_column_found_and_expected(tmp_path, write, message):
    write(tmp_path / "b.csv")
    with pytest.raises(SchemaError, match=message):
        importers.read_burstgpt(tmp_path / "b.csv")


def test_a_wrong_type_is_named(tmp_path):
    pl.DataFrame({"arrival_s": ["x"], "input_tokens": [1], "output_tokens": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match=r"column arrival_s is String; expected Float64"):
        importers.read_azure2023(tmp_path / "a.parquet")


def statistics(frame):
    gaps = np.diff(frame["arrival_s"].to_numpy())
    out = {"rate": frame.height / frame["arrival_s"][-1], "gap_cv": gaps.std() / gaps.mean()}
    for name in ("input_tokens", "output_tokens"):
        out[f"{name} mean"] = frame[name].mean()
        for level in (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
            out[f"{name} {level}"] = frame[name].quantile(level)
    return out


@pytest.mark.parametrize("name", ["azure_conv", "azure_code", "mooncake"])
@pytest.mark.parametrize("seed", [0, 7])
def test_traces_match_their_twins(name, seed, real_data):
    real, kind = workloads.read(name, real_data)
    twin = workloads.synthetic(name, seed=seed)
    assert kind == "real"
    assert twin.schema == real.schema
    found, wanted = statistics(twin), statistics(real)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=0.15), key


def test_the_twin_of_code_has_its_bursts_and_silences(real_data):
    for frame in (workloads.read("azure_code", real_data)[0], workloads.synthetic("azure_code")):
        gaps = np.diff(frame["arrival_s"].to_numpy())
        assert 0.42 < (gaps < 0.05).mean() < 0.52
        assert 0.055 < np.median(gaps) < 0.073
        assert 150 < gaps.max() < 250


def test_mooncakes_blocks_repeat_as_the_real_ones(real_data):
    for frame in (workloads.read("mooncake", real_data)[0], workloads.synthetic("mooncake", seed=3)):
        ids = frame["hash_ids"].list.explode()
        assert 1 - ids.n_unique() / len(ids) == pytest.approx(0.366, rel=0.15)
        assert frame["arrival_s"].n_unique() == pytest.approx(1180, rel=0.02)
        blocks = -(-frame["input_tokens"] // 512)
        assert (frame["hash_ids"].list.len() == blocks).all()


@pytest.mark.parametrize("name", workloads.SOURCES)
def test_twins_are_made_from_their_seed_alone(name):
    made = workloads.synthetic(name, seed=1, requests=200)
    assert made.height == 200
    assert made.equals(workloads.synthetic(name, seed=1, requests=200))
    assert not made.equals(workloads.synthetic(name, seed=2, requests=200))
    assert workloads.read(name, None, seed=4)[1] == "synthetic"
