"""Shards, planner, server and workers without Ray; then real workers that are killed, stopped and starved."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from operators.lab import cluster, stage
from operators.synthpix import SourceTimeout, catalogue, rendering, shards, simulate, trace
from operators.synthpix.actors import FlowServer
from operators.synthpix.settings import Settings
from operators.synthpix.shards import Shard, ShardPlanner
from tests.synthpix.configurations import same, small_flow

SMALL = {
    "analytic": ["uniform", "rotation"],
    "items": ["backstep"],
    "sizes": [{"height": 32, "width": 40, "pairs": 40}, {"height": 24, "width": 24, "pairs": 20}],
    "shard_pairs": 16,
    "batch_size": 16,
    "workers": 1,
}


def settings(**changes) -> Settings:
    return Settings.checked({**SMALL, **changes})


def hashes_of(made: Settings) -> list[str]:
    entries = catalogue.entries(made.analytic, made.items, None)
    flows = [catalogue.load(e, (s.height, s.width), seed=made.seed, root=None) for s in made.sizes for e in entries]
    return [hashlib.sha256(flow.values.tobytes()).hexdigest() for flow in flows]


def render(made: Settings, folder: Path, **options):
    return rendering.run(made, folder, None, hashes_of(made), **options)


def bytes_of(place: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(place.glob("*.parquet"))}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Shards and manifest rendered in this process."""
    place, manifest, _ = render(settings(), tmp_path_factory.mktemp("plain"))
    return bytes_of(place), manifest


def test_the_planner_gives_every_shard_once_and_takes_lost_ones_back():
    planned = shards.plan([40, 20], 16)
    assert [(s.first, s.count, s.size) for s in planned] == [
        (0, 16, 0),
        (16, 16, 0),
        (32, 8, 0),
        (40, 16, 1),
        (56, 4, 1),
    ]
    planner = ShardPlanner(planned)
    first, second = planner.next(0), planner.next(1)
    planner.validate()
    planner.done(second.number, "b")
    assert planner.lost(0) == [first.number]
    assert planner.next(1) == first
    planner.done(first.number, "a")
    planner.done(first.number, "a")
    with pytest.raises(ValueError, match=r"shard 0: written as c, before as a"):
        planner.done(0, "c")
    with pytest.raises(ValueError, match=r"shard: 9; there are 5"):
        planner.done(9, "c")
    while (shard := planner.next(2)) is not None:
        planner.done(shard.number, "x")
        planner.validate()
    assert planner.finished
    assert planner.next(0) is None
    assert planner.state()["pending"] == []


def test_the_manifest_tells_every_pair_and_its_bytes(plain, tmp_path):
    _, manifest = plain
    assert list(manifest.columns) == list(simulate.KINDS)
    assert manifest["pair"].to_list() == list(range(60))
    assert manifest["sha256"].n_unique() == 60
    assert set(manifest["flow_id"]) == {
        f"{f}-{s}" for f in ("uniform", "rotation", "backstep") for s in ("32x40", "24x24")
    }
    assert manifest["data"].unique().to_list() == ["synthetic"]
    place, _, _ = render(settings(), tmp_path)
    image1, image2, label = rendering.read_pairs(place, [41, 3], settings())[0]
    assert shards.pair_hash(image1, image2, label) == manifest["sha256"][41]
    generator = rendering.generator(settings(), 1)
    assert same(np.array(image1), generator.pair(rendering.load_flow(settings(), None, 1, 41 % 3), 41).image1)


def test_a_rerun_renders_only_what_is_missing_or_damaged(plain, tmp_path, monkeypatch):
    wanted, manifest = plain
    place, _, _ = render(settings(), tmp_path)
    (place / "00001.parquet").unlink()
    damaged = place / "00003.parquet"
    content = bytearray(damaged.read_bytes())
    content[600] ^= 255
    damaged.write_bytes(content)
    (place / ".00004.parquet.99.part").write_bytes(b"half")
    (tmp_path / "000000000000").mkdir()  # of another run
    rendered = []
    original = rendering.RenderWorker.render
    monkeypatch.setattr(rendering.RenderWorker, "render", lambda self, shard, flows, **k: rendered.append(shard.number)
                        or original(self, shard, flows, **k))  # fmt: skip
    again, table, _ = render(settings(), tmp_path)
    assert rendered == [1, 3]
    assert bytes_of(again) == wanted
    assert table.equals(manifest)
    assert [path.name for path in tmp_path.iterdir()] == [again.name]
    assert not list(again.glob(".*.part"))
    render(settings(workers=2, batch_size=32, piv_pairs=7), tmp_path)  # nothing the bytes depend on
    assert rendered == [1, 3]
    other, _, _ = render(settings(seed=1), tmp_path)
    assert other != again
    assert not set(bytes_of(other).values()) & set(wanted.values())


def test_blocks_and_shard_sizes_do_not_change_a_pair(plain, tmp_path):
    _, manifest = plain
    _, other, _ = render(settings(shard_pairs=7, batch_size=64), tmp_path)
    assert other["sha256"].to_list() == manifest["sha256"].to_list()


def test_a_full_disk_is_an_error_and_leaves_no_half_shard(tmp_path):
    worker = rendering.worker(settings().model_dump_json(), tmp_path, {"uniform": "synthetic"})
    with pytest.raises(OSError, match=r"No space left on device"):
        worker.render(Shard(0, 0, 0, 16), [small_flow()], full_disk=True)
    assert not list(tmp_path.glob("*.parquet"))
    assert not list(tmp_path.glob(".*"))
    worker.render(Shard(0, 0, 0, 16), [small_flow()])
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["00000.parquet"]


def test_the_flow_server_reads_once_and_names_a_slow_read():
    reads = []

    def load(size, number):
        reads.append(number)
        return small_flow(number)

    server = FlowServer(load, steady_s=0.05)
    assert [f.name for f in server.get(0, [2, 0])] == ["flow 2", "flow 0"]
    server.get(0, [0, 2])
    assert server.stats() == {"reads": 2, "kept": 2}
    server.slow_down(0.1)
    with pytest.raises(SourceTimeout, match=r"flow 1: not read within 0.05 s"):
        server.get(0, [1])
    assert server.get(0, [1])[0].name == "flow 1"
    assert reads == [2, 0, 1]


def by_ray(made: Settings, folder: Path, head: Path, **options):
    return render(made, folder, connect=lambda: cluster.connect(head), **options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_writes_the_same_shards(workers, plain, tmp_path, ray_head):
    place, manifest, report = by_ray(settings(workers=workers), tmp_path, ray_head)
    assert bytes_of(place) == plain[0]
    assert manifest.equals(plain[1])
    assert report.restarts == 0


def test_a_killed_worker_costs_nothing_but_time(plain, tmp_path, ray_head):
    faults = [{"kind": "kill", "target": 0, "at_shard": 1}, {"kind": "kill", "target": 1, "at_shard": 3}]
    place, manifest, report = by_ray(settings(workers=2, faults=faults), tmp_path, ray_head)
    assert len(report.struck) == 2
    assert report.restarts >= 1
    assert bytes_of(place) == plain[0]
    assert manifest.equals(plain[1])


@pytest.mark.slow
def test_a_stopped_worker_is_replaced_after_the_deadline(plain, tmp_path, ray_head):
    faults = [{"kind": "stop", "target": 0, "at_shard": 0, "for_s": 60}]
    place, _, report = by_ray(settings(workers=1, faults=faults), tmp_path, ray_head, deadline_s=2.0)
    assert report.struck == ["stop of worker 0 at shard 0"]
    assert bytes_of(place) == plain[0]


@pytest.mark.slow
def test_slow_reads_and_a_full_disk_are_named_across_processes(tmp_path, ray_head):
    slow = settings(faults=[{"kind": "slow_read", "at_shard": 0, "for_s": 0.2}], steady_timeout_s=0.1)
    with pytest.raises(SourceTimeout, match=r"not read within 0.1 s"):
        by_ray(slow, tmp_path / "slow", ray_head)
    full = settings(faults=[{"kind": "disk_full", "at_shard": 1}])
    with pytest.raises(OSError, match=r"No space left on device"):
        by_ray(full, tmp_path / "full", ray_head)
    (place,) = (tmp_path / "full").iterdir()
    assert sorted(path.name for path in place.glob("*.parquet")) == ["00000.parquet"]
    place, _, _ = by_ray(settings(), tmp_path / "full", ray_head)
    assert len(list(place.glob("*.parquet"))) == 5


def test_trace_lists_flows_and_a_seed_decides_the_twins(tmp_path):
    made = settings(items=["DNS"])
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trace.main(settings=Settings.checked({**made.model_dump(), "seed": seed}), out=tmp_path / name)
    tables = [stage.read_table(tmp_path / name, trace.SCHEMA) for name in "abc"]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    assert tables[0].filter(pl.col("name") == "uniform")["u_min"].to_list() == pytest.approx([3.3, 3.3])
