"""Settings of METRO that cannot work are refused before anything runs."""

import pytest

from operators.lab.settings import SettingsError
from operators.llm import shapes, twins_steptime
from operators.metro.settings import Settings

SETUP = {
    "model": "qwen3-30b",
    "accelerator": "b200",
    "gpus": 8,
    "system": "b200_sxm",
    "framework": "VLLM",
    "dtype": "fp8",
}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ratios": []}, "ratios .*empty"),
        ({"ratios": [1.5]}, "1.0 is missing"),
        ({"ratios": [1.0, 0.5]}, r"ratios \(=0.5\)"),
        ({"ratios": [1.0, 1000.0]}, r"ratios \(=1000.0\).*number of GPUs"),
        ({"batch_per_gpu": [0]}, r"batch_per_gpu \(=0\)"),
        ({"batch_per_gpu": []}, "batch_per_gpu .*empty"),
        ({"setups": []}, "setups .*empty"),
        ({"routers": ["metro"]}, "'even' is missing"),
        ({"routers": ["even", "primary", "best"]}, "routers.2.*'best'"),
        ({"mixes": [[0, 1]]}, r"mixes \(=0\)"),
        ({"setups": [SETUP | {"model": "qwen9"}]}, r"model \(='qwen9'\): unknown; known: qwen3-30b"),
        ({"setups": [SETUP | {"accelerator": "tpu"}]}, r"accelerator \(='tpu'\): unknown; known: a100-40g"),
        ({"setups": [SETUP | {"gpus": 7}]}, r"gpus \(=7\): must divide the 128 experts"),
        (
            {"setups": [SETUP | {"framework": "SGLang"}]},
            "no kernel table of qwen3-30b for b200_sxm SGLang fp8; there are",
        ),
        ({"cpu": {"gpus": 7}}, r"gpus \(=7\): must divide experts"),
        ({"cpu": {"experts": 4, "gpus": 4}}, "greater than or equal to 8"),
        ({"cpu": {"batches": []}}, "batches"),
        ({"cpu": {"batches": [65]}}, "from 1 to 64"),
        ({"faults": [{"kind": "kill", "rank": 99, "at_step": 1}]}, "rank 99"),
        ({"faults": [{"kind": "kill", "rank": 0, "at_step": 1_000_000}]}, "at_step 1000000"),
        ({"faults": [{"kind": "tickle", "rank": 0, "at_step": 1}]}, "faults.0.kind"),
    ],
)
def test_impossible_settings_are_named(values, words):
    with pytest.raises(SettingsError, match=words):
        Settings.checked(values)


def test_the_known_kernel_tables_are_those_the_twins_and_the_inventory_have(real_data):
    from operators.llm import tables

    assert {key: tuple(models) for key, models in twins_steptime.MOE_LINES.items()} == shapes.MOE_TABLES
    frame, kind = tables.moe_rows(real_data)
    assert kind == "real"
    found = set(frame.select("system", "framework", "moe_dtype").unique().rows())
    assert found >= set(shapes.MOE_TABLES)
