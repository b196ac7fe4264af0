"""A house of its own: the frame of this checkout with one toy system beside it, in a temporary folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy"
FRAME = (
    *("Snakefile", "profiles", "operators/__init__.py", "operators/lab"),
    *("workflows/report", "workflows/datasets.yaml"),
)
# An editable install puts an import hook before sys.path; here the house's own copy must win.
NO_HOOK = (
    "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'ScikitBuildRedirectingFinder']\n"
)


class House:
    """A copy of the frame in `root` and the commands a user would type there."""

    def __init__(self, root: Path, repository: Path | None = None):
        self.root = root
        self.environment = {**os.environ, "PYTHONPATH": str(root)}
        self.environment.pop("RAY_ADDRESS", None)
        if repository:
            self._build(repository)

    def _build(self, repository: Path) -> None:
        for name in FRAME:
            copy = shutil.copytree if (repository / name).is_dir() else shutil.copyfile
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            copy(repository / name, self.root / name)
        shutil.copytree(TOY, self.root, dirs_exist_ok=True)
        (self.root / "sitecustomize.py").write_text(NO_HOOK)

    def command(self, *words: str) -> list[str]:
        """`snakemake` with these words, ci size unless they name a profile."""
        profile = [] if "--profile" in words or "--config" in words else ["--profile", "profiles/ci"]
        return [sys.executable, "-m", "snakemake", *words, *profile]

    def snakemake(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        """Run it to its end."""
        return subprocess.run(
            self.command(*words),
            cwd=cwd or self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *words: str) -> subprocess.Popen:
        """Start it in a session of its own."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


@pytest.fixture
def house(tmp_path, repository) -> House:
    """A fresh house."""
    return House(tmp_path / "house", repository)


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory, repository) -> House:
    """One house for tests that only read."""
    return House(tmp_path_factory.mktemp("shared") / "house", repository)


@pytest.fixture(scope="module")
def _finished(tmp_path_factory, repository) -> House:
    house = House(tmp_path_factory.mktemp("finished") / "house", repository)
    done = house.snakemake("toy")
    assert done.returncode == 0, done.stderr
    return house


@pytest.fixture
def finished(_finished, tmp_path) -> House:
    """A copy of a house whose toy has run at ci size."""
    return House(shutil.copytree(_finished.root, tmp_path / "house", symlinks=True))
