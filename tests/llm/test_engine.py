"""The engine against a plain token-by-token one, steps against jumps, and the rules one at a time."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.llm.engine import serve, serve_many
from operators.llm.stepmodels import ConstStep, LinearStep, RooflineStep, TableStep, TwoPhaseStep
from tests.llm.plain_engine import Plain, Sequence, serve_plain

LINEAR = LinearStep(0.013, 4e-5, 5e-5, 6e-8, 1e-9)
MODELS = [
    LINEAR,
    ConstStep(0.035, 0.015),
    TwoPhaseStep((0.018, 1e-4, 7e-9), (0.02, 6e-7, 4e-5), (0.007, 6e-7, 1.6e-4), threshold=5),
    RooflineStep(weight_bytes=1e9, kv_bytes=2e6, params=5e9, stream_Bps=1e12, flops=1e13),
    TableStep(
        np.array([1, 32]), np.array([0, 50, 90, 400]), np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 5.0, 6.0]]) / 100
    ),
]


def trace(seed, n=60, rate=20.0, longest=(120, 60)):
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, n))
    return arrival, rng.integers(1, longest[0], n), rng.integers(1, longest[1], n)


def same(made, plain):
    first, last, preempted, steps = plain
    np.testing.assert_allclose(made.first_token_s, first, rtol=0, atol=1e-9)
    np.testing.assert_allclose(made.last_token_s, last, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(made.preemptions, preempted)
    assert made.steps == steps


@pytest.mark.parametrize("method", ["step", "jump"])
@pytest.mark.parametrize("scheduler", ["chunked", "prefill_first"])
@pytest.mark.parametrize("step", MODELS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize(
    "limits",
    [
        {"max_seqs": 8, "token_budget": 64},
        {"max_seqs": 16, "token_budget": 100, "kv_tokens": 560, "block": 16},
        {"max_seqs": 30, "token_budget": 48, "kv_tokens": 190, "block": 1},
        {"max_seqs": 1, "token_budget": 7},
    ],
    ids=["plain", "pressure", "one-token-blocks", "one-place"],
)
def test_against_the_plain_engine(step, scheduler, method, limits):
    for seed in (1, 2):
        requests = trace(seed)
        made = serve(requests, step, scheduler=scheduler, method=method, **limits)
        same(made, serve_plain(*requests, lambda *parts: step.step_s(*parts), scheduler=scheduler, **limits))
        if "kv_tokens" in limits:
            assert made.preemptions.sum() > 0


requests_of = st.lists(
    st.tuples(st.integers(0, 400), st.integers(1, 70), st.integers(1, 40)), min_size=1, max_size=25
).map(lambda rows: sorted(rows))


@given(
    requests_of,
    st.sampled_from(["chunked", "prefill_first"]),
    st.sampled_from(["step", "jump"]),
    st.integers(1, 12),
    st.integers(0, 40),
    st.sampled_from([None, 112, 150, 400]),
    st.sampled_from([1, 4, 16]),
    st.sampled_from(MODELS),
)
@settings(max_examples=150, deadline=None)
def test_any_trace_against_the_plain_engine(rows, scheduler, method, max_seqs, more, kv_tokens, block, step):
    arrival, inputs, outputs = np.array(rows).T
    requests = (arrival / 64, inputs, outputs)
    limits = {"max_seqs": max_seqs, "token_budget": max_seqs + more, "kv_tokens": kv_tokens, "block": block}
    made = serve(requests, step, scheduler=scheduler, method=method, **limits)
    same(made, serve_plain(*requests, lambda *parts: step.step_s(*parts), scheduler=scheduler, **limits))


@pytest.mark.parametrize("scheduler", ["chunked", "prefill_first"])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("kv_tokens", [None, 20_000])
def test_jumps_equal_steps_over_thousands_of_requests(scheduler, replicas, kv_tokens):
    requests = trace(5, n=3000, rate=14.0 * replicas, longest=(1500, 500))
    options = {"scheduler": scheduler, "max_seqs": 256, "token_budget": 2048, "kv_tokens": kv_tokens}
    by_step, by_jump = (
        serve_many(requests, LINEAR, replicas=replicas, method=method, **options) for method in ("step", "jump")
    )
    np.testing.assert_allclose(by_jump.first_token_s, by_step.first_token_s, rtol=0, atol=1e-9)
    np.testing.assert_allclose(by_jump.last_token_s, by_step.last_token_s, rtol=0, atol=1e-9)
    assert by_jump.steps == by_step.steps
    for column in ("preemptions", "replica"):
        np.testing.assert_array_equal(getattr(by_jump, column), getattr(by_step, column))


def test_ties_between_steps_and_arrivals_fall_the_same_way():
    # steps of 0.1 s and arrivals on the same grid: sums of floats differ in the last digit
    requests = (np.arange(40) * 0.3, np.full(40, 10), np.full(40, 9))
    made = [serve(requests, ConstStep(0.1, 0.1), scheduler="prefill_first", method=m) for m in ("step", "jump")]
    np.testing.assert_allclose(made[0].last_token_s, made[1].last_token_s, atol=1e-9)
    assert made[0].steps == made[1].steps


def test_one_request_by_hand():
    made = serve(([2.0], [300], [4]), LinearStep(0.01, 1e-5, 1e-4, 0.0), token_budget=200, max_seqs=1)
    assert made.first_token_s[0] == pytest.approx(2.0 + 2 * 0.01 + 300e-5)
    assert made.last_token_s[0] == pytest.approx(2.0 + 2 * 0.01 + 300e-5 + 3 * 0.0101)
    assert made.steps == 5


def test_prefill_first_stalls_decoding_and_chunked_does_not():
    requests = ([0.0, 0.5], [100, 5000], [400, 1])
    step = LinearStep(0.01, 1e-4, 0.0, 0.0)
    stalled = serve(requests, step, scheduler="prefill_first", token_budget=8192, max_seqs=4)
    mixed = serve(requests, step, scheduler="chunked", token_budget=256, max_seqs=4)
    assert stalled.last_token_s[0] == pytest.approx(0.02 + 399 * 0.01 + 0.51)
    assert stalled.first_token_s[1] < mixed.first_token_s[1]


def test_a_preempted_request_keeps_what_it_made():
    made = serve(([0.0, 0.01], [40, 40], [60, 60]), LINEAR, max_seqs=4, token_budget=128, kv_tokens=112)
    assert made.preemptions.tolist() == [0, made.preemptions[1]]
    assert made.preemptions[1] >= 1
    assert made.first_token_s[1] < made.last_token_s[0] < made.last_token_s[1]


def test_requests_go_to_the_least_loaded():
    requests = ([0.0, 0.1, 0.2, 0.3], [10, 10, 10, 10], [500, 1, 1, 1])
    made = serve_many(requests, ConstStep(0.01, 0.01), replicas=2, max_seqs=4, token_budget=64)
    assert made.replica.tolist() == [0, 1, 1, 1]
    turns = serve_many(requests, ConstStep(0.01, 0.01), replicas=2, assign="round_robin", max_seqs=4, token_budget=64)
    assert turns.replica.tolist() == [0, 1, 0, 1]


def test_a_request_that_ends_with_the_step_under_way_still_counts():
    # replica 0 has one request whose last step is under way when the third comes; replica 1 has none
    requests = ([0.0, 0.005, 0.012], [10, 10, 10], [2, 1, 1])
    made = serve_many(requests, ConstStep(0.01, 0.01), replicas=2, max_seqs=4, token_budget=64)
    assert made.replica.tolist() == [0, 1, 0]


def test_in_lockstep_the_slowest_sets_the_pace():
    requests = ([0.0, 0.0], [1000, 10], [1, 3])
    step = LinearStep(0.01, 1e-4, 0.0, 0.0)
    options = {"replicas": 2, "assign": "round_robin", "max_seqs": 4, "token_budget": 2048}
    free, tied = (serve_many(requests, step, lockstep=lockstep, **options) for lockstep in (False, True))
    assert free.first_token_s[1] == pytest.approx(0.011)
    assert tied.first_token_s[1] == pytest.approx(0.11)
    assert tied.last_token_s[1] == pytest.approx(0.13)


@pytest.mark.parametrize("kv_tokens", [None, 560])
def test_lockstep_against_plain_engines_tied_together(kv_tokens):
    requests = trace(11, n=80, rate=40.0)
    limits = {"max_seqs": 12, "token_budget": 64, "kv_tokens": kv_tokens}
    made = serve_many(requests, LINEAR, replicas=2, assign="round_robin", lockstep=True, **limits)
    first, last, preempted = tied_plain(requests, 2, limits)
    np.testing.assert_array_equal(made.replica, np.arange(80) % 2)
    np.testing.assert_allclose(made.first_token_s, first, atol=1e-9)
    np.testing.assert_allclose(made.last_token_s, last, atol=1e-9)
    np.testing.assert_array_equal(made.preemptions, preempted)


def tied_plain(requests, replicas, limits):
    """Plain engines whose steps all take as long as the slowest one's, requests in turn."""
    times = []

    def step_s(*parts):
        times.append(LINEAR.step_s(*parts))
        return 0.0

    engines = [
        Plain(step_s, "chunked", limits["max_seqs"], limits["token_budget"], limits["kv_tokens"], 16)
        for _ in range(replicas)
    ]
    made = [Sequence(i, *row) for i, row in enumerate(zip(*requests, strict=True))]
    now, at = 0.0, 0
    while at < len(made) or any(engine.waiting or engine.running for engine in engines):
        if not any(engine.waiting or engine.running for engine in engines):
            now = max(now, made[at].arrival)
        while at < len(made) and made[at].arrival <= now + 1e-9:
            engines[at % replicas].waiting.append(made[at])
            at += 1
        times.clear()
        plans = [engine.plan() if engine.waiting or engine.running else [] for engine in engines]
        for engine, plan in zip(engines, plans, strict=True):
            if plan:
                engine.spend(plan)
        now += max(times)
        for engine, plan in zip(engines, plans, strict=True):
            engine.now = now
            engine.settle(plan)
    return [s.first for s in made], [s.last for s in made], [s.preempted for s in made]


def test_stale_reports_send_requests_by_what_was_told():
    # the first request keeps replica 0 busy, but nothing is told for ten seconds: requests alternate by those sent
    requests = ([0.0, 1.0, 2.0, 3.0], [10] * 4, [500, 1, 1, 1])
    options = {"replicas": 2, "max_seqs": 4, "token_budget": 64}
    assert serve_many(requests, ConstStep(0.01, 0.01), stats_s=10.0, **options).replica.tolist() == [0, 1, 0, 1]
    assert serve_many(requests, ConstStep(0.01, 0.01), stats_s=0.5, **options).replica.tolist() == [0, 1, 1, 1]


def test_one_replica_in_lockstep_is_one_replica():
    requests = trace(8)
    options = {"replicas": 1, "max_seqs": 8, "token_budget": 64, "kv_tokens": 560}
    made = [serve_many(requests, LINEAR, lockstep=lockstep, **options) for lockstep in (False, True)]
    np.testing.assert_allclose(made[0].last_token_s, made[1].last_token_s, atol=1e-9)


def test_more_speed_never_serves_later():
    requests = trace(3, n=200)
    slow, fast = (serve(requests, ConstStep(t, t), max_seqs=16, token_budget=512).last_token_s for t in (0.02, 0.01))
    assert (fast <= slow + 1e-9).all()


def test_tables_and_arrays_are_alike_and_an_empty_list_is_served():
    arrival, inputs, outputs = trace(4, n=10)
    frame = pl.DataFrame({"arrival_s": arrival, "input_tokens": inputs, "output_tokens": outputs})
    np.testing.assert_array_equal(
        serve(frame, LINEAR).last_token_s, serve((arrival, inputs, outputs), LINEAR).last_token_s
    )
    none = np.empty(0)
    assert len(serve((none, none, none), LINEAR).last_token_s) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheduler": "fifo"}, r"scheduler \(='fifo'\): expected one of prefill_first, chunked"),
        ({"method": "fast"}, "method"),
        ({"max_seqs": 0}, r"max_seqs \(=0\)"),
        ({"token_budget": 5, "max_seqs": 6}, r"token_budget \(=5\): must be >= max_seqs"),
        ({"kv_tokens": 8}, r"kv_tokens \(=8\): must be >= block"),
        ({"kv_tokens": 48}, r"requests row 0: needs 62 cache tokens"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        serve(([0.0], [60], [3]), LINEAR, **change)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (([1.0, 0.0], [1, 1], [1, 1]), "row 1: arrival_s is 0.0"),
        (([0.0], [0], [1]), "row 0: input_tokens is 0"),
        (([np.nan], [1], [1]), "row 0: arrival_s is nan"),
        (([0.0], [1], [1, 2]), "shapes"),
    ],
)
def test_impossible_requests_are_named(requests, message):
    with pytest.raises(ValueError, match=message):
        serve(tuple(np.array(part) for part in requests), LINEAR)


def test_a_step_of_no_time_ends_the_run():
    with pytest.raises(ValueError, match="ConstStep: a step of this run takes no time"):
        serve(([0.0], [5], [5]), ConstStep(0.01, 0.0), scheduler="prefill_first")
    falling = LinearStep(0.01, 0.0, 0.0, -1e-5)
    for method in ("step", "jump"):
        with pytest.raises(ValueError, match="LinearStep: a step"):
            serve(([0.0], [100], [2000]), falling, method=method)
