"""The simulated device: against a plain one token by token, and relations no correct model may break."""

import numpy as np
import polars as pl
import pytest

from operators.llm.shapes import MODELS
from operators.odma import (
    ConfigError,
    DeviceSpec,
    cluster,
    crossover,
    metrics,
    policies,
    simulate_cluster,
    simulate_device,
)
from operators.odma import engine_state as es
from operators.odma.cluster_state import choose
from operators.odma.device import serve
from operators.odma.policies import safety_pool
from operators.odma.replay import ReplayError, replay
from tests.odma import slow_reference

SHAPE = MODELS["qwen2.5-7b"]
SPEC = DeviceSpec(tokens=6400)


def trace(n, *, seed=0, gap=0.0, longest=300):
    """Requests with lognormal answers, a prediction that is right up to noise, and bounds from it."""
    rng = np.random.default_rng([seed, n])
    outputs = np.clip(rng.lognormal(4.2, 0.9, n), 1, longest).astype(int)
    mean = outputs * np.exp(rng.normal(0, 0.4, n))
    return pl.DataFrame(
        {
            "request_id": [str(i) for i in range(n)],
            "arrival_s": np.cumsum(rng.exponential(gap, n)) if gap else np.zeros(n),
            "input_tokens": rng.integers(10, 90, n).astype(np.int32),
            "output_tokens": outputs.astype(np.int32),
            "mean": mean,
            "q90": mean * 1.6,
            "n90": mean * 1.5,
            "u": rng.uniform(0.2, 0.8, n),
        }
    )


def classes(**changed):
    return policies.Policy("classes", value="q", boundaries=(48, 96, 160, 304), overflow="recompute", **changed)


@pytest.mark.parametrize("gap", [0.0, 0.02])
@pytest.mark.parametrize("policy", [policies.static(288).but(overflow="recompute"), classes(), policies.paged(16)])
def test_every_request_ends_when_the_plain_device_says(policy, gap):
    table = trace(200, gap=gap, longest=320)
    found = serve(table, SHAPE, SPEC, policy, count=True)
    weights, kv, stream = SHAPE.weight_bytes(), SHAPE.kv_bytes_per_token(), SPEC.stream_Bps
    alpha = SPEC.alpha if policy.kind == "paged" else 1.0

    def step_s(used, prefilled, copied):
        compute = 2 * SHAPE.params() * (len(used) + prefilled) / SPEC.compute_flops
        return max((weights + kv * sum(used) / alpha) / stream, compute) + 2 * kv * copied / stream

    page = policy.page if policy.kind == "paged" else 0
    rows = table.select("arrival_s", "input_tokens", "output_tokens", "q90").rows()
    requests = [
        slow_reference.Request(i, a, p, o, q if policy.value == "q" else 0) for i, (a, p, o, q) in enumerate(rows)
    ]
    slow_reference.serve(requests, bounds=policy.boundaries, capacity=6400 // (page or 16), step_s=step_s, page=page,
                         watermark=int(0.01 * 400) if page else 0)  # fmt: skip
    assert found.x[:, es.FINISH] == pytest.approx([r.finish for r in requests], rel=1e-9)
    assert found.x[:, es.TOKEN] == pytest.approx([r.token for r in requests], rel=1e-9)
    assert found.r[:, es.COPIES].tolist() == [r.copies for r in requests]
    assert found.r[:, es.PREEMPTIONS].tolist() == [r.preemptions for r in requests]
    assert sum(r.preemptions for r in requests) + sum(r.copies for r in requests) > 0


def everyone(table):
    past = table["output_tokens"].to_numpy()
    known = policies.odma(past, 304, k=6, tau=0.75, residuals=np.log(past / table["q90"]), safety=0.1, jump="large")
    return [
        policies.static(304), policies.s3(304), known, known.but(dynamic=False, adaptive=False), policies.oracle(),
        policies.paged(), policies.hybrid(known.but(safety=0.0), 64), policies.constant_quantile(0.9, past, 304),
        known.but(order="tag", overflow="park", compaction=0.02),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_everything_submitted_ends_and_shares_are_shares(number, gap):
    table = trace(400, gap=gap)
    policy = everyone(table)[number]
    found = serve(table, SHAPE, SPEC, policy, log_rows=20_000)
    measured = metrics.measures(found)
    assert measured["failed"] == 0
    assert (found.r[:, es.STATE] == es.FINISHED).all()
    for name in ("util_live", "util_final", "util_device", "external"):
        assert 0 <= measured[name] <= 1, name
    assert (found.x[:, es.FINISH] > found.x[:, es.START]).all()
    assert found.s[es.USED_UNITS] == found.s[es.USED_RUN] == found.s[es.N_RUN] == found.s[es.N_PARKED] == 0
    assert found.s[es.ORDINARY_UNITS] == found.s[es.PAGED_RUN] == found.s[es.N_TAIL] == 0
    assert measured["moved_bytes"] == (found.r[:, es.COPIED].sum() + found.s[es.COMPACTED]) * SHAPE.kv_bytes_per_token()
    log = metrics.alloc_log(found)
    if policy.kind != "paged":
        kept = log.filter(pl.col("op") != "relabel")
        assert replay(kept, SPEC.tokens) == len(kept) >= 800


def test_a_log_that_was_changed_does_not_replay():
    found = serve(trace(60), SHAPE, SPEC, policies.static(304), log_rows=1000)
    log = metrics.alloc_log(found)
    wrong = log.with_columns(offset=pl.when(pl.col("seq") == 7).then(pl.col("offset") + 16).otherwise(pl.col("offset")))
    with pytest.raises(ReplayError, match="row 7"):
        replay(wrong, SPEC.tokens)


def tps(table, policy, *, spec=SPEC, **options):
    return metrics.measures(serve(table, SHAPE, spec, policy, **options))["tps"]


def test_s3_with_one_class_is_static():
    table = trace(300)
    assert tps(table, policies.s3(304, 1)) == tps(table, policies.static(304))


def test_single_token_pages_at_alpha_one_bound_every_policy():
    table, spec = trace(300), DeviceSpec(tokens=6400, alpha=1.0)
    most = tps(table, policies.paged(1, watermark=0.0), spec=spec)
    for policy in everyone(table):
        assert tps(table, policy, spec=spec) <= most * 1.02  # a preempted page policy recomputes


def test_alpha_moves_pages_and_nothing_else():
    table = trace(300)
    some = (policies.paged(), policies.static(304), policies.oracle(), policies.hybrid(policies.static(64)))
    specs = [DeviceSpec(tokens=6400, alpha=alpha) for alpha in (0.1, 0.4, 1.0)]
    rates = {policy.name: [tps(table, policy, spec=spec) for spec in specs] for policy in some}
    assert rates["paged"] == sorted(rates["paged"])
    assert rates["paged"][0] < rates["paged"][2]
    assert rates["hybrid"][0] < rates["hybrid"][2]
    assert len(set(rates["static"])) == len(set(rates["oracle"])) == 1


def test_the_oracle_wastes_least():
    table = trace(400)
    final = {p.name: metrics.measures(serve(table, SHAPE, SPEC, p))["util_final"] for p in everyone(table)[:5]}
    assert final["oracle"] == max(final.values())


def test_twice_the_card_takes_half_the_time():
    table = trace(200)
    fast = DeviceSpec(tokens=6400, stream_Bps=2 * SPEC.stream_Bps, compute_flops=2 * SPEC.compute_flops)
    for policy in everyone(table)[:3]:
        assert tps(table, policy, spec=fast) == pytest.approx(2 * tps(table, policy), rel=1e-9)


def test_shuffled_arrivals_keep_all_tokens_and_one_seed_is_one_table():
    table = trace(200)
    one, again, other = (simulate_device(table, SHAPE, SPEC, everyone(table)[2], seed=s).requests for s in (1, 1, 2))
    assert one.equals(again)
    assert not one.equals(other)
    assert one["output_tokens"].sum() == other["output_tokens"].sum()


def test_a_step_by_hand():
    one = pl.DataFrame({"arrival_s": [0.0], "input_tokens": [100], "output_tokens": [2]})
    found = serve(one, SHAPE, SPEC, policies.oracle())
    bytes_, kv = 15_231_233_024, 57_344
    prefill = 2 * 7_615_616_512 * 101 / 96e12
    first = max((bytes_ + kv * 100) / (307e9 * 0.8), prefill)
    second = (bytes_ + kv * 101) / (307e9 * 0.8)
    assert found.x[0, es.TOKEN] == pytest.approx(first)
    assert found.x[0, es.FINISH] == pytest.approx(first + second)
    free = serve(one, SHAPE, SPEC, policies.oracle(), charge_prefill=False)
    assert free.x[0, es.TOKEN] == pytest.approx((bytes_ + kv * 100) / (307e9 * 0.8))


def test_several_devices_share_a_queue():
    table = trace(300, gap=0.004)
    found = simulate_cluster(table, SHAPE, [SPEC] * 3, everyone(table)[2])
    assert len(found.requests) == 300
    assert found.requests["request_id"].n_unique() == 300
    counts = found.requests["device"].value_counts()["count"]
    assert counts.min() > 60
    alone = simulate_cluster(table, SHAPE, [SPEC], everyone(table)[2]).requests
    assert found.requests["finish_s"].max() < alone["finish_s"].max()
    assert cluster.measures(table, SHAPE, [SPEC] * 3, everyone(table)[2])["failed"] == 0
    assert choose(np.array([5, 3, 3]), np.array([0, 2, 1])) == 2


def test_where_pages_and_blocks_cross():
    table, a, b = trace(300), policies.oracle(), policies.paged()
    star, low, high = crossover(table, SHAPE, SPEC, a, b)
    assert low <= star <= high
    assert high - low < 0.002
    assert tps(table, b, spec=DeviceSpec(tokens=6400, alpha=low)) < tps(table, a)
    assert tps(table, b, spec=DeviceSpec(tokens=6400, alpha=high)) > tps(table, a)
    assert crossover(table, SHAPE, SPEC, policies.static(304), policies.oracle()) is None


def test_safety_pool_of_one_class():
    assert safety_pool([0.1], [100], [160]) == pytest.approx(10 * 160 + 2.33 * 3 * 160)
    assert safety_pool([0.1], [100], [160], capacity=4000) == pytest.approx(1200)
    with pytest.raises(ValueError, match="p_overflow"):
        safety_pool([1.2], [1], [1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeviceSpec(alpha=0), "alpha .=0"),
        (lambda: DeviceSpec(alpha=1.5), "alpha .=1.5"),
        (lambda: DeviceSpec(mem_bytes=1e9).kv_tokens(SHAPE, 16), "no room"),
        (lambda: serve(trace(5), SHAPE, DeviceSpec(tokens=320), policies.static(304)), "less than one largest request"),
        (lambda: serve(trace(5).drop("q90"), SHAPE, SPEC, classes()), "no column 'q90'"),
        (lambda: serve(trace(5), SHAPE, SPEC, policies.hybrid(classes(), 40)), "page .=40"),
        (lambda: policies.Policy("x", kind="magic"), "kind .='magic'.: expected one of fixed"),
        (lambda: policies.Policy("x", boundaries=(5, 5)), "strictly rising"),
    ],
)
def test_impossible_devices_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_impossible_requests_are_named():
    with pytest.raises(ValueError, match="trace row 1: output_tokens is 0"):
        serve(pl.DataFrame({"arrival_s": [0.0, 0.0], "input_tokens": [5, 5], "output_tokens": [5, 0]}), SHAPE, SPEC,
              policies.oracle())  # fmt: skip
    with pytest.raises(ValueError, match="arrival_s falls"):
        serve(trace(3).with_columns(arrival_s=pl.Series([1.0, 0.0, 2.0])), SHAPE, SPEC, policies.oracle())


def test_bytes_come_from_the_shape():
    assert SHAPE.kv_bytes_per_token() == 57_344
    assert SHAPE.weight_bytes() == 15_231_233_024
    assert DeviceSpec().kv_tokens(SHAPE, 16) == 111_056
