"""The same demands on every system, whatever its folder holds; a new system is checked without a line added here."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from operators.lab import claims, code, overview

ROOT = Path(__file__).parents[1]
SYSTEMS = overview.systems(ROOT)
RULES = {"all", "settings", "trace", "evaluate", "plot", "claims", "bench"}
HEAVY = {"simulate", "run", "measure"}
HEADINGS = (
    "What the paper builds",
    "Real, calibrated, modelled",
    "Commands",
    "Times",
    "Not modelled, known limits",
)
PROFILES = ("ci", "laptop", "full", "paper")

systems = pytest.mark.parametrize("system", SYSTEMS)


def snakefile(system: str) -> str:
    return (ROOT / "workflows" / system / "Snakefile").read_text()


def rules(system: str) -> dict[str, str]:
    """Name and body of every rule."""
    parts = re.split(r"^rule (\w+):\n", snakefile(system), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def settings_class(system: str):
    return importlib.import_module(f"operators.{system}.settings").Settings


def stages(system: str) -> list[str]:
    """Modules of the system that are commands."""
    folder = ROOT / "operators" / system
    return sorted(path.stem for path in folder.glob("*.py") if "stage.run(main)" in path.read_text())


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def test_there_are_systems():
    assert "metro" in SYSTEMS


@systems
def test_rules_have_the_houses_names_docstrings_logs_and_benchmarks(system):
    found = rules(system)
    assert set(found) >= RULES
    heavy = HEAVY & set(found)
    assert heavy
    for name, body in found.items():
        assert re.match(r'    """', body), f"{name} has no docstring"
        if name != "all":
            assert "log:" in body, f"{name} has no log"
    for name in heavy:
        assert "benchmark:" in found[name], f"{name} has no benchmark"
    assert "run:" not in [line.strip() for line in snakefile(system).splitlines()]


@systems
def test_the_schema_is_in_step_with_the_settings(system):
    written = (ROOT / "workflows" / system / "settings.schema.json").read_text()
    assert written == settings_class(system).schema_json(), f"run: python -m operators.lab.schema {system}"


@systems
def test_every_setting_carries_unit_and_source(system):
    for name, spec in settings_class(system).model_json_schema()["properties"].items():
        assert spec.get("unit"), f"{name} has no unit"
        assert spec.get("source"), f"{name} has no source"


@systems
def test_settings_load_at_every_profile_and_unknown_ones_are_refused(system):
    sizes = ROOT / "workflows" / system / "profiles.yaml"
    for profile in PROFILES:
        made = settings_class(system).from_config({"profile": profile}, sizes)
        assert made.profile == profile
    with pytest.raises(ValueError, match=f"{system}.no_such_setting") as caught:
        settings_class(system).from_config({system: {"no_such_setting": 41}}, sizes)
    assert "41" in str(caught.value)


def test_claims_are_valid_and_ids_are_unique_over_all_systems():
    ids = {
        system: [claim.id for claim in claims.load(ROOT / "workflows" / system / "claims.yaml").claims]
        for system in SYSTEMS
    }
    assert all(ids.values())
    claims.check_unique(ids)


@systems
def test_paper_claims_say_where_and_why(system):
    for claim in claims.load(ROOT / "workflows" / system / "claims.yaml").claims:
        assert claim.reason, claim.id
        assert claim.source.where, claim.id
        if claim.basis == "calibrated" and claim.source.paper:
            assert claim.accept is not None or claim.form == "order", claim.id


@systems
def test_no_figure_of_a_paper_stands_in_the_code(system):
    figures = set()
    for claim in claims.load(ROOT / "workflows" / system / "claims.yaml").claims:
        if claim.source.paper and claim.paper:
            figures |= {claim.paper.low, claim.paper.high} - {None}
    telling = {value for value in figures if len(f"{value:g}".replace(".", "").strip("0")) >= 3}
    for path in (ROOT / "operators" / system).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value in telling:
                raise AssertionError(f"{path.name}:{node.lineno} holds {node.value}, a figure of the paper's claims")


@systems
def test_importing_a_system_is_light(system):
    check = (
        f"import sys, operators.{system}\n"
        "heavy = {'ray', 'matplotlib', 'torch', 'scipy.stats'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@systems
def test_every_stage_has_help(system):
    found = stages(system)
    assert {"trace", "evaluate", "plot", "bench"} <= set(found)
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"operators.{system}.{name}", "--help"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in found
    }
    for name, process in running.items():
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, f"{name}: {error}"
        assert "usage:" in out, name


def test_no_import_goes_across_systems():
    domains = {path.name for path in (ROOT / "operators").iterdir() if path.is_dir()} - set(SYSTEMS) - {"__pycache__"}
    for path in (ROOT / "operators").rglob("*.py"):
        owner = path.relative_to(ROOT / "operators").parts[0]
        if owner == "__init__.py":
            continue
        allowed = {owner, "lab"} | (domains if owner in SYSTEMS else set())
        for name in code.imports(path):
            parts = name.split(".")
            if len(parts) > 1:
                assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_library_never_mentions_the_workflow():
    for path in (ROOT / "operators").rglob("*.py"):
        if path.parent.name != "lab":
            assert not re.search(r"snakemake|wildcard", path.read_text(), re.IGNORECASE), path.relative_to(ROOT)


@systems
def test_the_systems_readme_has_the_headings_and_its_commands_exist(system):
    text = (ROOT / "workflows" / system / "README.md").read_text()
    for heading in HEADINGS:
        assert f"## {heading}" in text, heading
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert code._file(module) is not None, f"python -m {module} does not exist"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w[\w-]*)", text, re.MULTILINE) + re.findall(r"`make (\w[\w-]*)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} does not exist"
    for profile in re.findall(r"profiles/(\w+)", text):
        assert (ROOT / "profiles" / profile).is_dir(), profile


def test_nothing_tracked_names_a_machine_path_or_a_registry():
    # Patterns are put together from pieces, so that this file passes its own test.
    hosts = [
        "".join(pair) for pair in (("python", "hosted"), ("pypi", r"\.org"), ("npmjs", r"\.org"), ("deb", r"\.debian"))
    ]
    paths = [f"/{name}/" for name in ("work", "root", "farm", "home")]
    pattern = re.compile("|".join(hosts) + "|" + "|".join(rf"(?<![\w.}}]){path}" for path in paths))
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            assert not pattern.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"


def test_no_data_is_tracked():
    for path in tracked():
        assert path.suffix not in (".parquet", ".npz", ".npy", ".feather"), path
        assert path.stat().st_size < 400_000, path


def test_files_and_functions_stay_small_and_names_explain():
    for path in tracked():
        if path.suffix != ".py":
            continue
        assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc"), path
        text = path.read_text()
        assert text.count("\n") <= 450, f"{path.relative_to(ROOT)} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.slow
@systems
def test_a_seed_decides_the_trace(system, tmp_path):
    def trace(folder: str, seed: int) -> dict[str, pl.DataFrame]:
        words = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), f"{system}_trace", "--cores", "2"]
        words += ["--config", "profile=ci", "data=synthetic", f"{system}={{seed: {seed}}}"]
        (tmp_path / folder).mkdir()
        done = subprocess.run(words, cwd=tmp_path / folder, capture_output=True, text=True, env={**os.environ})
        assert done.returncode == 0, done.stderr
        found = {path.name: pl.read_parquet(path) for path in (tmp_path / folder).rglob("runs/*.parquet")}
        assert found
        return found

    first, again, other = trace("a", 0), trace("b", 0), trace("c", 1)
    assert all(first[name].equals(again[name]) for name in first)
    assert not all(first[name].equals(other[name]) for name in first)
