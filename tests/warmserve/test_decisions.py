"""Plan, reserve, autoscaler, catalogue: numbers by hand, at equality, and by property."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.warmserve import autoscale, catalogue, plan, reserve
from operators.warmserve.errors import ConfigError, InvariantError
from operators.warmserve.ledger import Ledger
from operators.warmserve.settings import Settings


@pytest.mark.parametrize(
    ("mean", "peak", "running", "expected"),
    [
        (0, 0, 0, (0, 0)),
        (0, 10, 0, (0, 1)),
        (32, 32, 0, (1, 0)),
        (32.1, 32.1, 0, (2, 0)),
        (100, 50, 0, (4, 0)),  # a peak below the mean adds nothing
        (100, 200, 9, (0, 0)),  # more run than are needed
        (40, 100, 1, (1, 2)),
    ],
)
def test_replica_counts(mean, peak, running, expected):
    assert plan.replica_counts(mean, peak, running, 32) == expected


def test_scores_fall_with_rank_and_a_mean_of_zero_divides_nothing():
    found = plan.wanted(64.0, 128.0, 0, 32, 0.4)
    assert [one.kind for one in found] == ["foundation"] * 2 + ["burst"] * 2
    assert found[0].score == pytest.approx(0.4)
    assert found[1].score == pytest.approx(0.4 * math.exp(-1 / 4))
    assert found[2].score == pytest.approx(0.4 * math.exp(-2 / 4) * 2.0)  # outranks a foundation replica
    assert plan.wanted(0.0, 40.0, 0, 32, 1.0)[0].score == pytest.approx(1.0)
    items = [(one, 0, rank) for rank, one in enumerate(found)]
    assert min(items, key=plan.order_key("paper"))[2] == 2
    assert [rank for _, _, rank in sorted(items, key=plan.order_key("foundation_first"))] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="rule"):
        plan.order_key("best")
    with pytest.raises(ValueError, match=r"batch \(=0\)"):
        plan.replica_counts(1, 1, 0, 0)


def test_reserve_by_hand():
    assert reserve.kept_blocks(475, 0, 0, 32) == 15  # C / B, rounded up
    assert reserve.kept_blocks(475, 16, 100, 32) == 238  # C Q / B
    assert reserve.kept_blocks(475, 4, 300, 32) == 315  # T + C / B
    assert reserve.kept_blocks(475, 4, 475, 32) == 475  # all in use: capped
    assert reserve.kept_blocks(475, 4, 300, 32, "official") == 60
    assert reserve.kept_blocks(475, 0, 0, 32, "all") == 475
    with pytest.raises(ValueError, match="used"):
        reserve.kept_blocks(10, 1, 11, 32)
    with pytest.raises(ValueError, match="rule"):
        reserve.kept_blocks(10, 1, 1, 32, "none")


@given(st.integers(1, 2000), st.integers(0, 64), st.integers(0, 2000), st.integers(1, 64))
def test_reserve_rises_with_requests_and_blocks_in_use(capacity, requests, used, batch):
    used = min(used, capacity)
    kept = reserve.kept_blocks(capacity, requests, used, batch)
    assert used <= kept <= capacity
    assert reserve.kept_blocks(capacity, requests + 1, used, batch) >= kept
    assert reserve.kept_blocks(capacity, requests, min(used + 1, capacity), batch) >= kept


def test_the_autoscaler_does_nothing_at_equality():
    assert autoscale.change(16.0, 1, 32) == 0  # 0.5 n B
    assert autoscale.change(15.999, 1, 32) == 0  # below, but one is still needed
    assert autoscale.change(25.6, 1, 32) == 0  # 0.8 n B
    assert autoscale.change(25.7, 1, 32) == 1
    assert autoscale.change(0.0, 3, 32) == -3
    assert autoscale.change(5.0, 0, 32) == 1


def test_the_load_average_looks_back_five_seconds():
    average = autoscale.LoadAverage(5.0, 0.5)
    assert average.add(0.0, 0.0) == 0.0
    assert average.add(0.5, 5.0) == pytest.approx(10.0)
    for tick in range(2, 30):
        found = average.add(0.5 * tick, 5.0 + 2.0 * (tick - 1) * 0.5)
    assert found == pytest.approx(2.0)


def test_the_three_models_have_the_published_bytes():
    found = {model.name: model for model in catalogue.models(Settings(), "w5")}
    assert found["7b-a"].weight_bytes == 13_476_831_232
    assert found["13b"].weight_bytes == 26_032_558_080
    assert found["70b"].weight_bytes == 137_961_209_856
    mib = {name: model.kv_bytes / 2**20 for name, model in found.items()}
    assert mib == {"7b-a": 128, "7b-b": 128, "13b": 100, "70b": 20}
    official = {m.name: m.kv_bytes for m in catalogue.models(Settings(kv_block="official"), "w5")}
    assert official["7b-a"] == 32 * 2**20
    assert found["7b-a"].need % catalogue.BLOCK_BYTES == 0
    assert 0 <= found["7b-a"].need - found["7b-a"].weight_bytes < catalogue.BLOCK_BYTES


def test_cold_starts_by_hand():
    w5, pcie = (catalogue.models(Settings(), cold) for cold in ("w5", "pcie"))
    assert w5[0].load_s == pytest.approx(0.77 * 13_476_831_232 / 2**30)
    assert pcie[0].load_s == pytest.approx(13_476_831_232 / 2**30 / 32)
    assert [model.engine_s for model in w5] == pytest.approx([15.7, 15.7, 18.7, 15.7])
    assert {model.engine_s for model in pcie} == {0.0}
    mixed = Settings().model_dump()
    mixed["models"][0]["load_s_per_gib"] = 0.1
    assert catalogue.models(Settings.checked(mixed), "w5")[0].load_s == pytest.approx(1.2551, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpus_per_node": 6}, "70b: tp=4.*divisor of gpus_per_node"),
        ({"scale_low": 0.9}, "scale_low.*less than scale_high"),
        ({"window_s": 0.1}, "window_s.*at least tick_s"),
        ({"batch": 0}, "batch"),
        ({"rps": []}, "rps.*at least one"),
        ({"settle_s": 4000.0}, "settle_s"),
    ],
)
def test_impossible_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Settings.checked(change)


def test_a_model_that_does_not_fit_its_gpus_is_refused():
    with pytest.raises(ConfigError, match=r"7b-a: tp=1.*expected to fit"):
        catalogue.models(Settings(gpu_gib=10.0), "w5")
    wrong = Settings().model_dump()
    wrong["models"][0]["shape"] = "llama9"
    with pytest.raises(ConfigError, match="llama9"):
        catalogue.models(Settings.checked(wrong), "w5")


def test_the_ledger_closes_every_entry_once():
    ledger = Ledger()
    ledger.open(1, "m", (0,), "foundation", 1.0, 0.0, held=False)
    with pytest.raises(InvariantError, match="opened twice"):
        ledger.open(1, "m", (0,), "foundation", 1.0, 0.0, held=False)
    ledger.load_start(1, 1.0)
    with pytest.raises(InvariantError, match="still open"):
        ledger.validate()
    ledger.load_end(1, 3.0, 10e9)
    assert ledger.close(1, "hit", 5.0, size=10e9).gb_s_held == pytest.approx(20.0)
    with pytest.raises(InvariantError, match="double free"):
        ledger.close(1, "left", 6.0)
    ledger.open(2, "m", (0,), "burst", 1.0, 0.0, held=False)
    with pytest.raises(InvariantError, match="expected one of"):
        ledger.close(2, "lost", 1.0)
    ledger.close(2, "cancelled", 1.0, partial=3e9)
    ledger.validate()
    assert ledger.totals()["cancelled"] == 3e9
    assert sum(ledger.totals().values()) == 13e9
