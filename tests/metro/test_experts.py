"""A rank as a pure state machine: its partial outputs, counters, reloading, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest

from operators.metro import experts
from operators.metro.expert_rank import ExpertRank, RankError
from operators.metro.placement import place
from operators.metro.routing import ROUTERS, RoutingError

N, G, K, WIDTH, HIDDEN, SEED = 16, 4, 4, 12, 32, 5
COST = SimpleNamespace(form="sum", a=1.0, b=10.0, beta=0.5, c=0.0, p=1.0)


def batch(tokens, *, seed=0):
    """x, topk, gates of `tokens` tokens with skewed choices."""
    rng = np.random.default_rng([seed, tokens])
    popularity = np.log(rng.pareto(1.2, N) + 0.1)
    topk = np.argsort(-(popularity + rng.gumbel(size=(tokens, N))), axis=1)[:, :K]
    gates = rng.random((tokens, K), np.float32)
    return rng.standard_normal((tokens, HIDDEN), np.float32), topk, gates / gates.sum(1, keepdims=True)


def weights_of(expert):
    return experts.generate(expert, seed=SEED, layer=0, width=WIDTH, hidden=HIDDEN)


def make_ranks(placement):
    ranks = []
    for gpu in range(placement.num_gpus):
        rank = ExpertRank(gpu, capacity=placement.slots_per_gpu, width=WIDTH, hidden=HIDDEN)
        slots = np.arange(gpu * placement.slots_per_gpu, (gpu + 1) * placement.slots_per_gpu)
        rank.load(0, slots, placement.phys2log[0, slots], seed=SEED)
        rank.validate()
        ranks.append(rank)
    return ranks


@pytest.fixture(scope="module")
def placement():
    return place(np.bincount(batch(64)[1].ravel(), minlength=N)[None], num_slots=24, num_gpus=G)


@pytest.fixture(scope="module")
def ranks(placement):
    return make_ranks(placement)


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_partials_sum_to_the_dense_layer(router, placement, ranks):
    for tokens in (0, 1, 7, 40):
        x, topk, gates = batch(tokens)
        routing = ROUTERS[router](placement.layer(0), topk, cost=COST)
        parts, stats = zip(*(rank.forward(0, x, topk, gates, routing.slot) for rank in ranks), strict=True)
        np.testing.assert_allclose(sum(parts), experts.dense(x, topk, gates, weights_of), rtol=1e-4, atol=1e-5)
        assert [part["activated"] for part in stats] == routing.activated.tolist()
        assert [part["tokens"] for part in stats] == routing.tokens.tolist()
        assert all(part["bytes"] == part["activated"] * 3 * WIDTH * HIDDEN * 4 for part in stats)
    for rank in ranks:
        rank.validate()


def test_a_dead_rank_is_routed_round_or_named(placement, ranks):
    x, topk, gates = batch(20)
    expected = experts.dense(x, topk, gates, weights_of)
    for dead in range(G):
        alive = np.arange(G) != dead
        lost = [i for i in np.unique(topk) if (placement.log2phys[0, i] // placement.slots_per_gpu == dead).sum()
                == placement.copies[0, i]]  # fmt: skip
        if lost:
            with pytest.raises(RoutingError, match=f"expert {lost[0]} of layer 0"):
                ROUTERS["metro"](placement.layer(0), topk, alive=alive)
            continue
        slot = ROUTERS["metro"](placement.layer(0), topk, alive=alive).slot
        total = sum(rank.forward(0, x, topk, gates, slot)[0] for rank in ranks if alive[rank.rank])
        np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)


def test_same_call_same_bits_and_restart_is_identical(placement, ranks):
    x, topk, gates = batch(33)
    slot = ROUTERS["even"](placement.layer(0), topk).slot
    first, again = ranks[1].forward(0, x, topk, gates, slot)[0], ranks[1].forward(0, x, topk, gates, slot)[0]
    reborn = make_ranks(placement)[1]
    assert first.tobytes() == again.tobytes() == reborn.forward(0, x, topk, gates, slot)[0].tobytes()
    for slot_id in range(6, 12):
        assert reborn.weights(0, slot_id).tobytes() == ranks[1].weights(0, slot_id).tobytes()
    assert reborn.counters()["calls"] == 1


def test_loading_writes_only_what_changed_and_keeps_counters():
    rank = ExpertRank(0, capacity=3, width=4, hidden=16)
    assert rank.load(2, [0, 1], [5, 6], seed=1) == 2
    x, topk, gates = np.ones((2, 16), np.float32), np.array([[5], [6]]), np.ones((2, 1), np.float32)
    rank.forward(2, x, topk, gates, np.array([[0], [1]]))
    assert rank.load(2, [1, 0, 2], [7, 5, 8], seed=1) == 2
    assert rank.load(2, [0, 1, 2], [5, 7, 8], seed=2) == 3
    rank.validate()
    assert rank.counters() == {"calls": 1, "tokens": 2, "activated": 2, "bytes": 2 * 3 * 4 * 16 * 4}
    for slot, expert in enumerate([5, 7, 8]):
        expected = experts.generate(expert, seed=2, layer=2, width=4, hidden=16)
        assert rank.weights(2, slot).tobytes() == expected.tobytes()


def test_given_arrays_are_used():
    rng = np.random.default_rng(0)
    w1, w3, w2 = rng.standard_normal((3, 16)), rng.standard_normal((3, 16)), rng.standard_normal((16, 3))
    rank = ExpertRank(0, capacity=2, width=3, hidden=16)
    rank.load(0, [9, 4], [1, 0], arrays=[experts.pack(w1, w3, w2), np.ones((3, 3, 16), np.float32)])
    x = rng.standard_normal((1, 16), np.float32)
    partial, _ = rank.forward(0, x, np.array([[1]]), np.array([[0.5]]), np.array([[9]]))
    gate = x[0] @ w1.T
    np.testing.assert_allclose(partial[0], 0.5 * w2 @ (gate / (1 + np.exp(-gate)) * (w3 @ x[0])), rtol=1e-4, atol=1e-5)


def test_what_a_rank_refuses():
    rank = ExpertRank(3, capacity=2, width=4, hidden=16)
    rank.load(0, [6, 7], [1, 2], seed=0)
    x, one = np.zeros((1, 16), np.float32), np.ones((1, 1), np.float32)
    for call, message in [
        (lambda: ExpertRank(0, capacity=0, width=4, hidden=16), "capacity"),
        (lambda: ExpertRank(0, capacity=1, width=4, hidden=10), "multiple of 16"),
        (lambda: rank.load(0, [1, 2, 3], [1, 2, 3], seed=0), "room for 2"),
        (lambda: rank.load(0, [1, 1], [1, 2], seed=0), "distinct"),
        (lambda: rank.load(0, [1], [1, 2], seed=0), "one expert a slot"),
        (lambda: rank.load(0, [1], [1]), "seed or arrays"),
        (lambda: rank.load(0, [1], [1], arrays=[np.zeros((4, 3, 32), np.float32)]), "expected .4, 3, 16."),
        (lambda: rank.weights(0, 5), "slot 5"),
        (lambda: rank.forward(1, x, one, one, one), "layer 1 is not loaded"),
        (lambda: rank.forward(0, x, np.array([[2]]), one, np.array([[6]])), "slot 6 holds expert 1"),
        (lambda: rank.forward(0, x[:, :8], one, one, one), "expected .tokens, 16."),
        (lambda: rank.forward(0, x, one, one[:, :0], one), "same shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    rank.tokens += 1
    with pytest.raises(RankError, match="the counter says 1"):
        rank.validate()
