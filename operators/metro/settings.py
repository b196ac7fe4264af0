"""Settings of METRO: one frozen model, every field with its unit and where its default comes from.

Sizes per profile live in `workflows/metro/profiles.yaml`; what stands here are the full-size defaults.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.faults import Fault
from operators.lab.settings import field

Router = Literal[
    "primary",
    "even",
    "vllm_modulo",
    "sglang_static",
    "sglang_random",
    "metro",
    "exact",
    "exact_balanced",
    "adaptive",
    "stale_metro",
    "lp",
]


class Setup(BaseModel):
    """One serving set-up of the simulated grid: a model on `gpus` accelerators with one kernel table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = field(unit="name", source="model cards")
    accelerator: str = field(unit="name", source="vendor sheets")
    gpus: int = field(unit="GPUs", source="paper: 8, and 16 for DeepSeek-V3", ge=1)
    system: Literal["a100_sxm", "b200_sxm", "rtx_pro_6000"] = field(unit="name", source="step-time tables")
    framework: Literal["SGLang", "VLLM"] = field(unit="name", source="step-time tables")
    dtype: Literal["bfloat16", "fp8", "fp8_block"] = field(unit="name", source="our choice")


class Cpu(BaseModel):
    """The measured, memory-bound experiment on this machine's processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: int = field(128, unit="experts", source="Qwen3-30B has 128", ge=1)
    hidden: int = field(2048, unit="columns", source="Qwen3-30B hidden size", ge=16, multiple_of=16)
    width: int = field(768, unit="rows", source="Qwen3-30B expert width", ge=1)
    dtype: Literal["float32"] = field("float32", unit="name", source="our choice")
    gpus: int = field(8, unit="expert ranks", source="paper: 8 GPUs", ge=1)
    ratios: tuple[float, ...] = field(
        (1.0, 1.25, 1.5), unit="slots per expert", source="paper; 1.125 left out for time"
    )
    reps: int = field(5, unit="repetitions", source="our choice: minimum of repeated timings", ge=1)
    batches: tuple[int, ...] = field((8, 16, 32, 64), unit="tokens", source="our choice: below and above the crossover")


class Settings(lab.Settings):
    """Everything a METRO run depends on."""

    system: Literal["metro"] = field("metro", unit="name", source="this folder")
    ratios: tuple[float, ...] = field((1.0, 1.125, 1.25, 1.5), unit="slots per expert", source="paper, evaluation")
    setups: tuple[Setup, ...] = field(
        (
            Setup(
                model="qwen3-30b",
                accelerator="a100-40g",
                gpus=8,
                system="a100_sxm",
                framework="SGLang",
                dtype="bfloat16",
            ),
            Setup(
                model="qwen3-235b",
                accelerator="b200",
                gpus=8,
                system="b200_sxm",
                framework="VLLM",
                dtype="bfloat16",
            ),
            Setup(
                model="deepseek-v3",
                accelerator="b200",
                gpus=16,
                system="b200_sxm",
                framework="VLLM",
                dtype="fp8_block",
            ),
        ),
        unit="set-ups",
        source="paper, evaluation; kernel tables and dtypes are our choice",
    )
    layers: int = field(0, unit="MoE layers; 0 means all of the model", source="our choice", ge=0)
    steps: int = field(4, unit="decode steps per batch size and seed", source="our choice", ge=1)
    batch_per_gpu: tuple[int, ...] = field(
        (8, 16, 32, 64, 128), unit="tokens per GPU", source="paper: 32; sweep is ours"
    )
    decode_batch_per_gpu: int = field(32, unit="tokens per GPU", source="paper, real system", ge=1)
    global_batch: int = field(1024, unit="tokens", source="paper, simulator", ge=1)
    routers: tuple[Router, ...] = field(
        ("primary", "even", "metro", "exact", "adaptive"), unit="names", source="our choice"
    )
    order: Literal["index", "fewest_candidates", "random"] = field("index", unit="name", source="our choice")
    place_on: str = field("decode_in1000out1000", unit="workload", source="our choice")
    evaluate_on: str = field("decode_in1800out100", unit="workload", source="our choice")
    window_size: int = field(1000, unit="steps", source="vLLM default", ge=1)
    step_interval: int = field(3000, unit="steps", source="vLLM default", ge=1)
    avoid_same_gpu: bool = field(False, unit="flag", source="EPLB reference allows duplicates")
    nested: bool = field(False, unit="flag", source="EPLB placement is not nested")
    cost: Literal["sum", "max", "pnorm"] = field("pnorm", unit="form", source="our choice")
    router_overhead_us: Literal["measured"] | float = field(
        "measured", unit="us per layer", source="measured here, or the paper's figure given by the user"
    )
    comm: Literal["allgather", "alltoall"] = field("allgather", unit="name", source="paper, allGather dispatch")
    topk_extra_us: float = field(3.0, unit="us per layer", source="paper, top-k over all tokens", ge=0)
    step_overhead_us: float = field(0.0, unit="us per step", source="our choice", ge=0)
    pad_pow2: bool = field(True, unit="flag", source="paper: decode graphs up to 32 tokens per GPU")
    input_tokens: int = field(4096, unit="tokens", source="paper, real system: 8K context", ge=1)
    output_tokens: int = field(1024, unit="tokens", source="our choice", ge=1)
    chunk: int = field(8192, unit="tokens", source="paper, chunked prefill 8K", ge=1)
    attn_eff: float = field(0.5, unit="fraction of peak", source="our choice", gt=0, le=1)
    mixes: tuple[tuple[int, int], ...] = field(
        ((1024, 2048), (4096, 1024), (8192, 128)), unit="(input, output) tokens", source="decode- to prefill-heavy"
    )
    pareto: bool = field(True, unit="flag", source="paper, Fig. 12 and Table II")
    serve: bool = field(True, unit="flag", source="validation against the measured vLLM run")
    cpu: Cpu = field(Cpu(), unit="experiment", source="our choice")
    faults: tuple[Fault, ...] = field((), unit="injected faults", source="our choice")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for ratio in self.ratios:
            if not ratio >= 1.0:
                raise ValueError(f"ratios: {ratio} slots per expert; must be >= 1")
        if not self.routers:
            raise ValueError("routers: empty; name at least one router")
        return self
