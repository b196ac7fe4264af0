"""The simulate stage end to end on a small twin, and against the measured serving run where that is present."""

import numpy as np
import polars as pl
import pytest

from operators.lab import stage
from operators.metro import calibrate, pareto, simulate
from operators.metro.settings import Settings
from tests.metro.routed_rows import MODEL, routed_rows

OUT = ("tpot", "ttft", "throughput", "serve", "pareto", "roofline")


@pytest.fixture(scope="module")
def settings():
    setup = {"model": MODEL, "accelerator": "b200", "gpus": 16, "system": "b200_sxm", "framework": "VLLM"}
    sizes = {"setups": [setup | {"dtype": "fp8_block"}], "layers": 2, "ratios": [1.0, 1.5]}
    return Settings.checked(sizes | {"decode_batch_per_gpu": 8, "serve": False})


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    rows = routed_rows()
    folder = tmp_path_factory.mktemp("simulate")
    calibrate.main(settings=settings, out_costs=folder / "costs.json", out_report=folder / "fit.parquet")
    some = rows.filter(pl.col("B") <= 512)
    prefill = rows.filter((pl.col("B") == 8192) & (pl.col("router") == "even")).with_columns(phase=pl.lit("prefill"))
    pl.concat([some, prefill]).write_parquet(folder / "routing.parquet")
    outs = {f"out_{name}": folder / f"{name}.parquet" for name in OUT}
    simulate.main(routing=folder / "routing.parquet", costs=folder / "costs.json", settings=settings, **outs)
    return {name: stage.read_table(folder / f"{name}.parquet", simulate.schemas()[name]) for name in OUT}


def test_every_table_has_its_rows(done):
    assert done["tpot"].height == 2 * 2 * 2 * 9  # readings x batches x dispatches x (ratios x routers)
    assert done["ttft"].height == 2 * 3 * 2 * 3  # readings x requests x inputs x ratios
    assert done["throughput"].height == 3 * 72  # mixes x runs
    assert done["serve"].height == 0
    assert set(done["pareto"]["grid"]) == {"paper", "fine"}
    assert done["roofline"].filter(pl.col("tokens") == 1024)["ridge_over_intensity"].min() > 1
    for name in ("tpot", "ttft", "throughput", "pareto"):
        assert set(done[name]["data"]) == {"synthetic"}


def test_times_add_up_and_routers_are_equal_without_copies(done):
    tpot = done["tpot"]
    np.testing.assert_allclose(58 * tpot["layer_us"] + tpot["t_rest_us"], tpot["tpot_us"])
    alone = (
        tpot.filter(pl.col("r") == 1.0).group_by("lookup", "batch_per_gpu", "comm").agg(pl.col("tpot_us").n_unique())
    )
    assert (alone["tpot_us"] == 1).all()
    assert (done["ttft"]["ttft_us"] > done["ttft"]["prefill_us"]).all()
    assert set(done["ttft"]["basis"]) == {"modelled"}
    assert set(tpot["basis"]) == {"calibrated"}


def test_throughput_follows_tpot(done):
    for _, part in done["throughput"].group_by("r", "comm", "batch_per_gpu", "input_tokens"):
        ordered = part.sort("tpot_us")
        assert ordered["throughput_tok_s"].is_sorted(descending=True)


def test_paper_grid_is_part_of_the_fine_one(done):
    paper = done["pareto"].filter(pl.col("grid") == "paper")
    assert set(paper["batch"]) == set(pareto.grid_batches("paper", MODEL))
    ratio = pareto.equal_tpot_ratio(paper.filter(pl.col("router") == "metro"), paper.filter(pl.col("router") == "even"))
    assert ratio["interactivity"].max() <= 1


@pytest.mark.slow
def test_the_measured_run_is_joined_and_served_whole(real_data, tmp_path):
    settings = Settings()
    calibrate.main(settings=settings, out_costs=tmp_path / "c.json", out_report=tmp_path / "r.parquet", data=real_data)
    served = simulate.serve_runs(settings, calibrate.read_costs(tmp_path / "c.json"), real_data)
    assert served.height == 600
    assert served["measured_tpot_us"].null_count() == 0
    for _, part in served.group_by("gate"):
        assert part["tpot_us"].mean() == pytest.approx(part["measured_tpot_us"].mean(), rel=0.5)
