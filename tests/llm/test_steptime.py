"""Steps add up, dispatches are both there, and what a part costs moves the right way."""

import dataclasses

import numpy as np
import pytest

from operators.llm import steptime


@pytest.fixture(scope="module")
def step():
    return steptime.step_tables(
        "deepseek-v3", accelerator="b200", system="b200_sxm", framework="VLLM", dtype="fp8_block"
    )


def decode(step, **changes):
    options = {"gpus": 16, "batch": 512, "context": 2048.0}
    ranks = 16 // changes.get("tp", 1)
    options |= {"activated": np.full((3, 2, ranks), 256 / ranks), "tokens": np.full((3, 2, ranks), 512 * 8 / ranks)}
    return steptime.decode_step(step, **options | changes)


def test_parts_sum_to_the_step(step):
    parts = decode(step, router_us=np.arange(6.0).reshape(3, 2))
    assert set(parts) == {*steptime.LAYER_PARTS, *steptime.STEP_PARTS}
    layer = sum(np.broadcast_to(parts[name], (3, 2)) for name in steptime.LAYER_PARTS)
    whole = 58 * layer.mean(axis=1) + sum(parts[name] for name in steptime.STEP_PARTS)
    np.testing.assert_allclose(steptime.step_us(step.shape, parts), whole)
    assert all((np.asarray(part) >= 0).all() for part in parts.values())


def test_both_dispatches_and_their_volumes(step):
    gathered, sent = decode(step, comm="allgather"), decode(step, comm="alltoall")
    assert sent["dispatch"] == sent["combine"] == gathered["combine"]
    assert gathered["dispatch"] != sent["dispatch"]
    assert decode(step, comm="alltoall", a2a_tokens=10_000)["dispatch"] > sent["dispatch"]
    assert decode(step, comm="allgather", topk_extra_us=0)["dispatch"] == gathered["dispatch"] - 3
    with pytest.raises(ValueError, match="expected 'allgather' or 'alltoall'"):
        decode(step, comm="broadcast")


def test_one_slow_rank_makes_the_layer(step):
    even = decode(step)
    activated = np.full((3, 2, 16), 16.0)
    activated[1, 1, 7] = 24
    parts = decode(step, activated=activated)
    assert (parts["moe"] > even["moe"]).sum() == 1


def test_shared_experts_count_on_every_rank(step):
    import dataclasses

    routed_only = dataclasses.replace(step, shape=dataclasses.replace(step.shape, n_shared=0))
    assert (decode(step)["moe"] > decode(routed_only)["moe"]).all()


def test_full_tensor_parallelism_has_no_dispatch(step):
    parts = decode(step, tp=16)
    assert parts["dispatch"] == parts["combine"] == 0
    assert parts["allreduce"] > 0
    with pytest.raises(ValueError, match="must divide gpus"):
        decode(step, tp=3, activated=np.ones((1, 5)), tokens=np.ones((1, 5)))


def test_graph_padding():
    assert [steptime.padded(b, True) for b in (1, 3, 17, 32, 33)] == [1, 4, 32, 32, 33]
    assert steptime.padded(17, False) == 17


def test_expected_destinations():
    assert steptime.expected_destinations(8, 8) == pytest.approx(5.25, abs=0.01)
    assert steptime.expected_destinations(1, 8) == 1


def test_prefill_is_slower_with_a_hotter_gpu(step):
    options = {"gpus": 16, "tokens_per_gpu": 8192, "context": 2048.0, "activated": np.full((1, 16), 16)}
    even = steptime.prefill_step(step, tokens=np.full((1, 16), 65_536.0), **options)
    hot = steptime.prefill_step(step, tokens=np.full((1, 16), 65_536.0) * np.r_[1.3, np.ones(15)], **options)
    assert steptime.step_us(step.shape, hot) > 1.05 * steptime.step_us(step.shape, even)


def test_unknown_system_and_lookup(step):
    with pytest.raises(ValueError, match="has no step tables"):
        steptime.step_tables("qwen3-30b", accelerator="h100", system="h100_sxm", framework="VLLM", dtype="bfloat16")
    with pytest.raises(ValueError, match="expected one of levels, step"):
        dataclasses.replace(step, lookup="both")
