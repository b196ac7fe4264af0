"""The trace and index stages as commands: a build killed at any time goes on, verify tells, errors are one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from operators.batann import index, trace
from operators.batann.build import Build
from operators.batann.layout import open_index
from operators.batann.metric import stored
from operators.batann.settings import Settings
from operators.batann.vectors import read_vectors, write_bin
from tests.batann.sets import vectors

SMALL = {
    "n": 1500, "queries": 50, "R": 16, "L_build": 24, "pq_chunks": 8, "pq_iters": 2, "head_R": 8, "head_L": 16,
    "servers": [1, 3], "methods": ["gp", "random"],
}  # fmt: skip
PAIRS = [f"{key}={value}" for key, value in SMALL.items()]
WAIT_S = 120


def command(module: str, *arguments: str, pairs: list[str] = PAIRS) -> list[str]:
    return [
        sys.executable,
        "-m",
        f"operators.batann.{module}",
        *(word for pair in pairs for word in ("--set", pair)),
        *arguments,
    ]


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    outs = {
        "out_base": "base.u8bin",
        "out_query": "query.u8bin",
        "out_truth": "truth.parquet",
        "out_stats": "stats.parquet",
    }
    trace.main(settings=Settings(**SMALL), **{key: folder / name for key, name in outs.items()})
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def build(traced: Path, folder: Path, **change):
    settings = Settings(**SMALL | change)
    inputs = {"base": traced / "base.u8bin", "query": traced / "query.u8bin", "truth": traced / "truth.parquet"}
    index.main(settings=settings, dir=folder, shards=True, **inputs)
    return pl.read_parquet(folder / "build.parquet")


@pytest.fixture(scope="module")
def built(traced, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(traced, folder)
    return folder


def test_the_trace_is_what_the_settings_say(traced):
    ids, dists, mark = trace.read_truth(traced / "truth.parquet")
    assert ids.shape == dists.shape == (50, 10)
    assert mark == "synthetic"
    base, queries = read_vectors(traced / "base.u8bin"), read_vectors(traced / "query.u8bin")
    np.testing.assert_array_equal(base, vectors(1500))
    nearest = ((base[ids].astype(int) - queries[:, None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest, dists)
    stats = pl.read_parquet(traced / "stats.parquet").row(0, named=True)
    assert (stats["n"], stats["d"], stats["queries"], stats["data"]) == (1500, 128, 50, "synthetic")


def test_every_step_has_its_row_and_every_layout_opens(built):
    frame = pl.read_parquet(built / "build.parquet")
    rows = {row["step"]: row for row in frame.iter_rows(named=True)}
    assert set(rows) == {
        "pq", "codes", "graph", "head", "knn", "partition_gp_1", "partition_gp_3", "partition_random_3", "layout_gp_1",
        "layout_gp_3", "layout_random_3", "shards_gp_3", "recall_L20", "recall_L40",
    }  # fmt: skip
    assert rows["recall_L40"]["recall"] > 0.97
    assert rows["partition_gp_3"]["cut"] < rows["partition_random_3"]["cut"]
    assert rows["partition_gp_3"]["largest"] <= 1.05
    for name in ("layout_gp_1", "layout_gp_3", "layout_random_3"):
        assert open_index(built / name).meta.parts == int(name[-1])
        assert rows[name]["bytes"] > 0
    assert len(list((built / "shards_gp_3").iterdir())) == 3


def test_a_second_run_keeps_everything_and_a_changed_setting_what_it_does_not_touch(traced, built, tmp_path):
    before = {
        path: path.stat().st_mtime_ns for path in built.rglob("*") if path.is_file() and path.suffix != ".parquet"
    }
    frame = build(traced, built)
    assert frame.filter(pl.col("recall").is_null() & ~pl.col("step").str.starts_with("shards"))["reused"].all()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", str(built), str(other)], check=True)
    kept = {row["step"]: row["reused"] for row in build(traced, other, alpha=1.3).iter_rows(named=True)}
    assert (kept["pq"], kept["knn"], kept["partition_gp_3"]) == (True, True, True)
    assert (kept["graph"], kept["head"], kept["layout_gp_3"]) == (False, False, False)


@pytest.mark.parametrize("at", ["pq.npz", "graph.npz", "layout_gp_1"])
def test_a_build_killed_after_any_step_goes_on_and_ends_the_same(traced, built, tmp_path, at):
    arguments = ("--base", str(traced / "base.u8bin"), "--dir", str(tmp_path / "index"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command("index", *arguments), stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + WAIT_S
    while not (tmp_path / "index" / at).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "index" / at).exists()
    done = subprocess.run(command("index", *arguments), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "pq: kept" in done.stderr
    if at != "pq.npz":
        assert "graph: kept" in done.stderr
    assert bytes_of(tmp_path / "index" / "layout_gp_3") == bytes_of(built / "layout_gp_3")


def test_verify_names_file_and_sector_and_fails(built, tmp_path):
    subprocess.run(["cp", "-r", str(built / "layout_gp_3"), str(tmp_path / "x")], check=True)
    whole = subprocess.run(command("index", "--verify", str(tmp_path / "x"), pairs=[]), capture_output=True, text=True)
    assert (whole.returncode, "as it was written" in whole.stdout) == (0, True)
    with open(tmp_path / "x" / "part-02.index", "r+b") as file:
        file.seek(4096 + 9)
        file.write(b"\xff\xfe")
    done = subprocess.run(command("index", "--verify", str(tmp_path / "x"), pairs=[]), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("part-02.index sector 1 (byte 4096): stored ")
    assert "1 damaged places" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_one_line(tmp_path):
    done = subprocess.run(command("index", "--verify", str(tmp_path), pairs=[]), capture_output=True, text=True)
    assert done.returncode == 1
    assert "meta.json: no such file; expected an index folder" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ValueError, match="--base and --dir"):
        index.main(settings=Settings())


def test_other_metrics_and_types_go_all_the_way(tmp_path):
    x = vectors(600)[:, :24].astype(np.float32) / 9
    settings = Settings(**SMALL | {"metric": "ip", "servers": [2], "methods": ["kmeans"], "partition": "kmeans"})
    made = Build(tmp_path, stored(x, "ip"), settings)
    found = open_index(made.layout("kmeans", 2))
    assert (found.meta.metric, found.meta.d, found.meta.dim_in, found.meta.dtype) == ("ip", 25, 24, "float32")
    assert found.meta.scale == pytest.approx(np.linalg.norm(x, axis=1).max())
    write_bin(tmp_path / "x.i8bin", (x.astype(np.int16) - 5).astype(np.int8))
    index.main(settings=settings.with_values(["metric=l2"]), base=tmp_path / "x.i8bin", dir=tmp_path / "i8")
    assert open_index(tmp_path / "i8" / "layout_kmeans_2").meta.dtype == "int8"
    assert not list((tmp_path / "i8").glob("shards_*"))  # only on request


@pytest.mark.parametrize(
    ("d", "change", "options", "words"),
    [
        (8, {}, {"servers": [0]}, r"servers \(=0\): expected 1 to 256"),
        (8, {}, {"servers": [2, 257]}, r"servers \(=257\): expected 1 to 256"),
        (8, {}, {"methods": ["gpp"]}, r"methods \(='gpp'\): expected some of gp, "),
        (8, {"pq_chunks": 40}, {}, r"pq_chunks \(=40\): expected 1 to the dimension \(=8\), as in --set pq_chunks=8"),
        (1500, {}, {}, r"record: 60\d\d bytes \(d=1500 float32, R=16\); expected at most 4096"),
    ],
)
def test_what_cannot_be_indexed_is_refused_before_anything_is_built(tmp_path, d, change, options, words):
    np.save(tmp_path / "x.npy", np.ones((300, d), np.float32))
    with pytest.raises(ValueError, match=words):
        index.main(settings=Settings(**SMALL | change), base=tmp_path / "x.npy", dir=tmp_path / "index", **options)
    assert not (tmp_path / "index").exists()


def test_below_32_dimensions_the_default_is_a_byte_a_dimension(tmp_path):
    np.save(tmp_path / "x.npy", vectors(600)[:, :24].astype(np.float32))
    settings = Settings(**{name: value for name, value in SMALL.items() if name != "pq_chunks"})
    options = {"servers": [2], "methods": ["kmeans"]}
    index.main(settings=settings, base=tmp_path / "x.npy", dir=tmp_path / "index", **options)
    assert open_index(tmp_path / "index" / "layout_kmeans_2").meta.d == 24
    with np.load(tmp_path / "index" / "codes.npz") as made:
        assert made["codes"].shape == (600, 24)
