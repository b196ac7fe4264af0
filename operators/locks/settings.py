"""Settings of the locks system: one frozen model, every field with its unit and where its default comes from.

Sizes per profile live in `workflows/locks/profiles.yaml`; what stands here are the full-size defaults.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.faults import Fault
from operators.lab.settings import field

Impl = Literal[
    "rflock_flat",
    "rflock_stacked",
    "eager",
    "blocking",
    "robust_mutex",
    "pshared_mutex",
    "spin",
    "mp_lock",
    "flock2",
]
Structure = Literal["transfer", "list", "hash", "tree"]
Mutant = Literal[
    *("nolog", "blind", "norec", "notag", "norecheck", "nogen", "badrelease", "reuse", "p1", "p2", "p3", "p4", "p5")
]
MOST_FAULT_STEPS, HISTORY_PROCS = 100, 3


class Exploration(BaseModel):
    """One search of the model explorer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: Literal["counter", "flip", "transfer", "stacked", "crossed"] = field(
        "transfer", unit="name", source="operators/locks/explore.py"
    )
    ops: tuple[int, ...] = field((1, 1), unit="calls of each process", source="our choice")
    crashes: int = field(0, unit="crashes at most", source="our choice", ge=0, le=4)
    memory: Literal["sc", "px86"] = field("sc", unit="name", source="sequential, or x86 persistency with power cuts")
    limit: int = field(20_000_000, unit="states; reaching it is no verdict", source="memory below 300 MiB", ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 1 <= len(self.ops) <= 4 or not all(0 <= n <= 4 for n in self.ops):
            raise ValueError(f"ops (={list(self.ops)}): expected 1 to 4 processes of 0 to 4 calls")
        return self


class Settings(lab.Settings):
    """Everything a run of the locks system depends on."""

    system: Literal["locks"] = field("locks", unit="name", source="this folder")
    seeds: int = field(
        1, unit="seeds, from `seed` upwards", source="one: crash points and schedules differ anyway", ge=1
    )
    impls: tuple[Impl, ...] = field(
        (
            "rflock_flat",
            "rflock_stacked",
            "eager",
            "blocking",
            "robust_mutex",
            "pshared_mutex",
            "spin",
            "mp_lock",
            "flock2",
        ),
        unit="names",
        source="ours, two ablations, and the locks a user would pick",
    )
    procs: tuple[int, ...] = field((1, 2, 4), unit="processes", source="our choice; two cores here")
    structures: tuple[Structure, ...] = field(
        ("transfer", "list", "hash", "tree"), unit="names", source="Flock's structures, and the transfer of the bars"
    )
    sizes: dict[Structure, int] = field(
        {"transfer": 64, "list": 100, "hash": 10_000, "tree": 10_000}, unit="accounts or keys", source="Flock's driver"
    )
    update_pct: tuple[int, ...] = field((50,), unit="% of set operations", source="Flock's driver: 5 and 50")
    zipf: tuple[float, ...] = field((0.0, 0.99), unit="exponent", source="Flock's driver")
    persist: tuple[Literal["process", "clwb", "msync"], ...] = field(
        ("process", "clwb"), unit="modes", source="our choice; msync on request"
    )
    seconds: float = field(1.0, unit="s per repetition", source="our choice", gt=0)
    reps: int = field(5, unit="repetitions", source="our choice", ge=1)
    rows: int = field(20_000, unit="rows of the workload per structure and zipf", source="our choice", ge=100)
    kill_rate: tuple[float, ...] = field((0.0, 5.0, 22.0, 50.0), unit="kills/s", source="bar B6: at least 20")
    soak_s: float = field(15.0, unit="s per kill rate", source="our choice", gt=0)
    soak_procs: int = field(4, unit="processes", source="bar B6", ge=2, le=32)
    soak_impls: tuple[Impl, ...] = field(
        ("rflock_flat", "rflock_stacked", "robust_mutex"), unit="names", source="ours, and the lock that survives kills"
    )
    stop_s: float = field(3.0, unit="s", source="our choice", gt=0)
    stop_impls: tuple[Impl, ...] = field(
        ("rflock_flat", "rflock_stacked", "blocking", "robust_mutex"), unit="names", source="spec: these in one table"
    )
    sweep_stride: int = field(1, unit="machine instructions between kills", source="1: every one", ge=1)
    sweep_nests: tuple[Literal["flat", "stacked"], ...] = field(("flat", "stacked"), unit="names", source="both")
    lincheck: int = field(0, unit="histories; 0 means all", source="our choice", ge=0)
    history_calls: int = field(60, unit="calls of each recording process", source="our choice", ge=4)
    explore: tuple[Exploration, ...] = field(
        (
            Exploration(scenario="counter", ops=(1, 1), crashes=4),
            Exploration(scenario="transfer", ops=(1, 1), crashes=2),
            Exploration(scenario="stacked", ops=(1, 1), crashes=2),
            Exploration(scenario="counter", ops=(1, 1, 1), crashes=1),
            Exploration(scenario="counter", ops=(1, 1), crashes=1, memory="px86"),
            Exploration(scenario="stacked", ops=(1, 1), crashes=1, memory="px86"),
            Exploration(scenario="counter", ops=(2,), crashes=1, memory="px86"),
        ),
        unit="searches",
        source="our choice",
    )
    mutants: tuple[Mutant, ...] = field(
        (
            *(
                "nolog",
                "blind",
                "norec",
                "notag",
                "norecheck",
                "nogen",
                "badrelease",
                "reuse",
                "p1",
                "p2",
                "p3",
                "p4",
                "p5",
            ),
        ),
        unit="names",
        source="each breaks one rule of the core",
    )
    faults: tuple[Fault, ...] = field(
        (Fault(kind="kill", rank=0, at_step=1), Fault(kind="kill", rank=1, at_step=2)),
        unit="injected faults of the recorded histories",
        source="our choice",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("impls", "procs", "structures", "update_pct", "zipf", "persist", "kill_rate", "explore"):
            if not getattr(self, name):
                raise ValueError(f"{name} (=[]): empty; give at least one")
        for value in self.procs:
            if not 1 <= value <= 32:
                raise ValueError(f"procs (={value}): expected 1 to 32")
        for value in self.update_pct:
            if not 0 <= value <= 100:
                raise ValueError(f"update_pct (={value}): expected 0 to 100")
        for name in ("zipf", "kill_rate"):
            for value in getattr(self, name):
                if value < 0:
                    raise ValueError(f"{name} (={value}): expected >= 0")
        for structure in self.structures:
            if self.sizes.get(structure, 0) < 2:
                raise ValueError(f"sizes (={dict(self.sizes)}): expected at least 2 for {structure}")
        for needed in ("rflock_flat", "eager"):
            if needed not in self.impls:
                raise ValueError(f"impls (={list(self.impls)}): {needed!r} is missing; claims compare with it")
        for fault in self.faults:
            if fault.rank >= HISTORY_PROCS or fault.at_step > MOST_FAULT_STEPS:
                limits = f"rank < {HISTORY_PROCS} and at_step <= {MOST_FAULT_STEPS}"
                raise ValueError(f"faults (rank {fault.rank}, at_step {fault.at_step}): expected {limits}")
        return self
