"""Roofline of an expert layer: FLOP per byte of weights and activations, against an accelerator's ridge point.

Arithmetic only, no table: how far decode is from where arithmetic would bind (the motivation in the paper, Fig. 3).
Experts are chosen evenly and independently (top-k without correlation): the case that activates most experts.
"""

from dataclasses import dataclass

from operators.llm.accelerators import Accelerator
from operators.llm.shapes import ModelShape
from operators.llm.steptime import ACTIVATION_BYTES


@dataclass(frozen=True)
class Roofline:
    """One expert layer at a batch: counts over the whole system."""

    tokens: int
    activated: float  # experts read
    flop: float
    weight_bytes: float  # of the experts read
    layer_weight_bytes: float  # of all the layer's experts
    activation_bytes: float  # hidden states in and out, once each, 16 bits

    @property
    def intensity(self) -> float:
        """FLOP per byte moved."""
        return self.flop / (self.weight_bytes + self.activation_bytes)

    @property
    def activation_share(self) -> float:
        """Activation bytes per byte of expert weights of the layer."""
        return self.activation_bytes / self.layer_weight_bytes


def moe_layer(shape: ModelShape, tokens: int, dtype: str) -> Roofline:
    """FLOP and bytes of one expert layer for `tokens` tokens, shared experts included."""
    if tokens < 1:
        raise ValueError(f"tokens (={tokens}): must be >= 1")
    size = shape.expert_bytes(dtype)
    activated = shape.n_experts * (1.0 - (1.0 - shape.top_k / shape.n_experts) ** tokens) + shape.n_shared
    flop = 6.0 * shape.hidden * shape.expert_width * tokens * (shape.top_k + shape.n_shared)
    activations = 2.0 * tokens * shape.hidden * ACTIVATION_BYTES
    return Roofline(tokens, activated, flop, activated * size, (shape.n_experts + shape.n_shared) * size, activations)


def ridge_over_intensity(shape: ModelShape, accel: Accelerator, tokens: int, dtype: str) -> float:
    """How many times below the ridge point the layer's intensity lies."""
    return accel.ridge(dtype) / moe_layer(shape, tokens, dtype).intensity
