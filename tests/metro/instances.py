"""Random routing instances for the tests: a placement, the tokens of one batch, and a brute-force optimum."""

import itertools
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

from operators.metro.placement import Placement, place

COST = SimpleNamespace(form="pnorm", a=20.0, b=6.0, beta=0.4, c=0.0, p=1.57)


def random_placement(rng: np.random.Generator, experts: int, gpus: int, layers: int = 1) -> Placement:
    """Copies anywhere, also twice on one GPU."""
    per_gpu = -(-experts // gpus) + int(rng.integers(0, 3))
    rows = []
    for _ in range(layers):
        spare = rng.integers(0, experts, per_gpu * gpus - experts)
        rows.append(rng.permutation(np.concatenate([np.arange(experts), spare])))
    return Placement.from_slots(np.array(rows), gpus, num_experts=experts)


def random_topk(rng: np.random.Generator, experts: int, tokens: int, k: int) -> np.ndarray:
    weight = rng.exponential(size=experts) ** 2
    keys = np.log(weight) + rng.gumbel(size=(tokens, experts))
    return np.argsort(-keys, axis=1)[:, :k].astype(np.int64)


@st.composite
def cases(draw, max_experts: int = 8, max_gpus: int = 4):
    """(placement, topk) with at least one expert, GPU and k; zero tokens is allowed."""
    experts, gpus = draw(st.integers(1, max_experts)), draw(st.integers(1, max_gpus))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(1, min(experts, 3)))
    return random_placement(rng, experts, gpus), random_topk(rng, experts, draw(st.integers(0, 12)), k)


def dsv3_placement(ratio_slots: int = 384, layers: int = 2) -> Placement:
    from operators.llm import twins

    frame = twins.dsv3_load(seed=0)
    rows = frame.filter(frame["workload"] == "decode_in1000out1000").sort("layer", "expert")
    return place(rows["tokens"].to_numpy().reshape(58, 256)[:layers], ratio_slots, 16)


def brute_force(candidates: list[tuple[int, ...]], counts: np.ndarray, gpus: int) -> int:
    """Least lambda over every choice of one GPU per active expert."""
    active = [candidates[expert] for expert in np.flatnonzero(counts)]
    return min(max(np.bincount(choice, minlength=gpus)) for choice in itertools.product(*active)) if active else 0
