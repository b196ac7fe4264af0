"""Shapes of the language models we serve: what a step reads, computes and keeps, from the public model cards.

Knows architecture numbers and simple byte and FLOP counts; knows no time and no machine. A field that is not known is
None (FLAME-MoE is here for its routing data only), and a count that needs it raises ValueError naming the field.
"""

from dataclasses import dataclass

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "fp8": 1, "fp8_block": 1}


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention: low-rank sizes of DeepSeek-V3's attention block."""

    q_lora: int
    kv_lora: int
    nope: int
    rope: int
    v: int


@dataclass(frozen=True)
class ModelShape:
    """One mixture-of-experts model. `expert_width` is the width of one gated expert, `dense_width` of a dense layer."""

    name: str
    n_layers: int
    n_dense_layers: int
    hidden: int | None
    n_heads: int | None
    n_kv_heads: int | None
    head_dim: int | None
    mla: Mla | None
    dense_width: int | None
    vocab: int | None
    n_experts: int
    top_k: int
    expert_width: int | None
    n_shared: int = 0
    shared_width: int = 0
    n_groups: int = 1
    top_groups: int = 1
    card: str = ""  # the model card's name, which measured tables and traces use

    @property
    def n_moe_layers(self) -> int:
        return self.n_layers - self.n_dense_layers

    def expert_bytes(self, dtype: str) -> int:
        """Weight bytes of one routed expert: three matrices (gate, up, down) of hidden x width."""
        return 3 * self._known("hidden") * self._known("expert_width") * dtype_bytes(dtype)

    def attn_gemms(self) -> list[tuple[str, int, int]]:
        """The weight matrices of one attention block as (name, n, k): output columns n, input columns k."""
        d, heads = self._known("hidden"), self._known("n_heads")
        if self.mla is None:
            head, kv = self._known("head_dim"), self._known("n_kv_heads")
            return [("qkv", (heads + 2 * kv) * head, d), ("o", d, heads * head)]
        m = self.mla
        return [
            ("q_a", m.q_lora, d),
            ("q_b", heads * (m.nope + m.rope), m.q_lora),
            ("kv_a", m.kv_lora + m.rope, d),
            ("kv_b", heads * (m.nope + m.v), m.kv_lora),
            ("o", d, heads * m.v),
        ]

    def attn_weight_bytes(self, dtype: str) -> int:
        """Weight bytes of one attention block (projections; norms are left out)."""
        return sum(n * k for _, n, k in self.attn_gemms()) * dtype_bytes(dtype)

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Cache bytes of one token over all layers: keys and values, or MLA's latent and rope part."""
        if self.mla is not None:
            return self.n_layers * (self.mla.kv_lora + self.mla.rope) * dtype_bytes(dtype)
        return 2 * self.n_layers * self._known("n_kv_heads") * self._known("head_dim") * dtype_bytes(dtype)

    def attn_flops(self, tokens: float, context: float) -> float:
        """FLOP of scores and weighted sum of one layer, for `tokens` queries over `context` keys each."""
        heads = self._known("n_heads")
        if self.mla is None:
            return 4.0 * tokens * context * heads * self._known("head_dim")
        return 2.0 * tokens * context * heads * (self.mla.nope + self.mla.rope + self.mla.v)

    def flops_per_token(self, phase: str, context: int) -> float:
        """FLOP of one token through all layers and the head; in prefill a token sees half of `context` on average."""
        if phase not in ("prefill", "decode"):
            raise ValueError(f"phase (={phase!r}): expected 'prefill' or 'decode'")
        d = self._known("hidden")
        attn = 2.0 * sum(n * k for _, n, k in self.attn_gemms())
        attn += self.attn_flops(1, context if phase == "decode" else context / 2)
        experts = 6.0 * d * (self.top_k * self._known("expert_width") + self.n_shared * self.shared_width)
        dense = 6.0 * d * (self.dense_width or 0)
        layers = self.n_layers * attn + self.n_moe_layers * experts + self.n_dense_layers * dense
        return layers + 2.0 * d * self._known("vocab")

    def weight_bytes(self, slots_per_gpu: int, dtype: str) -> float:
        """Weight bytes one GPU holds under expert parallelism with `slots_per_gpu` expert slots a layer."""
        d, size = self._known("hidden"), dtype_bytes(dtype)
        experts = slots_per_gpu * self.expert_bytes(dtype) + 3 * d * self.n_shared * self.shared_width * size
        dense = 3 * d * (self.dense_width or 0) * size
        layers = (
            self.n_layers * self.attn_weight_bytes(dtype) + self.n_moe_layers * experts + self.n_dense_layers * dense
        )
        return layers + 2.0 * d * self._known("vocab") * DTYPE_BYTES["bfloat16"]

    def _known(self, field: str) -> int:
        value = getattr(self, field)
        if value is None:
            raise ValueError(f"{self.name}: {field} is not known here; only its routing data is")
        return value


def dtype_bytes(dtype: str) -> int:
    """Bytes of one number; KeyError listing the known types."""
    if dtype not in DTYPE_BYTES:
        raise KeyError(f"dtype {dtype!r}: unknown; known: {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


class Models(dict):
    """Model shapes by name; an unknown name lists the known ones."""

    def __missing__(self, name: str) -> ModelShape:
        raise KeyError(f"model {name!r}: unknown; known: {', '.join(self)}")


_SHAPES = [
    ModelShape("qwen3-30b", 48, 0, 2048, 32, 4, 128, None, None, 151_936, 128, 8, 768, card="Qwen3-30B-A3B"),
    ModelShape("qwen3-235b", 94, 0, 4096, 64, 4, 128, None, None, 151_936, 128, 8, 1536, card="Qwen3-235B-A22B"),
    ModelShape(
        "deepseek-v3",
        *(61, 3, 7168, 128, 128, 128),
        mla=Mla(q_lora=1536, kv_lora=512, nope=128, rope=64, v=128),
        dense_width=18_432,
        vocab=129_280,
        n_experts=256,
        top_k=8,
        expert_width=2048,
        n_shared=1,
        shared_width=2048,
        n_groups=8,
        top_groups=4,
        card="DeepSeek-V3",
    ),
    ModelShape(
        "qwen1.5-moe",
        *(24, 0, 2048, 16, 16, 128, None, None, 151_936, 60, 4, 1408),
        n_shared=4,
        shared_width=1408,
        card="Qwen1.5-MoE-A2.7B",
    ),
    ModelShape("mixtral-8x7b", 32, 0, 4096, 32, 8, 128, None, None, 32_000, 8, 2, 14_336, card="Mixtral-8x7B"),
    ModelShape("flame-moe-290m", 8, 0, None, None, None, None, None, None, None, 64, 6, None, card="FLAME-MoE-290M"),
]
MODELS = Models({shape.name: shape for shape in _SHAPES})

# Kernel tables there are: (system, framework, dtype) -> models measured there.
ALL_THREE = ("qwen3-30b", "qwen3-235b", "deepseek-v3")
MOE_TABLES: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("a100_sxm", "SGLang", "bfloat16"): ALL_THREE,
    ("b200_sxm", "VLLM", "bfloat16"): ALL_THREE,
    ("b200_sxm", "VLLM", "fp8"): ALL_THREE,
    ("b200_sxm", "VLLM", "fp8_block"): ALL_THREE,
    ("b200_sxm", "SGLang", "bfloat16"): ALL_THREE[:2],
    ("b200_sxm", "SGLang", "fp8_block"): ALL_THREE[:2],
}
