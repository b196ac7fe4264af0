"""Batches of routed tokens: real ones, and ones drawn from measured expert loads.

Real per-token choices exist for single layers of four models; of DeepSeek-V3 only loads per expert are public. A batch
drawn from loads has the right marginals and nothing else (no co-selection, no expert groups, no repeated tokens), so
every table says `batches = synthesised` for it and `real` for the others.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from operators.lab import datasets
from operators.lab.compiled import inner, kernel
from operators.llm.workloads import TraceError

if TYPE_CHECKING:
    import polars as pl

LOAD_SET, TRACE_SET = "moe_load_dsv3", "moe_routing_traces"
LOAD_FILE = "dsv3_expert_load.parquet"
# our model name -> (file, name in the file)
TRACES = {
    "qwen3-30b": ("step_qwen3_mixtral.parquet", "Qwen3-30B-A3B"),
    "mixtral-8x7b": ("step_qwen3_mixtral.parquet", "Mixtral-8x7B"),
    "qwen1.5-moe": ("qwen15_gsm8k.parquet", "Qwen1.5-MoE-A2.7B"),
    "flame-moe-290m": ("flame290m.parquet", "FLAME-MoE-290M"),
}
PATIENCE = 64  # rejected draws of one token before the exact, slower way


def load(name: str, data: Path | None = None, *, seed: int = 0) -> "pl.DataFrame":
    """The routing data called `name`, with a column `data` (real | synthetic).

    `deepseek-v3`: expert loads (workload, phase, layer, expert, tokens = assignments). `qwen3-30b`, `mixtral-8x7b`,
    `qwen1.5-moe`, `flame-moe-290m`: per-token lists (model, source, phase, layer, step, token, experts). `data` is the
    data root; without it, or without the set in it, the synthetic twin of `seed`. TraceError lists the known names.
    """
    import polars as pl

    from operators.llm import twins

    if name == "deepseek-v3":
        if datasets.present(LOAD_SET, data):
            return datasets.read(LOAD_SET, LOAD_FILE, data).with_columns(data=pl.lit("real"))
        return twins.dsv3_load(seed=seed).with_columns(data=pl.lit("synthetic"))
    if name not in TRACES:
        raise TraceError(f"batches {name!r}: unknown; known: deepseek-v3, {', '.join(TRACES)}")
    file, model = TRACES[name]
    real = datasets.present(TRACE_SET, data)
    frame = datasets.read(TRACE_SET, file, data) if real else twins.routing_traces(file, seed=seed)
    return frame.filter(pl.col("model") == model).with_columns(
        model=pl.lit(name), data=pl.lit("real" if real else "synthetic")
    )


def topk_of(frame: "pl.DataFrame") -> np.ndarray:
    """The column `experts` as int64 `(rows, k)`; TraceError names the first row of another length."""
    lengths = frame["experts"].list.len().to_numpy()
    if not len(lengths):
        return np.zeros((0, 1), np.int64)
    if (lengths != lengths[0]).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise TraceError(f"experts: row {row} has {lengths[row]} ids; row 0 has {lengths[0]} (ragged)")
    return frame["experts"].list.explode().to_numpy().reshape(-1, lengths[0]).astype(np.int64)


def check_topk(topk: np.ndarray, num_experts: int) -> np.ndarray:
    """`topk` as int64 `(T, k)` with distinct ids in [0, num_experts) in each row; TraceError names the row."""
    if not isinstance(topk, np.ndarray):
        rows = [np.asarray(row) for row in topk]
        odd = [at for at, row in enumerate(rows) if row.shape != rows[0].shape]
        if odd:
            raise TraceError(f"topk: row {odd[0]} has {rows[odd[0]].size} ids; row 0 has {rows[0].size} (ragged)")
        topk = np.asarray(rows) if rows else np.zeros((0, 1), np.int64)
    if topk.ndim != 2 or topk.dtype.kind not in "iu":
        raise TraceError(f"topk (shape {topk.shape}, {topk.dtype}): expected integer ids of shape (tokens, k)")
    if topk.shape[1] > num_experts:
        raise TraceError(f"topk: row 0 has k = {topk.shape[1]} ids; there are {num_experts} experts")
    topk = np.ascontiguousarray(topk, np.int64)
    row = _first_bad_row(topk, num_experts)
    if row >= 0:
        ids = topk[row].tolist()
        outside = [expert for expert in ids if not 0 <= expert < num_experts]
        what = f"expert {outside[0]} is outside [0, {num_experts})" if outside else "an expert is repeated"
        raise TraceError(f"topk: row {row} {ids}: {what}")
    return topk


@kernel
def _first_bad_row(topk, num_experts):
    last = np.full(num_experts, -1, np.int64)
    for row in range(topk.shape[0]):
        for j in range(topk.shape[1]):
            expert = topk[row, j]
            if expert < 0 or expert >= num_experts or last[expert] == row:
                return row
            last[expert] = row
    return -1


def counts(topk: np.ndarray, num_experts: int) -> np.ndarray:
    """Tokens per expert `(N,)` of one batch `(T, k)`."""
    return np.bincount(check_topk(topk, num_experts).ravel(), minlength=num_experts)


@kernel
def counts_of(topk, num_experts):
    """Tokens per expert `(S, L, N)` of batches `(S, L, T, k)`, ids unchecked."""
    steps, layers, tokens, k = topk.shape
    out = np.zeros((steps, layers, num_experts), np.int64)
    for step in range(steps):
        for layer in range(layers):
            for token in range(tokens):
                for j in range(k):
                    out[step, layer, topk[step, layer, token, j]] += 1
    return out


def sample_topk(expert_load: np.ndarray, tokens: int, k: int, seed: int | list[int]) -> np.ndarray:
    """Draw `tokens` lists of k distinct experts `(T, k)`, the top-k of log(load) + Gumbel noise, best first.

    That law is successive sampling without replacement in proportion to load, which is how it is drawn (from an alias
    table, rejecting repeats): the same distribution for a tenth of the random numbers. Experts without load never come.
    """
    weight = np.asarray(expert_load, np.float64)
    if weight.ndim != 1 or not np.isfinite(weight).all() or (weight < 0).any():
        raise TraceError(f"load (shape {weight.shape}): expected finite values >= 0 of shape (experts,)")
    if np.count_nonzero(weight) < k:
        raise TraceError(f"load: {np.count_nonzero(weight)} experts have any; k = {k} distinct ones are needed")
    return _draw(weight / weight.sum(), tokens, k, np.random.default_rng(seed))


@kernel
def _draw(weight, tokens, k, rng):
    experts = len(weight)
    threshold, other = _alias(weight)
    out = np.empty((tokens, k), np.int64)
    taken_by = np.full(experts, -1, np.int64)
    for token in range(tokens):
        rejected = 0
        for j in range(k):
            while True:
                if rejected < PATIENCE:
                    u = rng.random() * experts
                    expert = min(int(u), experts - 1)
                    expert = expert if u - expert < threshold[expert] else other[expert]
                else:
                    expert = _draw_remaining(weight, taken_by, token, rng.random())
                if taken_by[expert] != token:
                    break
                rejected += 1
            taken_by[expert] = token
            out[token, j] = expert
    return out


@inner
def _draw_remaining(weight, taken_by, token, u):
    total = 0.0
    for expert in range(len(weight)):
        if taken_by[expert] != token:
            total += weight[expert]
    last, reached = -1, 0.0
    for expert in range(len(weight)):
        if taken_by[expert] != token and weight[expert] > 0:
            last, reached = expert, reached + weight[expert]
            if reached > u * total:
                break
    return last


@inner
def _alias(weight):
    """Walker's alias table (Vose's way): column i keeps itself below `threshold[i]`, else gives `other[i]`."""
    experts = len(weight)
    threshold, other = weight * experts, np.arange(experts)
    small, large = np.empty(experts, np.int64), np.empty(experts, np.int64)
    n_small = n_large = 0
    for expert in range(experts):
        if threshold[expert] < 1.0:
            small[n_small] = expert
            n_small += 1
        else:
            large[n_large] = expert
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        low, high = small[n_small], large[n_large - 1]
        other[low] = high
        threshold[high] -= 1.0 - threshold[low]
        if threshold[high] < 1.0:
            n_large -= 1
            small[n_small] = high
            n_small += 1
    for at in range(n_small):  # rounding left these a hair below one
        threshold[small[at]] = 1.0 if weight[small[at]] > 0 else 0.0
    return threshold, other
