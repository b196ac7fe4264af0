"""Bars of the simulator: the measured vLLM run, aiconfigurator's estimate, calibration errors, and speed.

The serving run was never fitted. Its requests' routing is not recorded, so it is simulated under two assumptions on
expert load, both reported, neither chosen by its result. LLMServingSim (the only other simulator that was checked on
that run) is not in a package registry: its published errors are named, not measured here.
"""

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from operators.lab.peers import PeerError, interpreter
from operators.llm import steptime
from operators.metro import pareto, peers, placement, routing
from operators.metro.settings import Settings

PUBLISHED = "LLMServingSim's published error on this run: TPOT mean -1.7 %, TTFT mean -13.6 %; not measured here"
RUN = "vLLM 0.19 run"
PEER = "aiconfigurator 0.12.0"
LIMITS = {"tpot": 0.10, "ttft": 0.25}
AICONFIGURATOR_LIMIT, LEAVE_ONE_OUT_LIMIT, TRANSFER_LIMIT = 0.20, 0.05, 0.10
CHECK = {"model": "qwen3-30b", "accelerator": "a100-80g", "system": "a100_sxm", "framework": "SGLang"}
CHECK_GPUS, CHECK_PER_GPU, CHECK_INPUT, CHECK_OUTPUT = 8, 32, 4096, 1024


def rows(settings: Settings, fit_report: pl.DataFrame, served: pl.DataFrame, data: Path | None) -> list[dict[str, Any]]:
    """Every bar of the simulator as rows of bench.parquet; what cannot run here says `not measured` and why.

    `fit_report` and `served` are the tables of the calibrate and simulate stages.
    """
    found = calibration_rows(fit_report.to_dicts(), settings.cost) + serving_rows(served)
    return found + estimate_rows(data, ask_peer=settings.profile != "ci")


def _error_row(case: str, error: float | None, limit: float, peer: str, reason: str, data: str, **sizes: int) -> dict:
    """Ours is an absolute relative error, the peer the most it may be: ratio >= 1 passes."""
    samples = [] if error is None else [max(abs(error), 1e-9)]
    fields = {"unit": "relative error", "ours_samples": samples, "peer_samples": [limit], "bar": 1.0}
    return peers.row(bench="sim", case=case, ours="simulator", peer=peer, reason=reason, data=data, **fields, **sizes)


def calibration_rows(report: list[dict[str, Any]], form: str) -> list[dict[str, Any]]:
    """Leave-one-out on the RTX table, and slopes carried from Qwen3-235B to DeepSeek-V3."""
    out = []
    for each in report:
        if each["kind"] == "leave_one_out" and each["form"] == form:
            reason = f"mean of {each['n']} points, worst {each['worst']:.3f}"
            out.append(
                _error_row("leave-one-out rtx", each["mape"], LEAVE_ONE_OUT_LIMIT, "limit", reason, each["data"])
            )
        carried = each["kind"] == "transfer" and each["model"] == "deepseek-v3" and each["from_model"] == "qwen3-235b"
        if carried and each["b_error"] is not None:
            case = f"transfer b {each['system']} {each['framework']} {each['dtype']}"
            reason = f"signed {each['b_error']:+.3f}"
            out.append(_error_row(case, each["b_error"], TRANSFER_LIMIT, "limit", reason, each["data"]))
    return out


def serving_rows(served: pl.DataFrame) -> list[dict[str, Any]]:
    """Mean and percentiles of TTFT and TPOT against the measured run, per assumption on expert load."""
    out = []
    for (gate,), part in served.group_by("gate", maintain_order=True):
        for name, limit in LIMITS.items():
            ours, real = part[f"{name}_us"] / 1e3, part[f"measured_{name}_us"] / 1e3
            case = f"vllm run {name} mean, experts {gate}"
            if real.null_count():
                out.append(_error_row(case, None, limit, RUN, "no data set vllm-measured", part["data"][0]))
                continue
            error = ours.mean() / real.mean() - 1
            reason = f"signed {error:+.3f}; ours/measured ms: {_side_by_side(ours, real)}; {PUBLISHED}"
            out.append(_error_row(case, error, limit, RUN, reason, part["data"][0]))
    return out


def _side_by_side(ours: pl.Series, real: pl.Series) -> str:
    pairs = [("mean", ours.mean(), real.mean())]
    for label, quantile in (("median", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        pairs.append((label, ours.quantile(quantile, "linear"), real.quantile(quantile, "linear")))
    return ", ".join(f"{label} {mine:.1f}/{other:.1f}" for label, mine, other in pairs)


def estimate_rows(data: Path | None, *, ask_peer: bool = True) -> list[dict[str, Any]]:
    """TPOT of one configuration beside aiconfigurator's (seconds a call), and the time each takes to give it."""
    began = time.perf_counter()
    tpot, kind, batches = check_tpot_ms(data)
    seconds = [time.perf_counter() - began]
    seconds += [_timed(lambda: check_tpot_ms(data)) for _ in range(4 if ask_peer else 0)]
    speed = sorted(seconds)[len(seconds) // 2]
    case = "8 x A100-80GB qwen3-30b EP8 32/GPU 4K+1K"
    reached = f"{batches / speed:,.0f} layer-batches/s, placing and drawing included"
    try:
        if not ask_peer:
            raise PeerError("not asked at ci size: it takes seconds to start")
        answer, took = aiconfigurator_tpot_ms()
    except PeerError as error:
        lost = {"ours": "simulator", "peer": PEER, "reason": str(error), "data": kind}
        speed_row = peers.row(bench="sim", case=f"{case}: seconds", unit="s", ours_samples=seconds, **lost)
        missing = peers.row(bench="sim", case=case, unit="ms", ours_samples=[tpot], **lost)
        return [missing, speed_row | {"reason": f"{reached}; {error}"}]
    reason = f"ours {tpot:.2f} ms, theirs {answer:.2f} ms, signed {tpot / answer - 1:+.3f}; its kernels are vLLM's"
    sizes = {"N": 128, "G": CHECK_GPUS, "B": CHECK_GPUS * CHECK_PER_GPU}
    fields = {"unit": "s", "ours_samples": seconds, "peer_samples": [took], "reason": f"{reached}; peer with start-up"}
    return [
        _error_row(case, tpot / answer - 1, AICONFIGURATOR_LIMIT, PEER, reason, kind, **sizes),
        peers.row(bench="sim", case=f"{case}: seconds", ours="simulator", peer=PEER, data=kind, **fields, **sizes),
    ]


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def check_tpot_ms(data: Path | None) -> tuple[float, str, int]:
    """Our TPOT of the cross-check's configuration at r = 1, whether all of it is real, and layer-batches routed."""
    step = steptime.step_tables(**CHECK, dtype="bfloat16", data=data)
    layers, batch = step.shape.n_moe_layers, CHECK_GPUS * CHECK_PER_GPU
    load, kind = pareto.loads(CHECK["model"], ["any"], layers, data, 0)
    counts = pareto.draw(load["any"], [batch], step.shape.top_k, 1, 0)[batch]
    placed = placement.place(load["any"], step.shape.n_experts, CHECK_GPUS)
    routed = routing.route_counts("even", placed, counts)
    parts = steptime.decode_step(
        step,
        gpus=CHECK_GPUS,
        batch=batch,
        context=CHECK_INPUT + CHECK_OUTPUT / 2,
        activated=routed.activated,
        tokens=routed.tokens,
        comm="alltoall",
    )
    real = "real" if {kind, step.data} == {"real"} else "synthetic"
    return float(np.mean(steptime.step_us(step.shape, parts))) / 1e3, real, layers


def aiconfigurator_tpot_ms() -> tuple[float, float]:
    """(TPOT in ms, seconds of the call) of aiconfigurator for the same configuration; PeerError when it cannot run."""
    command = interpreter().parent / "aiconfigurator"
    if not command.is_file():
        raise PeerError("aiconfigurator is not in the peers' environment; run `make peers`")
    arguments = "cli estimate --estimate-mode static_gen --no-color --model Qwen/Qwen3-30B-A3B --system a100_sxm"
    arguments += f" --backend vllm --isl {CHECK_INPUT} --osl {CHECK_OUTPUT} --batch-size {CHECK_PER_GPU} --tp-size 1"
    arguments += f" --attention-dp-size {CHECK_GPUS} --moe-tp-size 1 --moe-ep-size {CHECK_GPUS}"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [command, *arguments.split()], cwd=folder, capture_output=True, text=True, timeout=180
            )
        except subprocess.TimeoutExpired:
            raise PeerError("aiconfigurator gave no answer within 180 s") from None
    found = re.search(r"TPOT:\s+([\d.,]+) ms", done.stdout)
    if done.returncode or not found:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise PeerError(f"aiconfigurator ended with {done.returncode}: {words[-1] if words else 'no output'}")
    return float(found[1].replace(",", "")), time.perf_counter() - began


def report(found: list[dict[str, Any]]) -> pl.DataFrame:
    """The rows as a short table to print."""
    return pl.DataFrame(found).select("case", "ours_value", "peer_value", "unit", "ratio", "bar", "status", "reason")
