"""Synthetic twins of the routing data: expert loads of DeepSeek-V3 and per-token expert choices of four models.

Same columns and types as the real sets, statistics matched to them (Gini, hottest expert, experts activated), every
value from `default_rng([seed, stream])`. What the twins do not hold: co-selection of experts within a token, repeated
tokens (the real 1,024-token batch has the same row dozens of times), drift over decode steps.
"""

import zlib

import numpy as np
import polars as pl

LOAD_SCHEMA = {"workload": pl.String, "phase": pl.String, "layer": pl.Int16, "expert": pl.Int16, "tokens": pl.Int64}
TRACE_SCHEMA = {
    "model": pl.String,
    "source": pl.String,
    "phase": pl.String,
    "layer": pl.Int16,
    "step": pl.Int32,
    "token": pl.Int32,
    "experts": pl.List(pl.UInt8),
}

DSV3_LAYERS = range(3, 61)
DSV3_EXPERTS = 256
# workload -> (phase, token-expert assignments of one layer, correlation of its log load with the base workload's)
DSV3_WORKLOADS = {
    "decode_in1000out1000": ("decode", 147_308_544, 1.0),
    "decode_in1800out100": ("decode", 14_598_144, 0.89),
    "prefill_in1000out1000": ("prefill", 151_198_976, 0.72),
    "prefill_in512": ("prefill", 67_108_864, 0.72),
    "prefill_in1024": ("prefill", 67_108_864, 0.72),
    "prefill_in2048": ("prefill", 67_108_864, 0.72),
    "prefill_in1800out100": ("prefill", 271_599_744, 0.72),
    "prefill_in2000out100": ("prefill", 491_019_520, 0.72),
}
SIGMA_MEAN = {"decode": 0.60, "prefill": 0.66}
SIGMA_SPREAD, SIGMA_RANGE = 0.10, (0.40, 0.95)
TAIL_DEGREES, TAIL_CLIP = 8, 3.5

# file -> blocks (model, source, layer, experts, available, k, sigma of log weight, [(phase, step, tokens)])
STEP_BLOCKS = [
    ("Qwen3-30B-A3B", "step_b64", 12, 128, 66, 8, 1.3, [("decode", 32, 64)]),
    ("Qwen3-30B-A3B", "step_b1024", 16, 128, 84, 8, 1.7, [("decode", 22, 1024)]),
    ("Mixtral-8x7B", "step_b64", 10, 8, 8, 2, 0.3, [("decode", 8, 64)]),
    ("Mixtral-8x7B", "step_b1024", 9, 8, 8, 2, 0.3, [("decode", 19, 1024)]),
]
QWEN15_STEPS = [("prefill", 0, 65), ("prefill", 1, 1406)] + [
    ("decode", step, 25 if step <= 71 else 24 if step <= 75 else 23) for step in range(2, 90)
]
QWEN15_BLOCKS = [("Qwen1.5-MoE-A2.7B", "gsm8k25", 0, 60, 60, 4, 0.24, QWEN15_STEPS)]
FLAME_STEPS = [("prefill", 0, 2048)] + [("decode", step, 64) for step in range(1, 8)]
FLAME_BLOCKS = [("FLAME-MoE-290M", "dynande", layer, 64, 64, 6, 0.18, FLAME_STEPS) for layer in range(2, 10)]
TRACES = {
    "step_qwen3_mixtral.parquet": STEP_BLOCKS,
    "qwen15_gsm8k.parquet": QWEN15_BLOCKS,
    "flame290m.parquet": FLAME_BLOCKS,
}


def stream(name: str) -> int:
    """The random stream that belongs to a name: the same on every machine and in every process."""
    return zlib.crc32(name.encode())


def dsv3_load(*, seed: int = 0) -> pl.DataFrame:
    """Expert loads like those of `moe_load_dsv3`: 8 workloads x 58 layers x 256 experts, in assignments.

    Log load of a layer is sigma times a clipped Student variable; every other workload shares part of that variable
    with the first, decode more than prefill, so that a placement fitted on one workload is imperfect for the others.
    """
    shape = (len(DSV3_LAYERS), DSV3_EXPERTS)
    base = _student(np.random.default_rng([seed, stream("dsv3/base")]), shape)
    frames = []
    for name, (phase, total, rho) in DSV3_WORKLOADS.items():
        rng = np.random.default_rng([seed, stream(f"dsv3/{name}")])
        sigma = np.clip(rng.normal(SIGMA_MEAN[phase], SIGMA_SPREAD, (shape[0], 1)), *SIGMA_RANGE)
        z = rho * base + np.sqrt(1.0 - rho**2) * _student(rng, shape)
        load = np.exp(sigma * np.clip(z, -TAIL_CLIP, TAIL_CLIP))
        tokens = np.floor(load / load.sum(axis=1, keepdims=True) * total).astype(np.int64)
        tokens[:, 0] += total - tokens.sum(axis=1)  # at most 255 assignments lost to rounding
        frames.append(_load_frame(name, phase, tokens))
    return pl.concat(frames)


def _student(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    z = rng.standard_t(TAIL_DEGREES, shape) / np.sqrt(TAIL_DEGREES / (TAIL_DEGREES - 2))
    return np.clip(z, -TAIL_CLIP, TAIL_CLIP)


def _load_frame(name: str, phase: str, tokens: np.ndarray) -> pl.DataFrame:
    layers = np.repeat(np.array(DSV3_LAYERS, np.int16), DSV3_EXPERTS)
    experts = np.tile(np.arange(DSV3_EXPERTS, dtype=np.int16), len(DSV3_LAYERS))
    frame = pl.DataFrame({"layer": layers, "expert": experts, "tokens": tokens.ravel()})
    return frame.with_columns(workload=pl.lit(name), phase=pl.lit(phase)).select(list(LOAD_SCHEMA))


def routing_traces(file: str, *, seed: int = 0) -> pl.DataFrame:
    """Per-token expert lists like those of one file of `moe_routing_traces`, best expert first.

    A token's list is the top-k of log weight plus Gumbel noise over the experts that are available at all (Qwen3-30B
    leaves a third to a half of its experts untouched in a batch). Raises KeyError listing the known files.
    """
    if file not in TRACES:
        raise KeyError(f"file {file!r}: no such routing trace; known: {', '.join(TRACES)}")
    return pl.concat([_block(block, seed) for block in TRACES[file]])


def _block(block: tuple, seed: int) -> pl.DataFrame:
    model, source, layer, n_experts, available, k, sigma, steps = block
    rng = np.random.default_rng([seed, stream(f"{model}/{source}/{layer}")])
    open_experts = rng.permutation(n_experts)[:available]
    log_weight = np.full(n_experts, -np.inf)
    log_weight[open_experts] = sigma * rng.standard_normal(available)
    count = sum(tokens for _, _, tokens in steps)
    keys = log_weight + rng.gumbel(size=(count, n_experts))
    best = np.argsort(-keys, axis=1)[:, :k].astype(np.uint8)
    columns = {
        "model": [model] * count,
        "source": [source] * count,
        "phase": [phase for phase, _, tokens in steps for _ in range(tokens)],
        "layer": np.full(count, layer, np.int16),
        "step": np.concatenate([np.full(tokens, step, np.int32) for _, step, tokens in steps]),
        "token": np.concatenate([np.arange(tokens, dtype=np.int32) for _, _, tokens in steps]),
        "experts": pl.Series(best, dtype=pl.Array(pl.UInt8, k)).cast(pl.List(pl.UInt8)),
    }
    return pl.DataFrame(columns, schema=TRACE_SCHEMA)
