"""Settings of ODMA: one frozen model, every field with its unit and where its default comes from.

The paper publishes no hyper-parameter (class count, update period, threshold, pool share): each default below is ours.
Sizes per profile live in `workflows/odma/profiles.yaml`. The card's figures are a vendor's, not verified by the paper.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.settings import field
from operators.odma.errors import ConfigError

POLICIES = (*("static", "static_2048", "s3", "odma", "odma_frozen", "constant_quantile", "oracle", "paged", "hybrid"),)
Policy = Literal["static", "static_2048", "s3", "odma", "odma_frozen", "constant_quantile", "oracle", "paged", "hybrid"]
SETS = ("alpaca", "hard")


class Fault(BaseModel):
    """One fault of the real run: what happens to whom, after how many finished requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Literal["device", "predictor", "buckets"] = field(unit="role", source="our choice")
    after: int = field(0, unit="finished requests", source="our choice", ge=0)
    action: Literal["kill", "stop", "slow", "lie"] = field("kill", unit="name", source="our choice")
    phase: Literal["admit", "copy", "decode"] = field(
        "decode", unit="what a killed device is doing at that moment", source="our choice"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.action == "lie" and self.target != "predictor":
            raise ValueError(f"action (='lie'): only the predictor can lie, not the {self.target}")
        if self.action in ("stop", "slow") and self.target == "buckets":
            raise ValueError(
                f"action (={self.action!r}): a bucket manager is killed or nothing; devices never wait for it"
            )
        if self.action == "slow" and self.target == "device":
            raise ValueError("action (='slow'): devices are killed or stopped")
        return self


class Settings(lab.Settings):
    """Everything an ODMA run depends on."""

    system: Literal["odma"] = field("odma", unit="name", source="this folder")
    sets: tuple[Literal["alpaca", "hard"], ...] = field(
        SETS, unit="length mixes", source="paper: Alpaca and Google-NQ; AlpacaEval lengths stand in for the latter"
    )
    prompts: int = field(18_000, unit="Alpaca prompts with measured lengths; 5/9 train", source="data set", ge=200)
    reference_prompts: int = field(
        10_000, unit="training prompts with reference answers; all others test", source="our choice", ge=200
    )
    hard_models: int = field(20, unit="models of AlpacaEval", source="our choice: spread by mean length", ge=2)
    policies: tuple[Policy, ...] = field(POLICIES, unit="names", source="paper, S3, vLLM and bounds of ours")
    alphas: tuple[float, ...] = field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        unit="random over streaming bandwidth",
        source="paper: 0.3 to 0.7",
    )
    loads: tuple[float, ...] = field(
        (0.6, 0.8, 0.95),
        unit="share of the exact oracle's rate, with Azure arrivals; all queued at t = 0 comes on top",
        source="our choice",
    )
    classes: int = field(8, unit="size classes, the large one included (K)", source="our choice", ge=1, le=64)
    period: int = field(512, unit="completions between re-cuts", source="our choice", ge=1)
    decay: float = field(0.995, unit="weight of a finished length per later one", source="our choice", gt=0, le=1)
    tau_quantile: float = field(
        0.97, unit="quantile of the training spread above which a request is doubtful", source="our choice", gt=0, le=1
    )
    level: float = field(0.9, unit="conformal level of a reservation", source="our choice", gt=0, lt=1)
    levels: tuple[float, ...] = field((0.5, 0.7, 0.8, 0.9, 0.95, 0.99), unit="levels predicted", source="our choice")
    assign_on: Literal["need", "q", "mean"] = field(
        "need", unit="name", source="q is the plain bound; need covers as many at less memory-time (conditional.py)"
    )
    cut_on: Literal["needs", "lengths"] = field(
        "needs", unit="name", source="paper: finished lengths; ours: their bounds"
    )
    jump: Literal["next", "large"] = field("large", unit="class after an overflow", source="paper names both")
    adaptive: bool = field(True, unit="flag: adaptive conformal level", source="our choice")
    gamma: float = field(0.02, unit="step of the adaptive level", source="our choice", gt=0, lt=1)
    window: int = field(1000, unit="residuals kept by the adaptive bound", source="our choice", ge=10)
    safety_pool: float = field(
        0.1, unit="share of capacity for the large class and overflows", source="our choice", ge=0, lt=1
    )
    min_samples: int = field(256, unit="completions before the first re-cut", source="our choice", ge=1)
    hysteresis: float = field(0.05, unit="least relative gain of a re-cut", source="our choice", ge=0, lt=1)
    drift: float = field(0.1, unit="Kolmogorov-Smirnov distance that forces a re-cut", source="our choice", gt=0, le=1)
    align: int = field(16, unit="tokens", source="16 tokens of this model are 14 x 64 KiB", ge=1)
    page: int = field(16, unit="tokens", source="vLLM's default", ge=1)
    hybrid_page: int = field(256, unit="tokens", source="our choice", ge=1)
    watermark: float = field(0.01, unit="share of pages kept free at admission", source="vLLM's default", ge=0, lt=1)
    max_len: int = field(2048, unit="tokens", source="longest answer of the hard set", ge=16)
    max_len_alpaca: int = field(512, unit="tokens", source="generation stopped there (514 with its two marks)", ge=16)
    order: Literal["fcfs", "tag"] = field("fcfs", unit="name", source="paper batches near tags; fcfs is ours")
    overflow: Literal["cost", "park", "recompute"] = field(
        "cost", unit="what to do when there is no room to copy", source="paper waits or fails; the cheaper one is ours"
    )
    compaction: float = field(0.0, unit="share of streaming bandwidth spent on compaction", source="our choice", ge=0)
    alpha: float = field(0.5, unit="random over streaming bandwidth", source="middle of the paper's range", gt=0, le=1)
    model: str = field("qwen2.5-7b", unit="name", source="paper: DeepSeek-R1-Distill-Qwen-7B, the same shape")
    mem_bytes: float = field(24e9, unit="bytes", source="vendor sheet of the MLU370-X4", gt=0)
    util_cap: float = field(0.9, unit="share of memory used", source="vLLM's default", gt=0, le=1)
    stream_bps: float = field(307e9 * 0.8, unit="bytes/s", source="vendor sheet, 80 % of the peak reached", gt=0)
    flops: float = field(96e12, unit="FLOP/s", source="vendor sheet, FP16", gt=0)
    charge_prefill: bool = field(True, unit="flag: the other value is simulated too", source="our choice")
    devices: int = field(4, unit="devices", source="paper: 4 cards", ge=1)
    frontier_classes: tuple[int, ...] = field((4, 8, 12, 16), unit="size classes", source="our choice")
    frontier_levels: tuple[float, ...] = field((0.5, 0.7, 0.8, 0.9, 0.95), unit="conformal levels", source="our choice")
    real_devices: int = field(3, unit="device processes of the real run", source="our choice", ge=2)
    real_level: float = field(
        0.5, unit="level of its reservations", source="our choice: half overflow, so that moves are common", gt=0, lt=1
    )
    real_patience_s: float = field(12.0, unit="s without an answer before a device is lost", source="our choice", gt=0)
    real_tokens: int = field(65_536, unit="tokens of a real device's arena", source="our choice", ge=1024)
    real_token_bytes: int = field(1024, unit="bytes per token of the real arena", source="our choice", ge=64)
    real_requests: int = field(200, unit="requests of the real run", source="our choice", ge=10)
    curve_mib: int = field(256, unit="MiB of the arena the alpha curve reads", source="8 x the cache here", ge=8)
    curve_ms: int = field(120, unit="ms per page size and repeat", source="our choice", ge=1)
    curve_repeats: int = field(5, unit="repeats of the alpha curve", source="our choice", ge=2)
    bench_repeats: int = field(7, unit="pairs per comparison", source="our choice", ge=1)
    faults: tuple[Fault, ...] = field(
        (
            Fault(target="device", phase="admit", after=20),
            Fault(target="device", phase="copy", after=20),
            Fault(target="device", phase="decode", after=20),
            Fault(target="predictor", action="kill", after=20),
            Fault(target="predictor", action="stop", after=20),
            Fault(target="predictor", action="slow", after=20),
            Fault(target="predictor", action="lie", after=20),
            Fault(target="buckets", action="kill", after=40),
            Fault(target="device", action="stop", after=20),
        ),
        unit="injected faults, one real run each",
        source="our choice",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("sets", "policies", "alphas", "levels", "frontier_classes", "frontier_levels"):
            if not getattr(self, name):
                raise ValueError(f"{name} (=[]): empty; give at least one")
        for name in ("alphas", "loads"):
            for value in getattr(self, name):
                if not 0 < value <= 1:
                    raise ConfigError(f"{name} (={value}): expected values in (0, 1]")
        for name in ("levels", "frontier_levels"):
            check_levels(name, getattr(self, name))
        for needed in ("static", "odma", "oracle"):
            if needed not in self.policies:
                raise ConfigError(f"policies (={list(self.policies)}): {needed!r} is missing; claims compare with it")
        for name in ("max_len", "max_len_alpaca", "page", "hybrid_page"):
            if getattr(self, name) % self.align:
                raise ConfigError(f"{name} (={getattr(self, name)}): must be a multiple of align (={self.align})")
        for name in ("level", "real_level", "frontier_levels"):
            given = getattr(self, name)
            for level in given if isinstance(given, tuple) else (given,):
                if level not in self.levels:
                    raise ConfigError(f"{name} (={level}): must be one of levels (={list(self.levels)})")
        return self

    def longest(self, name: str) -> int:
        """The longest answer of a set, in tokens: its largest class and its static reservation."""
        if name not in SETS:
            raise ConfigError(f"set (={name!r}): unknown; known: {', '.join(SETS)}")
        return self.max_len_alpaca if name == "alpaca" else self.max_len


def check_levels(name: str, levels: tuple[float, ...]) -> None:
    """ConfigError unless the levels rise strictly inside (0, 1)."""
    if not all(0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
        raise ConfigError(f"{name} (={list(levels)}): expected strictly rising values inside (0, 1)")
