"""Data sets: where they are looked for, and that damage is never taken for data."""

import polars as pl
import pytest

from operators.lab import datasets
from operators.lab.datasets import DatasetError


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An inventory of one set with one table."""
    root = tmp_path / "data"
    (root / "demo").mkdir(parents=True)
    frame = pl.DataFrame({"n": [1, 2], "ids": [[1], [2, 3]]})
    frame.write_parquet(root / "demo" / "t.parquet")
    spec = datasets.File(
        "t.parquet",
        sha256=datasets.sha256(root / "demo" / "t.parquet"),
        content=datasets.content_hash(frame),
        columns={"n": "Int64"},
    )
    entry = datasets.Dataset("demo", "a demo", "nowhere", "0" * 40, "none", ("toy",), {"t.parquet": spec})
    monkeypatch.setattr(datasets, "catalogue", lambda: {"demo": entry})
    return root


def test_the_inventory_is_complete():
    for name, entry in datasets.catalogue().items():
        assert entry.source.startswith(("https://", "generated")), name
        assert len(entry.commit) == 40 if entry.fetch else entry.commit, name  # without a recipe it is for readers
        assert entry.licence, name
        assert entry.systems, name
        assert entry.files, name


def test_real_sets_match_the_inventory(real_data):
    for name, entry in datasets.catalogue().items():
        if datasets.present(name, real_data):
            for file in entry.files:
                is_table = file.endswith((".csv", ".parquet"))
                assert len(datasets.read(name, file, real_data)) if is_table else datasets.path(name, file, real_data)


def test_roots_in_order_and_a_missing_given_root_is_an_error(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    assert datasets.find_root(base=work) is None
    some = next(iter(datasets.catalogue()))
    (tmp_path / "shared" / "data" / some).mkdir(parents=True)
    (work / "data" / ".unfinished.part").mkdir(parents=True)
    assert datasets.find_root(base=work) == work / "../shared/data"
    (work / "data" / some).mkdir(parents=True)
    assert datasets.find_root(base=work) == work / "data"
    assert "twins stand in for" in datasets.describe(work / "data")
    assert "none found" in datasets.describe(None)
    assert datasets.find_root("synthetic", base=work) is None
    with pytest.raises(DatasetError, match="nowhere"):
        datasets.find_root("nowhere", base=work)


def test_a_good_file_is_read_whatever_wrote_it(small):
    frame = datasets.read("demo", "t.parquet", small)
    frame.write_parquet(small / "demo" / "t.parquet", compression="uncompressed")
    assert datasets.read("demo", "t.parquet", small).equals(frame)


def test_damage_is_an_error_not_a_twin(small):
    place = small / "demo" / "t.parquet"
    whole = place.read_bytes()
    place.write_bytes(whole[:-20])
    with pytest.raises(DatasetError, match=r"t\.parquet: sha256 .*expected"):
        datasets.read("demo", "t.parquet", small)
    pl.DataFrame({"n": [1, 2], "ids": [[1], [2, 4]]}).write_parquet(place)
    with pytest.raises(DatasetError, match="damaged or of another version"):
        datasets.read("demo", "t.parquet", small)
    place.unlink()
    with pytest.raises(DatasetError, match="missing"):
        datasets.read("demo", "t.parquet", small)


def test_a_wrong_schema_is_named(small, monkeypatch):
    entry = datasets.catalogue()["demo"]
    entry.files["t.parquet"].columns["n"] = "String"
    with pytest.raises(DatasetError, match="column n is Int64; expected String"):
        datasets.read("demo", "t.parquet", small)
    entry.files["t.parquet"].columns["x"] = "String"
    entry.files["t.parquet"].columns.pop("n")
    with pytest.raises(DatasetError, match="no column 'x'"):
        datasets.read("demo", "t.parquet", small)


def test_unknown_sets_and_files_list_what_there_is(small):
    with pytest.raises(DatasetError, match="demo"):
        datasets.lookup("nothing")
    with pytest.raises(DatasetError, match=r"t\.parquet"):
        datasets.path("demo", "u.parquet", small)


def test_workflow_inputs_are_the_files_of_present_sets(small):
    assert datasets.inputs(["demo"], small) == [str(small / "demo" / "t.parquet")]
    assert datasets.inputs(["demo"], None) == []
