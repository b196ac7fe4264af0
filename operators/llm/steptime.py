"""Time of one decode or prefill step of a mixture-of-experts model under expert parallelism, part by part.

Attention is data-parallel over the expert-parallel ranks (b = B / ranks sequences each); a rank may be `tp` GPUs wide.
A layer is norms + qkv + attention + o + gate + dispatch + router + slowest rank's experts + combine. Times come from
the tables; what has none is modelled and marked so below: element-wise kernels and the sampler (launch plus bytes over
bandwidth), prefill attention (FLOP over a fraction of peak), collectives over more than 8 GPUs (bytes scaled), slices
of a tensor-parallel rank. Not modelled: the top-k kernel itself (the same for every router), CUDA-graph launch, engine
overhead (`step_overhead_us` is where a user can put it).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from operators.llm import tables
from operators.llm.accelerators import ACCELERATORS, Accelerator
from operators.llm.moe_cost import MoeCost
from operators.llm.shapes import MODELS, ModelShape
from operators.llm.tables import MoeTable, Table

LOOKUPS = ("levels", "step")
LAYER_PARTS = ("norms", "qkv", "attn", "o", "gate", "dispatch", "router", "moe", "combine", "allreduce")
STEP_PARTS = ("dense_layers", "lm_head", "sampler", "overhead")
LAUNCH_US = 2.0  # one element-wise kernel; modelled
SAMPLER_US = 10.0  # launch of the sampling kernels; modelled
ACTIVATION_BYTES = 2  # activations travel and are stored in 16 bits whatever the weights' type
GRAPH_LIMIT = 32  # sequences per GPU up to which decode graphs exist, for powers of two only
MEASURED_GPUS = 8  # largest collective in the tables
CARD_OF_SYSTEM = {"a100_sxm": "a100-80g", "b200_sxm": "b200"}


@dataclass(frozen=True)
class StepTables:
    """Everything `decode_step` looks up for one model on one accelerator."""

    shape: ModelShape
    accel: Accelerator
    system: str
    dtype: str
    moe: MoeTable
    collectives: dict[str, Table] = field(hash=False)
    gemm: tables.GemmTables
    gate_gemm: tables.GemmTables  # the gate and the head stay in bfloat16
    root: Path | None = None
    lookup: str = "levels"  # how the expert table is read, see moe_us

    def __post_init__(self) -> None:
        if self.lookup not in LOOKUPS:
            raise ValueError(f"lookup (={self.lookup!r}): expected one of {', '.join(LOOKUPS)}")

    @property
    def data(self) -> str:
        kinds = {self.moe.data, self.gemm.data, *(t.data for t in self.collectives.values())}
        return "real" if kinds == {"real"} else "synthetic"

    def attention_us(self, batch: Any, context: Any, tp: int = 1) -> np.ndarray:
        """Decode attention of one layer on one GPU; with MLA this is the whole attention block."""
        if self.shape.mla is not None:
            return tables.load_mla(self.dtype, self.shape.n_heads // tp, self.root).at(batch=batch, context=context)
        heads, kv = self.shape.n_heads // tp, max(self.shape.n_kv_heads // tp, 1)
        have = 4 if self.system == "b200_sxm" else 1  # B200 rows start at 4 kv heads: fewer are scaled down from those
        table = tables.load_decode_attention(self.system, max(heads, have), max(kv, have), self.root)
        return table.at(batch=batch, context=np.asarray(context) * min(1.0, kv / have))

    def collective_us(self, operation: str, gpus: int, size_bytes: Any) -> np.ndarray:
        """Time of a collective; above 8 GPUs the 8-GPU time with bytes scaled by the share that leaves a GPU."""
        if gpus == 1:
            return np.zeros(np.shape(size_bytes))
        size = np.maximum(np.asarray(size_bytes, float), 1.0)
        if gpus > MEASURED_GPUS:
            size, gpus = size * (1 - 1 / gpus) / (1 - 1 / MEASURED_GPUS), MEASURED_GPUS
        return self.collectives[operation].at(gpus=gpus, bytes=size)

    def elementwise_us(self, kernels: int, tokens: Any) -> np.ndarray:
        """Kernels that read and write hidden states: a launch and the bytes. Modelled."""
        moved = 2 * np.asarray(tokens, float) * self.shape.hidden * ACTIVATION_BYTES
        return kernels * (LAUNCH_US + moved / self.accel.mem_Bps * 1e6)


def step_tables(
    model: str,
    *,
    accelerator: str,
    system: str,
    framework: str,
    dtype: str,
    data: Path | None = None,
    form: str = "pnorm",
    cost: MoeCost | None = None,
    lookup: str = "levels",
) -> StepTables:
    """The tables of one set-up, with `cost`, or else a cost of `form` fitted here, attached to the expert table.

    `lookup` says how the expert table is read: see `moe_us`.

    An accelerator that is not the system's own card (the 40 GB A100) has its expert slope b scaled by the ratio of
    memory bandwidths and nothing else.
    """
    shape, accel = MODELS[model], ACCELERATORS[accelerator]
    if system not in CARD_OF_SYSTEM:
        raise ValueError(f"system (={system!r}): has no step tables; known: {', '.join(CARD_OF_SYSTEM)}")
    moe = tables.load_moe(system, framework, model, dtype, data)
    moe = moe.with_fit(cost or MoeCost.fit(moe, form)).on_slower_memory(slower_memory(system, accelerator))
    plain = tables.load_gemm(system, "bfloat16", data)
    gemm = plain if dtype == "bfloat16" else tables.load_gemm(system, dtype, data)
    return StepTables(shape, accel, system, dtype, moe, tables.load_nccl(system, data), gemm, plain, data, lookup)


def slower_memory(system: str, accelerator: str) -> float:
    """How many times slower the accelerator's memory is than that of the card the system's tables come from."""
    return ACCELERATORS[CARD_OF_SYSTEM[system]].mem_Bps / ACCELERATORS[accelerator].mem_Bps


def padded(batch: float, pad_pow2: bool) -> float:
    """Sequences a GPU computes: the next power of two up to the largest decode graph, else what there is."""
    if not pad_pow2 or batch > GRAPH_LIMIT:
        return batch
    return float(2 ** int(np.ceil(np.log2(max(batch, 1)))))


def expected_destinations(ranks: int, top_k: int) -> float:
    """Distinct ranks a token's top-k experts lie on when ranks are equally likely."""
    return ranks * (1.0 - (1.0 - 1.0 / ranks) ** top_k)


def moe_us(step: StepTables, activated: Any, tokens: Any, *, tp: int, batch: float, ranks: int) -> np.ndarray:
    """Slowest rank's expert time over the last axis; shared experts are active on every rank for its own tokens.

    The table of several ranks can be read in two ways (`step.lookup`), and results that hang on it are shown for both:
    - "levels" (default): every rank lies on the table's level curves by its own tokens per expert; a row measured with
      e ranks is taken to hold 1/e of the assignments.
    - "step": the table where it was measured, at this batch and number of ranks with balanced load, plus the difference
      of fitted times to the rank's own A and n. What speaks for it: the tables' kernels for several ranks also work on
      other ranks' tokens (A100 with SGLang takes 12 ms for 16,384 tokens on 1 to 8 ranks, B200 with vLLM 3.4 ms even
      for one expert of 256), and along a level curve that work is charged to the busiest GPU's assignments.
    """
    s, own = step.shape.n_shared, batch / ranks
    A, n = np.asarray(activated, float) + s, np.asarray(tokens, float) + s * own
    if step.lookup == "levels":
        us = step.moe.at(activated=A, tokens=n)
    else:
        tau = batch * step.shape.top_k / step.shape.n_experts
        us = step.moe.at_step(activated=A, tokens=n, local=step.shape.n_experts / ranks, tau=tau)
    if tp > 1:
        fixed = np.minimum(step.moe.fit.a, us)
        us = fixed + (us - fixed) / tp
    return us.max(axis=-1)


def decode_step(
    step: StepTables,
    *,
    gpus: int,
    batch: int,
    context: float,
    activated: Any,
    tokens: Any,
    tp: int = 1,
    comm: str = "allgather",
    a2a_tokens: Any = None,
    router_us: Any = 0.0,
    topk_extra_us: float = 3.0,
    pad_pow2: bool = True,
    step_overhead_us: float = 0.0,
) -> dict[str, np.ndarray]:
    """Parts of a decode step of `batch` tokens in all, in us.

    `activated`, `tokens`: experts and assignments per rank, (..., ranks), any number of leading axes (steps, layers).
    `a2a_tokens`: per leading index the most token copies a rank sends (max over ranks of the sum of distinct
    destinations); None takes the expectation. Layer parts have the leading shape or none; step parts are scalars.
    """
    if comm not in ("allgather", "alltoall"):
        raise ValueError(f"comm (={comm!r}): expected 'allgather' or 'alltoall'")
    if gpus % tp:
        raise ValueError(f"tp (={tp}): must divide gpus (={gpus})")
    shape, ranks = step.shape, gpus // tp
    b = padded(batch / ranks, pad_pow2)
    sent = b * expected_destinations(ranks, shape.top_k) if a2a_tokens is None else np.asarray(a2a_tokens, float)
    row = shape.hidden * ACTIVATION_BYTES
    combine = step.collective_us("alltoall", ranks, sent * row)
    gathered = step.collective_us("all_gather", ranks, b * ranks * row) + (topk_extra_us if ranks > 1 else 0.0)
    parts = _attention_parts(step, b, context, tp)
    parts |= {
        "gate": step.gate_gemm.at(m=b * ranks if comm == "allgather" else b, n=shape.n_experts, k=shape.hidden),
        "dispatch": gathered if comm == "allgather" else combine,
        "router": np.asarray(router_us, float),
        "moe": moe_us(step, activated, tokens, tp=tp, batch=batch, ranks=ranks),
        "combine": combine,
        "allreduce": 2.0 * step.collective_us("all_reduce", tp, b * row),
    }
    attention = sum(parts[name] for name in ("norms", "qkv", "attn", "o"))
    return parts | {
        "dense_layers": shape.n_dense_layers * (attention + _dense_us(step, b, tp) + parts["allreduce"]),
        "lm_head": step.gate_gemm.at(m=b, n=shape.vocab // tp, k=shape.hidden),
        "sampler": np.asarray(SAMPLER_US + 3 * b * shape.vocab * 4 / tp / step.accel.mem_Bps * 1e6),
        "overhead": np.asarray(float(step_overhead_us)),
    }


def _attention_parts(step: StepTables, b: float, context: float, tp: int) -> dict[str, np.ndarray]:
    zero = np.zeros(())
    if step.shape.mla is not None:  # one table row is the whole block
        return {"norms": step.elementwise_us(2, b), "qkv": zero, "attn": step.attention_us(b, context, tp), "o": zero}
    (_, qkv_n, qkv_k), (_, o_n, o_k) = step.shape.attn_gemms()
    return {
        "norms": step.elementwise_us(4, b),  # two layer norms, head norms, rotary embedding
        "qkv": step.gemm.at(m=b, n=qkv_n // tp, k=qkv_k),
        "attn": step.attention_us(b, context, tp),
        "o": step.gemm.at(m=b, n=o_n, k=o_k // tp),
    }


def _dense_us(step: StepTables, tokens: float, tp: int) -> np.ndarray:
    if not step.shape.n_dense_layers:
        return np.zeros(())
    d, width = step.shape.hidden, step.shape.dense_width // tp
    return step.gemm.at(m=tokens, n=2 * width, k=d) + step.gemm.at(m=tokens, n=d, k=width)


def prefill_step(
    step: StepTables,
    *,
    gpus: int,
    tokens_per_gpu: float,
    context: float,
    activated: Any,
    tokens: Any,
    attn_eff: float = 0.5,
    a2a_tokens: Any = None,
) -> dict[str, np.ndarray]:
    """Parts of a prefill step of `tokens_per_gpu` tokens on every GPU, each seeing `context` keys on average, in us.

    Expert time is the fitted cost, not the table: at thousands of tokens a rank the table's larger ranks include work
    on other ranks' assignments. Dispatch is all-to-all: prefill keeps the engines' own even routing.
    """
    shape, S = step.shape, tokens_per_gpu
    row = shape.hidden * ACTIVATION_BYTES
    sent = S * expected_destinations(gpus, shape.top_k) if a2a_tokens is None else np.asarray(a2a_tokens, float)
    move = step.collective_us("alltoall", gpus, sent * row)
    flops = shape.attn_flops(S, context)
    A = np.asarray(activated, float) + shape.n_shared
    n = np.asarray(tokens, float) + shape.n_shared * S
    slower = replace(step.moe.fit, b=step.moe.fit.b * step.moe.slower_memory)
    projections = sum(step.gemm.at(m=S, n=n_, k=k_) for _, n_, k_ in shape.attn_gemms())
    attn = np.asarray(flops / (attn_eff * step.accel.peak("bfloat16")) * 1e6)
    parts = {
        "norms": step.elementwise_us(4 if shape.mla is None else 2, S),
        "qkv": projections,
        "attn": attn,
        "o": np.zeros(()),  # counted with the other projections
        "gate": step.gate_gemm.at(m=S, n=shape.n_experts, k=shape.hidden),
        "dispatch": move,
        "router": np.zeros(()),
        "moe": slower.time_us(A, n).max(axis=-1),
        "combine": move,
        "allreduce": np.zeros(()),
    }
    dense = parts["norms"] + projections + attn + _dense_us(step, S, 1)
    head = step.gate_gemm.at(m=1, n=shape.vocab, k=shape.hidden)
    return parts | {
        "dense_layers": shape.n_dense_layers * dense,
        "lm_head": head,
        "sampler": np.asarray(SAMPLER_US),
        "overhead": np.zeros(()),
    }


def layer_us(parts: dict[str, np.ndarray]) -> np.ndarray:
    """Time of one expert layer, with the leading shape of the routing."""
    return sum(parts[name] for name in LAYER_PARTS)


def step_us(shape: ModelShape, parts: dict[str, np.ndarray], *, axis: int = -1) -> np.ndarray:
    """Time of the whole step: the layers given stand for all expert layers (mean over `axis`), plus the rest once."""
    layers = np.asarray(layer_us(parts))
    mean = layers.mean(axis=axis) if layers.ndim else layers
    return shape.n_moe_layers * mean + sum(parts[name] for name in STEP_PARTS)
