"""Synthetic twins of the kernel and collective tables: same columns as the measured ones, from a few fitted constants.

One small formula per kind (MoE p-norm, collective latency + bandwidth, attention from the cache bytes, GEMM from bytes
and FLOP), 1 % lognormal noise. Constants are fits to the measured tables, so a twin is right to about ten percent and
has none of their kernel steps; results computed from it are labelled `synthetic`.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from operators.llm.accelerators import ACCELERATORS
from operators.llm.shapes import MODELS, dtype_bytes
from operators.llm.twins_routing import stream

NOISE = 0.01
MOE_P = 1.57
MOE_EFFICIENCY = 0.4  # of peak FLOP/s at large batches
# (system, framework, dtype) -> {model: (a us, b us per activated expert)}
MOE_LINES = {
    ("a100_sxm", "SGLang", "bfloat16"): {
        "qwen3-30b": (43.0, 5.90),
        "qwen3-235b": (56.0, 20.8),
        "deepseek-v3": (131, 48.8),
    },
    ("b200_sxm", "VLLM", "bfloat16"): {
        "qwen3-30b": (19.9, 1.46),
        "qwen3-235b": (31.7, 5.38),
        "deepseek-v3": (46.5, 12.1),
    },
    ("b200_sxm", "VLLM", "fp8"): {"qwen3-30b": (21.1, 0.87), "qwen3-235b": (32.2, 2.91), "deepseek-v3": (35.0, 6.89)},
    ("b200_sxm", "VLLM", "fp8_block"): {
        "qwen3-30b": (25.9, 0.93),
        "qwen3-235b": (38.9, 3.04),
        "deepseek-v3": (56.9, 6.88),
    },
    ("b200_sxm", "SGLang", "bfloat16"): {"qwen3-30b": (29.2, 1.57), "qwen3-235b": (43.4, 6.05)},
    ("b200_sxm", "SGLang", "fp8_block"): {"qwen3-30b": (31.2, 1.12), "qwen3-235b": (47.1, 3.62)},
}
RTX_MOE_LINE = (34.3, 6.15)
RTX_FLOPS = 250e12  # what the card reaches in bf16, for the twin only
SYSTEM_CARDS = {"a100_sxm": "a100-80g", "b200_sxm": "b200"}
SYSTEM_DEVICES = {"a100_sxm": "NVIDIA A100-SXM4-80GB", "b200_sxm": "NVIDIA B200"}
MOE_TOKENS = [1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768]
MOE_TOKENS += [1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384]
# system -> {operation: (us, GB/s)} on 8 GPUs; fewer GPUs start faster
NCCL = {
    "a100_sxm": {
        "all_gather": (16.7, 162),
        "alltoall": (14.6, 168),
        "all_reduce": (23.5, 94),
        "reduce_scatter": (16.0, 169),
    },
    "b200_sxm": {
        "all_gather": (17.5, 415),
        "alltoall": (12.1, 460),
        "all_reduce": (26.9, 238),
        "reduce_scatter": (17.1, 424),
    },
}
# system -> {32 | 64 heads: (floor us, us, GB/s)}
ATTENTION = {
    "a100_sxm": {32: (17, 19, 1327), 64: (18, 19, 1196)},
    "b200_sxm": {32: (6.8, 7.4, 7482), 64: (7.6, 7.6, 7193)},
}
# system -> (us, GB/s, TFLOP/s, exponent)
GEMM = {"a100_sxm": (5.4, 1561, 264, 1.68), "b200_sxm": (3.0, 6163, 1650, 2.2)}
GEMM_M = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
GEMM_NK = [128, 256, 512, 768, 1024, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 16384, 65536]
POW2 = [2**i for i in range(18)]


def table(source: str, file: str, *, seed: int = 0) -> pl.DataFrame:
    """The twin of one file of `moe_calib_a100_b200` or `moe_calib_rtxpro6000`; KeyError listing the known ones."""
    if (source, file) not in TABLES:
        raise KeyError(f"table {source}/{file}: has no twin; known: {', '.join('/'.join(key) for key in TABLES)}")
    make, arguments = TABLES[source, file]
    return make(np.random.default_rng([seed, stream(f"{source}/{file}")]), *arguments)


def _noisy(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return values * np.exp(NOISE * rng.standard_normal(np.shape(values)))


def _grid(**axes: list[int]) -> dict[str, np.ndarray]:
    mesh = np.meshgrid(*[np.array(axis, np.int64) for axis in axes.values()], indexing="ij")
    return {name: part.ravel() for name, part in zip(axes, mesh, strict=True)}


def _pnorm(a: float, bA: np.ndarray, beta_n: np.ndarray) -> np.ndarray:
    return a + (bA**MOE_P + beta_n**MOE_P) ** (1 / MOE_P)


def _moe(rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for (system, framework, dtype), models in MOE_LINES.items():
        peak = ACCELERATORS[SYSTEM_CARDS[system]].peak(dtype)
        for model, (a, b) in models.items():
            shape = MODELS[model]
            ranks = [2**i for i in range(shape.n_experts.bit_length())]
            grid = _grid(moe_ep_size=ranks, num_tokens=MOE_TOKENS)
            n = shape.top_k * grid["num_tokens"] / grid["moe_ep_size"]
            active = np.minimum(shape.n_experts / grid["moe_ep_size"], np.ceil(n))
            beta = 6e6 * shape.hidden * shape.expert_width / (MOE_EFFICIENCY * peak)
            fixed = {"system": system, "framework": framework, "version": "twin", "device": SYSTEM_DEVICES[system]}
            fixed |= {"model": shape.card, "moe_dtype": dtype, "hidden_size": shape.hidden, "topk": shape.top_k}
            fixed |= {"inter_size": shape.expert_width, "num_experts": shape.n_experts, "distribution": "balanced"}
            frame = pl.DataFrame(grid).with_columns(latency_us=_noisy(rng, _pnorm(a, b * active, beta * n)))
            frames.append(frame.with_columns(**{key: pl.lit(value) for key, value in fixed.items()}))
    order = [
        "system",
        "framework",
        "version",
        "device",
        "model",
        "moe_dtype",
        "num_tokens",
        "hidden_size",
        "inter_size",
    ]
    order += ["topk", "num_experts", "moe_ep_size", "distribution", "latency_us"]
    wide = pl.col("hidden_size", "inter_size", "topk", "num_experts").cast(pl.Int64)
    return pl.concat(frames).with_columns(wide).select(order)


def _nccl(rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for system, operations in NCCL.items():
        for operation, (start, rate) in operations.items():
            grid = _grid(num_gpus=[2, 4, 8], bytes=[512 * 2**i for i in range(21)])
            share = (1 - 1 / grid["num_gpus"]) / (1 - 1 / 8)
            time = start * (0.7 + 0.3 * grid["num_gpus"] / 8) + share * grid["bytes"] / (rate * 1e3)
            frame = pl.DataFrame(grid | {"elements": grid["bytes"] // 2, "latency_us": _noisy(rng, time)})
            fixed = {"system": system, "version": "twin", "device": SYSTEM_DEVICES[system]}
            fixed |= {"op_name": operation, "nccl_dtype": "half"}
            frames.append(frame.with_columns(**{key: pl.lit(value) for key, value in fixed.items()}))
    order = ["system", "version", "device", "op_name", "nccl_dtype", "num_gpus", "elements", "latency_us", "bytes"]
    return pl.concat(frames).select(order)


def _attention(rng: np.random.Generator, system: str) -> pl.DataFrame:
    grid = _grid(num_heads=[4, 8, 16, 32, 64], num_key_value_heads=[1, 2, 4, 8], batch_size=POW2[:12], step=POW2[1:16])
    grid = {key: value[grid["num_key_value_heads"] <= grid["num_heads"]] for key, value in grid.items()}
    lines = np.array([ATTENTION[system][64 if heads > 32 else 32] for heads in grid["num_heads"]])
    cache = 2 * 128 * 2 * grid["num_key_value_heads"] * grid["batch_size"] * grid["step"]
    time_us = _noisy(rng, np.maximum(lines[:, 0], lines[:, 1] + cache / (lines[:, 2] * 1e3)))
    fixed = {
        "framework": "VLLM",
        "version": "twin",
        "device": SYSTEM_DEVICES[system],
        "op_name": "generation_attention",
    }
    fixed |= {"kernel_source": "twin", "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16"}
    whole = {"isl": 1, "head_dim": 128, "beam_width": 1} | ({"window_size": 0} if system == "b200_sxm" else {})
    frame = pl.DataFrame(grid | {"latency": time_us / 1e3}).with_columns(pl.col("step") - 1)
    frame = frame.with_columns(**{key: pl.lit(value) for key, value in fixed.items()})
    return frame.with_columns(**{key: pl.lit(value, pl.Int64) for key, value in whole.items()})


def _gemm(rng: np.random.Generator, system: str) -> pl.DataFrame:
    start, rate, peak, q = GEMM[system]
    frames = []
    for dtype in ["bfloat16"] if system == "a100_sxm" else ["bfloat16", "fp8", "fp8_block"]:
        grid = _grid(n=GEMM_NK, k=GEMM_NK, m=GEMM_M)
        size = dtype_bytes(dtype)
        moved = size * (grid["n"] * grid["k"] + grid["m"] * grid["k"]) + 2 * grid["m"] * grid["n"]
        flop = 2 * grid["m"] * grid["n"] * grid["k"]
        rest = ((moved / (rate * 1e3)) ** q + (flop / (peak * 1e6 * 2 / size)) ** q) ** (1 / q)
        fixed = {"framework": "VLLM", "version": "twin", "device": SYSTEM_DEVICES[system], "op_name": "gemm"}
        fixed |= {"kernel_source": "twin", "gemm_dtype": dtype}
        frame = pl.DataFrame(grid | {"latency": _noisy(rng, start + rest) / 1e3})
        frames.append(frame.with_columns(**{key: pl.lit(value) for key, value in fixed.items()}))
    return pl.concat(frames)


def _mla(rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for gemm_type in ("bfloat16", "fp8_block"):
        grid = _grid(num_heads=[8, 16, 32, 64, 128], batch_size=POW2[:11], step=POW2[1:18])
        share = grid["num_heads"] / 128
        time_us = 143 * (0.6 + 0.4 * share) + share * grid["batch_size"] * (0.71 + 0.0002 * grid["step"])
        fixed = {"framework": "VLLM", "version": "twin", "device": SYSTEM_DEVICES["b200_sxm"], "kernel_source": "twin"}
        fixed |= {"op_name": "mla_generation_module", "model": "deepseek-ai/DeepSeek-V3", "architecture": "twin"}
        fixed |= {"mla_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "gemm_type": gemm_type}
        frame = pl.DataFrame(grid | {"latency": _noisy(rng, time_us) / 1e3})
        frame = frame.with_columns(**{key: pl.lit(value) for key, value in fixed.items()})
        frames.append(frame.with_columns(isl=pl.lit(1, pl.Int64), tp_size=pl.lit(1, pl.Int64)))
    return pl.concat(frames)


def _rtx_moe(rng: np.random.Generator) -> pl.DataFrame:
    grid = _grid(tokens=POW2[:12], activated_experts=[8, 16, 32, 64, 128])
    possible = grid["tokens"] * 8 >= grid["activated_experts"]
    grid = {key: value[possible] for key, value in grid.items()}
    a, b = RTX_MOE_LINE
    beta = 6e6 * 2048 * 768 / (MOE_EFFICIENCY * RTX_FLOPS * 1.4)
    time = _pnorm(a, b * grid["activated_experts"], beta * 8 * grid["tokens"])
    return pl.DataFrame(grid | {"time_us": _noisy(rng, time)})


def _rtx_attention(rng: np.random.Generator) -> pl.DataFrame:
    kv = [2**i for i in range(4, 15)]
    chunks = [2**i for i in range(4, 12)]
    blocks = [
        _grid(prefill_chunk=[0], kv_prefill=[0], n_decode=POW2[:9], kv_decode=kv),
        _grid(prefill_chunk=chunks, kv_prefill=[0, *kv], n_decode=[0], kv_decode=[0]),
        _grid(prefill_chunk=chunks, kv_prefill=[0, *kv], n_decode=POW2[:8], kv_decode=kv),
    ]
    grid = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    chunk, mixed = grid["prefill_chunk"], (grid["prefill_chunk"] > 0) & (grid["n_decode"] > 0)
    flop = 4.0 * chunk * (grid["kv_prefill"] + chunk / 2) * 32 * 128
    cache = 2.0 * 128 * 2 * 4 * grid["n_decode"] * grid["kv_decode"]
    # a kernel call that mixes chunks and decodes reads the cache about 2.7 times slower than a pure decode call
    time = 8.0 + 4.2 * (grid["n_decode"] > 0) + flop / (RTX_FLOPS * 1e-6) + cache / 1348e3 * np.where(mixed, 2.7, 1.0)
    return pl.DataFrame(grid | {"time_us": _noisy(rng, time)})


# layer -> (us, us per token): dense kernels of one Qwen3-30B layer on the RTX card
RTX_DENSE = {
    "embedding": (2.8, 0.0015),
    "layernorm": (2.1, 0.0021),
    "qkv_proj": (12.0, 0.055),
    "qk_norm": (1.9, 0.0102),
    "rotary_emb": (2.4, 0.0047),
    "o_proj": (8.5, 0.052),
    "final_layernorm": (2.0, 0.0056),
}
RTX_SEQUENCE = {"lm_head": (420.0, 0.41), "sampler": (9.0, 0.72)}


def _rtx_lines(rng: np.random.Generator, lines: dict, axis: str, most: int) -> pl.DataFrame:
    points = np.array([*range(1, 17), *range(20, 65, 4), *range(80, most + 1, 16)], np.int64)
    frames = [
        pl.DataFrame({"layer": [name] * len(points), axis: points, "time_us": _noisy(rng, start + slope * points)})
        for name, (start, slope) in lines.items()
    ]
    return pl.concat(frames)


CALIB, RTX = "moe_calib_a100_b200", "moe_calib_rtxpro6000"
TABLES: dict[tuple[str, str], tuple[Callable[..., pl.DataFrame], tuple]] = {
    (CALIB, "moe.parquet"): (_moe, ()),
    (CALIB, "nccl.parquet"): (_nccl, ()),
    (CALIB, "a100_sxm_generation_attention_perf.parquet"): (_attention, ("a100_sxm",)),
    (CALIB, "b200_sxm_generation_attention_perf.parquet"): (_attention, ("b200_sxm",)),
    (CALIB, "a100_sxm_gemm_perf.parquet"): (_gemm, ("a100_sxm",)),
    (CALIB, "b200_sxm_gemm_perf.parquet"): (_gemm, ("b200_sxm",)),
    (CALIB, "b200_sxm_mla_generation_module_perf.parquet"): (_mla, ()),
    (RTX, "moe.csv"): (_rtx_moe, ()),
    (RTX, "attention.parquet"): (_rtx_attention, ()),
    (RTX, "dense.csv"): (_rtx_lines, (RTX_DENSE, "tokens", 2048)),
    (RTX, "per_sequence.csv"): (_rtx_lines, (RTX_SEQUENCE, "sequences", 256)),
}
