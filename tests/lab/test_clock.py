"""The event clock: order, errors, and a queue whose theory is known."""

import math

import numpy as np
import pytest
import simpy

from operators.lab.clock import Clock


def test_ties_run_in_order_of_insertion():
    clock, seen = Clock(), []
    for name in "abc":
        clock.at(1.0, lambda name=name: seen.append(name))
    clock.at(1.0, lambda: clock.after(0.0, lambda: seen.append("e")))
    clock.at(1.0, lambda: seen.append("d"))
    assert clock.run() == 1.0
    assert seen == list("abcde")


def test_run_until_keeps_what_is_later():
    clock, seen = Clock(), []
    for time in (1.0, 2.0, 3.0):
        clock.at(time, lambda time=time: seen.append(time))
    assert clock.run(until=2.0) == 2.0
    assert (seen, len(clock)) == ([1.0, 2.0], 1)


@pytest.mark.parametrize("time", [0.5, math.nan, math.inf])
def test_the_past_and_no_time_are_refused(time):
    clock = Clock(start=1.0)
    with pytest.raises(ValueError, match=r"time \(="):
        clock.at(time, lambda: None)


def test_an_error_in_an_event_is_not_lost():
    clock = Clock()
    clock.at(1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clock.run()
    assert clock.now == 1.0


def waits(servers, arrivals, services):
    """Waiting times in a first-come queue on our clock."""
    clock, free, queue, out = Clock(), servers, [], {}

    def start():
        nonlocal free
        while free and queue:
            at, arrived = queue.pop(0)
            free -= 1
            out[at] = clock.now - arrived
            clock.after(services[at], done)

    def done():
        nonlocal free
        free += 1
        start()

    def arrive(at):
        queue.append((at, clock.now))
        start()

    for at, time in enumerate(arrivals):
        clock.at(time, lambda at=at: arrive(at))
    clock.run()
    return np.array([out[at] for at in range(len(arrivals))])


def simpy_waits(servers, arrivals, services):
    """The same queue in simpy."""
    env, out = simpy.Environment(), {}
    pool = simpy.Resource(env, capacity=servers)

    def customer(at):
        yield env.timeout(arrivals[at])
        with pool.request() as turn:
            yield turn
            out[at] = env.now - arrivals[at]
            yield env.timeout(services[at])

    for at in range(len(arrivals)):
        env.process(customer(at))
    env.run()
    return np.array([out[at] for at in range(len(arrivals))])


def erlang_c(servers, load):
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)


def test_queue_equals_simpy_and_erlang_c():
    rng = np.random.default_rng(0)
    servers, rate, count = 3, 2.4, 20_000
    arrivals, services = np.cumsum(rng.exponential(1 / rate, count)), rng.exponential(1.0, count)
    ours = waits(servers, arrivals, services)
    few = 2_000
    np.testing.assert_allclose(ours[:few], simpy_waits(servers, arrivals[:few], services[:few]), atol=1e-9)
    theory = erlang_c(servers, rate) / (servers - rate)
    assert ours.mean() == pytest.approx(theory, rel=0.15)
    assert (ours > 1e-12).mean() == pytest.approx(erlang_c(servers, rate), rel=0.08)
