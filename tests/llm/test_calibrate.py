"""Fits find what made a run, keep to what they have not seen, and meet the measured runs within their bars."""

import dataclasses

import numpy as np
import pytest

from operators.lab import datasets
from operators.llm import calibrate, importers, twins_measured
from operators.llm.calibrate import FitReport
from operators.llm.stepmodels import LinearStep, TwoPhaseStep

MEASURED = "vllm-measured"


@pytest.fixture(scope="module")
def dense():
    return twins_measured.measured("twin-dense")


@pytest.fixture(scope="module")
def fitted(dense):
    return calibrate.fit(dense)


def test_a_fit_finds_the_twins_coefficients(dense, fitted):
    step, report = fitted
    true = twins_measured.RUNS["twin-dense"][0]
    assert step.c0_s == pytest.approx(true.c0_s, rel=0.1)
    assert step.prefill_token_s == pytest.approx(true.prefill_token_s, rel=0.1)
    # what a decoding request costs shows in its two terms together: at a context of 1,200 tokens
    assert step.decode_s + 1200 * step.context_token_s == pytest.approx(
        true.decode_s + 1200 * true.context_token_s, rel=0.1
    )
    assert report.worst() < 0.02
    assert report.ttft_corr > 0.99
    assert report.requests == len(report.residuals) == 300


@pytest.mark.parametrize("run", ["twin-pressure", "twin-two-ranks"])
def test_twins_under_pressure_and_on_two_ranks_are_told_too(run):
    made = twins_measured.measured(run)
    report = calibrate.fit(made)[1]
    assert report.worst() < 0.10
    assert report.ttft_corr > 0.95
    assert (report.preemptions > 0) == (made.kv_tokens is not None)


def test_halves_tell_each_other(dense):
    for report in calibrate.half_split(dense):
        assert report.requests == 150
        assert report.worst() < 0.10


def test_leaving_a_run_out_uses_the_others_only(dense):
    runs = {"a": dense, "b": twins_measured.measured("twin-dense", seed=5, requests=150)}
    made = calibrate.leave_one_out(runs)
    assert made["a"].coefficients == pytest.approx(dataclasses.asdict(calibrate.fit_together([runs["b"]])))
    assert made["a"].worst() < 0.1
    with pytest.raises(ValueError, match="need two or more"):
        calibrate.leave_one_out({"a": dense})


def test_errors_are_those_of_the_means(dense):
    slower = LinearStep(*(2 * value for value in dataclasses.astuple(twins_measured.RUNS["twin-dense"][0])))
    report = calibrate.evaluate(dense, slower)
    made = calibrate.replay(dense, slower)
    arrival = dense.requests["arrival_s"].to_numpy()
    wanted = (made.first_token_s - arrival).mean() / (dense.first_token_s - arrival).mean() - 1
    assert report.ttft_mean_err == pytest.approx(wanted)
    assert report.latency_mean_err > 0.5


def test_a_report_is_kept_with_its_source(dense, fitted, tmp_path):
    step, report = fitted
    report.save(tmp_path / "fit.json")
    again = FitReport.load(tmp_path / "fit.json", dense)
    assert again == report
    assert again.step() == step
    with pytest.raises(ValueError, match="another run"):
        FitReport.load(tmp_path / "fit.json", twins_measured.measured("twin-dense", seed=9))


def test_same_seed_same_fit(dense, fitted):
    assert calibrate.fit(dense)[0] == fitted[0]


def test_what_a_fit_needs_is_named(dense):
    with pytest.raises(ValueError, match="give kv_tokens or None"):
        calibrate.fit(dense, kv_tokens="meta")
    with pytest.raises(ValueError, match=r"form \(='cubic'\)"):
        calibrate.fit(dense, form="cubic")
    with pytest.raises(ValueError, match="by"):
        calibrate.half_split(dense, by="size")
    with pytest.raises(KeyError, match="twin-dense"):
        twins_measured.measured("h100")


def real_runs(root):
    if not datasets.present(MEASURED, root):
        pytest.skip(f"{MEASURED} is not there")
    folder = root / MEASURED
    return {run: importers.read_vllm_measured(folder, run) for run in importers.measured_runs(folder)}


def test_measured_runs_are_told_within_the_bars(real_data):
    # 5 % on a dense run without pressure on the cache, 10 % with pressure or several ranks; nothing else may differ
    for run, measured in real_runs(real_data).items():
        report = calibrate.fit(measured)[1]
        plain = measured.kv_tokens is None and measured.data_parallel == 1
        assert report.worst() <= (0.05 if plain else 0.10), run
        assert report.ttft_corr >= 0.98, run


@pytest.mark.slow
def test_halves_of_measured_runs_tell_each_other(real_data):
    for run, measured in real_runs(real_data).items():
        for report in calibrate.half_split(measured):
            assert report.worst() <= 0.10, run


def test_the_twins_are_like_the_measured_runs(real_data):
    runs = real_runs(real_data)
    for name, run in (("twin-dense", "plain"), ("twin-pressure", "pressure"), ("twin-two-ranks", "ranks")):
        kinds = {
            "plain": lambda m: m.kv_tokens is None and m.data_parallel == 1,
            "pressure": lambda m: m.kv_tokens is not None,
            "ranks": lambda m: m.data_parallel > 1,
        }
        real = next(m for m in runs.values() if kinds[run](m))
        twin = twins_measured.measured(name)
        assert twin.meta == real.meta
        for column in ("input_tokens", "output_tokens"):
            assert twin.requests[column].mean() == pytest.approx(real.requests[column].mean(), rel=0.15)
            for level in (0.05, 0.5, 0.95):
                wanted = real.requests[column].quantile(level)
                assert twin.requests[column].quantile(level) == pytest.approx(wanted, rel=0.15)
        spans = [m.requests["arrival_s"][-1] for m in (twin, real)]
        assert spans[0] == pytest.approx(spans[1], rel=0.25)
        latency = [(m.last_token_s - m.requests["arrival_s"].to_numpy()).mean() for m in (twin, real)]
        assert latency[0] == pytest.approx(latency[1], rel=0.25)


def test_the_twin_profile_has_distserves_form_and_size(real_data):
    import json

    twin = twins_measured.distserve_profile()
    for engine in ("distserve", "vllm"):
        real = json.loads((real_data / "distserve-profiles" / f"profiler-a100-80g.{engine}.json").read_text())
        assert {model: set(entry) for model, entry in twin.items()} == {m: set(entry) for m, entry in real.items()}
    real = json.loads((real_data / "distserve-profiles" / "profiler-a100-80g.distserve.json").read_text())
    steps = [TwoPhaseStep.from_distserve(profile, "facebook/opt-13b", 1) for profile in (twin, real)]
    for parts in ({"p": 1000, "q": 500_000.0}, {"n": 32, "k": 32 * 500}):
        assert steps[0].step_s(**parts) == pytest.approx(steps[1].step_s(**parts), rel=0.4)
    assert np.isfinite([value for entry in twin.values() for tp in entry.values() for value in tp["prefill"]]).all()
