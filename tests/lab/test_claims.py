"""The claims evaluator: numbers by form, intervals over seeds, every verdict, errors in the file."""

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from operators.lab import claims
from operators.lab.claims import ClaimError

BASE = {
    "id": "demo-one",
    "text": "ours is faster",
    "source": {"paper": "0000.00000", "where": "Fig. 1"},
    "measure": "time",
    "of": "ours",
    "against": "peer",
    "form": "reduction",
    "paper": {"low": 0.2, "high": 0.4},
    "accept": {"low": 0.1, "high": 0.5},
    "reason": "test",
    "basis": "real",
}


def content(*changes):
    listed = [{**BASE, "id": f"demo-{i}", **change} for i, change in enumerate(changes)]
    return claims.ClaimsFile.model_validate({"policy": "policy", "unit": ["seed", "size"], "claims": listed})


def table(ours, peer=1.0, data="real"):
    rows = [
        {"policy": policy, "seed": seed, "size": size, "time": time * (1 + 0.01 * seed), "data": data}
        for policy, time in (("ours", ours), ("peer", peer))
        for seed in range(3)
        for size in (1, 2)
    ]
    return {"measures": pl.DataFrame(rows)}


def judge(change, tables, profile="laptop"):
    return claims.evaluate(content(change), tables, profile=profile).row(0, named=True)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [(0.7, "reproduced"), (0.55, "within tolerance"), (0.3, "direction only"), (1.2, "contradicted")],
)
def test_verdict_follows_the_value(ours, expected):
    row = judge({}, table(ours))
    assert row["verdict"] == expected
    assert row["value"] == pytest.approx(1 - ours)
    assert row["seeds"] == 3
    assert row["cells"] == 6
    assert row["low"] <= row["value"] <= row["high"]


def test_a_claim_used_for_calibration_is_never_reproduced():
    assert judge({"calibrated_on": ["demo-0"]}, table(0.7))["verdict"] == "within tolerance"


def test_synthetic_data_and_small_profiles_are_not_measured_and_say_why():
    synthetic = judge({}, table(0.7, data="synthetic"))
    assert synthetic["verdict"] == "not measured"
    assert "synthetic" in synthetic["why"]
    small = judge({}, table(0.7), profile="ci")
    assert small["verdict"] == "not measured"
    assert "laptop" in small["why"]
    assert judge({"needs": {"data": "any", "profile": "ci"}}, table(0.7, data="synthetic"))["verdict"] == "reproduced"


def test_no_row_under_the_conditions_is_not_measured():
    assert judge({"conditions": {"size": 99}}, table(0.7))["verdict"] == "not measured"


def test_out_of_reach_needs_no_measure():
    change = {"basis": "out of reach", "measure": None, "form": None, "of": None, "against": None}
    assert judge(change, {"measures": pl.DataFrame()})["verdict"] == "out of reach"


@pytest.mark.parametrize(("over", "expected"), [("max", 0.5), ("min", 0.3), ("mean", 0.4)])
def test_aggregation_over_cells(over, expected):
    rows = [
        {"policy": policy, "seed": 0, "size": size, "time": time, "data": "real"}
        for policy, times in (("ours", (0.5, 0.7)), ("peer", (1.0, 1.0)))
        for size, time in enumerate(times)
    ]
    row = judge({"over": over}, {"measures": pl.DataFrame(rows)})
    assert row["value"] == pytest.approx(expected)
    assert row["low"] is None  # one seed has no interval


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((0.9, 0.8, 0.7), "reproduced"),
        ((0.9, 0.95, 0.7), "direction only"),
        ((1.3, 1.2, 1.1), "direction only"),  # it grows, but it is no gain
        ((0.7, 0.8, 0.9), "contradicted"),
    ],
)
def test_order_asks_for_a_strict_rise(times, expected):
    rows = [
        {"policy": policy, "seed": 0, "size": size, "time": time, "data": "real"}
        for size, ours in enumerate(times)
        for policy, time in (("ours", ours), ("peer", 1.0))
    ]
    change = {"form": "order", "of_what": "reduction", "along": "size", "paper": None, "accept": None}
    assert judge(change, {"measures": pl.DataFrame(rows)})["verdict"] == expected


def test_bounds_have_no_direction():
    change = {"form": "bound", "of_what": "ratio", "paper": {"high": 1.0}, "accept": {"high": 1.1}}
    assert judge(change, table(0.9))["verdict"] == "reproduced"
    assert judge(change, table(1.05))["verdict"] == "within tolerance"
    assert judge(change, table(1.5))["verdict"] == "not reproduced"


def test_the_interval_is_students_t_over_seeds():
    for seeds, points in ((2, 12.706), (3, 4.303)):
        values = [1.0, 3.0, 2.0][:seeds]
        rows = pl.DataFrame(
            {"policy": ["ours"] * seeds, "seed": range(seeds), "time": values, "data": ["real"] * seeds}
        )
        row = judge({"form": "value", "against": None}, {"measures": rows})
        half = points * float(pl.Series(values).std()) / seeds**0.5
        assert row["high"] - row["value"] == pytest.approx(half)
        assert row["value"] - row["low"] == pytest.approx(half)


def test_a_table_without_seeds_brings_its_own_interval():
    bench = pl.DataFrame({"case": ["a"], "ratio": [3.0], "ratio_low": [2.5], "ratio_high": [3.5], "data": ["real"]})
    change = {"table": "bench", "measure": "ratio", "form": "bound", "of": None, "against": None, "accept": {"low": 2}}
    row = judge(change, {"bench": bench})
    assert (row["value"], row["low"], row["high"], row["seeds"]) == (3.0, 2.5, 3.5, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"measure": "speed"}, ["demo-0", "'speed'", "time"]),
        ({"conditions": {"colour": 1}}, ["demo-0", "'colour'"]),
        ({"conditions": {"size": "large"}}, ["demo-0", "size (='large')", "Int64"]),
        ({"table": "bench"}, ["demo-0", "'bench'", "measures"]),
    ],
)
def test_a_claim_on_something_that_does_not_exist_is_an_error(change, words):
    with pytest.raises(ClaimError) as caught:
        judge(change, table(0.7))
    for word in words:
        assert word in str(caught.value)


def test_several_baseline_rows_per_unit_are_an_error():
    doubled = {"measures": pl.concat([table(0.7)["measures"]] * 2)}
    with pytest.raises(ClaimError, match="several rows per unit"):
        judge({}, doubled)


def test_an_id_in_two_systems_or_twice_in_one_file_is_an_error(tmp_path):
    with pytest.raises(ClaimError, match=r"'x'.*both a and b"):
        claims.check_unique({"a": ["x", "y"], "b": ["z", "x"]})
    claims.check_unique({"a": ["x"], "b": ["y"]})
    first = tmp_path / "a.yaml"
    first.write_text(yaml.safe_dump({"policy": "policy", "unit": ["seed"], "claims": [BASE, BASE]}))
    with pytest.raises(ClaimError, match="twice"):
        claims.load(first)


@pytest.mark.parametrize("change", [{"form": None}, {"of": None}, {"accept": None}, {"surprise": 1}, {"basis": "felt"}])
def test_an_incomplete_claim_is_refused(change, tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"policy": "p", "unit": ["seed"], "claims": [{**BASE, **change}]}))
    with pytest.raises(ClaimError, match=r"claims\.0"):
        claims.load(path)


@given(st.floats(-2, 2), st.floats(0.01, 0.5), st.floats(0.5, 0.9))
def test_a_value_has_exactly_one_verdict_and_widening_never_worsens_it(value, low, high):
    narrow = content({"paper": {"low": low, "high": high}, "accept": {"low": low, "high": high}}).claims[0]
    wide = content({"paper": {"low": low, "high": high}, "accept": {"low": low - 0.1, "high": high + 0.1}}).claims[0]
    cells = pl.DataFrame({"number": [value]})
    rank = {name: position for position, name in enumerate(claims.VERDICTS)}
    assert rank[claims.verdict(wide, value, cells)] <= rank[claims.verdict(narrow, value, cells)]


@pytest.mark.parametrize(
    ("value", "interval", "found"),
    [
        (0.05, (-0.1, 0.2), "not reproduced"),
        (0.05, (0.01, 0.09), "direction only"),
        (-0.05, (-0.2, 0.1), "not reproduced"),
        (-0.05, (-0.09, -0.01), "contradicted"),
        (0.05, (None, None), "direction only"),
    ],
)
def test_an_interval_that_holds_both_signs_tells_no_direction(value, interval, found):
    claim = content({"form": "reduction", "paper": {"low": 0.2, "high": 0.3}, "accept": {"low": 0.2, "high": 0.3}})
    cells = pl.DataFrame({"number": [value]})
    assert claims.verdict(claim.claims[0], value, cells, interval) == found
