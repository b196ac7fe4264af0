"""The exact router against brute force, OR-tools and HiGHS; certificates; monotonicity; token balance."""

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from operators.metro import batches
from operators.metro.bench_routing import flow_optimum, loop_flow_optimum, milp_optimum, tight_flow_optimum
from operators.metro.optimum import Certificate, check_certificate, exact, exact_balanced
from operators.metro.placement import Placement
from operators.metro.routing import certified_optimum
from tests.metro.instances import brute_force, cases, dsv3_placement, random_placement, random_topk


@settings(max_examples=150, deadline=None)
@given(cases(max_experts=8))
def test_equals_brute_force_and_is_certified(case):
    placement, topk = case
    layer, counts = placement.layer(0), batches.counts(topk, placement.num_experts)
    note(f"phys2log {placement.phys2log.tolist()} on {placement.num_gpus} GPUs, counts {counts.tolist()}")
    routing = exact(layer, topk)
    assert routing.lam == brute_force(layer.candidates(), counts, placement.num_gpus)
    assert routing.certificate.lam == routing.lam
    assert check_certificate(routing.certificate, layer.candidates(), np.flatnonzero(counts))
    if routing.lam:
        held = routing.activated[list(routing.certificate.gpus)]
        assert held.min() >= routing.lam - 1
        assert held.max() == routing.lam


def random_instances(count: int, max_experts: int):
    rng = np.random.default_rng(11)
    for _ in range(count):
        experts, gpus = int(rng.integers(4, max_experts + 1)), int(rng.integers(2, 17))
        placement = random_placement(rng, experts, gpus)
        yield placement, rng.integers(0, 3, experts)


def test_equals_max_flow_on_160_instances():
    for placement, counts in random_instances(160, 96):
        lam, certified = certified_optimum(placement, counts[None, None])
        flows = [solve(counts, placement.tables, placement.num_gpus) for solve in (flow_optimum, tight_flow_optimum)]
        assert flows == [lam[0, 0]] * 2, (placement.phys2log.tolist(), placement.num_gpus, counts.tolist())
        assert certified.all()


def test_equals_the_integer_program_on_40_instances():
    for placement, counts in random_instances(40, 32):
        lam = certified_optimum(placement, counts[None, None])[0][0, 0]
        for solve in (milp_optimum, loop_flow_optimum):
            assert solve(counts, placement.tables, placement.num_gpus) == lam, (placement.phys2log, counts)


def test_every_certificate_of_a_big_batch_holds():
    placement = dsv3_placement(layers=4)
    topk = np.stack([[batches.sample_topk(np.ones(256), 64, 8, [s, at]) for at in range(4)] for s in range(8)])
    assert certified_optimum(placement, batches.counts_of(topk, 256))[1].all()


def test_certificates_that_prove_nothing():
    candidates = [(0, 1), (0,), (0,)]
    assert check_certificate(Certificate(2, (0,)), candidates, [0, 1, 2])
    assert not check_certificate(Certificate(3, (0,)), candidates, [0, 1, 2])
    assert not check_certificate(Certificate(2, (0, 1)), [(0,), (1,)], [0, 1])
    assert not check_certificate(Certificate(1, ()), candidates, [0])


@settings(max_examples=60, deadline=None)
@given(cases(max_experts=8), st.data())
def test_more_copies_never_hurt_and_fewer_gpus_never_help(case, data):
    placement, topk = case
    layer, gpus, experts = placement.layer(0), placement.num_gpus, placement.num_experts
    lam = exact(layer, topk).lam
    extra = data.draw(st.lists(st.integers(0, experts - 1), min_size=gpus, max_size=gpus))
    rows = np.concatenate([layer.phys2log.reshape(gpus, -1), np.array(extra)[:, None]], axis=1)
    assert exact(Placement.from_slots(rows.ravel(), gpus, num_experts=experts).layer(0), topk).lam <= lam
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=gpus, max_size=gpus)))
    candidates, counts = layer.candidates(alive), batches.counts(topk, experts)
    if alive.any() and all(candidates[expert] for expert in np.flatnonzero(counts)):
        routing = exact(layer, topk, alive=alive)
        assert routing.lam >= lam
        assert check_certificate(routing.certificate, candidates, np.flatnonzero(counts))


@settings(max_examples=40, deadline=None)
@given(cases(max_experts=10), st.randoms(use_true_random=False))
def test_renaming_gpus_keeps_the_optimum(case, random):
    placement, topk = case
    order = list(range(placement.num_gpus))
    random.shuffle(order)
    rows = placement.phys2log[0].reshape(placement.num_gpus, -1)[order].ravel()
    renamed = Placement.from_slots(rows, placement.num_gpus, num_experts=placement.num_experts)
    assert exact(renamed.layer(0), topk).lam == exact(placement.layer(0), topk).lam


@settings(max_examples=60, deadline=None)
@given(cases(max_experts=12))
def test_balancing_tokens_keeps_the_optimum(case):
    placement, topk = case
    layer = placement.layer(0)
    plain, balanced = exact(layer, topk), exact_balanced(layer, topk)
    balanced.validate(layer, topk)
    assert balanced.lam == plain.lam
    assert balanced.tokens.max(initial=0) <= plain.tokens.max(initial=0)


def test_balancing_tokens_helps():
    rng = np.random.default_rng(12)
    placement = dsv3_placement()
    topk = random_topk(rng, 256, 128, 8)
    plain, balanced = exact(placement.layer(0), topk), exact_balanced(placement.layer(0), topk)
    assert balanced.tokens.max() < plain.tokens.max()


@pytest.mark.parametrize("alive", [None, np.array([True, True, False])])
def test_empty_batch_has_a_certificate(alive):
    layer = Placement.from_slots([0, 1, 1], 3, num_experts=2).layer(0)
    routing = exact(layer, np.empty((0, 1), np.int64), alive=alive)
    assert (routing.lam, routing.certificate.lam) == (0, 0)
    assert check_certificate(routing.certificate, layer.candidates(alive), [])
