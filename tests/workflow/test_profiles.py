"""Where to run: every place's profile plans a run (a dry run; the executors are in the extra `cluster`)."""

import importlib.util
import json

import pytest

EXECUTORS = {
    "ray": None,
    "slurm": "snakemake_executor_plugin_slurm",
    "kubernetes": "snakemake_executor_plugin_kubernetes",
}


@pytest.mark.parametrize("size", ["ci", "laptop", "full", "paper"])
def test_every_size_plans_a_run(size, shared_house):
    done = shared_house.snakemake("toy", "-n", "--profile", f"profiles/{size}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "simulate" in done.stdout + done.stderr


@pytest.mark.parametrize("size", ["ci", "full"])
def test_a_setting_on_the_command_line_leaves_the_size(size, house):
    words = ("--profile", f"profiles/{size}", "--config", "toy={seed: 7}")
    done = house.snakemake("results/toy/settings.json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads((house.root / "results/toy/settings.json").read_text())
    assert (made["profile"], made["seed"]) == (size, 7)


@pytest.mark.parametrize("place", EXECUTORS)
def test_every_place_plans_a_run(place, shared_house):
    plugin = EXECUTORS[place]
    if plugin and importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed: pip install -e '.[cluster]'")
    done = shared_house.snakemake("toy", "-n", "--profile", "profiles/ci", "--profile", f"profiles/{place}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "simulate" in done.stdout + done.stderr
