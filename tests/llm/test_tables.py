"""Step-time tables: a look-up equals the table at its points, grows as it should, and refuses what it cannot know."""

import numpy as np
import pytest

from operators.llm import steptime, tables
from operators.llm.moe_cost import FORMS, MoeCost, leave_one_out, memory_line, transfer
from operators.llm.shapes import MODELS

KEYS = [
    ("a100_sxm", "SGLang", "qwen3-30b", "bfloat16"),
    ("b200_sxm", "VLLM", "qwen3-235b", "bfloat16"),
    ("b200_sxm", "VLLM", "deepseek-v3", "fp8_block"),
]


@pytest.fixture(params=["real", "synthetic"], scope="module")
def root(request):
    return request.getfixturevalue("real_data") if request.param == "real" else None


@pytest.mark.parametrize("key", KEYS, ids=" ".join)
def test_moe_look_up_equals_the_table(key, root):
    table = tables.load_moe(*key, root)
    A, n, us = table.points
    assert table.data == ("synthetic" if root is None else "real")
    np.testing.assert_allclose(table.at(activated=A, tokens=n), us)
    fitted = table.with_fit(MoeCost.fit(table))
    np.testing.assert_allclose(fitted.at(activated=A, tokens=n), us)
    tau = n / A
    for at in range(0, len(A), 17):
        step = fitted.at_step(activated=A[at], tokens=n[at], local=A[at], tau=tau[at])
        assert step == pytest.approx(max(us[at], fitted.fit.a))


@pytest.mark.parametrize("key", KEYS, ids=" ".join)
def test_moe_time_grows_except_at_recorded_steps(key, root):
    table = tables.load_moe(*key, root).with_fit(MoeCost.fit(tables.load_moe(*key, root)))
    falls = table.steps(rise=np.inf, fall=1.0)
    for level, tau, us in zip(table.levels, table.tau, table.us, strict=True):
        recorded = falls.filter(falls["activated"] == level)["tau_from"].to_list()
        assert [float(t) for t in tau[:-1][np.diff(us) < 0]] == recorded
    # in a step, more experts and more assignments never cost less
    A, n = np.meshgrid(np.arange(2.0, 30.0), np.arange(30.0, 900.0, 50.0), indexing="ij")
    us = table.at_step(activated=A, tokens=n, local=16, tau=16)
    assert (np.diff(us, axis=0) >= -1e-9).all()
    assert (np.diff(us, axis=1) >= -1e-9).all()


def test_moe_outside_without_a_fit_names_value_and_range(root):
    table = tables.load_moe(*KEYS[0], root)
    with pytest.raises(tables.TableError, match=r"activated \(=200\).*1\.\.128"):
        table.at(activated=200, tokens=400)
    fitted = table.with_fit(MoeCost.fit(table))
    edge, beyond = fitted.at(activated=[128, 129], tokens=[1024, 1032])
    assert edge < beyond < 1.1 * edge


def test_power_law_rows_are_not_taken_for_balanced(root):
    with pytest.raises(tables.TableError, match="no balanced rows"):
        tables.load_moe("a100_sxm", "VLLM", "qwen3-30b", "bfloat16", root)


def test_grids_equal_their_points_and_refuse_the_rest(root):
    nccl = tables.load_nccl("b200_sxm", root)["alltoall"]
    sizes = nccl.axes["bytes"]
    np.testing.assert_allclose(nccl.at(gpus=8, bytes=sizes), nccl.values[-1])
    assert nccl.at(gpus=8, bytes=2**31) > nccl.at(gpus=8, bytes=2**29)
    attention = tables.load_decode_attention("a100_sxm", 32, 4, root)
    inside = ~np.isnan(attention.values)
    batch, context = np.meshgrid(*attention.axes.values(), indexing="ij")
    np.testing.assert_allclose(attention.at(batch=batch, context=context)[inside], attention.values[inside])
    rtx = tables.load_rtx(root)
    with pytest.raises(tables.TableError, match=r"prefill_chunk \(=3\): outside the table's 16\.\.2048"):
        rtx.prefill.at(prefill_chunk=3, kv_prefill=0)
    with pytest.raises(tables.TableError, match="its axes are"):
        rtx.prefill.at(batch=3)


def test_gemm_scales_absent_shapes_by_weight_bytes(root):
    gemm = tables.load_gemm("a100_sxm", "bfloat16", root)
    assert gemm.nearest(151_936, 2048) == (65_536, 2048)
    assert gemm.at(m=32, n=151_936, k=2048) == pytest.approx(gemm.at(m=32, n=65_536, k=2048) * 151_936 / 65_536)


def test_attention_left_out_of_the_grid_is_predicted_by_interpolation(real_data):
    raw, _ = tables.raw(tables.RTX, "attention.parquet", real_data)
    mixed = tables.load_rtx(real_data).mixed
    others = raw.filter((raw["prefill_chunk"] > 0) & (raw["n_decode"] > 0) & (raw["kv_decode"] == 1152))
    others = others.filter(others["kv_prefill"] > 0)
    point = {name: others[name].to_numpy() for name in mixed.axes}
    error = np.abs(mixed.at(**point) / others["time_us"].to_numpy() - 1)
    assert np.median(error) < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_recovers_its_own_form(form):
    rng = np.random.default_rng(0)
    A, n = rng.integers(8, 128, 60).astype(float), rng.integers(128, 20_000, 60).astype(float)
    true = MoeCost(form, a=30.0, b=6.0, beta=0.05, c=40.0, p=1.6 if form == "pnorm" else 1.0)
    found = MoeCost.fit_points(A, n, true.time_us(A, n), form=form)
    np.testing.assert_allclose(found.time_us(A, n), true.time_us(A, n), rtol=0.02)
    assert found.errors["mape"] < 0.01


def test_costs_survive_a_file_and_reject_another(tmp_path):
    cost = MoeCost.fit(tables.load_rtx().moe)
    cost.save(tmp_path / "cost.json")
    assert MoeCost.load(tmp_path / "cost.json") == cost
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="not a saved cost"):
        MoeCost.load(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="unknown; expected one of"):
        MoeCost.fit_points([1, 2], [1, 2], [1, 2], form="cubic")


def test_rtx_fit_and_leave_one_out(real_data):
    table = tables.load_rtx(real_data).moe
    fit = MoeCost.fit(table)
    assert fit.p == pytest.approx(1.57, abs=0.02)
    assert fit.errors["mape"] == pytest.approx(0.028, abs=0.002)
    assert np.abs(leave_one_out(*table.fit_on)).mean() <= 0.05


def test_memory_lines_are_those_of_the_published_tables(real_data):
    frame, _ = tables.moe_rows(real_data)
    few = frame.filter((frame["moe_ep_size"] == 1) & (frame["num_tokens"] <= 32))
    expected = {
        ("a100_sxm", "SGLang", "Qwen3-30B-A3B", "bfloat16"): 5.90,
        ("b200_sxm", "VLLM", "DeepSeek-V3", "fp8"): 6.89,
    }
    for key, part in few.group_by("system", "framework", "model", "moe_dtype"):
        if key in expected:
            assert memory_line(part["activated"], part["latency_us"])[1] == pytest.approx(expected[key], rel=0.01)


def test_transfer_keeps_bytes_per_second():
    cost = MoeCost.fit(tables.load_moe(*KEYS[1]))
    small, large = MODELS["qwen3-235b"], MODELS["deepseek-v3"]
    carried = transfer(cost, small, large, "bfloat16")
    assert large.expert_bytes("bfloat16") / carried.b == pytest.approx(small.expert_bytes("bfloat16") / cost.b)
    assert carried.a == cost.a


def test_a_slower_card_scales_the_memory_slope_only(root):
    fast = steptime.step_tables(
        "qwen3-30b", accelerator="a100-80g", system="a100_sxm", framework="SGLang", dtype="bfloat16", data=root
    )
    slow = steptime.step_tables(
        "qwen3-30b", accelerator="a100-40g", system="a100_sxm", framework="SGLang", dtype="bfloat16", data=root
    )
    assert slow.moe.slower_memory == pytest.approx(2.039 / 1.555)
    more = slow.moe.at(activated=16, tokens=256) - fast.moe.at(activated=16, tokens=256)
    assert 0 < more <= fast.moe.fit.b * (2.039 / 1.555 - 1) * 16 + 1e-6
