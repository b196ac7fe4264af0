"""Shapes of the language models we serve: what a step reads, computes and keeps, from the public model cards.

Knows architecture numbers and simple byte and FLOP counts; knows no time and no machine. A field that is not known is
None (FLAME-MoE is here for its routing data only), and a count that needs it raises ValueError naming the field. A
dense model has no experts and only dense layers.

`params()` counts a Llama-style decoder (untied head, norms without bias). OPT and GPT-3 differ (tied head, learned
positions, biases): their counts are summed by `_biased_params` and stated in the shape.
"""

from dataclasses import dataclass

DTYPE_BYTES = {"bfloat16": 2, "bf16": 2, "float16": 2, "fp16": 2, "float32": 4, "fp8": 1, "fp8_block": 1}


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
    """One model. `expert_width` is the width of one gated expert, `dense_width` that of a dense layer."""

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
    ffn_mats: int = 3  # matrices of a dense layer's feed-forward part: 3 gated, 2 plain
    max_context: int | None = None  # tokens
    qkv_bias: bool = False
    tied: bool = False  # the head shares the embedding's weights
    n_params: int | None = None  # stated where the Llama-style count of `params` does not hold

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

    def kv_bytes_per_token(self, dtype: str = "bf16") -> int:
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
        experts = 0.0
        if self.n_moe_layers:
            experts = 6.0 * d * (self.top_k * self._known("expert_width") + self.n_shared * self.shared_width)
        dense = 2.0 * self.ffn_mats * d * (self.dense_width or 0)
        layers = self.n_layers * attn + self.n_moe_layers * experts + self.n_dense_layers * dense
        return layers + 2.0 * d * self._known("vocab")

    def params(self) -> int:
        """Number of weights: `n_params` where stated, else embedding, head, layers and norms of a Llama-style decoder.

        Query and key norms of single heads (below 0.001 % of any model here) are left out.
        """
        if self.n_params is not None:
            return self.n_params
        d = self._known("hidden")
        attn = sum(n * k for _, n, k in self.attn_gemms()) + 2 * d
        if self.qkv_bias:
            attn += (self._known("n_heads") + 2 * self._known("n_kv_heads")) * self._known("head_dim")
        dense = self.ffn_mats * d * (self.dense_width or 0)
        experts = 0
        if self.n_moe_layers:
            routed = self.n_experts * self._known("expert_width") + self.n_shared * self.shared_width
            experts = 3 * d * routed + d * self.n_experts
        layers = self.n_layers * attn + self.n_dense_layers * dense + self.n_moe_layers * experts
        return self._known("vocab") * d * (1 if self.tied else 2) + layers + d

    def weight_bytes(self, slots_per_gpu: int | None = None, dtype: str = "bf16", *, tp: int = 1) -> int | float:
        """Weight bytes of the model over all ranks, or of one GPU that holds `slots_per_gpu` expert slots a layer.

        Without slots: `params` once, and the norms (two a layer and the last) once more for every further of the `tp`
        ranks, since each rank keeps a whole copy of them. With slots: expert parallelism, one GPU, norms left out.
        """
        if slots_per_gpu is not None:
            return self._expert_parallel_bytes(slots_per_gpu, dtype)
        heads = self._known("n_heads")
        if tp < 1 or heads % tp:
            raise ValueError(f"tp (={tp}): must be >= 1 and divide {self.name}'s {heads} heads")
        norms = (2 * self.n_layers + 1) * self._known("hidden")
        return dtype_bytes(dtype) * (self.params() + (tp - 1) * norms)

    def _expert_parallel_bytes(self, slots_per_gpu: int, dtype: str) -> float:
        d, size = self._known("hidden"), dtype_bytes(dtype)
        experts = 0
        if self.n_moe_layers:
            experts = slots_per_gpu * self.expert_bytes(dtype) + 3 * d * self.n_shared * self.shared_width * size
        dense = self.ffn_mats * d * (self.dense_width or 0) * size
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


def _dense(name: str, dims: tuple[int, ...], vocab: int, context: int, **more: int | bool | str) -> ModelShape:
    """A dense decoder from (layers, hidden, heads, kv heads, head size, feed-forward width)."""
    layers, hidden, heads, kv_heads, head, width = dims
    return ModelShape(
        name,
        *(layers, layers, hidden, heads, kv_heads, head, None, width, vocab),
        n_experts=0,
        top_k=0,
        expert_width=None,
        max_context=context,
        **more,
    )


def _biased_params(dims: tuple[int, ...], vocab: int, positions: int) -> int:
    """Weights of an OPT or GPT-3 decoder: tied head, learned positions, a bias at every matrix and norm."""
    layers, d, _, _, _, width = dims
    layer = 4 * (d * d + d) + (d * width + width) + (width * d + d) + 4 * d
    return (vocab + positions) * d + layers * layer + 2 * d


def _biased(name: str, dims: tuple[int, ...], vocab: int, context: int, offset: int, card: str) -> ModelShape:
    """An OPT or GPT-3 shape; `offset` positions are kept beyond the context (OPT keeps two)."""
    n_params = _biased_params(dims, vocab, context + offset)
    return _dense(name, dims, vocab, context, ffn_mats=2, tied=True, n_params=n_params, card=card)


_QWEN25_7B = ((28, 3584, 28, 4, 128, 18_944), 152_064, 131_072)
_DENSE = [
    _dense("llama2-7b", (32, 4096, 32, 32, 128, 11_008), 32_000, 4096, card="Llama-2-7b"),
    _dense("llama2-13b", (40, 5120, 40, 40, 128, 13_824), 32_000, 4096, card="Llama-2-13b"),
    _dense("llama2-70b", (80, 8192, 64, 8, 128, 28_672), 32_000, 4096, card="Llama-2-70b"),
    _dense("llama3-8b", (32, 4096, 32, 8, 128, 14_336), 128_256, 8192, card="Meta-Llama-3-8B"),
    _dense("llama3.1-8b", (32, 4096, 32, 8, 128, 14_336), 128_256, 131_072, card="Llama-3.1-8B"),
    _dense("llama3-70b", (80, 8192, 64, 8, 128, 28_672), 128_256, 8192, card="Meta-Llama-3-70B"),
    _dense("qwen2.5-7b", *_QWEN25_7B, qkv_bias=True, card="Qwen2.5-7B"),
    _dense("deepseek-r1-distill-qwen-7b", *_QWEN25_7B, qkv_bias=True, card="DeepSeek-R1-Distill-Qwen-7B"),
    _biased("opt-13b", (40, 5120, 40, 40, 128, 20_480), 50_272, 2048, 2, "opt-13b"),
    _biased("opt-66b", (64, 9216, 72, 72, 128, 36_864), 50_272, 2048, 2, "opt-66b"),
    _biased("gpt3-6.7b", (32, 4096, 32, 32, 128, 16_384), 50_257, 2048, 0, "GPT-3 6.7B"),
    _biased("gpt3-175b", (96, 12_288, 96, 96, 128, 49_152), 50_257, 2048, 0, "GPT-3 175B"),
]
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
MODELS = Models({shape.name: shape for shape in _SHAPES + _DENSE})

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
