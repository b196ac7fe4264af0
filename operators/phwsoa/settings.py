"""Settings of PHWSOA: one frozen model, every field with its unit and where its default comes from.

Sizes per profile live in `workflows/phwsoa/profiles.yaml`. The paper's population, iterations, task counts, price table
and formulas are not stated in the sources available: "our choice" means just that.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.settings import field
from operators.phwsoa.optimise import METHODS, Operators
from operators.phwsoa.twins import ETC_KEYS

OURS = "our choice"


class Fault(BaseModel):
    """One fault of the executed plan, in wall seconds after the common start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["kill", "stop", "slow"] = field(unit="kind: SIGKILL, SIGSTOP or slower tasks", source=OURS)
    vm: int = field(unit="machine", source=OURS, ge=0)
    at_s: float = field(unit="wall s", source=OURS, ge=0)
    factor: float = field(2.0, unit="times as slow (kind slow)", source=OURS, gt=0)
    for_s: float = field(0.0, unit="wall s until a stopped or slow machine goes on; 0: never", source=OURS, ge=0)


class Execution(BaseModel):
    """The plan that is really run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = field(120, unit="tasks", source=OURS, ge=1)
    m: int = field(4, unit="machines, a process each", source=OURS, ge=2, le=16)
    time_scale: float = field(1e-3, unit="wall s per s", source=OURS, gt=0)
    interval_s: float = field(0.2, unit="wall s between two reports", source=OURS, gt=0)
    faults: tuple[Fault, ...] = field(
        (Fault(kind="kill", vm=1, at_s=1.0),), unit="injected faults of the second run", source=OURS
    )


class Settings(lab.Settings):
    """Everything a PHWSOA run depends on."""

    system: Literal["phwsoa"] = field("phwsoa", unit="name", source="this folder")
    seeds: int = field(10, unit="seeds, from `seed` upwards", source="Wilcoxon needs at least six", ge=1)
    logs: tuple[str, ...] = field(
        ("nasa", "hpc2n"), unit="job logs: nasa, hpc2n, or the path of a .swf, .swf.gz, .zip or .parquet",
        source="abstract: NASA-iPSC and HPC2N",
    )  # fmt: skip
    n: tuple[int, ...] = field((1000,), unit="tasks", source=OURS)
    m: int = field(50, unit="machines", source=OURS, ge=1, le=65535)
    vm_table: Literal["five_class", "constant"] = field("five_class", unit="price table", source=OURS)
    methods: tuple[str, ...] = field(METHODS, unit="searches", source="abstract, and ours")
    pop: int = field(100, unit="individuals", source=OURS, ge=4)
    generations: int = field(100, unit="generations' worth of evaluations", source=OURS, ge=1)
    balance: Literal["cv", "di", "std"] = field("cv", unit="measure of imbalance", source="not stated: " + OURS)
    billing_quantum_s: float = field(0.0, unit="s a machine is billed by", source=OURS, ge=0)
    hybrid_rule: Literal["phase", "half", "sequential"] = field("phase", unit="rule", source="not stated: " + OURS)
    soa_variant: Literal["bounded", "original"] = field("bounded", unit="spiral", source="base: Dhiman and Kumar 2019")
    init: Literal["halton_scrambled", "halton", "random", "heuristic"] = field(
        "halton_scrambled", unit="start", source="abstract: Halton"
    )
    redis_moves: int = field(50, unit="moves", source=OURS, ge=0)
    redis_prob: float = field(0.2, unit="share of offspring", source=OURS, ge=0, le=1)
    theta: float = field(0.1, unit="excess over the mean", source=OURS, ge=0)
    archive: int = field(100, unit="members", source=OURS, ge=4)
    threads: int = field(1, unit="threads of a search", source=OURS, ge=1)
    ablation_seeds: int = field(3, unit="seeds of the ablation", source=OURS, ge=1)
    etc_matrices: tuple[str, ...] = field(ETC_KEYS, unit="unrelated instances", source="Braun et al.")
    etc_seconds: float = field(3.0, unit="wall s per matrix", source=OURS, gt=0)
    volume_seconds: float = field(1.0, unit="wall s per search of bench `volume`", source=OURS, gt=0)
    volume_seeds: int = field(1, unit="seeds of bench `volume`", source=OURS, ge=1)
    execute: Execution = field(Execution(), unit="the executed plan", source=OURS)
    bench_repeats: int = field(5, unit="repetitions", source=OURS, ge=1)
    peers: bool = field(True, unit="flag: run mealpy and pymoo", source=OURS)
    cpsat_seconds: float = field(0.0, unit="s of CP-SAT on two matrices; 0: not run", source=OURS, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods (={method!r}): expected {', '.join(METHODS)}")
        for key in self.etc_matrices:
            if key not in ETC_KEYS:
                raise ValueError(f"etc_matrices (={key!r}): expected {', '.join(ETC_KEYS)}")
        for name in ("logs", "n", "methods"):
            if not getattr(self, name):
                raise ValueError(f"{name} (=[]): empty; give at least one")
        if min(self.n) < 1:
            raise ValueError(f"n (={min(self.n)}): expected at least 1 task")
        for fault in self.execute.faults:
            if fault.vm >= self.execute.m:
                raise ValueError(f"execute.faults (vm {fault.vm}): there are machines 0 to {self.execute.m - 1}")
        return self

    def operators(self) -> dict:
        """The switches of a search, as keyword arguments of `optimise`."""
        names = [name for name in Operators.__dataclass_fields__ if name in type(self).model_fields]
        return {name: getattr(self, name) for name in names}
