"""Dense shapes: parameters, weight bytes by tensor parallelism and cache bytes, against public byte counts."""

import pytest

from operators.llm.shapes import MODELS


@pytest.mark.parametrize(
    ("name", "tp", "size"),
    [("llama2-7b", 1, 13_476_831_232), ("llama2-13b", 2, 26_032_558_080), ("llama2-70b", 4, 137_961_209_856)],
)
def test_weight_bytes_are_those_of_the_loaded_files(name, tp, size):
    assert MODELS[name].weight_bytes(tp=tp) == size


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3.1-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("qwen2.5-7b", 7_615_616_512),
        ("deepseek-r1-distill-qwen-7b", 7_615_616_512),
    ],
)
def test_parameters_are_exact_for_the_llama_family(name, params):
    assert MODELS[name].params() == params


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("opt-13b", 12.85),
        ("opt-66b", 65.72),
        ("gpt3-6.7b", 6.7),
        ("gpt3-175b", 175.0),
        ("qwen3-30b", 30.53),
        ("qwen3-235b", 235.1),
        ("deepseek-v3", 671.0),
        ("mixtral-8x7b", 46.7),
    ],
)
def test_parameters_of_the_others(name, billions):
    assert MODELS[name].params() / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("llama2-7b", 524_288),
        ("llama2-13b", 819_200),
        ("llama2-70b", 327_680),
        ("llama3-8b", 131_072),
        ("llama3-70b", 327_680),
        ("qwen2.5-7b", 57_344),
        ("opt-13b", 819_200),
        ("opt-66b", 2_359_296),
        ("gpt3-6.7b", 524_288),
        ("gpt3-175b", 4_718_592),
        ("qwen3-30b", 98_304),
        ("qwen3-235b", 192_512),
        ("deepseek-v3", 70_272),
    ],
)
def test_cache_bytes_of_a_token(name, size):
    assert MODELS[name].kv_bytes_per_token() == size
    assert MODELS[name].kv_bytes_per_token("fp8") * 2 == size


def test_flops_of_a_dense_model_are_twice_its_matrices():
    for name in ("llama2-7b", "qwen2.5-7b", "opt-13b"):
        shape = MODELS[name]
        embedding = shape.vocab * shape.hidden
        matrices = shape.params() - (0 if shape.tied else embedding)
        assert shape.flops_per_token("decode", 0) == pytest.approx(2 * matrices, rel=0.005)
        context = shape.flops_per_token("decode", 1000) - shape.flops_per_token("decode", 0)
        assert context == 4 * shape.n_layers * shape.n_heads * shape.head_dim * 1000


def test_a_rank_count_that_does_not_divide_the_heads_is_refused():
    with pytest.raises(ValueError, match=r"tp \(=3\): must be >= 1 and divide llama2-7b's 32 heads"):
        MODELS["llama2-7b"].weight_bytes(tp=3)
    with pytest.raises(ValueError, match="expert_width"):
        MODELS["llama2-7b"].expert_bytes("bf16")
