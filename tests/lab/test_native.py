"""Native cores: all of them live in one process, each with its own classes."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SYSTEMS = sorted(path.parents[1].name for path in ROOT.glob("operators/*/native/CMakeLists.txt"))
LIST = """
import importlib, sys
for system in sys.argv[1:]:
    core = importlib.import_module(f"operators.{system}._native")
    print(system, *sorted(name for name in dir(core) if not name.startswith("_")))
"""


def names(*systems: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", LIST, *systems], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "already registered" not in done.stderr
    return done.stdout.splitlines()


def test_one_core_hides_nothing_of_another():
    for system in SYSTEMS:
        try:
            importlib.import_module(f"operators.{system}._native")
        except ImportError:
            pytest.skip(f"the native core of {system} is not built")
    alone = [line for system in SYSTEMS for line in names(system)]
    assert names(*SYSTEMS) == alone
    assert names(*reversed(SYSTEMS)) == alone[::-1]
