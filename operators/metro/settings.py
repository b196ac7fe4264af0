"""Settings of METRO: one frozen model, every field with its unit and where its default comes from.

Sizes per profile live in `workflows/metro/profiles.yaml`; what stands here are the full-size defaults.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.faults import Fault
from operators.lab.settings import field
from operators.llm.accelerators import ACCELERATORS
from operators.llm.shapes import MODELS, MOE_TABLES

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


REAL_TOKENS = 64  # of the one real batch the measured experiment runs
MOST_FAULT_STEPS = 100


def _positive(name: str, values: tuple[int, ...]) -> None:
    for value in values:
        if value < 1:
            raise ValueError(f"{name} (={value}): must be >= 1")


def _ratios(name: str, ratios: tuple[float, ...], gpus: int) -> None:
    """At least one slot per expert, at most one per expert and GPU; 1.0 is there, as the baseline of everything."""
    for ratio in ratios:
        if not 1.0 <= ratio <= gpus:
            raise ValueError(f"{name} (={ratio}): slots per expert must be from 1 to the number of GPUs (={gpus})")
    if 1.0 not in ratios:
        raise ValueError(f"{name} (={list(ratios)}): 1.0 is missing; no replication is the baseline of everything")


class Setup(BaseModel):
    """One serving set-up of the simulated grid: a model on `gpus` accelerators with one kernel table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = field(unit="name", source="model cards")
    accelerator: str = field(unit="name", source="vendor sheets")
    gpus: int = field(unit="GPUs", source="paper: 8, and 16 for DeepSeek-V3", ge=1)
    system: Literal["a100_sxm", "b200_sxm"] = field(unit="name", source="step-time tables")
    framework: Literal["SGLang", "VLLM"] = field(unit="name", source="step-time tables")
    dtype: Literal["bfloat16", "fp8", "fp8_block"] = field(unit="name", source="our choice")

    @model_validator(mode="after")
    def _exists(self) -> Self:
        """Names are known, the experts divide over the GPUs, and there is a kernel table."""
        for name, value, known in (("model", self.model, MODELS), ("accelerator", self.accelerator, ACCELERATORS)):
            if value not in dict(known):
                raise ValueError(f"{name} (={value!r}): unknown; known: {', '.join(known)}")
        if MODELS[self.model].n_experts % self.gpus:
            raise ValueError(
                f"gpus (={self.gpus}): must divide the {MODELS[self.model].n_experts} experts of {self.model}"
            )
        table = (self.system, self.framework, self.dtype)
        if self.model not in MOE_TABLES.get(table, ()):
            have = "; ".join(f"{' '.join(key)}: {', '.join(models)}" for key, models in MOE_TABLES.items())
            raise ValueError(f"no kernel table of {self.model} for {' '.join(table)}; there are {have}")
        return self


class Cpu(BaseModel):
    """The measured, memory-bound experiment on this machine's processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: int = field(128, unit="experts", source="Qwen3-30B has 128; tokens choose 8", ge=8, le=128)
    hidden: int = field(2048, unit="columns", source="Qwen3-30B hidden size", ge=16, multiple_of=16)
    width: int = field(768, unit="rows", source="Qwen3-30B expert width", ge=1)
    dtype: Literal["float32"] = field("float32", unit="name", source="our choice")
    gpus: int = field(8, unit="expert ranks", source="paper: 8 GPUs", ge=1)
    ratios: tuple[float, ...] = field(
        (1.0, 1.25, 1.5), unit="slots per expert", source="paper; 1.125 left out for time"
    )
    reps: int = field(5, unit="repetitions", source="our choice: minimum of repeated timings", ge=1)
    batches: tuple[int, ...] = field((8, 16, 32, 64), unit="tokens", source="our choice: below and above the crossover")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.batches or not all(1 <= tokens <= REAL_TOKENS for tokens in self.batches):
            raise ValueError(f"batches (={list(self.batches)}): expected sizes from 1 to {REAL_TOKENS} tokens")
        if self.experts % self.gpus:
            raise ValueError(f"gpus (={self.gpus}): must divide experts (={self.experts})")
        _ratios("ratios", self.ratios, self.gpus)
        return self


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
        for name in ("ratios", "setups", "routers", "batch_per_gpu", "mixes"):
            if not getattr(self, name):
                raise ValueError(f"{name} (=[]): empty; give at least one")
        _ratios("ratios", self.ratios, min(setup.gpus for setup in self.setups))
        _positive("batch_per_gpu", self.batch_per_gpu)
        for mix in self.mixes:
            _positive("mixes", mix)
        for needed in ("even", "primary"):
            if needed not in self.routers:
                raise ValueError(
                    f"routers (={list(self.routers)}): {needed!r} is missing; everything is compared with it"
                )
        for fault in self.faults:
            if fault.rank >= self.cpu.gpus or fault.at_step > MOST_FAULT_STEPS:
                limits = f"rank < cpu.gpus (={self.cpu.gpus}) and at_step <= {MOST_FAULT_STEPS}"
                raise ValueError(f"faults (rank {fault.rank}, at_step {fault.at_step}): expected {limits}")
        return self
