"""Index folders: the DiskANN layout read back by plain means, damage found and named, nothing half-written."""

import json
import shutil
import zlib

import numpy as np
import pytest

from operators.batann import layout
from operators.batann.head import build_head
from operators.batann.layout import IndexCorrupt, open_index, record_bytes, write_index
from operators.batann.pq import PQ
from operators.batann.shards import write_shards
from operators.batann.truth import exact_neighbours
from operators.batann.vamana import Graph
from operators.batann.verify import verify_index
from tests.batann.sets import parts_of_an_index, vectors

PARTS = np.random.default_rng(4).integers(0, 3, 2000).astype(np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    write_index(folder, *parts_of_an_index()[:4], PARTS, parts_of_an_index()[4], extra={"seed": 0})
    return folder


@pytest.fixture
def copy(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def test_records_lie_where_any_reader_of_the_layout_looks(written):
    """Sector, offset, vector, degree, ids: read with nothing but NumPy and the header's numbers."""
    x, graph = parts_of_an_index()[:2]
    meta = json.loads((written / "meta.json").read_text())
    size, per = meta["record_bytes"], meta["records_per_sector"]
    assert (size, per) == (128 + 4 + 4 * 24, 4096 // 228)
    seen = 0
    for part in range(3):
        body = (written / f"part-{part:02d}.index").read_bytes()
        ids = np.fromfile(written / f"part-{part:02d}.ids", "<u4")
        sums = np.fromfile(written / f"part-{part:02d}.crc", "<u4")
        assert len(body) == 4096 * len(sums) == 4096 * -(-len(ids) // per)
        assert [zlib.crc32(body[at : at + 4096]) for at in range(0, len(body), 4096)] == sums.tolist()
        np.testing.assert_array_equal(ids, np.flatnonzero(part == PARTS))
        for slot, node in enumerate(ids):
            record = body[slot // per * 4096 + slot % per * size :][:size]
            assert record[:128] == x[node].tobytes()
            degree = int.from_bytes(record[128:132], "little")
            assert degree == graph.deg[node]
            np.testing.assert_array_equal(np.frombuffer(record, "<u4", degree, 132), graph.adj[node, :degree])
            seen += 1
    assert seen == 2000


def test_the_papers_record_is_388_bytes_ten_a_sector():
    assert record_bytes(128, np.uint8, 64) == 388
    assert 4096 // 388 == 10
    assert record_bytes(4096 - 4 - 8, np.uint8, 2) == 4096
    with pytest.raises(ValueError, match=r"record: 4100 bytes \(d=960 float32, R=64\); expected at most 4096"):
        record_bytes(960, np.float32, 64)


def test_an_index_opens_with_everything_in_it(written):
    x, graph, pq, codes, head = parts_of_an_index()
    index = open_index(written)
    np.testing.assert_array_equal(index.codes, codes)
    np.testing.assert_array_equal(index.map, PARTS)
    np.testing.assert_array_equal(index.pq.centroids, pq.centroids)
    np.testing.assert_array_equal(index.head.ids, head.ids)
    np.testing.assert_array_equal(index.head.graph.adj, head.graph.adj)
    np.testing.assert_array_equal(index.head.vectors, x[head.ids])
    assert (index.meta.n, index.meta.d, index.meta.dtype, index.meta.medoid) == (2000, 128, "uint8", graph.medoid)
    assert index.meta.sizes == np.bincount(PARTS).tolist()
    assert index.global_ids is None
    assert index.epoch == int(json.loads((written / "meta.json").read_text())["epoch"], 16) < 2**64
    vector, ids = index.record(1, 5)
    node = index.part_ids(1)[5]
    np.testing.assert_array_equal(vector, x[node])
    np.testing.assert_array_equal(ids, graph.adj[node, : graph.deg[node]])
    assert verify_index(written) == []


def test_the_head_finds_near_vectors_of_the_sample():
    x, _, _, _, head = parts_of_an_index()
    queries = vectors(20, stream=1)
    ids, _ = exact_neighbours(head.vectors, queries, 3)
    np.testing.assert_array_equal(head.search(queries, 3, len(head.ids)), head.ids[ids])
    assert len(build_head(x, 0).ids) == 0
    assert (build_head(x, 0).search(queries, 3, 8) == 2**32 - 1).all()


def test_the_same_input_gives_the_same_bytes_and_another_another_epoch(written, tmp_path):
    pieces = parts_of_an_index()
    again = write_index(tmp_path / "again", *pieces[:4], PARTS, pieces[4], extra={"seed": 0})
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    other = write_index(tmp_path / "other", *pieces[:4], (PARTS + 1) % 3, pieces[4], extra={"seed": 0})
    assert other.epoch != again.epoch


def flip(path, at: int) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 0x10
    path.write_bytes(body)


@pytest.mark.parametrize("sector", [0, 7])
def test_a_damaged_record_is_named_by_file_and_sector(copy, sector):
    path = copy / "part-01.index"
    stored = np.fromfile(copy / "part-01.crc", "<u4")[sector]
    flip(path, sector * 4096 + 700)
    (damage,) = verify_index(copy)
    assert (damage.file, damage.sector, damage.stored) == ("part-01.index", sector, f"{stored:08x}")
    assert damage.computed == f"{zlib.crc32(path.read_bytes()[sector * 4096 :][:4096]):08x}" != damage.stored
    per = open_index(copy).meta.records_per_sector
    assert damage.nodes == tuple(open_index(copy).part_ids(1)[sector * per : (sector + 1) * per])
    assert f"part-01.index sector {sector} (byte {sector * 4096}): stored {damage.stored}" in str(damage)
    with pytest.raises(IndexCorrupt, match=f"at byte {sector * 4096}: sector {sector} is damaged"):
        open_index(copy).record(1, sector * per)


@pytest.mark.parametrize("name", ["codes.bin", "map.u8", "head.adj", "part-00.ids", "part-00.crc"])
def test_damage_of_any_other_file_is_found(copy, name):
    flip(copy / name, (copy / name).stat().st_size - 40)
    found = {damage.file for damage in verify_index(copy)}
    # a wrong sum in the list of sums shows as a sector that does not fit it, and as the list's own sha256
    assert found == ({"part-00.index", "part-00.crc"} if name == "part-00.crc" else {name})


def test_a_damaged_codebook_cannot_be_opened(copy):
    flip(copy / "pq.npz", 3000)
    with pytest.raises(IndexCorrupt, match=r"pq\.npz: not readable"):
        open_index(copy)


@pytest.mark.parametrize("name", ["part-02.index", "codes.bin", "map.u8", "head.vec", "pq.npz", "part-00.ids"])
def test_truncated_and_missing_files_are_refused_on_opening(copy, name):
    path = copy / name
    body = path.read_bytes()
    path.write_bytes(body[:-1])
    with pytest.raises(IndexCorrupt, match=f"{name} at byte {len(body) - 1}: .* expected {len(body)}") as caught:
        open_index(copy)
    assert (caught.value.path, caught.value.offset) == (path, len(body) - 1)
    path.unlink()
    with pytest.raises(IndexCorrupt, match="missing"):
        open_index(copy)


def test_edited_foreign_and_older_meta_are_refused(copy):
    path = copy / "meta.json"
    values = json.loads(path.read_text())
    for change, text in [
        ({"medoid": values["medoid"] + 1}, "does not fit the values"),
        ({"epoch": "0" * 16}, "epoch 0000000000000000 does not fit"),
        ({"version": 99}, "version 99; expected 1"),
        ({"format": "other"}, "not an index of this library"),
        ({"surprise": 1}, "fields differ"),
    ]:
        path.write_text(json.dumps(values | change))
        with pytest.raises(IndexCorrupt, match=text):
            open_index(copy)
    path.write_text("{")
    with pytest.raises(IndexCorrupt, match="not readable"):
        open_index(copy)
    path.unlink()
    with pytest.raises(IndexCorrupt, match="expected an index folder"):
        open_index(copy)


def test_nothing_half_written_stays_and_an_older_index_survives_a_failure(written, tmp_path, monkeypatch):
    pieces = parts_of_an_index()
    shutil.copytree(written, tmp_path / "index")
    before = (tmp_path / "index" / "meta.json").read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(layout, "_write_shared", fail)
    with pytest.raises(OSError, match="disk full"):
        write_index(tmp_path / "index", *pieces[:4], PARTS, pieces[4])
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert (tmp_path / "index" / "meta.json").read_text() == before
    monkeypatch.undo()
    write_index(tmp_path / "index", *pieces[:4], PARTS * 0, pieces[4])
    assert open_index(tmp_path / "index").meta.parts == 1
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_pieces_that_do_not_fit_are_named(tmp_path):
    x, graph, pq, codes, head = parts_of_an_index()
    for change, text in [
        ({"codes": codes[:, :8]}, r"codes: shape \(2000, 8\); expected \(2000, 16\)"),
        ({"part": PARTS[:9]}, r"part: shape \(9,\); expected \(2000,\)"),
        ({"part": PARTS.astype(np.int64) + 255}, "258 partitions; expected at most 256|257 partitions"),
        ({"parts": 2}, r"part: partition 2; expected below parts \(=2\)"),
        ({"graph": Graph(graph.adj[:5], graph.deg[:5], 0)}, r"graph: shape \(5,\)"),
        ({"pq": PQ(pq.centroids[:, :64], pq.offsets // 2)}, "pq: 64 dimensions; expected the vectors' 128"),
        ({"ids": np.arange(3)}, r"ids: shape \(3,\)"),
        ({"x": x[:, ::2]}, "contiguous|dimensions"),
    ]:
        given = {"x": x, "graph": graph, "pq": pq, "codes": codes, "part": PARTS, "head": head} | change
        with pytest.raises(ValueError, match=text):
            write_index(tmp_path / "index", **given)
    assert not list(tmp_path.iterdir())


def test_shards_are_indexes_of_their_own_and_are_kept(tmp_path):
    x = vectors(600)
    part = np.arange(600).astype(np.uint8) % 2
    options = {"R": 12, "L": 24, "chunks": 8, "iters": 2, "head_R": 8, "head_L": 16}
    folders = write_shards(tmp_path, x, part, **options)
    times = [(folder / "meta.json").stat().st_mtime_ns for folder in folders]
    for shard, folder in enumerate(folders):
        index = open_index(folder)
        np.testing.assert_array_equal(index.global_ids, np.flatnonzero(part == shard))
        vector, _ = index.record(0, 3)
        np.testing.assert_array_equal(vector, x[index.global_ids[3]])
    assert write_shards(tmp_path, x, part, **options) == folders
    assert [(folder / "meta.json").stat().st_mtime_ns for folder in folders] == times
    (folders[1] / "codes.bin").unlink()
    write_shards(tmp_path, x, part, **options)
    assert open_index(folders[1]).meta.extra["shard"] == 1
    assert (folders[0] / "meta.json").stat().st_mtime_ns == times[0]
    with pytest.raises(ValueError, match="block 0 is empty"):
        write_shards(tmp_path, x, part * 0 + 1, **options)
