"""Graphs: the prune's rule, reachability, determinism, going on after an interruption, degenerate sets, bad input."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.batann import vamana
from operators.batann.core import core
from operators.batann.memory_search import MemoryIndex, search_memory
from operators.batann.metric import prepare_queries, scores, stored
from operators.batann.truth import exact_neighbours, recall
from operators.batann.vamana import Graph, build_vamana, reachable
from tests.batann.sets import graph, vectors


def digest(made: Graph) -> str:
    return hashlib.sha256(made.adj.tobytes() + made.deg.tobytes() + bytes([made.medoid % 251])).hexdigest()


def pruned_plainly(x, p, candidates, R, alpha):
    """Robust prune as written in spec 2.1, in float32 as the core computes."""
    dist = {c: np.float32(((x[p].astype(int) - x[c]) ** 2).sum()) for c in candidates if c != p}
    order = sorted(dist, key=lambda c: (dist[c], c))
    chosen: list[int] = []

    def dropped(v: int, factor: float) -> bool:
        nearer = (c for c in chosen if order.index(c) < order.index(v))
        return any(np.float32(factor) * np.float32(((x[c].astype(int) - x[v]) ** 2).sum()) <= dist[v] for c in nearer)

    for factor in (1.0, alpha):
        for v in order:
            if len(chosen) < R and v not in chosen and not dropped(v, factor):
                chosen.append(v)
    return chosen


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([1.0, 1.2, 2.0]), st.integers(2, 60))
def test_robust_prune_obeys_its_rule(seed, R, alpha, count):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 6, (count, 3), np.uint8)  # few values: ties and duplicates
    candidates = rng.integers(0, count, 2 * count).astype(np.uint32)
    out = np.empty(R, np.uint32)
    found = core().robust_prune(x, 0, candidates, alpha, out)
    assert out[:found].tolist() == pruned_plainly(x, 0, sorted(set(candidates.tolist())), R, alpha)


def test_a_graph_is_sound_and_finds_the_neighbours():
    made = graph()
    made.validate()
    assert reachable(made).all()
    assert made.deg.max() <= 24
    queries = vectors(200, stream=1)
    truth, _ = exact_neighbours(vectors(), queries, 10)
    found = search_memory(vectors(), made, queries, 10, 40)
    assert recall(found.ids, truth) > 0.98
    assert (np.diff(found.dists, axis=1) >= 0).all()


def test_the_graph_depends_on_the_seed_and_not_on_threads():
    x = vectors(1500)
    one, two = build_vamana(x, 16, 32, threads=1), build_vamana(x, 16, 32, threads=2)
    assert digest(one) == digest(two)
    assert digest(one) != digest(build_vamana(x, 16, 32, seed=1, threads=2))


def test_an_interrupted_build_goes_on_and_ends_in_the_same_graph(tmp_path, monkeypatch):
    x, file = vectors(1200), tmp_path / "graph.unfinished.npz"
    whole = build_vamana(x, 16, 32, threads=1)
    monkeypatch.setattr(vamana, "CHECKPOINT_S", 0.0)
    seen: list[int] = []

    def stop(done: int, _: int) -> None:
        seen.append(done)
        if done > 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_vamana(x, 16, 32, threads=1, progress=stop, checkpoint=file)
    assert file.exists()
    again: list[int] = []
    made = build_vamana(x, 16, 32, threads=1, progress=lambda done, _: again.append(done), checkpoint=file)
    assert again[0] >= seen[-2]  # nothing before the checkpoint was done again
    assert digest(made) == digest(whole)
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip file", None])
def test_a_damaged_or_foreign_checkpoint_is_ignored(tmp_path, content):
    x, file = vectors(300), tmp_path / "graph.unfinished.npz"
    if content is None:
        np.savez(
            file, key="of another input", adj=np.zeros((300, 20), np.uint32), deg=np.zeros(300, np.uint16), done=299
        )
    else:
        file.write_bytes(content)
    assert digest(build_vamana(x, 16, 32, checkpoint=file)) == digest(build_vamana(x, 16, 32))


@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_tiny_sets(n):
    made = build_vamana(vectors(n), 8, 8)
    made.validate()
    found = search_memory(vectors(n), made, vectors(n), 1, 8)
    assert (found.dists[:, 0] == 0).all()


def test_sets_of_duplicates_stay_in_reach():
    x = np.repeat(vectors(5), 60, axis=0)
    made = build_vamana(x, 6, 12)
    made.validate()
    assert (search_memory(x, made, vectors(5), 1, 60).dists == 0).all()


def test_cut_off_nodes_get_an_edge_that_cuts_nobody_off():
    """A graph with two islands: connect joins them, keeping every list within R."""
    n, R = 40, 3
    adj, deg = np.full((n, R), 2**32 - 1, np.uint32), np.zeros(n, np.uint16)
    for node in range(n):
        ring = node // 20 * 20
        ends = [ring + (node - ring + step) % 20 for step in (1, 2, 3)]
        adj[node, :3], deg[node] = ends, 3
    given_edges = core().connect(vectors(n), adj, deg, 0, R, 16)
    assert given_edges >= 1
    Graph(adj, deg, 0).validate()


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_inner_product_and_cosine_become_distances(metric):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((800, 16)) * rng.uniform(0.2, 3, (800, 1))).astype(np.float32)
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    inner = queries.astype(np.float64) @ x.astype(np.float64).T
    if metric == "cosine":
        inner /= np.linalg.norm(x, axis=1) * np.linalg.norm(queries, axis=1, keepdims=True)
    data = stored(x, metric)
    made = build_vamana(x, 16, 48, metric=metric)
    assert digest(made) == digest(build_vamana(data.vectors, 16, 48))
    found = MemoryIndex(data.vectors, made).search(prepare_queries(queries, data), 5, 800)
    best = np.argsort(-inner, axis=1)[:, :5]
    assert recall(found.ids, best.astype(np.uint32)) == 1
    values = scores(found.dists, metric, queries, data.scale)
    np.testing.assert_allclose(values, np.take_along_axis(inner, found.ids.astype(np.int64), axis=1), atol=2e-4)
    with pytest.raises(ValueError, match="15 dimensions; expected the index's 16"):
        prepare_queries(queries[:, :15], data)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"R": 0}, r"R \(=0\): expected 1 to 256"),
        ({"R": 257}, r"R \(=257\)"),
        ({"L": 0}, r"L \(=0\)"),
        ({"alpha": 0.9}, r"alpha \(=0.9\)"),
        ({"alpha": float("nan")}, r"alpha \(=nan\)"),
        ({"threads": 0}, r"threads \(=0\)"),
        ({"metric": "l1"}, "metric .='l1'.: expected one of l2, ip, cosine"),
        ({"x": np.zeros((3, 4))}, "float64; expected"),
    ],
)
def test_bad_input_is_named(change, text):
    with pytest.raises(ValueError, match=text):
        build_vamana(**{"x": vectors(20), **change})


def test_validate_finds_what_is_wrong():
    made = graph()
    for adj, text in [
        (np.where(np.arange(24) == 0, np.arange(2000)[:, None], made.adj), "edge to itself"),
        (np.where(np.arange(24) == 1, made.adj[:, :1], made.adj), "same edge twice"),
        (np.where(np.arange(24) == 0, 2000, made.adj), "ends at 2000"),
    ]:
        with pytest.raises(ValueError, match=text):
            Graph(adj.astype(np.uint32), made.deg, made.medoid).validate()
    with pytest.raises(ValueError, match="cannot be reached"):
        Graph(made.adj, np.zeros_like(made.deg), made.medoid).validate()
