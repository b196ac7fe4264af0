"""Blessed numbers of METRO. A change here is a decision: each block says when it may change.

- EPLB_README: the example of the reference implementation's README. Never changes.
- DUPLICATES: same-GPU copies the reference rule leaves on the measured DeepSeek-V3 decode load. Changes only with the
  data set.
- REAL_BATCH: lambdas of the one measured 64-token batch of Qwen3-30B, placed on its own counts. Changes only with the
  data set, the placement (never) or a router's rule (a decision to be written down).
- TWIN: lambdas of the ci size on the synthetic twin, seed 0. Changes with the twin's constants, the order of draws, or
  a router's rule.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from operators.metro import batches, calibrate, route, trace
from operators.metro.placement import place
from operators.metro.routing import ROUTERS
from operators.metro.settings import Settings

pytestmark = pytest.mark.golden

EPLB_README = {
    "load": [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ],
    "slots": [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ],
}
DUPLICATES = 219
BATCHES = (8, 16, 32, 64)
REAL_BATCH = {
    (1.5, "even"): (8, 13, 15, 16),
    (1.5, "metro"): (5, 5, 7, 9),
    (1.5, "exact"): (4, 5, 7, 8),
    (1.25, "even"): (10, 10, 11, 12),
    (1.25, "metro"): (5, 7, 8, 9),
    (1.25, "exact"): (4, 5, 7, 8),
    (1.0, "primary"): (5, 6, 8, 8),
}


def test_eplb_readme_example():
    found = place(np.array(EPLB_README["load"]), 16, 8, num_groups=4, num_nodes=2)
    assert found.phys2log.tolist() == EPLB_README["slots"]


def test_same_gpu_duplicates_of_the_reference_rule(real_data):
    frame = batches.load("deepseek-v3", real_data).filter(pl.col("workload") == "decode_in1000out1000")
    load = frame.sort("layer", "expert")["tokens"].to_numpy().reshape(58, 256)
    assert place(load, 384, 16).same_gpu_duplicates == DUPLICATES
    assert place(load, 384, 16, avoid_same_gpu=True).same_gpu_duplicates < DUPLICATES


@pytest.mark.parametrize(("r", "router"), REAL_BATCH)
def test_lambdas_of_the_real_batch(r, router, real_data):
    frame = batches.load("qwen3-30b", real_data).filter(pl.col("source") == "step_b64")
    topk = batches.topk_of(frame)
    placement = place(batches.counts(topk, 128)[None], round(128 * r), 8)
    found = tuple(ROUTERS[router](placement.layer(0), topk[:tokens]).lam for tokens in BATCHES)
    assert found == REAL_BATCH[r, router]


@pytest.fixture(scope="module")
def twin(tmp_path_factory, repository) -> pl.DataFrame:
    """Mean lambda by model, ratio and router of the ci size on the twin."""
    folder: Path = tmp_path_factory.mktemp("twin")
    settings = Settings.from_config({"profile": "ci"}, repository / "workflows/metro/profiles.yaml")
    trace.main(settings=settings, out_batches=folder / "batches", out_load=folder / "load")
    calibrate.main(settings=settings, out_costs=folder / "costs", out_report=folder / "report")
    route.main(
        batches=folder / "batches",
        load=folder / "load",
        costs=folder / "costs",
        settings=settings,
        out_placement=folder / "placement",
        out_routing=folder / "routing",
    )
    rows = pl.read_parquet(folder / "routing").filter(
        pl.col("phase") == "decode", pl.col("batches") == "synthesised", pl.col("batch_per_gpu") == 32
    )
    return rows.group_by("model", "r", "router").agg(pl.col("lam").mean())


TWIN = {
    ("deepseek-v3", 1.0, "even"): 16.0,
    ("deepseek-v3", 1.0, "exact"): 16.0,
    ("deepseek-v3", 1.0, "metro"): 16.0,
    ("deepseek-v3", 1.5, "even"): 24.0,
    ("deepseek-v3", 1.5, "exact"): 16.0,
    ("deepseek-v3", 1.5, "metro"): 18.125,
    ("qwen3-30b", 1.0, "even"): 10.25,
    ("qwen3-30b", 1.0, "exact"): 10.25,
    ("qwen3-30b", 1.0, "metro"): 10.25,
    ("qwen3-30b", 1.5, "even"): 18.125,
    ("qwen3-30b", 1.5, "exact"): 10.0,
    ("qwen3-30b", 1.5, "metro"): 11.375,
}


@pytest.mark.parametrize("case", TWIN)
def test_lambdas_of_the_twin(case, twin):
    model, r, router = case
    found = twin.filter(pl.col("model") == model, pl.col("r") == r, pl.col("router") == router)["lam"]
    assert found.to_list() == pytest.approx([TWIN[case]])
