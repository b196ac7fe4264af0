"""Routers: who serves what, against few-line restatements of the engines' rules; invariants; bad input."""

import hashlib
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.metro import assignment, batches
from operators.metro.baselines import static_map
from operators.metro.batches import TraceError
from operators.metro.greedy import metro, racing, tournament
from operators.metro.placement import Placement, place
from operators.metro.routing import (
    BY_POSITION,
    ROUTERS,
    RoutingError,
    certified_optimum,
    route_batches,
    route_counts,
    stale,
)
from tests.metro.instances import COST, cases, dsv3_placement, random_placement, random_topk


@settings(max_examples=60, deadline=None)
@given(cases(max_experts=12), st.integers(0, 3))
def test_invariants_of_every_router(case, seed):
    placement, topk = case
    layer = placement.layer(0)
    lams = {}
    for name, router in ROUTERS.items():
        routing = router(layer, topk, cost=COST, seed=seed)
        routing.validate(layer, topk)
        assert routing.tokens.sum() == topk.size
        lams[name] = routing.lam
    assert lams["exact"] == lams["exact_balanced"] == min(lams.values())
    counts = batches.counts(topk, placement.num_experts)
    assert lams["exact"] >= -(-np.count_nonzero(counts) // placement.num_gpus)
    if (counts >= placement.copies[0]).all():
        assert lams["metro"] <= lams["even"]


def test_two_copies_next_door_the_papers_figure():
    slots = [[expert for gpu in range(8) for expert in (gpu, (gpu - 1) % 8)]]
    layer = Placement.from_slots(slots, 8, num_experts=8).layer(0)
    topk = np.repeat(np.arange(8), 2)[:, None]
    assert [ROUTERS[name](layer, topk).lam for name in ("even", "metro", "exact")] == [2, 1, 1]


def test_one_copy_each_makes_all_routers_equal():
    rng = np.random.default_rng(1)
    layer = place(rng.random((1, 32)), 32, 4).layer(0)
    topk = random_topk(rng, 32, 40, 4)
    slots = [router(layer, topk, cost=COST).slot for router in ROUTERS.values()]
    assert all(np.array_equal(slots[0], other) for other in slots)


@pytest.mark.parametrize("name", ["metro", "exact", "exact_balanced", "adaptive"])
def test_token_order_does_not_matter(name):
    rng = np.random.default_rng(2)
    layer, topk = random_placement(rng, 24, 4).layer(0), random_topk(rng, 24, 30, 3)
    order = rng.permutation(len(topk))
    plain, shuffled = ROUTERS[name](layer, topk, cost=COST), ROUTERS[name](layer, topk[order], cost=COST)
    assert np.array_equal(plain.activated, shuffled.activated)
    if name != "adaptive":  # which may split an expert
        assert np.array_equal(plain.slot[order], shuffled.slot)


def test_engines_rules_restated():
    rng = np.random.default_rng(3)
    placement = random_placement(rng, 16, 4)
    layer, topk = placement.layer(0), random_topk(rng, 16, 21, 3)
    source = np.arange(21) // 6
    seen, met = [0] * 4, [0] * 16
    expected = {name: np.empty_like(topk) for name in ("even", "vllm", "row")}
    for token in range(21):
        for j, expert in enumerate(topk[token]):
            copies = [slot for slot in layer.log2phys[expert] if slot >= 0]
            expected["even"][token, j] = copies[met[expert] % len(copies)]
            expected["vllm"][token, j] = copies[seen[source[token]] * 3 % len(copies)]
            expected["row"][token, j] = copies[token % len(copies)]
            met[expert] += 1
            seen[source[token]] += 1
    assert np.array_equal(ROUTERS["even"](layer, topk).slot, expected["even"])
    assert np.array_equal(ROUTERS["vllm_modulo"](layer, topk, hash_multiplier=3).slot, expected["vllm"])
    assert np.array_equal(ROUTERS["sglang_random"](layer, topk, rank_invariant=True).slot, expected["row"])
    drawn = [ROUTERS["sglang_random"](layer, topk, seed=seed).slot for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_sglang_static_restated():
    placement = place(np.random.default_rng(4).random((3, 16)), 32, 8, 4, 2)
    stream, found = random.Random(42), static_map(placement)
    for layer in range(3):
        for expert in range(16):
            copies = [int(slot) for slot in placement.log2phys[layer, expert] if slot >= 0]
            picks, left = {}, []
            for rank in range(8):
                same_gpu = [slot for slot in copies if slot // 4 == rank]
                same_node = [slot for slot in copies if slot // 16 == rank // 4]
                if len(copies) == 1 or same_gpu:
                    picks[rank] = (same_gpu or copies)[0]
                elif 0 < len(same_node) < len(copies):
                    picks[rank] = same_node[0]
                else:
                    left.append(rank)
            if left:
                dealt = copies * (len(left) // len(copies)) + stream.sample(copies, k=len(left) % len(copies))
                stream.shuffle(dealt)
                picks |= dict(zip(left, dealt, strict=True))
            assert found[layer, :, expert].tolist() == [picks[rank] for rank in range(8)]


def test_lp_balances_tokens_at_least_as_well_as_even():
    rng = np.random.default_rng(5)
    layer, topk = random_placement(rng, 24, 4).layer(0), random_topk(rng, 24, 60, 4)
    assert ROUTERS["lp"](layer, topk).tokens.max() <= ROUTERS["even"](layer, topk).tokens.max() + 4


def test_metro_orders():
    rng = np.random.default_rng(6)
    layer, topk = random_placement(rng, 24, 4).layer(0), random_topk(rng, 24, 30, 3)
    for order in ("index", "fewest_candidates", "random"):
        metro(layer, topk, order=order).validate(layer, topk)
    with pytest.raises(RoutingError, match=r"order .*known: index, fewest_candidates, random"):
        metro(layer, topk, order="largest")


def by_candidates(candidates, gpus):
    """A one-layer placement with exactly these candidate GPUs per expert; spare slots hold an expert of their own."""
    held = [[expert for expert, where in enumerate(candidates) if gpu in where] for gpu in range(gpus)]
    width, filler = max(map(len, held)), len(candidates)
    rows = []
    for here in held:
        rows += here
        for _ in range(width - len(here)):
            rows.append(filler)
            filler += 1
    return Placement.from_slots([rows], gpus, num_experts=filler)


def test_tournament():
    candidates, counts = tournament(6)
    placement = by_candidates(candidates, 64)
    counts = np.pad(counts, (0, placement.num_experts - len(counts)))[None, None]
    assert [route_counts(name, placement, counts).lam[0, 0] for name in ("metro", "exact")] == [6, 1]


def test_racing_ranks_disagree():
    placement = dsv3_placement()
    races = []
    for seed in range(4):
        topk = batches.sample_topk(np.ones(256), 256, 8, seed)
        races.append(racing(placement.layer(0), batches.counts(topk, 256), seed=seed))
    assert all(0.0 < race.orphaned < race.disagree < 0.5 for race in races)
    assert racing(placement.layer(0), np.zeros(256)) == (0.0, 0.0)


def test_stale_follows_the_last_step():
    rng = np.random.default_rng(7)
    layer, topk = random_placement(rng, 24, 4).layer(0), random_topk(rng, 24, 30, 3)
    counts, fresh = batches.counts(topk, 24), metro(layer, topk)
    known = ROUTERS["stale_metro"](layer, topk, previous=counts)
    assert np.array_equal(known.slot, fresh.slot)  # nothing changed, nothing lost
    unknown = ROUTERS["stale_metro"](layer, topk)
    unknown.validate(layer, topk)
    assert unknown.lam >= ROUTERS["exact"](layer, topk).lam
    stale(ROUTERS["even"])(layer, topk, previous=counts).validate(layer, topk)


def test_batched_calls_equal_single_ones():
    rng = np.random.default_rng(8)
    placement = random_placement(rng, 24, 4, layers=3)
    topk = np.stack([np.stack([random_topk(rng, 24, 20, 3) for _ in range(3)]) for _ in range(2)])
    counts = batches.counts_of(topk, 24)
    for name, router in ROUTERS.items():
        routed, slot = route_batches(name, placement, topk, cost=COST)
        for step, layer in np.ndindex(2, 3):
            previous = {"previous": counts[0, layer]} if name == "stale_metro" and step else {}
            one = router(placement.layer(layer), topk[step, layer], cost=COST, **previous)
            if name != "sglang_random":
                assert np.array_equal(one.slot, slot[step, layer]), name
                assert np.array_equal(one.activated, routed.activated[step, layer])
        if name not in BY_POSITION:
            again = route_counts(name, placement, counts, cost=COST)
            assert np.array_equal(again.lam, routed.lam)
            assert np.array_equal(again.tokens, routed.tokens)
    lam, certified = certified_optimum(placement, counts)
    assert np.array_equal(lam, route_counts("exact", placement, counts).lam)
    assert certified.all()


def test_batched_calls_in_chunks_equal_one_call(monkeypatch):
    rng = np.random.default_rng(9)
    placement = random_placement(rng, 12, 4)
    counts = rng.integers(0, 3, (7, 1, 12))
    for name in ("metro", "exact", "stale_metro"):
        whole = route_counts(name, placement, counts)
        monkeypatch.setattr("operators.metro.routing.CHUNK_BYTES", 1)
        parts = route_counts(name, placement, counts)
        monkeypatch.undo()
        assert np.array_equal(whole.activated, parts.activated)
    assert route_counts("metro", placement, counts[:0]).lam.shape == (0, 1)


def test_dead_gpus():
    rng = np.random.default_rng(10)
    layer = place(rng.random((1, 8)), 16, 4, avoid_same_gpu=True).layer(0)
    topk = random_topk(rng, 8, 10, 2)
    alive = np.array([True, True, True, False])
    served = {expert for expert, where in enumerate(layer.candidates()) if set(where) - {3}}
    topk = topk[[set(row.tolist()) <= served for row in topk]]
    for name, router in ROUTERS.items():
        routing = router(layer, topk, cost=COST, alive=alive)
        routing.validate(layer, topk, alive=alive)
        assert routing.activated[3] == 0, name
    for lost in (np.zeros(4, bool), [True]):
        with pytest.raises(RoutingError, match=r"no GPU is alive|expected one bool per GPU"):
            metro(layer, topk, alive=lost)


def test_expert_on_dead_gpus_only_is_named():
    layer = Placement.from_slots([[0, 1, 2, 3], [0, 1, 2, 3]], 2, num_experts=4).layer(1)
    with pytest.raises(RoutingError, match="expert 2 of layer 1"):
        metro(layer, np.array([[0], [2]]), alive=[True, False])


@pytest.mark.parametrize(
    ("topk", "message"),
    [
        (np.array([[0, 1], [2, 8]]), r"row 1 \[2, 8\]: expert 8 is outside \[0, 8\)"),
        (np.array([[0, -1]]), r"row 0 .*expert -1 is outside"),
        (np.array([[0, 1], [3, 3]]), "row 1 .*repeated"),
        (np.arange(9)[None], "row 0 has k = 9 ids; there are 8 experts"),
        ([[0, 1], [2, 3], [4]], "row 2 has 1 ids; row 0 has 2"),
        (np.array([[0.5]]), "expected integer ids"),
    ],
)
def test_bad_batches_name_the_row(topk, message):
    layer = place(np.ones((1, 8)), 8, 4).layer(0)
    with pytest.raises(TraceError, match=message):
        metro(layer, topk)


def test_bad_calls_are_named():
    placement = place(np.ones((1, 8)), 8, 4)
    layer, topk = placement.layer(0), np.array([[0, 1]])
    with pytest.raises(RoutingError, match=r"router \(='fair'\): unknown; known: primary, even"):
        route_counts("fair", placement, np.ones((1, 1, 8)))
    with pytest.raises(RoutingError, match="depends on token positions; use route_batches"):
        route_counts("vllm_modulo", placement, np.ones((1, 1, 8)))
    with pytest.raises(TraceError, match=r"counts .*expected"):
        route_counts("metro", placement, np.ones((1, 8)))
    with pytest.raises(TraceError, match=r"counts .*>= 0"):
        route_counts("metro", placement, -np.ones((1, 1, 8), int))
    with pytest.raises(TraceError, match="topk"):
        route_batches("metro", placement, topk)
    with pytest.raises(RoutingError, match="source_gpu"):
        ROUTERS["vllm_modulo"](layer, topk, np.array([4]))
    with pytest.raises(RoutingError, match="cost"):
        ROUTERS["adaptive"](layer, topk)


def test_no_tokens():
    layer = place(np.ones((1, 8)), 12, 4).layer(0)
    for router in ROUTERS.values():
        for empty in (np.empty((0, 2), np.int64), []):
            routing = router(layer, empty, cost=COST)
            assert routing.lam == 0
            assert routing.slot.size == 0


def test_validate_notices_what_is_wrong():
    import dataclasses

    layer, topk = place(np.ones((1, 8)), 12, 4).layer(0), np.array([[0, 1], [2, 3]])
    good = metro(layer, topk)
    for change in (
        {"slot": np.roll(good.slot, 1)},
        {"lam": 9},
        {"tokens": good.tokens + 1},
        {"activated": good.activated + 1},
        {"slot": good.slot[:1]},
    ):
        with pytest.raises(RoutingError):
            dataclasses.replace(good, **change).validate(layer, topk)


HASHES = """
import hashlib, sys
sys.path.insert(0, "tests/metro")
from test_routing import slot_digest
print(slot_digest())
"""


def slot_digest() -> str:
    """A hash over the slot arrays of every router on one batch."""
    placement, digest = dsv3_placement(), hashlib.sha256()
    topk = batches.sample_topk(np.arange(1, 257), 64, 8, 5)
    for name in sorted(set(ROUTERS) - {"lp", "adaptive", "exact_balanced"}):
        digest.update(ROUTERS[name](placement.layer(1), topk, cost=COST).slot.tobytes())
    return digest.hexdigest()


def test_processes_agree_whatever_their_hash_seed_and_threads(repository):
    here = slot_digest()
    for hash_seed, threads in (("1", "2"),):
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "NUMBA_NUM_THREADS": threads, "PYTHONPATH": str(repository)}
        done = subprocess.run(
            [sys.executable, "-c", HASHES], env=env, cwd=repository, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_two_experts_on_one_gpu_are_one_destination():
    slot = np.array([[[[0, 1], [0, 2], [4, 5]]]])  # GPU 0 twice; GPUs 0 and 1; GPU 2 twice
    sent = assignment.most_destinations(slot, np.array([0, 0, 1]), 3, 2)
    assert sent.tolist() == [[3]]  # the first two tokens leave GPU 0: one copy and two
    alone = assignment.most_destinations(slot, np.array([0, 1, 2]), 3, 2)
    assert alone.tolist() == [[2]]


def test_of_two_copies_on_one_gpu_the_lowest_slot_is_taken():
    layer = Placement.from_slots([[0, 0, 1, 1]], 2, num_experts=2).layer(0)
    topk = np.array([[0, 1], [0, 1]])
    for name in ("metro", "exact"):
        assert ROUTERS[name](layer, topk).slot.tolist() == [[0, 2], [0, 2]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda p: route_counts("metro", p, np.full((1, 1, 4), 0.5)), TraceError, "float64"),
        (lambda p: route_counts("metro", p, np.full((1, 1, 4), np.nan)), TraceError, "float64"),
        (lambda p: route_batches("even", p, np.zeros((1, 1, 2, 1))), TraceError, "expected integer ids"),
        (lambda p: ROUTERS["metro"](p.layer(0), np.array([[0]]), alive=[0.5, 1.0]), RoutingError, "float64"),
        (lambda p: ROUTERS["adaptive"](p.layer(0), np.array([[0]]), cost="fast"), RoutingError, "'fast'.*has no form"),
        (lambda p: p.layer(1), ValueError, r"layer \(=1\): expected 0 to 0"),
        (lambda p: p.layer(-1), ValueError, r"layer \(=-1\)"),
    ],
)
def test_misuse_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(place(np.ones((1, 4)), 4, 2))
