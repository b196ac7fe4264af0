"""Comparisons of warmserve with peers and limits, each part a list of rows."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from operators.lab import datasets, peers
from operators.warmserve import placement, placement_baselines, plane, simulate_core, simulator, workload
from operators.warmserve.settings import Settings

PLENTY = 10**6
COLUMNS = ("arrival_s", "input_tokens", "output_tokens")


def cpu(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def cluster(settings: Settings, data: Path | None, n: int) -> list[dict[str, Any]]:
    """Requests per CPU second of whole cluster runs, control plane included."""
    source = workload.sources(data, settings.seed)
    changed = type(settings).checked(settings.model_dump() | {"hours": 600 / 3600 if n < 3 else 1.0})
    frame, history = workload.make(source, changed, rps=25.0, alpha=0.5, seed=settings.seed)
    names = [served.name for served in settings.models]
    trace, past = workload.as_trace(frame, names), workload.as_history(history, names)
    rows = []
    for name, case in (("warmserve", "cluster"), ("sllm_gpu", "cluster, no prewarming")):
        rates = [len(frame) / cpu(lambda n=name: simulator.simulate(trace, changed, past, name=n)) for _ in range(n)]
        rows.append(
            peers.row(
                **{"bench": "simulate", "case": case, "ours": name, "peer": "bar", "unit": "requests/CPU-s"},
                **{"ours_samples": rates, "peer_samples": [100_000.0], "higher_is_better": True, "bar": 1.0},
                **{"data": source.data, "reason": "bar of the specification"},
            )
        )
    return rows


def one_engine(arrival_s, inputs, outputs, coefficients) -> plane.Plane:
    """The event loop with a single engine that has room for everything."""
    zeros = np.zeros(len(arrival_s), np.int32)
    p = plane.plane(
        *(np.asarray(arrival_s, float), zeros, inputs, outputs),
        **{"slots": 1, "models": 1, "batch": plane.NO_LIMIT, "poll_s": 1.0, "step_engine": False},
        **{"max_seqs": 4096, "token_budget": 10**9},
    )
    p.s_state[0], p.s_engine[0], p.s_block[0] = plane.RUNNING, 0, 256
    p.s_limit[0] = p.s_cap[0] = plane.NO_LIMIT
    p.s_coef[0] = coefficients
    p.m_slots[0, 0], p.m_slot_count[0] = 0, 1
    simulate_core.loop(p).advance(np.inf)
    return p


def two_phase(step: Any, extra_s: float = 0.0) -> np.ndarray:
    """Coefficients of a TwoPhaseStep; its context counts one token more per request, as ours does."""
    (a, b, c), small, large = step.prefill, step.decode_small, step.decode_large
    decode = [[phase[0] + extra_s, phase[2], phase[1]] for phase in (small, large)]
    return np.array([a + extra_s, 0.0, b, c, *decode[0], float(step.threshold), *decode[1]])


def azure(settings: Settings, data: Path | None, count: int, rate: float) -> tuple[dict[str, list], str]:
    """The first requests of the Azure conversation trace at a fraction of its rate."""
    from operators.llm import workloads

    frame, mark = workloads.read("azure_conv", data, seed=settings.seed)
    head = frame.head(count)
    return {
        "arrival_s": (head["arrival_s"] / rate).to_list(),
        "input_tokens": head["input_tokens"].to_list(),
        "output_tokens": head["output_tokens"].to_list(),
    }, mark


def distserve_step(data: Path | None) -> Any:
    """OPT-13B on one A100 as DistServe fitted it, or the twin's."""
    from operators.llm import twins_measured
    from operators.llm.stepmodels import TwoPhaseStep

    if datasets.present("distserve-profiles", data):
        path = Path(data) / "distserve-profiles" / "profiler-a100-80g.distserve.json"
        return TwoPhaseStep.from_distserve(path, "facebook/opt-13b", 1)
    profile = twins_measured.distserve_profile()
    return TwoPhaseStep.from_distserve(profile, next(iter(profile)), 1)


def engines(settings: Settings, data: Path | None, n: int) -> list[dict[str, Any]]:
    """One engine beside DistServe's rules on simpy; DistServe's own simulator and LLMServingSim are repositories."""
    import sys

    count = 400 if n < 3 else 2000
    requests, mark = azure(settings, data, count, 1 / 8)
    step, rows = distserve_step(data), []
    script = Path(__file__).parents[1] / "llm" / "peer_simpy.py"
    rules = {
        **{"prefill": list(step.prefill), "decode_small": list(step.decode_small)},
        **{"decode_large": list(step.decode_large), "threshold": step.threshold},
    }
    columns = [np.array(requests[name]) for name in COLUMNS]
    coefficients = two_phase(step)
    ours, theirs, ttft_gap, tpot_gap = [], [], [], []
    with peers.Peer(sys.executable, script) as peer:
        for _ in range(n):
            seconds = cpu(lambda: one_engine(*columns, coefficients))
            ours.append(count / seconds)
            answer = peer.ask(op="serve", **requests, **rules)
            theirs.append(answer["requests_per_s"])
        p = one_engine(*columns, coefficients)
        first, last = np.array(answer["first_token_s"]), np.array(answer["last_token_s"])
    for share in (0.5, 0.99):
        mine, other = (np.quantile(times - columns[0], share) for times in (p.r_first, first))
        ttft_gap.append(abs(mine / other - 1))
    rest = np.maximum(columns[2] - 1, 1)
    tpot_gap.append(abs(((p.r_finish - p.r_first) / rest).mean() / ((last - first) / rest).mean() - 1))
    common = {"ours": "one engine", "data": mark, "higher_is_better": True, "unit": "requests/CPU-s"}
    rows.append(
        peers.row(
            bench="simpy",
            case="speed",
            peer="DistServe's rules on simpy",
            ours_samples=ours,
            peer_samples=theirs,
            bar=200.0,
            reason=f"largest difference: TTFT p50, p99 {max(ttft_gap):.2e}, TPOT {max(tpot_gap):.2e}",
            **common,
        )
    )
    elsewhere = {
        "simdistserve": "a repository, not a package: not measured here; 437 requests/CPU-s on the development machine",
        "LLMServingSim": "a repository that needs ASTRA-Sim: not measured here; 1.9 requests/s by its own summaries",
    }
    for name, reason in elsewhere.items():
        rows.append(peers.row(bench=name.lower(), case="speed", peer=name, ours_samples=ours, reason=reason, **common))
    return rows + vidur(settings, data, n)


def vidur(settings: Settings, data: Path | None, n: int) -> list[dict[str, Any]]:
    """Speed beside Vidur with its vLLM scheduler."""
    common = {
        **{"bench": "vidur", "case": "speed", "ours": "one engine", "peer": "Vidur", "unit": "requests/CPU-s"},
        **{"higher_is_better": True, "bar": 800.0},
    }
    if n < 3:
        return [peers.row(**common, reason="measured at laptop size and above")]
    requests, mark = azure(settings, data, 300, 1 / 8)
    script = Path(__file__).parents[1] / "llm" / "peer_vidur.py"
    coefficients = np.array([0.01, 0.0, 4e-5, 0.0, 0.01, 2e-5, 1e-7, 0.0, 0.0, 0.0, 0.0])
    columns, ours, theirs = [np.array(requests[name]) for name in COLUMNS], [], []
    try:
        with peers.Peer(peers.interpreter(".venv-peers-llm", package="vidur"), script) as peer:
            for _ in range(3):
                ours.append(300 / cpu(lambda: one_engine(*columns, coefficients)))
                theirs.append(peer.ask(op="serve", **requests, step=[0.01, 4e-5, 2e-5, 1e-7])["requests_per_s"])
    except peers.PeerError as error:
        return [peers.row(**common, reason=str(error), data=mark)]
    return [peers.row(**common, ours_samples=ours, peer_samples=theirs, data=mark)]


def placing(settings: Settings, data: Path | None, n: int) -> list[dict[str, Any]]:
    """Milliseconds to place 40 replicas, beside the official code's depth-first search where that ends in time."""
    rows = []
    for gpus, limit_ms in ((8, 5.0), (64, 100.0)):
        now = placement.standing([], np.full((1, gpus), 36))
        model, tp = np.arange(40), np.array([1, 2, 4, 8] * 10)
        news = (model, tp, np.ones(40, int), np.linspace(1.0, 0.1, 40))
        ours = [cpu(lambda a=now, b=news: [placement.place(a, *b) for _ in range(20)]) * 50 for _ in range(n)]
        common = {"bench": "place", "ours": "place", "unit": "ms", "data": "synthetic"}
        case = f"{gpus} GPUs, 40 replicas"
        limits = {"peer": "bar", "peer_samples": [limit_ms], "bar": 1.0, "reason": "bar of the specification"}
        rows.append(peers.row(case=case, ours_samples=ours, **common, **limits))
        if gpus == 8:
            theirs = [cpu(lambda a=now, b=news: placement_baselines.official_dfs(a, *b)) * 1e3 for _ in range(n)]
            rows.append(
                peers.row(
                    case=f"{case}, search", peer="depth-first search", ours_samples=ours, peer_samples=theirs, **common
                )
            )
    return rows


def memory(settings: Settings, data: Path | None, n: int) -> list[dict[str, Any]]:
    """Wall milliseconds to give a model 256 MiB of KV: remapping (first access included) beside copying as much."""
    from operators.warmserve.errors import ConfigError
    from operators.warmserve.pool import BlockPool

    blocks, ours, theirs = 128, [], []
    common = {
        **{"bench": "memory", "case": "256 MiB, first access included", "ours": "remap", "peer": "memcpy"},
        **{"unit": "ms", "data": "synthetic"},
    }
    try:
        pool = BlockPool(2 * blocks)
    except ConfigError as error:
        return [peers.row(**common, reason=str(error))]
    pool.add("weights", blocks)[:] = 1
    source = np.ones(blocks * pool.block_bytes, np.uint8)
    target = np.empty_like(source)
    for _ in range(n + 1):
        began = time.perf_counter()
        pool.promote("weights")
        pool.wait("weights")
        ours.append((time.perf_counter() - began) * 1e3)
        pool.demote("weights")
        began = time.perf_counter()
        np.copyto(target, source)
        theirs.append((time.perf_counter() - began) * 1e3)
    reason = "4 KiB pages of a shared machine; without huge pages a remap is not free"
    return [peers.row(**common, ours_samples=ours[1:], peer_samples=theirs[1:], reason=reason)]


PARTS: dict[str, Callable[[Settings, Path | None, int], list[dict[str, Any]]]] = {
    "cluster": cluster,
    "engines": engines,
    "placing": placing,
    "memory": memory,
}
