"""The simulator: engines agree, invariants hold, nothing is lost, and what must not change a result does not."""

import numpy as np
import pytest

from operators.llm.engine import serve
from operators.llm.stepmodels import ConstStep, TwoPhaseStep
from operators.warmserve import bench_parts, plane, simulate_core
from operators.warmserve.errors import ConfigError
from operators.warmserve.policies import POLICIES
from operators.warmserve.simulator import Trace, simulate
from tests.warmserve.traces import history, settings, trace, ttft

SMALL = {"gpu_gib": 56.0, "nodes": 1}  # one node, little memory: evictions, preemptions, take-backs


def counts(result) -> tuple:
    p = result.plane
    return int(np.isnan(p.r_finish).sum()), int(p.n[plane.DONE]), int(p.m_inflight.sum())


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_serves_everything_and_keeps_its_invariants(name):
    result = simulate(trace(1), settings(), history(), name=name, validate=True)
    assert counts(result) == (0, 600, 0)
    p = result.plane
    assert (p.r_sent >= p.r_arrival).all()
    assert (p.r_first > p.r_sent).all()
    assert (p.r_finish > p.r_first).all()
    assert (p.r_gen == p.r_out).all()
    assert (p.s_used == 0).all()
    result.cluster.ledger.validate()


@pytest.mark.parametrize("name", ["warmserve", "muxserve", "sllm_gpu"])
def test_steps_and_jumps_are_the_same(name):
    found = [simulate(trace(2), settings(engine=engine, **SMALL), history(), name=name) for engine in ("step", "jump")]
    step, jump = (one.plane for one in found)
    assert np.abs(step.r_first - jump.r_first).max() <= 1e-9
    assert np.abs(step.r_finish - jump.r_finish).max() <= 1e-9
    assert np.array_equal(step.r_engine, jump.r_engine)
    assert np.array_equal(step.r_preempted, jump.r_preempted)
    assert step.n[plane.STEPS] == jump.n[plane.STEPS]
    assert len(found[0].cluster.events) == len(found[1].cluster.events)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["warmserve", "muxserve"])
def test_the_stand_in_of_the_event_loop_gives_the_same_bits(name):
    found = [simulate(trace(3), settings(**SMALL), history(), name=name, native=native) for native in (True, False)]
    for field in ("r_first", "r_finish", "r_engine", "r_kind", "m_integral"):
        a, b = (getattr(one.plane, field) for one in found)
        assert np.array_equal(a, b), field
    assert found[0].cluster.events == found[1].cluster.events


def test_one_engine_with_growing_steps_and_little_memory():
    """Linear step times, preemptions: step by step and in jumps, through the raw loop."""
    rng = np.random.default_rng(0)
    n = 300
    arrival, inputs = np.sort(rng.uniform(0, 60, n)), rng.integers(1, 900, n).astype(np.int32)
    outputs, found = rng.integers(1, 500, n).astype(np.int32), []
    for step_engine in (True, False):
        p = plane.plane(
            *(arrival, np.zeros(n, np.int32), inputs, outputs),
            **{"slots": 1, "models": 1, "batch": plane.NO_LIMIT, "poll_s": 0.0, "step_engine": step_engine},
            **{"max_seqs": 64, "token_budget": 4096},
        )
        p.s_state[0], p.s_engine[0], p.s_block[0], p.m_slot_count[0], p.m_slots[0, 0] = plane.RUNNING, 0, 16, 1, 0
        p.s_limit[0] = p.s_cap[0] = 700
        p.s_coef[0, :8] = [0.004, 1e-4, 2e-5, 1e-9, 0.01, 1e-5, 2e-7, 0.0]
        assert simulate_core.loop(p).advance(np.inf)[0] == plane.FINISHED
        found.append(p)
    assert found[0].r_preempted.sum() > 20
    assert np.array_equal(found[0].r_preempted, found[1].r_preempted)
    assert np.abs(found[0].r_finish - found[1].r_finish).max() <= 1e-9
    assert found[0].s_used[0] == 0


@pytest.mark.parametrize(
    "step", [ConstStep(0.02, 0.01), TwoPhaseStep((0.01, 1e-4, 1e-9), (0.01, 1e-6, 1e-4), (0.02, 1e-6, 5e-5), 20)]
)
def test_one_engine_is_the_shared_engine(step):
    rng = np.random.default_rng(1)
    arrival = np.sort(rng.uniform(0, 100, 400))
    inputs, outputs = rng.integers(1, 900, 400).astype(np.int32), rng.integers(2, 60, 400).astype(np.int32)
    made = serve((arrival, inputs, outputs), step, scheduler="prefill_first", max_seqs=4096, token_budget=10**9)
    const = isinstance(step, ConstStep)
    coefficients = [0, 0.02, 0, 0, 0.01, 0, 0, 0, 0, 0, 0] if const else bench_parts.two_phase(step)
    p = bench_parts.one_engine(arrival, inputs, outputs, np.array(coefficients, float))
    assert np.abs(p.r_first - made.first_token_s).max() < 1e-6
    assert np.abs(p.r_finish - made.last_token_s).max() < 1e-6


def test_the_same_seed_gives_the_same_bytes():
    a, b = (simulate(trace(4), settings(), history()) for _ in range(2))
    assert a.cluster.events == b.cluster.events
    assert a.cluster.timeline == b.cluster.timeline
    assert np.array_equal(a.plane.r_finish, b.plane.r_finish)
    assert not np.array_equal(a.plane.r_finish, simulate(trace(5), settings(), history()).plane.r_finish)


def test_forecasts_of_zero_are_no_prewarming():
    nothing = history(mean=0.0, peak=0.0)
    # corrections would raise a forecast above zero: one window over the whole run has none
    one = settings(window_s=3600.0)
    a, b = (simulate(trace(6), one, nothing, name=name) for name in ("warmserve", "no_prewarm"))
    assert np.array_equal(a.plane.r_first, b.plane.r_first)


def test_a_reserve_of_everything_is_no_proactive():
    a = simulate(trace(7), settings(reserve="all", **SMALL), history())
    b = simulate(trace(7), settings(**SMALL), history(), name="no_proactive")
    assert np.array_equal(a.plane.r_first, b.plane.r_first)


def test_without_start_times_policies_of_one_path_are_equal():
    free = settings(load_s_per_gib=1e-9, engine_start_s=0.0, engine_tp2_s=0.0, poll_s=0.0).model_dump()
    for served in free["models"]:
        served["hot_s"] = 0.0
    free = type(settings()).checked(free)
    found = [simulate(trace(8), free, history(), name=name) for name in ("warmserve", "no_prewarm", "sllm_gpu")]
    for other in found[1:]:
        assert np.abs(ttft(found[0]) - ttft(other)).max() < 1e-6


def test_swapping_two_equal_arrivals_changes_no_total():
    one = trace(9)
    one.arrival_s[101] = one.arrival_s[100]
    order = np.arange(len(one.arrival_s))
    order[[100, 101]] = [101, 100]
    other = Trace(*(getattr(one, name)[order] for name in ("arrival_s", "model", "input_tokens", "output_tokens")))
    a, b = (simulate(t, settings(), history()).plane for t in (one, other))
    assert a.r_gen.sum() == b.r_gen.sum()
    if one.model[100] != one.model[101]:
        assert np.sort(a.r_finish) == pytest.approx(np.sort(b.r_finish))


def test_renaming_models_changes_nothing():
    renamed = settings().model_dump()
    for number, served in enumerate(renamed["models"]):
        served["name"] = f"z{9 - number}"
    a, b = (simulate(trace(10), s, history()) for s in (settings(), type(settings()).checked(renamed)))
    assert np.array_equal(a.plane.r_finish, b.plane.r_finish)


def test_a_true_forecast_and_more_memory_never_hit_less():
    hits = []
    for gib in (60.0, 80.0, 160.0):
        p = simulate(trace(11), settings(gpu_gib=gib), history(), name="oracle").plane
        hits.append(int((p.r_kind == plane.KIND_ONDEMAND).sum()))
    assert hits[2] <= hits[0]


def test_starts_cost_what_the_model_says():
    one = Trace(np.array([1.0]), np.array([0]), np.array([100]), np.array([3]))
    nothing = history(mean=0.0, peak=0.0)
    load = 0.77 * 13_476_831_232 / 2**30
    cold = simulate(one, settings(), nothing, name="sllm_gpu")
    assert ttft(cold)[0] == pytest.approx(15.7 + load + 0.035)
    miss = simulate(one, settings(), nothing, name="warmserve")
    assert ttft(miss)[0] == pytest.approx(load + 0.285 + 0.035)
    everybody = simulate(one, settings(), nothing, name="warmserve", process_pool=False)
    assert ttft(everybody)[0] == pytest.approx(15.7 + load + 0.035)
    hit = simulate(one, settings(), nothing, name="oracle_hit")
    assert ttft(hit)[0] == pytest.approx(0.285 + 0.035)
    fast = simulate(one, settings(), nothing, name="sllm_gpu", cold="pcie")
    assert ttft(fast)[0] == pytest.approx(load / 0.77 / 32 + 0.285 + 0.035)


def test_fitted_step_times_take_the_place_of_constants():
    one = Trace(np.array([1.0]), np.array([0]), np.array([100]), np.array([3]))
    fitted = settings().model_dump()
    fitted["models"][0]["linear"] = [0.01, 1e-4, 1e-3, 1e-6]
    fitted = type(settings()).checked(fitted)
    p = simulate(one, fitted, history(mean=0.0, peak=0.0), name="oracle_hit").plane
    assert p.r_first[0] - 1.0 == pytest.approx(0.285 + 0.01 + 100 * 1e-4)
    assert p.r_finish[0] - p.r_first[0] == pytest.approx(2 * 0.011 + (101 + 102) * 1e-6)
    step, jump = (
        simulate(trace(14), type(fitted).checked(fitted.model_dump() | {"engine": engine}), history()).plane
        for engine in ("step", "jump")
    )
    assert np.abs(step.r_finish - jump.r_finish).max() <= 1e-9
    fitted = fitted.model_dump()
    fitted["models"][0]["linear"] = [0.0, 1e-4, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"7b-a: linear=.*the first > 0"):
        type(settings()).checked(fitted)


def test_waiting_requests_poll_or_are_woken():
    two = Trace(np.array([1.0, 1.1]), np.array([0, 0]), np.array([100, 100]), np.array([3, 3]))
    nothing = history(mean=0.0, peak=0.0)
    polled = ttft(simulate(two, settings(), nothing, name="oracle_hit"))
    assert polled[1] == pytest.approx(1.0 + 0.035)
    woken = ttft(simulate(two, settings(poll_s=0.0), nothing, name="oracle_hit"))
    assert woken[1] < 0.3


def test_take_back_evicts_weights_and_preempts_nobody():
    """Two engines of one model, one stops with eight long requests; two other models are prewarmed into its KV."""
    changed = settings(nodes=1, gpu_gib=56.0, reserve="official", window_s=3600.0).model_dump() | {"gpus_per_node": 2}
    changed["models"] = [changed["models"][0] | {"name": name} for name in "abc"]
    changed = type(settings()).checked(changed)
    outputs = np.array([1500] * 24 + [6000] * 16, np.int32)
    n = len(outputs)
    requests = Trace(1.0 + np.arange(n) * 1e-3, np.zeros(n, np.int32), np.full(n, 100, np.int32), outputs)
    wanted = history(3, mean=20.0, peak=20.0)
    wanted.true_mean[0] = wanted.true_peak[0] = np.zeros(6)
    result = simulate(requests, changed, wanted, name="oracle", validate=True)
    kinds = [event[1] for event in result.cluster.events]
    assert kinds.index("stop") < kinds.index("takeback")
    assert "evicted_takeback" in {entry.outcome for entry in result.cluster.ledger.entries.values()}
    assert counts(result)[0] == 0
    assert result.plane.r_preempted.sum() == 0


def test_what_cannot_be_served_is_refused():
    too_long = Trace(np.array([0.0]), np.array([0]), np.array([500_000]), np.array([3]))
    with pytest.raises(ConfigError, match="row 0: 500003 tokens; expected at most"):
        simulate(too_long, settings(), history())
    unknown = Trace(np.array([0.0]), np.array([7]), np.array([5]), np.array([3]))
    with pytest.raises(ConfigError, match="model 7"):
        simulate(unknown, settings(), history())
    with pytest.raises(ConfigError, match=r"policy .*'warm'"):
        simulate(trace(1), settings(), history(), name="warm")
