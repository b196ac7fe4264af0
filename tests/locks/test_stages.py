"""Settings and stages: refused values, one seed one table, the measures that claims need."""

from pathlib import Path

import polars as pl
import pytest

from operators.lab.settings import SettingsError
from operators.locks import charts, evaluate, measures, run, trace, workload
from operators.locks.settings import Settings

SIZES = Path(__file__).parents[2] / "workflows" / "locks" / "profiles.yaml"


def ci(**values):
    return Settings.from_config({"profile": "ci", "locks": values}, SIZES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"procs": []}, r"procs \(=\[\]\): empty"),
        ({"procs": [99]}, r"procs \(=99\): expected 1 to 32"),
        ({"update_pct": [101]}, "update_pct"),
        ({"zipf": [-1.0]}, "zipf"),
        ({"impls": ["eager"]}, "'rflock_flat' is missing"),
        ({"sizes": {"transfer": 1}}, "expected at least 2 for transfer"),
        ({"faults": [{"kind": "kill", "rank": 7, "at_step": 0}]}, "rank < 3"),
        ({"explore": [{"scenario": "counter", "ops": [9]}]}, "ops"),
        ({"mutants": ["p9"]}, "mutants"),
    ],
)
def test_settings_that_cannot_work_are_refused(given, words):
    with pytest.raises(SettingsError, match=words):
        ci(**given)


def test_a_seed_decides_the_tables(tmp_path):
    def tables(name, seed):
        settings = ci(seed=seed)
        trace.main(settings=settings, out_workload=tmp_path / f"{name}-w", out_histories=tmp_path / f"{name}-h")
        return pl.read_parquet(tmp_path / f"{name}-w").drop("seed"), pl.read_parquet(tmp_path / f"{name}-h")

    one, again, other = tables("a", 0), tables("b", 0), tables("c", 1)
    assert one[0].equals(again[0])
    assert one[1].equals(again[1])
    assert not one[0].equals(other[0])


def test_proof_tables_repeat_but_for_times(tmp_path):
    settings = ci(mutants=["blind"], explore=[{"scenario": "counter", "ops": [1, 1], "crashes": 1}])
    trace.main(settings=settings, out_workload=tmp_path / "w", out_histories=tmp_path / "h")
    for part in ("explore", "sweep", "equal"):
        frames = []
        for name in "ab":
            run.main(settings=settings, part=part, workload=tmp_path / "w", out=tmp_path / f"{part}-{name}")
            frame = pl.read_parquet(tmp_path / f"{part}-{name}")
            assert dict(frame.schema) == run.schema_of(part)
            # How far a call of another run got before its page was there is no part of the outcome.
            frames.append(frame.drop("seconds", "recovery_us", "solo_runs", strict=False))
        assert frames[0].equals(frames[1]), part
    with pytest.raises(ValueError, match=r"part \(='all'\): expected one of throughput"):
        run.main(settings=settings, part="all", workload=tmp_path / "w", out=tmp_path / "x")


def test_expected_balances_follow_from_the_rows():
    rows = workload.rows(5, 100)
    once = workload.expected(rows, {0: 100})
    assert once.sum() == workload.ACCOUNTS * workload.INITIAL
    assert (workload.expected(rows, {0: 200, 1: 100}) - workload.INITIAL == 3 * (once - workload.INITIAL)).all()
    assert (rows[:, 0] != rows[:, 1]).all()


def test_the_checkers_own_rows():
    frame = pl.DataFrame(
        {
            "process": [0, 1],
            "op": ["add", "add"],
            "args": ["[2]", "[3]"],
            "result": ["2", "5"],
            "t_invoke": [0, 10],
            "t_return": [5, 20],
            "seed": [0, 0],
        }
    )
    assert evaluate.check_own(frame)[0][1:3] == ("ok", "ok")
    swapped = frame.with_columns(result=pl.Series(["5", "3"]))
    assert evaluate.check_own(swapped)[0][1] == "violation"


def test_a_limit_is_no_pass_and_a_missed_mutant_shows():
    rows = {
        "config": ["a", "a", "b", "b"],
        "mutant": ["none", "blind", "none", "nolog"],
        "memory": ["px86", "px86", "sc", "sc"],
        "crashes": [1, 1, 0, 0],
        "violations": [None, 2, 0, 0],
        "unbounded": [None, 0, 0, 0],
        "verdict": ["limit", "violation", "ok", "ok"],
        "seed": [0, 0, 0, 0],
    }
    found = {row["measure"]: row["value"] for row in measures.explored(pl.DataFrame(rows))}
    assert "violations_px86" not in found
    assert found["mutants_caught"] == 0.0
    assert found["violations_sc"] == 0.0


def test_the_kills_figure_counts_from_zero():
    rows = {"kind": ["soak"] * 2, "impl": ["rflock_flat"] * 2, "kill_rate": [20.0, 20.0], "kills": [345, 380]}
    rows |= {"seconds": [20.0, 20.0], "ops": [10**6, 2 * 10**6]}
    rows |= {name: [0, 0] for name in ("lost", "doubled", "stuck", "torn")}
    figure, _ = charts.kills(pl.DataFrame(rows))
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert low == 0
        assert high >= 19
