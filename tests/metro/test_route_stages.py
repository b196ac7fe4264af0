"""The trace and route stages end to end on a few layers: schemas, repeatability, and what the tables must agree on."""

import numpy as np
import polars as pl
import pytest

from operators.lab import stage
from operators.metro import calibrate, route, trace
from operators.metro.settings import Settings

SMALL = {
    "layers": 2,
    "steps": 2,
    "seeds": 2,
    "ratios": [1.0, 1.5],
    "batch_per_gpu": [4],
    "decode_batch_per_gpu": 8,
    "global_batch": 64,
    "chunk": 64,
    "routers": ["primary", "even", "sglang_random", "metro", "exact", "adaptive", "stale_metro"],
    "setups": [
        {
            "model": "deepseek-v3",
            "accelerator": "b200",
            "gpus": 16,
            "system": "b200_sxm",
            "framework": "VLLM",
            "dtype": "fp8_block",
        },
        {
            "model": "qwen3-30b",
            "accelerator": "a100-40g",
            "gpus": 8,
            "system": "a100_sxm",
            "framework": "SGLang",
            "dtype": "bfloat16",
        },
    ],
}


def run(folder, settings, data=None) -> dict[str, pl.DataFrame]:
    """Both stages; every table by name."""
    files = {name: folder / f"{name}.parquet" for name in ("batches", "load", "placement", "routing")}
    trace.main(settings=settings, out_batches=files["batches"], out_load=files["load"], data=data)
    calibrate.main(settings=settings, out_costs=folder / "costs.json", out_report=folder / "fit.parquet", data=data)
    route.main(
        batches=files["batches"],
        load=files["load"],
        costs=folder / "costs.json",
        settings=settings,
        out_placement=files["placement"],
        out_routing=files["routing"],
    )
    schemas = dict(zip(files, (trace.SCHEMA, trace.LOAD_SCHEMA, route.PLACEMENT_SCHEMA, route.SCHEMA), strict=True))
    return {name: stage.read_table(file, schemas[name]) for name, file in files.items()}


@pytest.fixture(scope="module")
def small() -> Settings:
    return Settings.checked(SMALL)


@pytest.fixture(scope="module")
def tables(small, tmp_path_factory) -> dict[str, pl.DataFrame]:
    return run(tmp_path_factory.mktemp("stages"), small)


def test_everything_says_it_is_synthetic(tables):
    for name, table in tables.items():
        assert table["data"].unique().to_list() == ["synthetic"], name


def test_same_seed_same_tables_other_seed_other_tables(small, tables, tmp_path):
    again = run(tmp_path / "again", small)
    other = run(tmp_path / "other", Settings.checked(SMALL | {"seed": 7, "seeds": 1}))
    for name, table in tables.items():
        plain = [frame.drop("time_us", strict=False) for frame in (table, again[name], other[name])]
        assert plain[0].equals(plain[1]), name
        assert not plain[0].equals(plain[2]), name


def test_one_copy_makes_all_routers_equal_and_free(tables):
    rows = tables["routing"].filter(
        (pl.col("model") == "deepseek-v3") & (pl.col("r") == 1.0) & (pl.col("phase") == "decode")
    )
    assert rows["time_us"].unique().to_list() == [0.0]
    keys = ["workload", "B", "seed", "step", "layer"]
    assert rows.group_by(keys).agg(pl.col("activated").n_unique(), pl.col("tokens").n_unique()).select(
        pl.col("activated").max(), pl.col("tokens").max()
    ).row(0) == (1, 1)


def test_rows_are_complete_and_consistent(tables, small):
    rows = tables["routing"]
    keys = ["model", "workload", "phase", "router", "r", "G", "B", "seed", "step", "layer"]
    assert not rows.select(keys).is_duplicated().any()
    assert rows["certified"].all()
    assert (rows["lam_exact"] <= rows["lam"]).all()
    assert (rows.filter(pl.col("router") == "exact").select(pl.col("lam") == pl.col("lam_exact"))["lam"]).all()
    assert (rows["lam"] == rows["activated"].list.max()).all()
    assert (rows["activated_sum"] == rows["activated"].list.sum().cast(pl.Int32)).all()
    assert (rows["max_tokens"] == rows["tokens"].list.max()).all()
    decode = rows.filter((pl.col("phase") == "decode") & (pl.col("model") == "deepseek-v3"))
    assert (decode["tokens"].list.sum() == 8 * decode["B"]).all()
    assert sorted(decode["B"].unique()) == [8, 64, 128]  # eight a GPU, the global batch, and eight in all
    assert set(decode["router"]) == set(small.routers)
    assert decode["a2a_tokens"].null_count() == 0
    assert (decode["a2a_tokens"] * 16 >= decode["B"]).all()
    prefill = rows.filter(pl.col("phase") == "prefill")
    assert set(prefill["router"]) == {"even"}
    assert prefill["B"].unique().sort().to_list() == [8 * 64, 16 * 64]
    assert prefill["a2a_tokens"].null_count() == len(prefill)


def test_models_without_a_kernel_table_leave_the_cost_aware_router_out(tables):
    rows = tables["routing"].filter(pl.col("model").is_in(["qwen1.5-moe", "mixtral-8x7b", "flame-moe-290m"]))
    assert rows["batches"].unique().to_list() == ["real"]
    assert "adaptive" not in rows["router"].unique().to_list()
    assert rows.filter(pl.col("model") == "qwen1.5-moe")["step"].n_unique() == 88


def test_placement_table_holds_every_expert(tables):
    rows = tables["placement"].filter(pl.col("model") == "deepseek-v3")
    sizes = rows.group_by("r", "layer").agg(pl.len(), pl.col("expert").n_unique())
    assert sorted(sizes.select("r", "len", "expert").unique().rows()) == [(1.0, 256, 256), (1.5, 384, 256)]
    copies = rows.group_by("r", "layer", "expert").agg(pl.col("copy").sort())
    assert all(row == list(range(len(row))) for row in copies["copy"].to_list())


@pytest.mark.golden
def test_real_batches_pass_through_unsampled(real_data, tmp_path):
    settings = Settings.checked(
        SMALL | {"setups": SMALL["setups"][1:], "routers": ["primary", "even", "metro"], "seeds": 1}
    )
    rows = run(tmp_path, settings, real_data)["routing"]
    assert rows["data"].unique().to_list() == ["real"]
    rows = rows.filter((pl.col("model") == "qwen3-30b") & (pl.col("workload") == "step_b64"))
    small = rows.filter(pl.col("r") == 1.5).sort("B")
    assert small["placed_on"].unique().to_list() == ["its own counts"]
    for router, lams in (("even", [8, 13, 15, 16]), ("metro", [5, 5, 7, 9])):
        found = small.filter((pl.col("router") == router) & pl.col("B").is_in([8, 16, 32, 64]))
        assert found["lam"].to_list() == lams, "lambdas of the real batch changed"
    assert np.array_equal(small.filter(pl.col("router") == "metro")["lam_exact"], [4, 5, 7, 8])
