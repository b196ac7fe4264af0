"""Model shapes, accelerators and the roofline: the public facts they are built from."""

import pytest

from operators.llm.accelerators import ACCELERATORS
from operators.llm.roofline import moe_layer, ridge_over_intensity
from operators.llm.shapes import MODELS


@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [
        ("qwen3-30b", "bfloat16", 9_437_184),
        ("qwen3-235b", "bfloat16", 37_748_736),
        ("deepseek-v3", "fp8", 44_040_192),
        ("qwen1.5-moe", "bfloat16", 17_301_504),
        ("mixtral-8x7b", "bfloat16", 352_321_536),
    ],
)
def test_expert_bytes_are_those_of_the_cards(name, dtype, size):
    assert MODELS[name].expert_bytes(dtype) == size


def test_active_parameters_match_the_models_names():
    # FLOP per token at no context is twice the active parameters: 3B, 22B and 37B
    for name, billions in (("qwen3-30b", 3.0), ("qwen3-235b", 21.5), ("deepseek-v3", 37.0)):
        assert MODELS[name].flops_per_token("decode", 0) / 2e9 == pytest.approx(billions, rel=0.1)


def test_cache_bytes_of_a_token():
    assert MODELS["qwen3-30b"].kv_bytes_per_token("bfloat16") == 2 * 48 * 4 * 128 * 2
    assert MODELS["deepseek-v3"].kv_bytes_per_token("bfloat16") == 61 * 576 * 2


def test_unknown_names_list_the_known():
    with pytest.raises(KeyError, match="qwen3-30b"):
        MODELS["qwen9"]
    with pytest.raises(KeyError, match="b200"):
        ACCELERATORS["b300"]
    with pytest.raises(KeyError, match="fp8_block"):
        MODELS["qwen3-30b"].expert_bytes("int3")


def test_what_is_not_known_is_an_error_not_a_zero():
    with pytest.raises(ValueError, match="flame-moe-290m: hidden"):
        MODELS["flame-moe-290m"].expert_bytes("bfloat16")
    with pytest.raises(ValueError, match="rtx-pro-6000: peak"):
        ACCELERATORS["rtx-pro-6000"].peak("bfloat16")


def test_intensity_grows_with_the_batch_and_stays_under_the_ridge():
    shape, accel = MODELS["deepseek-v3"], ACCELERATORS["h100"]
    times = [ridge_over_intensity(shape, accel, tokens, "fp8") for tokens in (1, 16, 64, 1024)]
    assert times == sorted(times, reverse=True)
    assert times[-1] > 1
    assert 0 < moe_layer(shape, 1024, "fp8").activation_share < 0.01
