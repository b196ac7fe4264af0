"""Real Ray actors and real signals: what the cluster promises when a rank is killed, stopped or comes back."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from operators.lab import cluster as head
from operators.lab import faults
from operators.metro import actors, experts
from operators.metro.placement import Placement
from operators.metro.routing import RoutingError

N, G, K, WIDTH, HIDDEN, SEED, LAYERS = 16, 4, 4, 12, 32, 7, 2
COST = SimpleNamespace(form="sum", a=1.0, b=10.0, beta=0.5, c=0.0, p=1.0)
# Every expert on two ranks, but expert 0 of layer 1 on rank 3 alone (its second slot there is a duplicate).
SLOTS = np.array(
    [[(expert + shift) % N for gpu in range(G) for shift in (0, 4) for expert in range(4 * gpu, 4 * gpu + 4)]] * LAYERS
)
SLOTS[1][SLOTS[1] == 0] = 1
SLOTS[1][-2:] = 0


class KillsInFlight(actors.Cluster):
    """SIGKILL reaches the rank while a batch is on its way to it (it is held by SIGSTOP until then)."""

    victim = None

    def _dispatched(self, rank):
        if rank == self.victim:
            self.victim = None
            self.strike("kill", rank)


@pytest.fixture(scope="module")
def ray(ray_head):
    with head.connect(ray_head) as ray:
        yield ray


@pytest.fixture(scope="module")
def placement():
    return Placement.from_slots(SLOTS, G, num_experts=N)


@pytest.fixture(scope="module")
def ranks(ray, placement):
    """One cluster for all tests that leave it as they found it."""
    with start(ray, placement, kind=KillsInFlight) as cluster:
        yield cluster


def start(ray, placement, *, kind=actors.Cluster, **options):
    options = {"router": "metro", "deadline_s": 60.0} | options
    return kind(ray, placement, width=WIDTH, hidden=HIDDEN, seed=SEED, cost=COST, **options)


def batch(tokens, *, experts_in=range(N), seed=0):
    rng = np.random.default_rng([seed, tokens])
    topk = np.stack([rng.permutation(np.array(experts_in))[:K] for _ in range(tokens)])
    return rng.standard_normal((tokens, HIDDEN), np.float32), topk, rng.random((tokens, K), np.float32)


def dense(layer, x, topk, gates):
    made = lambda e: experts.generate(e, seed=SEED, layer=layer, width=WIDTH, hidden=HIDDEN)  # noqa: E731
    return experts.dense(x, topk, gates, made)


def close(result, expected):
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def eventually(condition, *, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.02)


def test_both_ways_to_decide_give_the_same_slots_and_the_dense_layer(ranks):
    given = {0: batch(9), 1: batch(3)}
    one = {layer: ranks.step(layer, *given[layer]) for layer in given}
    ranks.decide("replicated")
    for layer in given:
        every = ranks.step(layer, *given[layer])
        assert one[layer].slot.tobytes() == every.slot.tobytes()
        assert one[layer].output.tobytes() == every.output.tobytes()
        close(every.output, dense(layer, *given[layer]))
        assert sum(part["tokens"] for part in every.ranks.values()) == every.slot.size
        assert len(every.ranks) == G
    ranks.decide("one")
    for rank in range(G):
        ranks.ask(rank, "counters")


def test_every_slot_holds_the_generated_expert_and_pids_differ(ranks):
    import hashlib

    for rank in range(G):
        made = experts.generate(int(SLOTS[0, rank * 8 + 3]), seed=SEED, layer=0, width=WIDTH, hidden=HIDDEN)
        assert ranks.ask(rank, "inspect", 0, rank * 8 + 3) == hashlib.sha256(made.tobytes()).digest()
    assert len(set(ranks.pids)) == G


def test_timed_runs_report_what_was_read(ray, ranks):
    x, topk, gates = batch(5)
    slot = ranks.step(0, x, topk, gates).slot
    (stats,) = ray.get(ranks.measure(2, [(0, x, topk, gates, slot)], 2**21))
    mine = slot[slot // 8 == 2]
    assert (stats["activated"], stats["tokens"]) == (len(np.unique(mine)), mine.size)
    assert stats["bytes"] == stats["activated"] * 3 * WIDTH * HIDDEN * 4
    assert stats["stream_GBps"] > 0
    assert stats["cpu_ns"] > 0


def test_rearrange_moves_experts_and_keeps_the_output(ranks, placement):
    given = batch(6)
    other = Placement.from_slots(np.roll(SLOTS, 8, axis=1), G, num_experts=N)
    assert ranks.rearrange(other) > 0
    close(ranks.step(0, *given).output, dense(0, *given))
    ranks.rearrange(placement)
    close(ranks.step(0, *given).output, dense(0, *given))


def test_errors_of_a_rank_arrive_as_they_are(ranks):
    x, topk, gates = batch(2)
    with pytest.raises(ValueError, match="topk: row 1"):
        ranks.step(0, x, np.where(np.arange(2)[:, None] == 1, topk[:, :1], topk), gates)
    with pytest.raises(ValueError, match=r"expected \(tokens, 32\)"):
        ranks.step(0, x[:, :16], topk, gates)
    close(ranks.step(0, x, topk, gates).output, dense(0, x, topk, gates))


def test_sigkill_in_mid_step_is_repeated_and_the_rank_comes_back_identical(ranks):
    given = batch(12)
    undisturbed = ranks.step(0, *given)
    assert set(undisturbed.ranks) == set(range(G))
    before = [ranks.ask(1, "inspect", layer, 11) for layer in range(LAYERS)]
    old_pid = ranks.pids[1]
    ranks.victim = 1
    ranks.strike("stop", 1)
    result = ranks.step(0, *given)
    assert (result.tries, result.died, result.stragglers) == (2, (1,), ())
    assert ranks.alive.tolist() == [True, False, True, True]
    assert sum(part["tokens"] for part in result.ranks.values()) == given[1].size
    close(result.output, undisturbed.output)
    assert 1 not in ranks.step(0, *given).ranks
    ranks.restart(1)
    assert ranks.pids[1] != old_pid
    assert [ranks.ask(1, "inspect", layer, 11) for layer in range(LAYERS)] == before
    assert ranks.step(0, *given).output.tobytes() == undisturbed.output.tobytes()


def test_an_expert_without_a_live_copy_is_named_at_once(ranks):
    lonely, others = batch(3, experts_in=range(K)), batch(5, experts_in=range(4, N))
    close(ranks.step(1, *lonely).output, dense(1, *lonely))  # every token chooses expert 0, which only rank 3 has
    ranks.strike("kill", 3)
    eventually(lambda: not faults.is_alive(ranks.pids[3]))
    began = time.monotonic()
    with pytest.raises(RoutingError, match="expert 0 of layer 1"):
        ranks.step(1, *lonely)
    assert time.monotonic() - began < 2.0
    close(ranks.step(1, *others).output, dense(1, *others))
    ranks.restart(3)
    close(ranks.step(1, *lonely).output, dense(1, *lonely))


def test_faults_of_the_settings_stop_continue_and_kill(ray, ranks):
    """A stopped rank is named as a straggler, routed round, and taken back once it has answered."""
    given, begin = batch(12), ranks.steps
    ranks.inject(
        [
            faults.Fault(kind="stop", rank=2, at_step=begin + 1),
            faults.Fault(kind="continue", rank=2, at_step=begin + 2),
            faults.Fault(kind="kill", rank=0, at_step=begin + 3),
        ]
    )
    first = ranks.step(0, *given)
    assert (first.tries, first.stragglers) == (1, ())
    ranks.deadline_s = 1.0
    stopped = ranks.step(0, *given)
    ranks.deadline_s = 60.0
    assert (stopped.tries, stopped.died, stopped.stragglers) == (2, (), (2,))
    close(stopped.output, first.output)
    close(ranks.step(0, *given).output, first.output)  # "continue" comes just before this step
    eventually(lambda: ranks.take_back().all())
    killed = ranks.step(0, *given)
    assert killed.died == (0,)
    assert 2 in killed.ranks
    assert 0 not in killed.ranks
    close(killed.output, first.output)


def test_bad_clusters_are_refused(ray, placement):
    for options, message in [
        ({"router": "best"}, "router .='best'.*known: primary"),
        ({"deciders": "two"}, "deciders"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"schedule": [faults.Fault(kind="kill", rank=4, at_step=0)]}, "rank 4; there are ranks 0 to 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            start(ray, placement, **options)
