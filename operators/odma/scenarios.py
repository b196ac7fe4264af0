"""What a run serves: names of traces, the policies of the settings, the measures' keys.

A trace is named <set>-<load>-<drift>-<seed>: load `t0` (all queued at the start) or a share of the exact oracle's rate
with Azure arrivals; drift `none`, or `switch` (the model behind the stream changes half-way).
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from operators.odma.errors import ConfigError
from operators.odma.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from operators.odma.device import DeviceSpec
    from operators.odma.policies import Policy
    from operators.odma.predictor import LengthPredictor

QUEUED = "t0"
S3_CLASSES = 10


class Name(NamedTuple):
    """One trace of a run."""

    set: str
    load: str
    drift: str
    seed: int

    def __str__(self) -> str:
        return f"{self.set}-{self.load}-{self.drift}-{self.seed}"

    @property
    def target(self) -> str:
        """The predictor that serves it."""
        if self.set == "hard":
            return "hard"
        return "reference" if self.drift == "switch" else "generated"


def names(settings: Settings) -> list[Name]:
    """Every trace of a run: loads x seeds of each set, and the switch of model on Alpaca."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    loads = [QUEUED, *(f"{load:g}" for load in settings.loads)]
    found = [Name(which, load, "none", seed) for which in settings.sets for load in loads for seed in seeds]
    return found + [Name("alpaca", QUEUED, "switch", seed) for seed in seeds if "alpaca" in settings.sets]


def targets(settings: Settings) -> list[str]:
    """Predictors to train."""
    return [
        *(["generated", "reference"] if "alpaca" in settings.sets else []),
        *(["hard"] if "hard" in settings.sets else []),
    ]


def device(settings: Settings, alpha: float | None = None) -> "DeviceSpec":
    """The modelled card."""
    from operators.odma.device import DeviceSpec

    return DeviceSpec(
        settings.mem_bytes, settings.stream_bps, alpha or settings.alpha, settings.flops, settings.util_cap
    )


def shape(settings: Settings) -> Any:
    """The model served."""
    from operators.llm.shapes import MODELS

    return MODELS[settings.model]


def policy(name: str, settings: Settings, predictor: "LengthPredictor", longest: int, *, k: int | None = None,
           level: float | None = None) -> "Policy":  # fmt: skip
    """The policy called `name` for a set whose answers reach `longest` tokens; `predictor` holds the past."""
    from operators.odma import policies

    past, level = predictor.train_lengths, level or settings.level
    if name in ("odma", "odma_frozen"):
        return _odma(name, settings, predictor, longest, k or settings.classes, level)
    made = {
        "static": lambda: policies.static(longest),
        "static_2048": lambda: policies.static(2048, "static_2048"),
        "s3": lambda: policies.s3(longest),
        "constant_quantile": lambda: policies.constant_quantile(level, past, longest, align=settings.align),
        "oracle": policies.oracle,
        "paged": lambda: policies.paged(settings.page, watermark=settings.watermark),
        "hybrid": lambda: policies.hybrid(
            _odma("odma", settings, predictor, longest, settings.classes, level), settings.hybrid_page
        ),
    }
    if name not in made:
        raise ConfigError(f"policy (={name!r}): unknown; known: odma, odma_frozen, {', '.join(made)}")
    return made[name]()


def _odma(name: str, settings: Settings, predictor: "LengthPredictor", longest: int, k: int, level: float) -> "Policy":
    import numpy as np

    from operators.odma import policies

    column = predictor.levels.index(level)
    past, needs = predictor.train_lengths, predictor.train_needs[:, column]
    order = np.random.default_rng([len(past), 3]).permutation(len(past))
    residuals = np.log(past / needs)
    if settings.assign_on == "q":
        residuals = predictor.residuals - predictor.residuals[int(level * len(past))]
    return policies.odma(
        past, longest, k=k, align=settings.align, level=level, name=name,
        tau=predictor.tau(settings.tau_quantile) if settings.tau_quantile < 1 else 0.0,
        needs=needs if settings.cut_on == "needs" and settings.assign_on == "need" else None,
        residuals=residuals[order] if settings.adaptive and settings.assign_on != "mean" else None,
        value=settings.assign_on, dynamic=name != "odma_frozen", safety=settings.safety_pool, jump=settings.jump,
        overflow=settings.overflow, order=settings.order, gamma=settings.gamma, period=settings.period,
        decay=settings.decay, min_samples=settings.min_samples, hysteresis=settings.hysteresis, drift=settings.drift,
        compaction=settings.compaction,
    )  # fmt: skip


def rule_edges(rule: str, size: int, past: "np.ndarray") -> "np.ndarray":
    """Upper edges of a rule's classes: `s3` ten equal ones of `size` tokens, `quantile` `size` ones of past lengths."""
    import numpy as np

    if rule == "s3":
        return np.arange(1, S3_CLASSES + 1) * size / S3_CLASSES
    return np.append(np.unique(np.quantile(past, np.arange(1, size) / size)), np.inf)


RULES = (("s3", 2048), ("s3", 1024), ("s3", 512), ("quantile", 4), ("quantile", 8), ("quantile", 16))
