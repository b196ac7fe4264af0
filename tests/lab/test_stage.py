"""Stages: the command line from a signature, atomic and stamped tables, one-line errors, an end with the run."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from operators.lab import settings as lab
from operators.lab import stage

SCHEMA = {"name": pl.String, "value": pl.Float64}
SETTINGS = lab.Settings(system="demo")


def frame():
    return pl.DataFrame({"name": ["a"], "value": [1.0]}, schema=SCHEMA)


def test_a_table_carries_its_stamp_and_nothing_else_is_left(tmp_path):
    stage.write_table(frame(), tmp_path / "t.parquet", schema=SCHEMA, settings=SETTINGS, data="synthetic")
    found = stage.read_stamp(tmp_path / "t.parquet")
    assert found["system"] == "demo"
    assert found["settings"] == SETTINGS.digest()
    assert found["data"] == "synthetic"
    assert {"commit", "machine", "packages", "seed", "profile"} <= set(found)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (frame().drop("value"), "missing \\['value'\\]"),
        (frame().with_columns(more=1), "extra \\['more'\\]"),
        (frame().with_columns(pl.col("value").cast(pl.Int64)), "column value is Int64; expected Float64"),
    ],
)
def test_a_table_of_another_shape_is_refused_and_nothing_is_written(wrong, word, tmp_path):
    with pytest.raises(stage.SchemaError, match=word):
        stage.write_table(wrong, tmp_path / "t.parquet", schema=SCHEMA, settings=SETTINGS, data="real")
    assert not list(tmp_path.iterdir())


def test_a_table_must_say_whether_it_is_real(tmp_path):
    with pytest.raises(stage.SchemaError, match="real or synthetic"):
        stage.write_table(frame(), tmp_path / "t.parquet", schema=SCHEMA, settings=SETTINGS)


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    target = tmp_path / "t"
    target.write_text("old")
    with pytest.raises(RuntimeError), stage.atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_corrupt_table_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(stage.SchemaError, match=r"t\.parquet: not a readable"):
        stage.read_table(tmp_path / "t.parquet")


COMMAND = """
'''A demonstration.'''
from pathlib import Path
from operators.lab import settings as lab, stage

def main(*, settings: lab.Settings, out: Path, rows: int = 3, names: list[str] | None = None, fast: bool = False):
    '''Write what was given.

    Args:
        rows: how many
    '''
    import os
    if rows < 0:
        raise ValueError(f"rows (={rows}): must be >= 0")
    out.write_text(f"{rows} {names} {fast} {settings.seed} {os.environ['POLARS_MAX_THREADS']}")

if __name__ == "__main__":
    stage.run(main)
"""


@pytest.fixture
def command(tmp_path, repository):
    (tmp_path / "demo_stage.py").write_text(COMMAND)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}"}

    def call(*arguments, **more):
        return subprocess.run(
            [sys.executable, "-m", "demo_stage", *arguments],
            capture_output=True,
            text=True,
            env={**environment, **more},
            cwd=tmp_path,
        )

    return call


def test_options_come_from_the_signature(command, tmp_path):
    settings = tmp_path / "s.yaml"
    settings.write_text("system: demo\nseed: 3\n")
    done = command(
        *("--out", "o", "--settings", str(settings), "--rows", "5", "--names", "x", "y", "--fast", "--threads", "2")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o").read_text() == "5 ['x', 'y'] True 3 2"


def test_help_and_one_line_errors(command, tmp_path):
    assert "how many" in command("--help").stdout
    (tmp_path / "s.yaml").write_text("system: demo\n")
    bad = command("--out", "o", "--settings", "s.yaml", "--rows", "-1")
    assert bad.returncode == 1
    assert bad.stderr.strip() == "demo_stage: error: rows (=-1): must be >= 0"
    assert "Traceback" in command("--out", "o", "--settings", "s.yaml", "--rows", "-1", "--debug").stderr


def test_a_stage_ends_when_its_run_is_gone(command, tmp_path):
    (tmp_path / "s.yaml").write_text("system: demo\n")
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = command("--out", "o", "--settings", "s.yaml", **{stage.RUN_PID: str(gone.pid)})
    assert done.returncode != 0
    assert not (tmp_path / "o").exists()


def test_a_full_disk_is_one_line_and_leaves_no_table(tmp_path, monkeypatch):
    small = Path("/dev/full")
    if not small.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left"), stage.atomic(tmp_path / "t") as temporary:
        temporary.symlink_to(small)
        temporary.write_text("x" * 10_000)
    assert not list(tmp_path.iterdir())
