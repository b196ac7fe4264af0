"""The frame run as a user runs it, with the toy system: results, resume, edits, kills, bad requests."""

import json
import os
import signal
import time

import polars as pl
import psutil
import pytest

from operators.lab import stage


def wait_until(condition, patience_s=60):
    """Poll until `condition()`; the test fails when it does not become true."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def stages_of(house) -> list[int]:
    """Pids of this house's running stages."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(house.root) and "operators.toy" in " ".join(process.info["cmdline"] or [])
    ]


def test_two_folders_make_a_system_and_seeds_decide(finished):
    table = pl.read_parquet(finished.root / "results/toy/measures.parquet")
    claims = pl.read_parquet(finished.root / "results/toy/claims.parquet")
    assert claims["verdict"].to_list() == ["reproduced"]
    for name in ("figures/mean.svg", "figures/mean.parquet", "benchmarks/ci/simulate.tsv"):
        assert (finished.root / "results/toy" / name).exists()
    assert stage.read_stamp(finished.root / "results/toy/measures.parquet")["profile"] == "ci"
    assert json.loads((finished.root / "results/toy/settings.json").read_text())["rows"] == 10
    assert "done in" in (finished.root / "results/toy/logs/simulate.log").read_text()
    again = finished.snakemake("toy")
    assert "Nothing to be done" in again.stdout + again.stderr

    assert finished.snakemake("toy", "--forcerun", "toy_simulate").returncode == 0
    assert pl.read_parquet(finished.root / "results/toy/measures.parquet").equals(table)
    other = finished.snakemake("toy", "--config", "profile=ci", "toy={seed: 7}")
    assert other.returncode == 0, other.stderr
    assert not pl.read_parquet(finished.root / "results/toy/measures.parquet").equals(table)


def test_an_edit_reruns_what_it_touches_and_nothing_else(finished):
    plot = finished.root / "operators/toy/plot.py"
    plot.write_text(plot.read_text() + "# edited\n")
    dry = finished.snakemake("toy", "-n")
    text = dry.stdout + dry.stderr
    assert "plot" in text
    assert "simulate" not in text


def test_dry_run_lists_jobs_and_writes_nothing(house):
    done = house.snakemake("-n")
    assert done.returncode == 0
    assert "simulate" in done.stdout + done.stderr
    assert not (house.root / "results").exists()


def test_lint_is_clean(shared_house):
    done = shared_house.snakemake("--lint", "--config", "profile=ci")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tay"], "target 'tay': unknown; did you mean 'toy'? there are all, claims"),
        (["--config", "profile=huge"], "profile 'huge': unknown; there are ci, laptop, full, paper"),
        (["--config", "profile=ci", "tooy={}"], "config key 'tooy': unknown; did you mean 'toy'?"),
        (["--config", "profile=ci", "toy={rowz: 1}"], "toy.rowz (='1'): unknown setting; did you mean 'rows'?"),
        (["--config", "profile=ci", "toy={rows: 0}"], "toy.rows (='0'): Input should be greater than or equal to 1"),
    ],
)
def test_a_bad_request_is_one_clear_line_and_writes_nothing(words, expected, shared_house):
    done = shared_house.snakemake(*words)
    assert done.returncode != 0
    assert expected in done.stdout + done.stderr
    assert not (shared_house.root / "results/toy").exists()


def test_help_prints_systems_targets_and_minutes(shared_house):
    done = shared_house.snakemake("help")
    for word in ("toy", "the smallest system", "not run yet", "report", "profiles: ci, laptop, full, paper"):
        assert word in done.stdout + done.stderr


def test_a_killed_run_leaves_no_process_and_no_lock_and_resumes(house):
    gate = house.root / "gate"
    gate.touch()
    words = ("toy", "--config", "profile=ci", f"toy={{hold: {gate}}}")
    run = house.start(*words)
    wait_until(lambda: stages_of(house))
    stages = stages_of(house)
    busy = house.snakemake(*words)
    assert busy.returncode != 0
    assert f"in use by a run with pid {run.pid}" in busy.stdout + busy.stderr
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in stages))
    assert not (house.root / "results/toy/measures.parquet").exists()
    gate.unlink()
    resumed = house.snakemake(*words)
    assert resumed.returncode == 0, resumed.stderr
    assert (house.root / "results/toy/claims.parquet").exists()
    assert not list(house.root.rglob("*.part"))


def test_ctrl_c_ends_everything_and_the_next_run_resumes(house):
    gate = house.root / "gate"
    gate.touch()
    words = ("toy", "--config", "profile=ci", f"toy={{hold: {gate}}}")
    run = house.start(*words)
    wait_until(lambda: stages_of(house))
    os.killpg(run.pid, signal.SIGINT)
    run.wait(60)
    wait_until(lambda: not stages_of(house))
    gate.unlink()
    assert house.snakemake(*words).returncode == 0


def test_a_system_that_breaks_its_stage_shows_the_reason(house):
    simulate = house.root / "operators/toy/simulate.py"
    simulate.write_text(simulate.read_text().replace("    import numpy as np", "    raise ValueError('rows: no luck')"))
    done = house.snakemake("toy")
    assert done.returncode != 0
    assert "rows: no luck" in done.stdout + done.stderr
    assert not (house.root / "results/toy/measures.parquet").exists()


def test_a_corrupt_table_is_named_not_read(finished):
    measures = finished.root / "results/toy/measures.parquet"
    measures.write_bytes(measures.read_bytes()[:100])
    done = finished.snakemake("toy", "--forcerun", "toy_claims")
    assert done.returncode != 0
    assert "measures.parquet" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("measure: mean", "measure: median"), "'median' is no column of measures"),
        (("form: ratio", "form: guess"), "claims.0.form"),
    ],
)
def test_a_wrong_claims_file_is_refused_by_name(change, expected, finished):
    claims = finished.root / "workflows/toy/claims.yaml"
    claims.write_text(claims.read_text().replace(*change))
    done = finished.snakemake("toy")
    assert done.returncode != 0
    assert expected in done.stdout + done.stderr
    assert not (finished.root / "results/toy/claims.parquet").exists()


def test_two_systems_with_one_claim_id_are_refused(house):
    import shutil

    for part in ("operators", "workflows"):
        shutil.copytree(house.root / part / "toy", house.root / part / "twin")
        for path in (house.root / part / "twin").rglob("*"):
            if path.suffix in (".py", ".yaml", "") and path.is_file():
                path.write_text(path.read_text().replace("operators.toy", "operators.twin").replace('"toy"', '"twin"'))
    done = house.snakemake("claims")
    assert done.returncode != 0
    assert "claim id 'toy-half' stands in both" in done.stdout + done.stderr


def test_report_is_one_page_with_claims_and_figures(finished):
    done = finished.snakemake("report")
    assert done.returncode == 0, done.stderr
    page = (finished.root / "results/report.html").read_text()
    for word in ("claims.html", "mean.svg", "Means of random numbers", "simulate"):
        assert word in page


def test_the_toy_runs_alone_and_from_another_folder(house, tmp_path):
    done = house.snakemake("-s", "workflows/toy/Snakefile", "--cores", "1", "--config", "profile=ci")
    assert done.returncode == 0, done.stderr
    assert (house.root / "results/toy/claims.parquet").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    away = house.snakemake("-s", str(house.root / "Snakefile"), "toy", "--config", "profile=ci", cwd=elsewhere)
    assert away.returncode == 0, away.stderr
    assert (elsewhere / "results/toy/claims.parquet").exists()
