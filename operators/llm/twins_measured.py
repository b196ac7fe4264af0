"""Synthetic twins of the measured serving runs and of DistServe's step-time profiles.

A measured run's twin is served by our own engine with stated coefficients, and its times carry one per cent of noise:
a calibration must find those coefficients again, and a fit on the twin says nothing of real hardware. The profiles come
from a roofline of the shapes on an A100.
"""

import numpy as np
import polars as pl

from operators.llm.accelerators import ACCELERATORS
from operators.llm.engine import serve_many
from operators.llm.importers import Measured
from operators.llm.shapes import MODELS
from operators.llm.stepmodels import LinearStep
from operators.llm.twins_requests import _ranked, quantiled
from operators.llm.twins_routing import stream
from operators.llm.workloads import validate

INPUT = ((0.0, 257), (0.05, 308), (0.25, 470), (0.5, 727), (0.75, 1100), (0.95, 1749), (0.99, 2600), (1.0, 3998))
OUTPUT = ((0.0, 524), (0.05, 530), (0.25, 565), (0.5, 630), (0.75, 710), (0.95, 850), (1.0, 1021))
RATE_RPS, NOISE = 10.3, 0.01
# run -> coefficients that are to be found again, limits
RUNS: dict[str, tuple[LinearStep, dict]] = {
    "twin-dense": (
        LinearStep(0.0135, 3.9e-5, 4.5e-5, 6.5e-8),
        {"max_num_seqs": 128, "token_budget": 2048, "kv_tokens": None, "data_parallel": 1, "lockstep": False},
    ),
    "twin-pressure": (
        LinearStep(0.018, 1.08e-4, 3.0e-5, 8.0e-8),
        {"max_num_seqs": 256, "token_budget": 2048, "kv_tokens": 41_408, "data_parallel": 1, "lockstep": False},
    ),
    "twin-two-ranks": (
        LinearStep(0.021, 5.5e-5, 9.0e-5, 8.0e-8),
        {"max_num_seqs": 128, "token_budget": 2048, "kv_tokens": None, "data_parallel": 2, "lockstep": True},
    ),
}
PROFILED = {"facebook/opt-13b": ("opt-13b", (1, 2, 4)), "facebook/opt-66b": ("opt-66b", (2, 3, 4, 8))}
EFFICIENCY = {"prefill": 0.55, "stream": 0.8}  # of the accelerator's peaks
LAUNCH_MS, PER_REQUEST_MS = 6.0, 0.04


def measured(run: str, *, seed: int = 0, requests: int = 300) -> Measured:
    """One twin of a measured run; KeyError listing the runs there are."""
    if run not in RUNS:
        raise KeyError(f"run {run!r}: no such twin; known: {', '.join(RUNS)}")
    step, limits = RUNS[run]
    rng = np.random.default_rng([seed, stream(f"measured/{run}")])
    gaps = rng.exponential(1 / RATE_RPS, requests)
    tokens = {
        name: np.rint(quantiled(_ranked(rng.random(requests)), table)).astype(np.int32)
        for name, table in (("input_tokens", INPUT), ("output_tokens", OUTPUT))
    }
    ids = [f"{run}-{i}" for i in range(requests)]
    frame = validate(pl.DataFrame({"request_id": ids, "arrival_s": np.cumsum(gaps) - gaps[0], **tokens}))
    made = serve_many(
        frame,
        step,
        replicas=limits["data_parallel"],
        lockstep=limits["lockstep"],
        max_seqs=limits["max_num_seqs"],
        token_budget=limits["token_budget"],
        kv_tokens=limits["kv_tokens"],
    )
    arrival = frame["arrival_s"].to_numpy()
    first = arrival + (made.first_token_s - arrival) * np.exp(NOISE * rng.standard_normal(requests))
    last = first + (made.last_token_s - made.first_token_s) * np.exp(NOISE * rng.standard_normal(requests))
    alone = step.c0_s + step.prefill_token_s * tokens["input_tokens"]
    return Measured(frame, first, last, np.maximum(arrival, first - alone), block=16, **limits)


def distserve_profile() -> dict[str, dict[str, dict]]:
    """A profile in DistServe's form: milliseconds by tensor parallelism from rooflines of OPT on an A100-80G."""
    card = ACCELERATORS["a100-80g"]
    flops, stream_Bps = card.peak("bfloat16") * EFFICIENCY["prefill"], card.mem_Bps * EFFICIENCY["stream"]
    out: dict[str, dict[str, dict]] = {}
    for name, (shape_name, degrees) in PROFILED.items():
        shape = MODELS[shape_name]
        per_token = 2.0 * shape.params() / flops
        per_square = 2.0 * shape.n_layers * shape.n_heads * shape.head_dim / flops  # half of 4 L h d: causal
        read, cache = shape.weight_bytes() / stream_Bps, shape.kv_bytes_per_token() / stream_Bps
        out[name] = {
            str(tp): {
                "decoding_large_small_bs_threshold": 95,
                "prefill": [LAUNCH_MS, 1e3 * per_token / tp, 1e3 * per_square / tp],
                "decoding_smallbs": [LAUNCH_MS + 1e3 * read / tp, 1e3 * cache / tp, PER_REQUEST_MS],
                "decoding_largebs": [1e3 * read / tp, 1e3 * cache / tp, PER_REQUEST_MS + LAUNCH_MS / 95],
            }
            for tp in degrees
        }
    return out
