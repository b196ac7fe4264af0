"""What the control plane must know of a model: bytes per GPU, KV blocks, seconds of its steps and starts.

Byte counts come from the shapes (2-byte weights, norms copied to every rank); `kv_block="official"` takes the official
code's constant instead, which is the size of another model. Cold starts are the settings' model: an engine start that
only policies without a pool of ready processes pay, and a load of weights in proportion to their size per GPU.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from operators.llm.shapes import MODELS
from operators.warmserve.errors import ConfigError

if TYPE_CHECKING:
    from operators.warmserve.settings import Served, Settings

MIB, GIB = 2**20, 2**30
BLOCK_BYTES = 2 * MIB  # a physical block of the pool
KV_TOKENS = 256  # of a KV block
OFFICIAL_KV_BYTES = 32 * MIB


def align(size: float) -> int:
    """`size` bytes in whole blocks of the pool, in bytes."""
    return math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True)
class Model:
    """One model of the fleet, per GPU of its group where not said otherwise."""

    name: str
    tp: int
    weight_bytes: int  # of all ranks
    need: int  # bytes on each GPU, in whole blocks
    kv_bytes: int  # of a KV block on each GPU
    kv_blocks: int  # blocks it has when nothing else is on its GPUs
    prefill_s: float
    decode_s: float
    hot_s: float
    load_s: float
    engine_s: float  # start of a process where none stands ready
    rank_s: float  # estimate of its cold start that scores use
    linear: tuple[float, float, float, float] | None = None  # step times instead of prefill_s and decode_s

    @property
    def gib(self) -> float:
        """GiB of weights per GPU."""
        return self.weight_bytes / self.tp / GIB


def models(settings: "Settings", cold: str) -> list[Model]:
    """The fleet under one cold-start model; ConfigError for a model that does not fit its GPUs."""
    return [_model(settings, served, cold) for served in settings.models]


def pool_bytes(settings: "Settings") -> int:
    """Bytes of a GPU's pool, in whole blocks."""
    return int(settings.gpu_gib * settings.gpu_util * GIB) // BLOCK_BYTES * BLOCK_BYTES


def _model(settings: "Settings", served: "Served", cold: str) -> Model:
    try:
        shape = MODELS[served.shape]
    except KeyError as error:
        raise ConfigError(f"models ({served.name}): shape: {error.args[0]}") from None
    weights = shape.weight_bytes(dtype="bf16", tp=served.tp)
    need, pool = align(weights / served.tp), pool_bytes(settings)
    kv = KV_TOKENS * shape.kv_bytes_per_token("bf16") // served.tp
    if settings.kv_block == "official" and served.tp == 1:
        kv = OFFICIAL_KV_BYTES
    kv_blocks = (pool - need) // kv
    longest = math.ceil((settings.cap_input + 1) / KV_TOKENS)
    if kv_blocks < longest:
        raise ConfigError(
            f"models ({served.name}: tp={served.tp}): needs {need / GIB:.1f} GiB of weights and {longest} KV blocks a"
            f" GPU; expected to fit {pool / GIB:.1f} GiB"
        )
    size = weights / served.tp / GIB
    per_gib = served.load_s_per_gib or (settings.load_s_per_gib if cold == "w5" else 1.0 / settings.pcie_gib_per_s)
    engine = 0.0 if cold == "pcie" else settings.engine_start_s + (settings.engine_tp2_s if served.tp == 2 else 0.0)
    return Model(
        **{"name": served.name, "tp": served.tp, "weight_bytes": weights, "need": need, "kv_bytes": kv},
        **{"kv_blocks": int(kv_blocks), "prefill_s": served.prefill_s, "decode_s": served.decode_s},
        **{"hot_s": served.hot_s, "load_s": size * per_gib, "engine_s": engine},
        rank_s=size / settings.pcie_gib_per_s,
        linear=served.linear,
    )
