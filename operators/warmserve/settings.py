"""Settings of warmserve: one frozen model, every field with its unit and where its default comes from.

Sizes per profile live in `workflows/warmserve/profiles.yaml`; what stands here are the defaults of the paper's set-up.
"official code" is LLMServe/WarmServe at commit a60121519e07.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.settings import field

Policy = Literal[
    *("warmserve", "no_prewarm", "no_placement", "no_proactive", "window_180", "window_2400"),
    *("sllm_gpu", "muxserve", "predictive_autoscale", "static", "oracle", "oracle_hit"),
]
Cold = Literal["w5", "pcie"]
State = Literal["idle", "loading", "universal", "promoting", "dedicated", "draining"]
MOST_GPUS_PER_NODE = 64
CODE = "official code"


class Served(BaseModel):
    """One model of the fleet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = field(unit="name, unique in the fleet", source="our choice")
    shape: str = field(unit="name of operators/llm/shapes.py", source="our choice")
    tp: int = field(unit="GPUs of one instance", source=CODE, ge=1)
    prefill_s: float = field(unit="s per request", source=CODE, gt=0)
    decode_s: float = field(unit="s per token", source=CODE, gt=0)
    hot_s: float = field(unit="s from promotion to the first prefill", source="table of starts less prefill", ge=0)
    linear: tuple[float, float, float, float] | None = field(
        None,
        unit="s a step, a prompt token, a decoding request, a context token; none: prefill_s and decode_s",
        source="a step model fitted to the user's engine (operators/llm/calibrate.py)",
    )
    load_s_per_gib: float | None = field(
        None, unit="s per GiB and GPU; none: the cold-start model's", source="mixed sources: disk, host RAM, peer", gt=0
    )


FLEET = (
    Served(name="7b-a", shape="llama2-7b", tp=1, prefill_s=0.035, decode_s=0.015, hot_s=0.285),
    Served(name="7b-b", shape="llama2-7b", tp=1, prefill_s=0.035, decode_s=0.015, hot_s=0.285),
    Served(name="13b", shape="llama2-13b", tp=2, prefill_s=0.07, decode_s=0.02, hot_s=0.25),
    Served(name="70b", shape="llama2-70b", tp=4, prefill_s=0.1, decode_s=0.03, hot_s=0.57),
)


class Failure(BaseModel):
    """One fault of the real run: what happens to whom, when its worker is in a state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Literal["worker", "manager"] = field("worker", unit="name", source="our choice")
    state: State = field("loading", unit="state the worker must be in", source="the six states")
    action: Literal["kill", "stop", "slow", "lie"] = field(
        "kill", unit="SIGKILL, SIGSTOP, slow or false load report", source="our choice"
    )
    seconds: float = field(1.0, unit="s of a stop or a slow", source="our choice", gt=0)


class Settings(lab.Settings):
    """Everything a run of warmserve depends on."""

    system: Literal["warmserve"] = field("warmserve", unit="name", source="this folder")
    seeds: int = field(3, unit="seeds, from `seed` upwards", source="our choice", ge=1)
    nodes: int = field(2, unit="nodes", source="paper", ge=1)
    gpus_per_node: int = field(8, unit="GPUs", source="paper", ge=1, le=MOST_GPUS_PER_NODE)
    models: tuple[Served, ...] = field(FLEET, unit="models; a set of four", source="paper")
    hours: float = field(1.0, unit="h of traffic", source="paper", gt=0)
    settle_s: float = field(60.0, unit="s at the start that are served, not measured", source="our choice", ge=0)
    rps: tuple[float, ...] = field((15.0,), unit="requests/s of all models", source="paper's sweep")
    alpha: tuple[float, ...] = field((0.5,), unit="exponent of popularity", source="paper's sweep")
    main: tuple[Policy, ...] = field(
        ("warmserve", "no_proactive", "sllm_gpu", "muxserve", "predictive_autoscale"),
        unit="policies on the whole grid",
        source="our choice",
    )
    others: tuple[Policy, ...] = field(
        ("no_prewarm", "no_placement", "window_180", "window_2400", "static", "oracle", "oracle_hit"),
        unit="policies at `points` only",
        source="our choice",
    )
    points: tuple[tuple[float, float], ...] = field(
        ((15.0, 0.5), (25.0, 0.5)), unit="(rps, alpha) of the other policies and cold-start models", source="our choice"
    )
    colds: tuple[Cold, ...] = field(("w5", "pcie"), unit="cold-start models", source="spec: always both")
    pools: tuple[bool, ...] = field((True, False), unit="whether processes stand ready", source="spec: both reported")
    large: bool = field(False, unit="also the large cluster", source="full size only")
    large_nodes: int = field(64, unit="nodes", source="paper: 512 GPUs", ge=1)
    large_rps: float = field(800.0, unit="requests/s", source="paper", gt=0)
    large_policies: tuple[Policy, ...] = field(
        ("warmserve", "sllm_gpu", "muxserve", "predictive_autoscale"), unit="policies", source="paper's figure"
    )
    whatif: bool = field(True, unit="also the runs with one setting changed", source="our choice")

    source: Literal["servegen", "azure2023"] = field("servegen", unit="rate profiles", source="our choice")
    start_hour: int = field(10, unit="hour of the day", source="our choice", ge=0, le=23)
    burst_cv: float = field(1.0, unit="coefficient of variation of the gaps", source="our choice", ge=0)
    cap_input: int = field(1024, unit="tokens", source=CODE, ge=1)
    min_output: int = field(3, unit="tokens", source=CODE, ge=1)
    history_days: int = field(7, unit="days", source="paper", ge=1, le=11)

    window_s: float = field(300.0, unit="s of a forecast window", source="paper", gt=0)
    n_recent: int = field(10, unit="windows of the correction", source=CODE, ge=1)
    order: Literal["newest", "printed"] = field("newest", unit="which window weighs most", source=CODE)
    burst: Literal["forecast", "band"] = field("forecast", unit="source of the peak", source="paper")
    band_level: float = field(0.9, unit="quantile of the past errors", source="our choice", gt=0, lt=1)
    rule: Literal["paper", "foundation_first"] = field("paper", unit="order of replicas", source=CODE)
    plan_compat: Literal["ours", "official"] = field("ours", unit="who takes scores", source="our choice")
    reserve: Literal["paper", "official", "all"] = field("paper", unit="KV a draining instance keeps", source="paper")
    batch: int = field(32, unit="requests an instance takes", source=CODE, ge=1)
    scale_low: float = field(0.5, unit="share of capacity", source=CODE, gt=0)
    scale_high: float = field(0.8, unit="share of capacity", source=CODE, gt=0)
    scale_window_s: float = field(5.0, unit="s", source=CODE, gt=0)
    protect_s: float = field(5.0, unit="s a new instance is kept", source=CODE, ge=0)
    tick_s: float = field(0.5, unit="s between decisions", source=CODE, gt=0)
    poll_s: float = field(1.0, unit="s between tries of a waiting request; 0: woken by event", source=CODE, ge=0)

    gpu_gib: float = field(80.0, unit="GiB", source="paper", gt=0)
    gpu_util: float = field(0.9, unit="share of memory in the pool", source=CODE, gt=0, le=1)
    slots: int = field(30, unit="models mapped on one GPU at most", source=CODE, ge=1)
    kv_block: Literal["shape", "official"] = field(
        "shape", unit="bytes of a KV block", source="computed from the shape"
    )
    max_seqs: int = field(256, unit="sequences of an engine", source=CODE, ge=1, le=256)
    token_budget: int = field(100_000, unit="tokens of a prefill step", source=CODE, ge=1)
    engine: Literal["jump", "step"] = field("jump", unit="name", source="equal results; jump is faster")
    engine_start_s: float = field(15.7, unit="s", source="fit of three starts", ge=0)
    engine_tp2_s: float = field(3.0, unit="s more at tp 2", source="fit of three starts", ge=0)
    load_s_per_gib: float = field(0.77, unit="s per GiB and GPU", source="fit of three starts", gt=0)
    pcie_gib_per_s: float = field(32.0, unit="GiB/s per GPU", source=CODE, gt=0)
    slo_ttft_s: float = field(1.0, unit="s at P95", source="our choice; the paper's is not stated", gt=0)

    workers: int = field(2, unit="worker processes of the real run", source="our choice", ge=2, le=8)
    real_blocks: int = field(128, unit="2 MiB blocks of a worker's pool", source="our choice", ge=8)
    real_weight_blocks: int = field(96, unit="2 MiB blocks of both ranks of a model", source="our choice", ge=1)
    real_starts: int = field(4, unit="starts of each kind", source="our choice", ge=1)
    real_requests: int = field(60, unit="requests of the recorded run", source="our choice", ge=1)
    faults: tuple[Failure, ...] = field(
        (Failure(state="loading"), Failure(state="dedicated")), unit="faults of the real run", source="our choice"
    )

    @property
    def seed_list(self) -> list[int]:
        """The seeds of this run."""
        return list(range(self.seed, self.seed + self.seeds))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("models", "rps", "alpha", "main", "colds", "pools"):
            if not getattr(self, name):
                raise ValueError(f"{name} (=[]): empty; give at least one")
        if self.scale_low >= self.scale_high:
            raise ValueError(f"scale_low (={self.scale_low}): expected less than scale_high (={self.scale_high})")
        if self.window_s < self.tick_s:
            raise ValueError(f"window_s (={self.window_s}): expected at least tick_s (={self.tick_s})")
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"models (={names}): names must differ")
        for model in self.models:
            if model.linear and (min(model.linear) < 0 or not model.linear[0] > 0):
                raise ValueError(f"models ({model.name}: linear={list(model.linear)}): expected >= 0, the first > 0")
            if self.gpus_per_node % model.tp:
                raise ValueError(
                    f"models ({model.name}: tp={model.tp}): expected a divisor of gpus_per_node (={self.gpus_per_node})"
                )
        for name in ("rps", "alpha"):
            for value in getattr(self, name):
                if value < 0 or (name == "rps" and value == 0):
                    raise ValueError(f"{name} (={value}): expected > 0")
        if self.settle_s >= self.hours * 3600:
            raise ValueError(f"settle_s (={self.settle_s}): expected less than the run ({self.hours * 3600:g} s)")
        return self
