"""What there is: systems by folder, and words for what there is not."""

import pytest

from operators.lab import overview


def test_systems_are_folders_with_a_snakefile(tmp_path):
    for name in ("b", "a", "no"):
        (tmp_path / "workflows" / name).mkdir(parents=True)
        if name != "no":
            (tmp_path / "workflows" / name / "Snakefile").touch()
    assert overview.systems(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"metroo": {}}, "'metroo'.*did you mean 'metro'.*profile"),
        ({"profile": "big"}, "'big'.*ci, laptop, full, paper"),
    ],
)
def test_unknown_configuration_lists_what_there_is(config, words):
    with pytest.raises(ValueError, match=words):
        overview.check_config(config, ["metro"])


def test_known_configuration_passes_and_unknown_targets_are_refused():
    overview.check_config({"profile": "ci", "data": "d", "metro": {}}, ["metro"])
    with pytest.raises(SystemExit, match=r"'metr'.*did you mean 'metro'"):
        overview.refuse("metr", ["metro"])


def test_minutes_add_up_the_benchmarks_of_a_profile(tmp_path):
    folder = tmp_path / "results" / "toy" / "benchmarks" / "ci"
    folder.mkdir(parents=True)
    for name, seconds in (("a", 30), ("b", 60)):
        (folder / f"{name}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:00\n")
    assert overview.minutes(tmp_path, "toy") == {"ci": 1.5}
