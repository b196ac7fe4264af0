"""README.md: the verdict block is complete and untouched, the commands it shows exist, the code it shows runs."""

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
    assert re.search(r"commit `[0-9a-f]{12}\+?`, \d{4}-\d\d-\d\d", block)


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


def test_the_python_it_shows_runs():
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert examples
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_data_set_has_a_licence_line():
    from operators.lab import datasets

    for name, entry in datasets.catalogue().items():
        assert f"`{name}`" in TEXT, name
        assert entry.licence.partition(";")[0].partition(" (")[0] in TEXT, name
