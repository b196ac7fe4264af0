"""Throughput against time per token over batch and TP x EP splits, and the ratio of two frontiers at equal TPOT.

The paper's Fig. 12, 13 and Table II: batch x powers of two of tensor and expert parallelism. Its batch grid is coarse,
so a small gain in TPOT can move a frontier by a factor of four; `grid` is `paper` or `fine`. Routing is drawn here for
every number of EP ranks, from expert loads of a few layers spread over the model (`layers_used`).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from operators.llm import steptime
from operators.llm.steptime import StepTables
from operators.metro import batches, placement, routing

PAPER_BATCHES = (64, 128, 256, 512, 1024)
FINE_BATCHES = tuple(round(64 * 2 ** (i / 4)) for i in range(17))
LOCAL = ("even", "primary")  # routers that all-to-all dispatch can serve: no rank needs the others' choices
PERMUTED = ("qwen3-30b", "qwen3-235b")  # models whose layers all take the marginals of one real batch


def splits(gpus: int) -> list[tuple[int, int]]:
    """(tp, ep) pairs of powers of two with tp * ep = gpus."""
    return [(gpus // ep, ep) for ep in (2**i for i in range(gpus.bit_length())) if gpus % ep == 0]


def grid_batches(grid: str, model: str) -> tuple[int, ...]:
    """Batches of a grid; the paper leaves out 64 for DeepSeek-V3."""
    if grid not in ("paper", "fine"):
        raise ValueError(f"grid (={grid!r}): expected 'paper' or 'fine'")
    if grid == "fine":
        return FINE_BATCHES
    return PAPER_BATCHES[1:] if model == "deepseek-v3" else PAPER_BATCHES


def loads(model: str, workloads: Sequence[str], layers: int, data: Any, seed: int) -> tuple[dict[str, np.ndarray], str]:
    """Expert loads `(layers, N)` by workload for some layers spread evenly over the model, and whether they are real.

    Qwen3 models have one measured batch of 1,024 tokens of one layer: every layer takes its counts, with expert ids
    permuted, for every workload (so placement is fitted on the very marginals it is judged on: a kind case for EPLB).
    """
    if model == "deepseek-v3":
        frame = batches.load(model, data, seed=seed)
        ids = frame["layer"].unique().sort().to_numpy()
        keep = ids[np.linspace(0, len(ids) - 1, layers).round().astype(int)]
        frame = frame.filter(pl.col("layer").is_in(keep.tolist())).sort("layer", "expert")
        kind = frame["data"][0]
        per = {w: frame.filter(pl.col("workload") == w)["tokens"].to_numpy().reshape(layers, -1) for w in workloads}
        return {name: load.astype(float) for name, load in per.items()}, kind
    if model not in PERMUTED:
        raise ValueError(f"model (={model!r}): has no expert loads; known: deepseek-v3, {', '.join(PERMUTED)}")
    frame = batches.load("qwen3-30b", data, seed=seed).filter(pl.col("source") == "step_b1024")
    load = batches.counts(batches.topk_of(frame), 128).astype(float)
    shuffled = np.stack([load[np.random.default_rng([seed, layer, 7]).permutation(128)] for layer in range(layers)])
    return dict.fromkeys(workloads, shuffled), frame["data"][0]


def draw(load: np.ndarray, tokens: Sequence[int], top_k: int, steps: int, seed: int) -> dict[int, np.ndarray]:
    """Counts `(steps, layers, N)` for each batch size, drawn from loads `(layers, N)`; small batches are prefixes."""
    most, experts = max(tokens), load.shape[1]
    picked = np.stack(
        [
            [batches.sample_topk(layer, most, top_k, [seed, step, at]) for at, layer in enumerate(load)]
            for step in range(steps)
        ]
    )
    return {size: batches.counts_of(np.ascontiguousarray(picked[:, :, :size]), experts) for size in tokens}


def sweep(
    step: StepTables,
    *,
    gpus: int,
    sizes: Sequence[int],
    ratios: Sequence[float],
    routers: Sequence[str],
    place_load: np.ndarray,
    counts: dict[int, np.ndarray],
    context: float,
    router_us: dict[str, float],
    **options: Any,
) -> pl.DataFrame:
    """TPOT and decode throughput of every batch x (tp, ep) x ratio x router x dispatch.

    `place_load` (layers, N) is what placements are fitted on, `counts[B]` (steps, layers, N) what is routed. Routers
    that need every token's choice on every rank are simulated with all-gather dispatch only.
    """
    rows, variants = [], list(itertools.product(ratios, routers))
    for tp, ep in splits(gpus):
        slots = {ratio: routing.slots_for(ratio, step.shape.n_experts, ep) for ratio in ratios}
        placed = {ratio: placement.place(place_load, slots[ratio], ep) for ratio in ratios}
        free = [ratio == 1.0 or ep == 1 for ratio, _ in variants]
        overhead = [0.0 if skip else router_us.get(name, 0.0) for skip, (_, name) in zip(free, variants, strict=True)]
        for size, comm in itertools.product(sizes, ("allgather", "alltoall")):
            some = [at for at, (_, name) in enumerate(variants) if comm == "allgather" or name in LOCAL]
            routed = [routing.route_counts(variants[at][1], placed[variants[at][0]], counts[size]) for at in some]
            parts = steptime.decode_step(
                step,
                gpus=gpus,
                tp=tp,
                batch=size,
                context=context,
                activated=np.stack([each.activated for each in routed]),
                tokens=np.stack([each.tokens for each in routed]),
                comm=comm,
                router_us=np.array(overhead)[some][:, None, None],
                **options,
            )
            times = steptime.step_us(step.shape, parts).mean(axis=1)
            for at, each, time in zip(some, routed, times, strict=True):
                ratio, router = variants[at]
                rows.append((router, ratio, comm, size, tp, ep, each.lam.mean(), time, size / time / gpus * 1e6))
    names = ["router", "r", "comm", "batch", "tp", "ep", "lam", "tpot_us", "throughput_per_gpu"]
    return pl.DataFrame([tuple(map(_plain, row)) for row in rows], schema=names, orient="row")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def frontier(runs: pl.DataFrame) -> pl.DataFrame:
    """The runs no other run beats in both TPOT (less) and throughput per GPU (more), by rising TPOT."""
    best, kept = -np.inf, []
    ordered = runs.sort("tpot_us", "throughput_per_gpu", descending=[False, True])
    for at, value in enumerate(ordered["throughput_per_gpu"]):
        if value > best:
            best = value
            kept.append(at)
    return ordered[kept]


def equal_tpot_ratio(of: pl.DataFrame, against: pl.DataFrame) -> pl.DataFrame:
    """Throughput of one frontier over another's at the same TPOT limit: columns tpot_us, pareto_ratio, interactivity.

    At every TPOT where either frontier has a point and both have some point at or under it: the best throughput each
    reaches within that limit. `interactivity` is 1 / TPOT, divided by the fastest point of the two.
    """
    one, other = frontier(of), frontier(against)
    limits = np.unique(np.concatenate([one["tpot_us"].to_numpy(), other["tpot_us"].to_numpy()]))
    limits = limits[limits >= max(one["tpot_us"].min(), other["tpot_us"].min())]
    best = [_within(front, limits) for front in (one, other)]
    fastest = min(one["tpot_us"].min(), other["tpot_us"].min())
    return pl.DataFrame({"tpot_us": limits, "pareto_ratio": best[0] / best[1], "interactivity": fastest / limits})


def _within(front: pl.DataFrame, limits: np.ndarray) -> np.ndarray:
    at = np.searchsorted(front["tpot_us"].to_numpy(), limits, side="right") - 1
    return front["throughput_per_gpu"].to_numpy()[at]
