"""README.md: the verdict block is complete and untouched, the commands it shows exist, the code it shows runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from operators.lab import claims, overview, readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_block_is_as_written_and_names_every_system_and_claim():
    block = readme.block_of(TEXT)
    for system in overview.systems(ROOT):
        assert f"[{system}]" in block, system
        for claim in claims.load(ROOT / "workflows" / system / "claims.yaml").claims:
            assert f"| {claim.id} |" in block, claim.id
    assert re.search(r"Written \d{4}-\d\d-\d\d", block)
    run = r"\| (?:laptop|full|paper) `(?:[0-9a-f]{12}\+?)+` \|"  # + after a commit: with uncommitted changes, or two
    assert len(re.findall(run, block)) == len(overview.systems(ROOT))


def test_an_edit_by_hand_is_noticed():
    made = readme.with_block(TEXT, "| a | 1 |\n")
    assert readme.block_of(made) == "| a | 1 |\n"
    with pytest.raises(readme.ReadmeError, match="edited by hand"):
        readme.block_of(made.replace("| a | 1 |", "| a | 2 |"))
    with pytest.raises(readme.ReadmeError, match="no verdict block"):
        readme.block_of("nothing")


def test_the_commands_it_shows_exist():
    makefile = (ROOT / "Makefile").read_text()
    shown = re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE) + re.findall(r"`make ([a-z-]+)", TEXT)
    assert {"run", "test"} <= set(shown)
    for target in shown:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def started(example: str, folder: Path) -> subprocess.Popen:
    """An example run as a file, its region (if any) in `folder`."""
    path = folder / "example.py"
    path.write_text(example.replace("/dev/shm/", f"{folder}/"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-u", str(path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("example", [example for example in EXAMPLES if "while True" not in example])
def test_the_python_it_shows_runs(example, tmp_path):
    process = started(example, tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_the_example_that_is_to_be_killed_keeps_its_total(tmp_path):
    (example,) = [example for example in EXAMPLES if "while True" in example]
    for _ in range(3):
        process = started(example, tmp_path)
        line = process.stdout.readline()
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert "total: 2000000" in line, errors


def test_every_data_set_has_a_licence_line():
    from operators.lab import datasets

    for name, entry in datasets.catalogue().items():
        assert f"`{name}`" in TEXT, name
        assert entry.licence.partition(";")[0].partition(" (")[0] in TEXT, name
