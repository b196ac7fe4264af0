"""Which batches a run routes and which load each placement is fitted on: never the same numbers where there are others.

DeepSeek-V3: loads of one workload place, batches drawn from another are evaluated. Qwen3: no multi-layer trace is
public, so every layer is drawn from the marginals of the one real 1,024-token batch, its expert ids permuted per layer;
placements see a window of other draws. Qwen3-235B has no public routing data at all and uses Qwen3-30B's marginals.
Real batches are used as they are; the real 64-token batch is the only data of its layer, so it is also what its
placement is fitted on, and says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.llm.shapes import MODELS
from operators.llm.twins_routing import stream
from operators.metro import batches

if TYPE_CHECKING:
    import polars as pl

WINDOW_TOKENS = 16_384  # drawn per layer for a placement, as an engine's sliding window would have seen
PREFILL_LOAD = "prefill_in1024"
MARGINALS = ("step_b1024", "b1024_marginals")  # source of the trace, our name for batches drawn from it
# real batches of models outside the set-ups: GPUs that divide their experts
REAL_GPUS = {"qwen1.5-moe": 4, "mixtral-8x7b": 4, "flame-moe-290m": 8}


@dataclass(frozen=True)
class Source:
    """Where batches of one model come from, and the loads `(L, N)` that go with them."""

    model: str
    workload: str
    placed_on: str
    layers: np.ndarray  # (L,) ids in the model
    place: np.ndarray
    data: str  # real | synthetic
    evaluate: np.ndarray | None = None  # what batches are drawn from; None: the batches are given
    prefill: np.ndarray | None = None
    prefill_name: str = ""
    given: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (step, topk (L, T, k))

    @property
    def batches(self) -> str:
        return "real" if self.evaluate is None else "synthesised"

    def draw(self, step: int, tokens: int, seed: int) -> np.ndarray:
        """A drawn batch `(L, T, k)` of one step; a layer's draw does not depend on which other layers are drawn."""
        k, name = MODELS[self.model].top_k, stream(f"{self.model}/{self.workload}")
        return np.stack(
            [
                batches.sample_topk(load, tokens, k, [seed, name, int(layer), step])
                for layer, load in zip(self.layers, self.evaluate, strict=True)
            ]
        )


def sources(settings: Any, data: Path | None = None) -> Iterator[Source]:
    """Every source of a run: one per model of the set-ups, then the real batches."""
    for model in dict.fromkeys(setup.model for setup in settings.setups):
        yield deepseek(settings, data) if model == "deepseek-v3" else qwen(model, settings, data)
    yield from real_batches(settings, data)


def first_layers(count: int, limit: int) -> int:
    return count if limit == 0 else min(count, limit)


def deepseek(settings: Any, data: Path | None = None) -> Source:
    """DeepSeek-V3: place on one measured workload, draw batches from another."""
    import polars as pl

    frame = batches.load("deepseek-v3", data, seed=settings.seed)
    mark = frame["data"][0]
    layers = frame["layer"].unique().sort()[: first_layers(frame["layer"].n_unique(), settings.layers)].to_numpy()

    def of(workload: str) -> np.ndarray:
        rows = frame.filter((pl.col("workload") == workload) & pl.col("layer").is_in(layers)).sort("layer", "expert")
        if not len(rows):
            known = ", ".join(frame["workload"].unique().sort())
            raise batches.TraceError(f"workload {workload!r}: not in the load data; known: {known}")
        return rows["tokens"].to_numpy().reshape(len(layers), -1)

    return Source(
        "deepseek-v3",
        settings.evaluate_on,
        settings.place_on,
        layers,
        place=of(settings.place_on),
        data=mark,
        evaluate=of(settings.evaluate_on),
        prefill=of(PREFILL_LOAD),
        prefill_name=PREFILL_LOAD,
    )


def qwen(model: str, settings: Any, data: Path | None = None) -> Source:
    """A Qwen3 model: all layers from the marginals of the real 1,024-token batch, expert ids permuted per layer."""
    import polars as pl

    if not model.startswith("qwen3"):
        raise batches.TraceError(f"model {model!r}: no routing data to draw batches from; known: deepseek-v3, qwen3-*")
    frame = batches.load("qwen3-30b", data, seed=settings.seed)
    topk = batches.topk_of(frame.filter(pl.col("source") == MARGINALS[0]))
    experts = MODELS[model].n_experts
    marginal = batches.counts(topk, experts)
    layers = np.arange(first_layers(MODELS[model].n_moe_layers, settings.layers))
    name = stream(f"{model}/{MARGINALS[1]}")
    loads = np.stack(
        [marginal[np.random.default_rng([settings.seed, name, int(layer)]).permutation(experts)] for layer in layers]
    )
    window = np.stack(
        [
            batches.counts(
                batches.sample_topk(load, WINDOW_TOKENS, topk.shape[1], [settings.seed, name, layer, 1]), experts
            )
            for layer, load in zip(layers.tolist(), loads, strict=True)
        ]
    )
    return Source(
        model,
        MARGINALS[1],
        f"window of {WINDOW_TOKENS} other draws",
        layers,
        place=window,
        data=frame["data"][0],
        evaluate=loads,
        prefill=loads,
        prefill_name=MARGINALS[1],
    )


def real_batches(settings: Any, data: Path | None = None) -> Iterator[Source]:
    """The per-token batches as they were recorded (or their twins), each with what its placement may see."""
    for model in batches.TRACES:
        frame = batches.load(model, data, seed=settings.seed)
        for source in frame["source"].unique(maintain_order=True):
            yield _real(model, source, frame.filter(frame["source"] == source), settings.layers)


def _real(model: str, source: str, frame: "pl.DataFrame", limit: int) -> Source:
    import polars as pl

    every = frame["layer"].unique().sort()
    layers = every[: first_layers(len(every), limit)].to_numpy()
    frame = frame.filter(pl.col("layer").is_in(layers)).sort("step", "layer", "token")
    blocks = {
        (phase, step): batches.topk_of(part).reshape(len(layers), -1, part["experts"].list.len()[0])
        for (phase, step), part in frame.group_by("phase", "step", maintain_order=True)
    }
    prefill = [topk for (phase, _), topk in blocks.items() if phase == "prefill"]
    decode = [(int(step), topk) for (phase, step), topk in blocks.items() if phase == "decode"]
    if prefill:
        seen, placed_on = prefill, "its prefill steps"
    elif source == "step_b1024":
        half = decode[0][1].shape[1] // 2
        seen, placed_on = [decode[0][1][:, :half]], f"its first {half} tokens"
        decode = [(decode[0][0], decode[0][1][:, half:])]
    else:
        seen, placed_on = [decode[0][1]], "its own counts"
    experts = MODELS[model].n_experts
    load = sum(np.stack([batches.counts(topk[at], experts) for at in range(len(layers))]) for topk in seen)
    return Source(model, source, placed_on, layers, place=load, data=frame["data"][0], given=decode)


def prefill_counts(load: np.ndarray, assignments: int, seed: list[int]) -> np.ndarray:
    """Tokens per expert `(L, N)` of a prefill step: assignments drawn from the load (a multinomial, no token lists)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.multinomial(assignments, row / row.sum()) for row in np.asarray(load, float)])
