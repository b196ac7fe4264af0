"""The calibration report: bars met on the real tables, every kind of row there, costs usable by the next stage."""

import json

import polars as pl
import pytest

from operators.lab import stage
from operators.metro import calibrate
from operators.metro.settings import Settings


@pytest.fixture(scope="module", params=["real", "synthetic"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    root = request.getfixturevalue("real_data") if request.param == "real" else None
    calibrate.main(
        settings=Settings(), out_costs=folder / "costs.json", out_report=folder / "report.parquet", data=root
    )
    return request.param, folder


def test_report_has_every_kind_and_says_what_it_was_made_from(written):
    kind, folder = written
    report = stage.read_table(folder / "report.parquet", calibrate.schema())
    assert set(report["kind"]) == {"fit", "fit_all_ranks", "leave_one_out", "transfer", "kernel_step"}
    assert set(report["data"]) == {kind}
    fits = report.filter((pl.col("kind") == "fit") & (pl.col("form") == "pnorm"))
    assert fits.select("system", "framework", "model", "dtype").is_unique().all()
    assert fits.height == 17
    assert (fits["b"] > 0).all()


def test_bars_of_leave_one_out_and_transfer(written):
    _, folder = written
    report = pl.read_parquet(folder / "report.parquet")
    left = report.filter((pl.col("kind") == "leave_one_out") & (pl.col("form") == "pnorm"))
    assert left["mape"][0] <= 0.05
    carried = report.filter((pl.col("kind") == "transfer") & (pl.col("model") == "deepseek-v3"))
    carried = carried.filter((pl.col("from_model") == "qwen3-235b") & pl.col("b_error").is_not_null())
    assert carried.height == 4
    assert carried["b_error"].abs().max() <= 0.10


def test_costs_are_read_back_by_the_simulator(written):
    _, folder = written
    costs = calibrate.read_costs(folder / "costs.json")
    assert set(json.loads((folder / "costs.json").read_text())["costs"]) == set(costs)
    cost = costs["a100_sxm/SGLang/qwen3-30b/bfloat16"]
    assert cost.form == Settings().cost
    assert cost.time_us(16, 256) > cost.time_us(8, 256)
