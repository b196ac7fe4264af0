"""The queueing model against what can be worked out by hand, and the rule that carries sizes."""

import numpy as np
import pytest

from operators.batann.beams import at_recall, beam_for
from operators.batann.extrapolate import power_law
from operators.batann.model import SimConfig, Visits, baton_visits, memory_bytes, scatter_visits, simulate_cluster

FREE = {"score_us": 0.0, "start_us": 0.0, "message_us": 0.0, "link_us": 0.0, "read_us": 0.0}


def test_one_query_alone_takes_the_sum_of_its_parts():
    visits = Visits(np.array([0, 2]), np.array([0, 1]), np.array([3, 2]), np.array([4, 4]))
    config = SimConfig(2, iops=0, read_us=100, score_us=5, start_us=7, message_us=11, link_us=13)
    found = simulate_cluster(visits, config, window=1)
    assert found.latency_us[0] == pytest.approx(5 * (100 + 4 * 5) + 2 * (7 + 11) + 3 * 13)
    assert found.reads.tolist() == [12, 8]


def test_a_disk_at_its_limit_gives_cap_over_reads():
    visits = baton_visits(2000, 1, hops=10, spread=0, share=0.0, reads_per_hop=4)
    found = simulate_cluster(visits, SimConfig(1, threads=4, iops=4000, **FREE), window=64)
    assert found.qps == pytest.approx(4000 / 40, rel=0.02)


def test_threads_at_their_limit_give_work_over_time():
    visits = baton_visits(3000, 1, hops=10, spread=0, share=0.0, reads_per_hop=1)
    config = SimConfig(1, threads=4, iops=0, **{**FREE, "score_us": 10.0})
    assert simulate_cluster(visits, config, window=64).qps == pytest.approx(4 / (10 * 10e-6), rel=0.02)


def test_an_open_queue_waits_as_the_formula_says():
    """M/D/1: one thread, one read of 50 us a query, load 0.7: mean wait = rho / (2 (1 - rho)) services."""
    visits = baton_visits(60_000, 1, hops=1, spread=0, share=0.0, reads_per_hop=1)
    config = SimConfig(1, threads=1, live=10**6, **{**FREE, "score_us": 50.0})
    found = simulate_cluster(visits, config, rate=0.7 / 50e-6, seed=3)
    assert found.latency_us.mean() == pytest.approx(50 * (1 + 0.7 / (2 * 0.3)), rel=0.05)


def test_servers_share_the_work_of_batons_but_not_of_scatter():
    config = SimConfig(10, iops=1000, **FREE)
    one = simulate_cluster(baton_visits(500, 1, 20, 0, 0.0, 1), SimConfig(1, iops=1000, **FREE), window=64).qps
    ten = simulate_cluster(baton_visits(3000, 10, 20, 0, 0.3, 1), config, window=640).qps
    scattered = simulate_cluster(scatter_visits(500, 10, 20, 1), config, window=64).qps
    limit = 1000 / 20  # of one disk
    assert one == pytest.approx(limit, rel=0.1)
    assert 8 * limit < ten <= 10.6 * limit
    assert scattered == pytest.approx(limit, rel=0.1)


def test_visits_have_the_means_they_were_drawn_for():
    visits = baton_visits(4000, 5, hops=30, spread=2, share=0.25, reads_per_hop=3.5, seed=1)
    handoffs = len(visits.server) / 4000 - 1
    assert visits.hops.sum() / 4000 == pytest.approx(30, rel=0.01)
    assert handoffs == pytest.approx(29 * 0.25, rel=0.05)
    assert (visits.hops * visits.reads).sum() / visits.hops.sum() == pytest.approx(3.5, rel=0.03)
    last = visits.first[1:-1]
    moved = np.ones(len(visits.server), bool)
    moved[last] = False
    assert (visits.server[1:] != visits.server[:-1])[moved[1:]].all()


@pytest.mark.parametrize("options", [{}, {"window": 4, "rate": 10.0}])
def test_a_loop_is_closed_or_open(options):
    with pytest.raises(ValueError, match="exactly one"):
        simulate_cluster(scatter_visits(2, 2, 1, 1), SimConfig(2), **options)
    with pytest.raises(ValueError, match="servers up to 1"):
        simulate_cluster(scatter_visits(2, 2, 1, 1), SimConfig(1), window=1)


def test_a_power_law_is_carried_on_and_its_interval_covers():
    sizes = [10_000, 30_000, 100_000]
    exact = power_law(sizes, [3 * n**0.15 for n in sizes], 10**9)
    assert exact.value == pytest.approx(3 * 1e9**0.15)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values = [3 * n**-0.1 * np.exp(rng.normal(0, 0.02)) for n in sizes * 2]
        found = power_law(sizes * 2, values, 10**8)
        covered += found.low <= 3 * (10**8) ** -0.1 * np.exp(rng.normal(0, 0.02)) <= found.high
    assert 0.91 <= covered / 300 <= 0.985
    assert power_law([1, 10], [1, 2], 100).low is None
    for wrong in ([1, 1], [1, 10]):
        with pytest.raises(ValueError, match=r"sizes|values"):
            power_law(wrong, [0.0, 1.0], 100)


def test_the_beam_for_a_recall_is_the_smallest():
    assert beam_for(lambda L: L / 100, 0.37, low=10, high=200) == 37
    assert beam_for(lambda L: 1.0, 0.95, low=10, high=200) == 10
    assert beam_for(lambda L: 0.5, 0.95, low=10, high=200) == 200
    with pytest.raises(ValueError, match="low, high"):
        beam_for(lambda L: 1.0, 0.9, low=5, high=4)


def test_values_are_interpolated_at_a_recall():
    assert at_recall([0.9, 1.0], [10, 20], 0.95) == pytest.approx(15)
    assert at_recall([0.97, 1.0], [10, 20], 0.95) == 10
    assert np.isnan(at_recall([0.8, 0.9], [10, 20], 0.95))
    assert np.isnan(at_recall([], [], 0.95))


def test_memory_follows_the_layout():
    assert memory_bytes(1000, chunks=8, servers=3) == {
        "pq_bytes": 8000, "map_bytes": 1000, "slot_bytes": 4 * 334, "head_nodes": 10
    }  # fmt: skip
