"""Step times of a routed model: decode, prefill, throughput of a mix, from routing results and step-time tables.

Section 2.8 of the specification. Input are rows of runs/routing.parquet (or any frame with the same columns): one row
per step and layer with activated experts and token assignments of every GPU. Time of a layer is that of its slowest
GPU. The routing of a layer is real or synthesised; kernel and collective times are calibrated; prefill is modelled.
Departures from the paper: its simulator is proprietary and its definition of throughput is not stated; both are ours.
"""

from typing import Any

import numpy as np
import polars as pl

from operators.llm import steptime
from operators.llm.steptime import StepTables

# Routers whose rule is a function of the token alone: engines fold them into top-k or a look-up, at no extra time.
LOCAL_ROUTERS = ("primary", "even", "vllm_modulo", "sglang_static", "sglang_random")
REQUESTS_PER_GPU = (8, 16, 32)
SHORT_INPUT = 256  # tokens; short prompts, with which few requests do not fill a prefill chunk
KEYS = [
    *("model", "workload", "phase", "batches", "data", "placed_on", "router", "r", "G", "B", "batch_per_gpu", "seed"),
]


class ServingError(ValueError):
    """Routing rows that cannot be a serving step; the message names column and value."""


def per_gpu(rows: pl.DataFrame, column: str, gpus: int) -> np.ndarray:
    """A list column as `(rows, gpus)`; ServingError when a row has another number of GPUs."""
    lengths = rows[column].list.len()
    if len(rows) and not (lengths == gpus).all():
        raise ServingError(f"{column}: lists of {lengths.min()} to {lengths.max()}; expected {gpus}, one per GPU")
    return rows[column].explode().to_numpy().reshape(-1, gpus).astype(float)


def router_us(rows: pl.DataFrame, overhead: str | float) -> np.ndarray:
    """Router time of each row, us: measured, or a given figure; none at r = 1 (bypassed) and for local rules."""
    free = (rows["r"] == 1.0) | rows["router"].is_in(LOCAL_ROUTERS)
    value = rows["time_us"].fill_null(0.0).to_numpy() if overhead == "measured" else float(overhead)
    return np.where(free.to_numpy(), 0.0, value)


def destinations(rows: pl.DataFrame, step: StepTables, tokens_per_gpu: float) -> np.ndarray:
    """Token copies the busiest rank sends: counted where the routing has it, else expected for even spreading."""
    expected = tokens_per_gpu * steptime.expected_destinations(rows["G"][0], step.shape.top_k)
    return rows["a2a_tokens"].cast(pl.Float64).fill_null(expected).to_numpy()


def decode(
    step: StepTables,
    rows: pl.DataFrame,
    *,
    context: float,
    comm: str = "allgather",
    router_overhead_us: str | float = "measured",
    topk_extra_us: float = 3.0,
    pad_pow2: bool = True,
    step_overhead_us: float = 0.0,
) -> pl.DataFrame:
    """Decode time of every routed (step, layer): `rows` plus t_* columns per layer and step parts, all in us.

    All rows must have one G and one B. `t_rest_us` is what the step spends outside its expert layers.
    """
    gpus, batch = _single(rows, "G"), _single(rows, "B")
    parts = steptime.decode_step(
        step,
        gpus=gpus,
        batch=batch,
        context=context,
        activated=per_gpu(rows, "activated", gpus),
        tokens=per_gpu(rows, "tokens", gpus),
        comm=comm,
        a2a_tokens=destinations(rows, step, batch / gpus),
        router_us=router_us(rows, router_overhead_us),
        topk_extra_us=topk_extra_us,
        pad_pow2=pad_pow2,
        step_overhead_us=step_overhead_us,
    )
    return _with_parts(rows, parts).with_columns(comm=pl.lit(comm), context=pl.lit(float(context)))


def _single(rows: pl.DataFrame, column: str) -> Any:
    values = rows[column].unique()
    if len(values) != 1:
        raise ServingError(f"{column}: {values.sort().to_list()}; one value at a time")
    return values[0]


def _with_parts(rows: pl.DataFrame, parts: dict[str, np.ndarray]) -> pl.DataFrame:
    def column(*names: str) -> np.ndarray:
        return np.broadcast_to(sum(parts[name] for name in names), len(rows)).astype(float)

    return rows.with_columns(
        t_moe_us=column("moe"),
        t_dispatch_us=column("dispatch"),
        t_combine_us=column("combine"),
        t_router_us=column("router"),
        t_attn_us=column("attn"),
        t_other_us=column("norms", "qkv", "o", "gate", "allreduce"),
        t_rest_us=column(*steptime.STEP_PARTS),
    ).with_columns(
        t_comm_us=pl.col("t_dispatch_us") + pl.col("t_combine_us"),
        comm_extra_us=pl.col("t_dispatch_us")
        - pl.col("t_combine_us"),  # the honest all-to-all takes as long as combine
        layer_us=pl.sum_horizontal(
            "t_moe_us", "t_dispatch_us", "t_combine_us", "t_router_us", "t_attn_us", "t_other_us"
        ),
    )


def tpot(step: StepTables, decoded: pl.DataFrame) -> pl.DataFrame:
    """Mean over the layers and steps of each run: one row per key, TPOT in us of the whole model.

    The layers given stand for all expert layers of the model.
    """
    means = [name for name in decoded.columns if name.startswith("t_")] + ["comm_extra_us", "layer_us"]
    ratio = pl.col("lam") / pl.col("lam_exact")
    out = decoded.group_by([*KEYS, "comm", "context"], maintain_order=True).agg(
        *[pl.col(name).mean() for name in means],
        lam=pl.col("lam").mean(),
        lam_exact=pl.col("lam_exact").mean(),
        lam_over_exact=ratio.max(),
        activated_mean=pl.col("activated_sum").mean() / pl.col("G").first(),
        max_tokens=pl.col("max_tokens").mean(),
        routed_us=pl.col("time_us").mean(),
        layers=pl.col("layer").n_unique().cast(pl.Int32),
        steps=pl.col("step").n_unique().cast(pl.Int32),
    )
    return out.with_columns(tpot_us=step.shape.n_moe_layers * pl.col("layer_us") + pl.col("t_rest_us"))


def with_context(step: StepTables, runs: pl.DataFrame, context: float, pad_pow2: bool = True) -> pl.DataFrame:
    """`tpot` rows at another context: only attention differs, so the routing need not be looked at again."""
    parts = []
    for (per_gpu_batch, before), part in runs.group_by("batch_per_gpu", "context", maintain_order=True):
        b = steptime.padded(per_gpu_batch, pad_pow2)
        change = float(step.attention_us(b, context) - step.attention_us(b, before))
        parts.append(
            part.with_columns(
                t_attn_us=pl.col("t_attn_us") + change,
                layer_us=pl.col("layer_us") + change,
                t_rest_us=pl.col("t_rest_us") + step.shape.n_dense_layers * change,
                tpot_us=pl.col("tpot_us") + step.shape.n_layers * change,
                context=pl.lit(float(context)),
            )
        )
    return pl.concat(parts) if parts else runs


def prefill(
    step: StepTables, rows: pl.DataFrame, *, tokens_per_gpu: float, context: float, attn_eff: float = 0.5
) -> pl.DataFrame:
    """Time of one prefill step per run, `prefill_us`, when every GPU works on `tokens_per_gpu` tokens.

    The rows' routing (of B / G tokens a GPU) gives each GPU's share of the tokens and its activated experts, which do
    not change with the chunk once it is thousands of tokens. `context`: mean keys a token attends to.
    """
    gpus, batch = _single(rows, "G"), _single(rows, "B")
    share = tokens_per_gpu * gpus / batch
    parts = steptime.prefill_step(
        step,
        gpus=gpus,
        tokens_per_gpu=tokens_per_gpu,
        context=context,
        activated=per_gpu(rows, "activated", gpus),
        tokens=per_gpu(rows, "tokens", gpus) * share,
        attn_eff=attn_eff,
        a2a_tokens=destinations(rows, step, batch / gpus) * share,
    )
    timed = _with_parts(rows, parts).group_by(KEYS, maintain_order=True)
    layers = step.shape.n_moe_layers
    return timed.agg(
        t_moe_us=pl.col("t_moe_us").mean(),
        max_tokens=pl.col("max_tokens").mean() * share,
        layer_us=pl.col("layer_us").mean(),
        prefill_us=layers * pl.col("layer_us").mean() + pl.col("t_rest_us").mean(),
    )


def ttft(
    step: StepTables, rows: pl.DataFrame, *, requests_per_gpu: int, input_tokens: int, chunk: int, attn_eff: float = 0.5
) -> pl.DataFrame:
    """Mean time to first token of `requests_per_gpu` requests that arrive together on every GPU, unloaded otherwise.

    Prompts are packed in order into chunks; a request's prefill is over when the chunk with its last token is done. The
    first decode is not in it: the caller adds that. Modelled.
    """
    total = requests_per_gpu * input_tokens
    ends = np.minimum(np.arange(chunk, total + chunk, chunk), total)  # cumulative tokens after each step
    sizes = np.diff(ends, prepend=0)
    timed = [
        prefill(step, rows, tokens_per_gpu=size, context=input_tokens / 2, attn_eff=attn_eff)
        for size in np.unique(sizes)
    ]
    per_size = dict(zip(np.unique(sizes), (frame["prefill_us"].to_numpy() for frame in timed), strict=True))
    finished = np.cumsum([per_size[size] for size in sizes], axis=0)  # (steps, runs)
    last = np.searchsorted(ends, np.arange(1, requests_per_gpu + 1) * input_tokens)
    return timed[-1].with_columns(
        requests_per_gpu=pl.lit(requests_per_gpu, pl.Int32),
        input_tokens=pl.lit(input_tokens, pl.Int32),
        prefill_steps=pl.lit(len(sizes), pl.Int32),
        ttft_us=pl.Series(finished[last].mean(axis=0)),
    )


def mix_throughput(batch: Any, inputs: int, outputs: int, prefill_tokens_per_us: Any, tpot_us: Any) -> Any:
    """Total tokens a second of a mix of `batch` requests at a time: prefill and decode take turns. Our choice."""
    return batch * (inputs + outputs) / (batch * inputs / prefill_tokens_per_us + outputs * tpot_us) * 1e6
