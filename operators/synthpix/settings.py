"""Settings of SynthPix: one frozen model, every field with its unit and where its default comes from.

Sizes per profile live in `workflows/synthpix/profiles.yaml`; what stands here are the full-size defaults.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.settings import field
from operators.synthpix.analytic import FLOWS

Item = Literal["DNS", "JHTDB", "SQG", "backstep", "cylinder"]
Range = tuple[float, float]


class Size(BaseModel):
    """Images of one size, and how many pairs of them a run renders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = field(unit="px", source="paper's configurations", ge=1)
    width: int = field(unit="px", source="paper's configurations", ge=1)
    pairs: int = field(unit="pairs", source="our choice", ge=1)


class Looks(BaseModel):
    """Particles of one setting: density and how each looks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    density: Range = field((0.03, 0.04), unit="particles per px", source="SynthPix's Jassal configuration")
    diameter: Range = field((1.5, 2.5), unit="px, two sigma", source="SynthPix's Jassal configuration")
    intensity: Range = field((150.0, 230.0), unit="counts", source="SynthPix's Jassal configuration")
    rho: Range = field((-0.1, 0.1), unit="correlation", source="SynthPix's Jassal configuration")
    diameter_var: float = field(0.03, unit="px^2", source="SynthPix's Jassal configuration", ge=0)
    intensity_var: float = field(0.01, unit="counts^2", source="SynthPix's Jassal configuration", ge=0)
    rho_var: float = field(0.1, unit="1", source="SynthPix's Jassal configuration", ge=0)


class Fault(BaseModel):
    """One fault of the rendering run, just before the shard `at_shard` is handed out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["kill", "stop", "slow_read", "disk_full"] = field(
        unit="kind: SIGKILL or SIGSTOP of a render worker, slow flow reads, a full disk", source="our choice"
    )
    target: int = field(0, unit="worker number", source="our choice", ge=0)
    at_shard: int = field(0, unit="shard", source="our choice", ge=0)
    for_s: float = field(1.0, unit="s a worker is stopped or a read slowed", source="our choice", ge=0, le=60)


class Settings(lab.Settings):
    """Everything a SynthPix run depends on."""

    system: Literal["synthpix"] = field("synthpix", unit="name", source="this folder")
    analytic: tuple[str, ...] = field(
        ("uniform", "shear", "stagnation", "rotation", "rankine", "lamb_oseen", "taylor_green", "couette", "poiseuille",
         "cylinder", "solenoidal"),
        unit="names of analytic flows", source="our choice",
    )  # fmt: skip
    items: tuple[Item, ...] = field(
        ("DNS", "JHTDB", "SQG", "backstep", "cylinder"), unit="items", source="Cai et al. 2019, one pair each"
    )
    sizes: tuple[Size, ...] = field(
        (Size(height=256, width=256, pairs=2000),), unit="image sizes and pairs", source="our choice"
    )
    looks: Looks = field(Looks(), unit="particles", source="SynthPix's Jassal configuration")
    dense: Looks = field(
        Looks(density=(0.05, 0.1), diameter=(2.0, 3.0)), unit="particles", source="high density, our choice"
    )
    psf: Literal["integrated", "point"] = field("integrated", unit="spot", source="our choice")
    bit_depth: Literal[8, 10, 12, 16] | None = field(8, unit="bits; none for float32", source="our choice")
    label_at: Literal["start", "mid", "end"] = field("mid", unit="point of the path", source="our choice: PIV's point")
    integrator: Literal["euler", "rk4"] = field("rk4", unit="name", source="our choice")
    workers: int = field(2, unit="render processes", source="our choice", ge=1, le=64)
    batch_size: int = field(64, unit="pairs per block", source="our choice", ge=1)
    shard_pairs: int = field(256, unit="pairs per file", source="our choice", ge=1)
    buffer_size: int = field(8, unit="blocks read ahead", source="SynthPix option buffer_size", ge=1)
    steady_timeout_s: float = field(2.0, unit="s", source="SynthPix", gt=0)
    piv_pairs: int = field(40, unit="pairs analysed", source="our choice", ge=1)
    piv_windows: tuple[int, ...] = field((64, 32, 16), unit="px, one per pass", source="our choice")
    piv_method: Literal["auto", "openpiv", "fft"] = field(
        "auto", unit="analysis; auto: OpenPIV where it is installed, else our correlator", source="our choice"
    )
    rerender_seeds: int = field(5, unit="seeds", source="our choice", ge=1)
    rerender_density: float = field(0.075, unit="particles per px", source="data set: 0.05 to 0.1", gt=0)
    rerender_sigma: Range = field((0.25, 1.0), unit="px", source="data set: diameter 1 to 4 px, four sigma")
    rerender_intensity: Range = field((200.0, 255.0), unit="counts", source="data set: peak 200 to 255")
    border_pairs: int = field(200, unit="pairs", source="our choice", ge=1)
    lock_pairs: int = field(64, unit="displacements over one pixel", source="our choice", ge=8)
    bench_repeats: int = field(5, unit="repetitions", source="our choice", ge=1)
    peers: bool = field(True, unit="flag: time the peers", source="our choice")
    faults: tuple[Fault, ...] = field((), unit="injected faults", source="our choice")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.analytic:
            if name not in FLOWS:
                raise ValueError(f"analytic (={name!r}): unknown; known: {', '.join(FLOWS)}")
        if not self.analytic and not self.items:
            raise ValueError("analytic and items (=[], []): both empty; give at least one flow")
        for name in ("sizes", "piv_windows"):
            if not getattr(self, name):
                raise ValueError(f"{name} (=[]): empty; give at least one")
        for window in self.piv_windows:
            if window < 8 or window % 4:
                raise ValueError(f"piv_windows (={list(self.piv_windows)}): expected multiples of 4, at least 8")
        for fault in self.faults:
            if fault.target >= self.workers:
                raise ValueError(f"faults (target {fault.target}): there are workers 0 to {self.workers - 1}")
        for name in ("looks", "dense"):
            _check_looks(name, getattr(self, name))
        return self


def _check_looks(name: str, looks: Looks) -> None:
    rules = {"density": 0 <= looks.density[0] <= looks.density[1],
             "diameter": 0 < looks.diameter[0] <= looks.diameter[1],
             "intensity": 0 < looks.intensity[0] <= looks.intensity[1],
             "rho": -1 < looks.rho[0] <= looks.rho[1] < 1}  # fmt: skip
    for key, holds in rules.items():
        if not holds:
            raise ValueError(f"{name}.{key} (={getattr(looks, key)}): expected min <= max within the allowed range")
