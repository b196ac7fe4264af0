"""The engine: every way of reading gives the same answers, C++ and Python agree, damage is named, the meter holds."""

import itertools
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.batann import engine, metric, node_cache
from operators.batann.build import Build
from operators.batann.engine import make_engine, native_core, search_disk
from operators.batann.layout import SECTOR, IndexCorrupt, open_index
from operators.batann.settings import Settings
from operators.batann.state import ADAPTIVE, QueryState
from operators.batann.truth import exact_neighbours, recall
from tests.batann import folders
from tests.batann.sets import parts_of_an_index, vectors

COUNTERS = ("hops", "reads", "pq_dists", "exact_dists")
needs_native = pytest.mark.skipif(native_core() is None, reason="the native core is not built")


def facts(result) -> list:
    return [result.ids.tolist(), result.dists.tolist(), *(result.work[name].tolist() for name in COUNTERS)]


@pytest.fixture(scope="module")
def one():
    return open_index(folders.index(1))


@needs_native
@pytest.mark.parametrize(("W", "flags"), [(1, 0), (4, 0), (4, ADAPTIVE)])
def test_every_way_of_reading_gives_the_same_answers(one, W, flags):
    options = [
        {"io": "uring"}, {"io": "pread"}, {"io": "mem"}, {"refill": "all"}, {"refill": "single"}, {"native": False},
        {"iops_cap": 1e6, "read_latency_us": 50}, {"threads": 3},
    ]  # fmt: skip
    found = [
        facts(search_disk(make_engine(one, (0,), **option), one.epoch, folders.queries(30), 10, 30, W, flags=flags))
        for option in options
    ]
    assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize("native", [True, False])
def test_cached_nodes_spare_the_disk_and_change_no_answer(one, native):
    if native and native_core() is None:
        pytest.skip("the native core is not built")
    queries, reads = folders.queries(30), []
    plain = facts(search_disk(make_engine(one, (0,), native=native), one.epoch, queries, 10, 30, 2))
    for nodes in (0, 100, 500):
        opened = make_engine(one, (0,), native=native, cache_nodes=nodes)
        found = search_disk(opened, one.epoch, queries, 10, 30, 2)
        counters = opened.engine.counters()
        assert facts(found) == plain
        assert counters["reads"] + counters["cached"] == found.work["reads"].sum()
        reads.append(counters["reads"])
    assert reads[2] < reads[1] < reads[0]
    everything = make_engine(one, (0,), native=native, cache_nodes=one.meta.n)
    assert facts(search_disk(everything, one.epoch, queries, 10, 30, 2)) == plain
    assert everything.engine.counters()["reads"] == 0


def test_a_node_cache_keeps_the_starts_of_searches_and_checks_sectors(tmp_path):
    three = open_index(folders.index(3))
    files = {part: node_cache._Records(three, part) for part in (0, 2)}
    nodes = node_cache.nearest_to_start(three, files, 60)
    own_heads = three.head.ids[np.isin(three.map[three.head.ids], (0, 2))]
    assert len(nodes) == len(set(nodes.tolist())) == 60
    assert np.isin(three.map[nodes], (0, 2)).all()
    assert set(own_heads[:60].tolist()) <= set(nodes.tolist())
    with pytest.raises(ValueError, match=r"cache_nodes \(=-1\)"):
        make_engine(three, (0,), cache_nodes=-1)
    shutil.copytree(folders.index(1), tmp_path / "index")
    path = tmp_path / "index" / "part-00.index"
    body = bytearray(path.read_bytes())
    body[2 * SECTOR + 5] ^= 1
    path.write_bytes(body)
    with pytest.raises(IndexCorrupt, match="sector 2"):
        make_engine(open_index(tmp_path / "index"), (0,), cache_nodes=2000)


def test_recall_and_exact_distances(one):
    queries = folders.queries()
    truth, _ = exact_neighbours(vectors(2000), queries, 10)
    result = search_disk(make_engine(one, (0,), io="mem"), one.epoch, queries, 10, 60, 4)
    assert recall(result.ids, truth) >= 0.95
    x = vectors(2000).astype(int)
    for query, ids, dists in zip(queries.astype(int), result.ids, result.dists, strict=True):
        assert dists.tolist() == ((x[ids] - query) ** 2).sum(1).tolist()
        assert len(set(ids.tolist())) == 10
        assert sorted(dists) == dists.tolist()


@pytest.mark.parametrize("kind", ["uint8", "int8", "float32", "ip", "cosine"])
@pytest.mark.parametrize("native", [True, False])
def test_types_and_metrics_with_the_widest_beam_are_brute_force(tmp_path, kind, native):
    if native and native_core() is None:
        pytest.skip("the native core is not built")
    rng = np.random.default_rng(3)
    x = rng.normal(0, 40, (120, 16))
    x = (
        x.astype(np.float32)
        if kind in ("float32", "ip", "cosine")
        else np.clip(x + (100 if kind == "uint8" else 0), -128 if kind == "int8" else 0, 127).astype(kind)
    )
    made = metric.stored(x, kind if kind in ("ip", "cosine") else "l2")
    options = Settings.checked(
        {"R": 16, "L_build": 32, "pq_chunks": 4, "n": 120, "head_fraction": 0.1, "metric": made.metric}
    )
    index = open_index(Build(tmp_path, made, options).layout("gp", 1))
    queries = metric.prepare_queries(x[:20], index.meta)
    result = search_disk(make_engine(index, (0,), io="mem", native=native), index.epoch, queries, 5, 120, 2)
    truth, _ = exact_neighbours(made.vectors, queries, 5)
    assert recall(result.ids, truth) == 1.0


def test_fewer_vectors_than_asked_for_are_padded(tmp_path):
    x = vectors(2000)[:6]
    options = Settings.checked({"R": 4, "L_build": 8, "pq_chunks": 4, "n": 6})
    index = open_index(Build(tmp_path, metric.stored(x), options).layout("gp", 1))
    result = search_disk(make_engine(index, (0,), io="mem"), index.epoch, x[:2], 10, 12, 1)
    assert (result.ids[:, 6:] == 2**32 - 1).all()
    assert np.isinf(result.dists[:, 6:]).all()
    assert sorted(result.ids[0, :6].tolist()) == list(range(6))


def test_states_that_do_not_belong_here_are_refused(one):
    opened = make_engine(one, (0,), io="mem")
    query = folders.queries(1)[0].tobytes()
    good = QueryState(query_id=1, epoch=one.epoch)
    assert opened.engine.submit(good.with_changes(epoch=one.epoch ^ 1).to_bytes(), query) == "stale epoch"
    assert "vector" in opened.engine.submit(good.to_bytes(), query[:-1])
    assert "range" in opened.engine.submit(good.with_changes(beam=((5000, 1.0, 0),)).to_bytes(), query)
    assert opened.engine.submit(good.to_bytes()[:-1], query)
    assert opened.engine.submit(good.to_bytes(), query) == ""
    assert opened.engine.validate() == ""


@needs_native
@pytest.mark.parametrize("io", ["uring", "pread", "mem"])
def test_a_flipped_byte_in_a_sector_is_found_and_named(tmp_path, io):
    shutil.copytree(folders.index(1), tmp_path / "index")
    path = tmp_path / "index" / "part-00.index"
    body = bytearray(path.read_bytes())
    for sector in range(0, len(body), 4096):
        body[sector + 7] ^= 1
    path.write_bytes(body)
    index = open_index(tmp_path / "index")
    with pytest.raises(OSError, match=r"partition 0, sector \d+: wrong checksum"):
        search_disk(make_engine(index, (0,), io=io), index.epoch, folders.queries(3), 10, 20, 1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"io": "tape"}, "tape"),
        ({"threads": 0}, "threads"),
        ({"refill": "some"}, "refill"),
        ({"live": 0}, "live"),
        ({"iops_cap": -1}, "iops_cap"),
    ],
)
def test_wrong_options_name_themselves(one, options, word):
    with pytest.raises(ValueError, match=word):
        make_engine(one, (0,), **options)


@pytest.mark.parametrize(
    ("k", "L", "W", "word"), [(0, 10, 1, "k"), (11, 10, 1, "k"), (1, 0, 1, "L"), (1, 10, 0, "W"), (1, 10, 65, "W")]
)
def test_wrong_searches_name_themselves(k, L, W, word):
    with pytest.raises(ValueError, match=rf"^{word} \(="):
        engine.check_search(k, L, W)


@needs_native
def test_live_states_stay_under_their_limit_and_all_are_accounted_for(one):
    opened = make_engine(one, (0,), live=3)
    search_disk(opened, one.epoch, folders.queries(40), 10, 20, 2)
    counters = opened.engine.counters()
    assert counters["live_max"] == 3
    assert counters["submitted"] == counters["finished"] == 40
    assert opened.engine.validate() == ""


@needs_native
@given(st.floats(1, 5000), st.floats(1, 50), st.lists(st.integers(0, 10**8), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_a_token_bucket_never_gives_more_than_its_rate_and_burst(cap, burst, gaps):
    bucket = native_core().TokenBucket(cap, burst)
    times = list(itertools.accumulate([1, *gaps]))
    given_at = []
    for now in times:
        while bucket.take(now):
            given_at.append(now)
    for first in range(0, len(given_at), 7):
        for last in range(first, len(given_at), 11):
            span = (given_at[last] - given_at[first]) * 1e-9
            assert last - first + 1 <= cap * span + burst + 1e-6


@needs_native
def test_a_metered_engine_reads_no_faster_than_its_cap(one):
    import time

    opened = make_engine(one, (0,), iops_cap=2000)
    began = time.monotonic()
    search_disk(opened, one.epoch, folders.queries(40), 10, 30, 4)
    assert opened.engine.counters()["reads"] <= 2000 * (time.monotonic() - began) + 2000 * engine.BURST_S + 4


def test_parts_of_an_index_are_the_sets():
    assert len(parts_of_an_index()[0]) == open_index(folders.index(3)).meta.n
