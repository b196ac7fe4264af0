"""The memory-bound experiment on this machine's processor: real expert weights, real reads, no GPU.

Every rank is a process that holds its slots' fp32 SwiGLU weights; a layer's time is the slowest rank's kernel time.
Ranks compute one after the other: two at once share the memory bandwidth that is measured here.

Placement is fitted on the 64-token counts of the very batch that is routed, the only data of that layer; batch size B
means its first B tokens. With fewer than 128 experts (reduced profiles) the batch is drawn from the counts of the
hottest ones, and says `synthesised`.

`sweep` times a grid of activated experts A and tokens per expert on rank 0. It calibrates the cost the adaptive router
uses and the linear model the results are compared with, so nothing is taken from anywhere else.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from operators.metro import batches, cold
from operators.metro.placement import Placement, place
from operators.metro.routing import ROUTERS, Routing

if TYPE_CHECKING:
    from operators.metro.actors import Cluster
    from operators.metro.settings import Cpu, Settings

MODEL, BATCH_TOKENS, TOP_K = "qwen3-30b", 64, 8
SWEEP_EXPERTS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64)
SWEEP_TOKENS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokens of one MoE layer: activations `(T, d)` f32, chosen experts and gates `(T, k)`, and where they are from."""

    x: np.ndarray
    topk: np.ndarray
    gates: np.ndarray
    layer: int
    data: str  # real | synthetic
    batches: str  # real | synthesised

    def first(self, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, topk and gates of the first `tokens` tokens."""
        if tokens > len(self.topk):
            raise ValueError(f"cpu.batches (={tokens}): the batch of layer {self.layer} has {len(self.topk)} tokens")
        return self.x[:tokens], self.topk[:tokens], self.gates[:tokens]


class Job(NamedTuple):
    """One routed batch to be timed on every rank."""

    router: str
    r: float
    nested: bool
    B: int
    lam: int
    call: tuple[Any, ...]  # arguments of ExpertRank.forward


def read_batch(cpu: "Cpu", *, data: Path | None, seed: int) -> Batch:
    """Qwen3-30B's decode batch of 64 tokens (or its twin), cut down to `cpu.experts` experts if need be."""
    import polars as pl

    frame = batches.load(MODEL, data, seed=seed)
    sizes = frame.group_by("layer", "phase", "step").len().filter(pl.col("len") == BATCH_TOKENS).sort("layer")
    layer = int(sizes["layer"][0])
    chosen = frame.filter((pl.col("layer") == layer) & (pl.col("step") == sizes["step"][0])).sort("token")
    topk, made = batches.topk_of(chosen), "real"
    if cpu.experts <= int(topk.max()):
        counts = np.bincount(topk.ravel())
        hottest = np.sort(np.argsort(-counts, kind="stable")[: cpu.experts])
        topk = batches.sample_topk(counts[hottest], BATCH_TOKENS, min(TOP_K, cpu.experts), [seed, 41])
        made = "synthesised"
    rng = np.random.default_rng([seed, 40])
    x = rng.standard_normal((len(topk), cpu.hidden), np.float32)
    gates = rng.random(topk.shape, np.float32)
    return Batch(x, topk, gates / gates.sum(1, keepdims=True), layer, chosen["data"][0], made)


def placements(batch: Batch, cpu: "Cpu", ratios: tuple[float, ...], *, avoid_same_gpu: bool) -> Iterator[tuple]:
    """(r, nested, placement) for every ratio; nested ones beside the plain ones where there are copies to nest.

    The number of slots is N * r rounded up to a multiple of the ranks.
    """
    counts = batches.counts(batch.topk, cpu.experts)[None].astype(np.float64)
    for r in ratios:
        slots = -(-round(cpu.experts * r) // cpu.gpus) * cpu.gpus
        for nested in (False, True):
            if nested and (r == 1.0 or cpu.experts % cpu.gpus):
                continue
            yield r, nested, place(counts, slots, cpu.gpus, avoid_same_gpu=avoid_same_gpu, nested=nested)


def jobs_of(
    batch: Batch, placement: Placement, settings: "Settings", *, r: float, nested: bool, cost: Any
) -> list[Job]:
    """Every router and batch size on one placement.

    Without copies all routers are one map (`primary`). A nested placement is there for `adaptive`, beside `primary`,
    which is "no replication" on it.
    """
    names = [name for name in settings.routers if name != "primary"]
    if r == 1.0:
        names = ["primary"]
    elif nested:
        names = ["primary", "adaptive"] if "adaptive" in names else []
    jobs = []
    for tokens in settings.cpu.batches:
        x, topk, gates = batch.first(tokens)
        for name in names:
            routing: Routing = ROUTERS[name](placement.layer(0), topk, cost=cost, seed=settings.seed)
            jobs.append(Job(name, r, nested, tokens, routing.lam, (0, x, topk, gates, routing.slot)))
    return jobs


def sweep_jobs(placement: Placement, hidden: int, *, r: float, seed: int) -> list[Job]:
    """A grid of activated experts and tokens per expert on rank 0's slots: each token goes to all of the first A."""
    x = np.random.default_rng([seed, 42]).standard_normal((max(SWEEP_TOKENS), hidden), np.float32)
    jobs = []
    for activated in (count for count in SWEEP_EXPERTS if count <= placement.slots_per_gpu):
        for tokens in SWEEP_TOKENS:
            slot = np.tile(np.arange(activated), (tokens, 1))
            gates = np.full(slot.shape, 1 / activated, np.float32)
            call = (0, x[:tokens], placement.phys2log[0][slot], gates, slot)
            jobs.append(Job("sweep", r, False, tokens, activated, call))
    return jobs


def run(
    cluster: "Cluster", ray: Any, jobs: list[Job], *, ranks: Iterable[int], reps: Iterable[int], evict: int
) -> list[dict]:
    """Time `jobs` on `ranks`: repetition by repetition, rank by rank, and inside a rank job by job."""
    calls = ray.put([job.call for job in jobs])
    rows = []
    for rep in reps:
        for rank in ranks:
            for job, stats in zip(jobs, ray.get(cluster.measure(rank, calls, evict)), strict=True):
                kept = {"router": job.router, "r": job.r, "nested": job.nested, "B": job.B, "lam": job.lam}
                rows.append(kept | {"rank": rank, "rep": rep} | stats)
    return rows


def measure(ray: Any, settings: "Settings", batch: Batch) -> tuple[list[dict], list[tuple]]:
    """All rows of the experiment (the sweep, then every placement once per repetition), and those of the faults.

    Repetitions are the outer loop, so that slow seconds of a shared machine do not hit one placement alone.
    """
    from operators.metro.actors import Cluster

    cpu = settings.cpu
    plans = list(placements(batch, cpu, cpu.ratios, avoid_same_gpu=settings.avoid_same_gpu))
    fullest = max(plans, key=lambda plan: (plan[2].num_slots, not plan[1]))
    evict = cold.evict_bytes(cold.l3_bytes())
    sizes = {"width": cpu.width, "hidden": cpu.hidden, "seed": settings.seed}
    with Cluster(ray, fullest[2], router="metro", parallel=1, **sizes) as cluster:
        swept = sweep_jobs(fullest[2], cpu.hidden, r=fullest[0], seed=settings.seed)
        rows = run(cluster, ray, swept, ranks=range(1), reps=range(cpu.reps), evict=evict)
        cost = fit_cost(rows, settings.cost)
        for rep in range(cpu.reps):
            for r, nested, placement in plans:
                jobs = jobs_of(batch, placement, settings, r=r, nested=nested, cost=cost)
                if jobs:
                    cluster.rearrange(placement)
                    rows += run(cluster, ray, jobs, ranks=range(cpu.gpus), reps=[rep], evict=evict)
        rehearsed = []
        if settings.faults:
            cluster.rearrange(fullest[2])
            rehearsed = rehearse(cluster, batch, settings.faults)
    return rows, rehearsed


def fit_cost(rows: list[dict], form: str) -> Any:
    """The cost t(A, n) in us that fits the least times of the sweep."""
    from operators.llm.moe_cost import MoeCost

    least: dict[tuple[int, int], int] = {}
    for row in rows:
        key = (row["activated"], row["tokens"])
        least[key] = min(row["cpu_ns"], least.get(key, row["cpu_ns"]))
    activated, tokens = zip(*least, strict=True)
    return MoeCost.fit_points(activated, tokens, np.array(list(least.values())) / 1e3, form=form, source="sweep")


FAULTS = ("step", "faults", "tries", "died", "stragglers", "outcome", "apart")


def rehearse(cluster: "Cluster", batch: Batch, schedule: tuple) -> list[tuple]:
    """Run steps with the faults of the settings and hold the cluster to its promise: a row of FAULTS per step.

    The outputs must stay those of the undisturbed step (`apart`: largest relative difference); a RoutingError that
    names an expert without a live copy ends the rehearsal, as promised. Raises ClusterError when outputs differ.
    """
    from operators.metro.actors import ClusterError
    from operators.metro.routing import RoutingError

    x, topk, gates = batch.first(min(16, len(batch.topk)))
    expected = cluster.step(0, x, topk, gates).output
    cluster.inject([fault.model_copy(update={"at_step": fault.at_step + cluster.steps}) for fault in schedule])
    rows = []
    for step in range(max(fault.at_step for fault in schedule) + 2):
        struck = ", ".join(f"{fault.kind} rank {fault.rank}" for fault in schedule if fault.at_step == step)
        try:
            result = cluster.step(0, x, topk, gates)
        except RoutingError as error:
            return [*rows, (step, struck, None, "", "", f"refused: {error}", None)]
        apart = float(np.abs(result.output - expected).max() / np.abs(expected).max())
        if not np.allclose(result.output, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()):
            raise ClusterError(f"step {step}: outputs differ by {apart:.1e} from the undisturbed ones")
        died, slow = (", ".join(map(str, ranks)) for ranks in (result.died, result.stragglers))
        rows.append((step, struck, result.tries, died, slow, "served", apart))
    return rows
