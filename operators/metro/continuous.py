"""Continuous batching with chunked prefill over data-parallel ranks in lockstep: per-request TTFT and TPOT.

Section 2.8, `serve`. Each rank schedules as vLLM's v1 engine does: running requests first (one token each, or the next
chunk of an unfinished prompt), then waiting ones in order of arrival while there is token budget and a free place.
Requests go to ranks round robin; a step takes as long as its slowest rank because every expert layer is a collective.
Not modelled: cache limits and preemption, the engine's own time per step (`step_overhead_us`, default 0), tokenising,
the HTTP front, differences in context length within one attention call (the mean is used).
"""

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from operators.lab.clock import Clock
from operators.llm.shapes import MODELS
from operators.llm.steptime import ACTIVATION_BYTES
from operators.llm.tables import RtxTables, Table
from operators.metro import batches

MOST_TOKENS = 8192  # largest step of one rank that step times are laid out for
RESULT = {"request_id": pl.String, "rank": pl.Int32, "ttft_us": pl.Float64, "tpot_us": pl.Float64, "end_s": pl.Float64}


@dataclass(frozen=True)
class Engine:
    """Limits of the serving engine; defaults are those of the measured run."""

    ranks: int = 2
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    step_overhead_us: float = 0.0

    def __post_init__(self) -> None:
        for name in ("ranks", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} (={getattr(self, name)}): must be >= 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            limit = f"must be >= max_num_seqs (={self.max_num_seqs})"
            raise ValueError(f"max_num_batched_tokens (={self.max_num_batched_tokens}): {limit}")


@dataclass(slots=True)
class Request:
    """One request on a rank: `done` prompt tokens are in the cache, `made` tokens are generated."""

    name: str
    arrival_s: float
    inputs: int
    outputs: int
    done: int = 0
    made: int = 0
    first_s: float = float("nan")
    last_s: float = float("nan")


class Work(NamedTuple):
    """What one rank does in a step."""

    chunk: int  # prompt tokens
    kv_prefill: float  # cached tokens before the chunk, such that attention work is that of all chunks together
    n_decode: int
    kv_decode: float  # mean context of the decodes
    sampled: int  # sequences that get a token

    @property
    def tokens(self) -> int:
        return self.chunk + self.n_decode


@dataclass
class Rank:
    """Scheduler state of one data-parallel rank."""

    engine: Engine
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    plan: list[tuple[Request, int]] = field(default_factory=list)

    def schedule(self) -> Work:
        """Choose this step's tokens: running requests first, then new ones, within the budget."""
        budget = self.engine.max_num_batched_tokens
        self.plan = []
        for request in self.running:
            take = min(max(request.inputs - request.done, 1), budget)
            if take:
                self.plan.append((request, take))
                budget -= take
        while self.waiting and budget and len(self.running) < self.engine.max_num_seqs:
            request = self.waiting.popleft()
            self.running.append(request)
            take = min(request.inputs, budget)
            self.plan.append((request, take))
            budget -= take
        return self._work()

    def _work(self) -> Work:
        chunk = pairs = decodes = context = sampled = 0
        for request, take in self.plan:
            if request.done < request.inputs:
                chunk += take
                pairs += take * (request.done + take / 2)
                sampled += request.done + take == request.inputs
            else:
                decodes += 1
                context += request.inputs + request.made
                sampled += 1
        kv = max(pairs / chunk - chunk / 2, 0.0) if chunk else 0.0
        return Work(chunk, kv, decodes, context / decodes if decodes else 0.0, sampled)

    def finish(self, now_s: float) -> list[Request]:
        """Apply the step that ends now; the requests it completes."""
        ended = []
        for request, take in self.plan:
            if request.done < request.inputs:
                request.done += take
                if request.done < request.inputs:
                    continue
                request.first_s = now_s
            request.made += 1
            request.last_s = now_s
            if request.made == request.outputs:
                ended.append(request)
        if ended:
            self.running = [request for request in self.running if request.made < request.outputs]
        self.plan = []
        return ended

    def validate(self) -> None:
        """Raise AssertionError when the scheduler's invariants do not hold."""
        assert len(self.running) <= self.engine.max_num_seqs
        assert sum(take for _, take in self.plan) <= self.engine.max_num_batched_tokens
        assert all(0 <= r.done <= r.inputs and 0 <= r.made <= r.outputs for r in self.running)
        assert all(r.done == r.made == 0 for r in self.waiting)


def serve(workload: pl.DataFrame, step_us: Callable[[list[Work]], float], engine: Engine | None = None) -> pl.DataFrame:
    """Serve every request of `workload` (workloads.SCHEMA); one row per request: rank, ttft_us, tpot_us, end_s.

    `step_us` gives the time of a step from each rank's work. TTFT is from arrival to the first token; TPOT is the mean
    gap between the others (0 for a request of one token).
    """
    engine = engine or Engine()
    clock, ranks, ended = Clock(), [Rank(engine) for _ in range(engine.ranks)], []
    busy = False

    def begin() -> None:
        nonlocal busy
        work = [rank.schedule() for rank in ranks]
        busy = any(part.tokens for part in work)
        if busy:
            clock.after((step_us(work) + engine.step_overhead_us) / 1e6, end)

    def end() -> None:
        for at, rank in enumerate(ranks):
            ended.extend((at, request) for request in rank.finish(clock.now))
        begin()

    def arrive(at: int, request: Request) -> None:
        ranks[at].waiting.append(request)
        if not busy:
            begin()

    for at, (name, arrival, inputs, outputs) in enumerate(workload.iter_rows()):
        request = Request(name, arrival, inputs, outputs)
        clock.at(arrival, lambda at=at % engine.ranks, request=request: arrive(at, request))
    clock.run()
    rows = [
        (
            *(r.name, at, (r.first_s - r.arrival_s) * 1e6),
            *((r.last_s - r.first_s) * 1e6 / max(r.outputs - 1, 1), r.last_s),
        )
        for at, r in ended
    ]
    return pl.DataFrame(rows, schema=RESULT, orient="row")


@dataclass(frozen=True)
class RtxStep:
    """Step time of Qwen3-30B on RTX cards, experts over as many cards as there are ranks: callable for `serve`.

    `moe_tokens`, `moe_us`: expert time of a layer over tokens of the global batch (`expert_curve`). The gate is inside
    the expert table (inferred from its 30 us intercept). Dispatch and combine are modelled: one latency and the
    rank's hidden states over the link, twice a layer.
    """

    tables: RtxTables
    moe_tokens: np.ndarray
    moe_us: np.ndarray
    link_Bps: float = 50e9  # PCIe 5 x16 at 80 % of its 64 GB/s
    link_latency_us: float = 15.0  # what the measured collectives of other cards start at
    model: str = "qwen3-30b"

    def __call__(self, work: list[Work]) -> float:
        shape = MODELS[self.model]
        tokens = [part.tokens for part in work]
        most = max(tokens)
        moe = float(np.interp(np.log2(sum(tokens)), np.log2(self.moe_tokens), self.moe_us))
        comm = 2 * (self.link_latency_us + most * shape.hidden * ACTIVATION_BYTES / self.link_Bps * 1e6)
        layer = max(self._rank_us(part) for part in work) + moe + (comm if len(work) > 1 else 0.0)
        sampled = max(max(part.sampled for part in work), 1)
        return shape.n_layers * layer + self._once_by_tokens[most] + self._once_by_sampled[sampled]

    @functools.cached_property
    def _dense_by_tokens(self) -> list[float]:
        """Dense kernels of a layer for 0, 1, ... tokens: looked up thousands of times a run, so laid out once."""
        kernels = {"layernorm": 2, "qkv_proj": 1, "qk_norm": 1, "rotary_emb": 1, "o_proj": 1}
        return _laid_out({name: self.tables.dense[name] for name in kernels}, kernels, MOST_TOKENS)

    @functools.cached_property
    def _once_by_tokens(self) -> list[float]:
        kernels = {"embedding": 1, "final_layernorm": 1}
        return _laid_out({name: self.tables.dense[name] for name in kernels}, kernels, MOST_TOKENS)

    @functools.cached_property
    def _once_by_sampled(self) -> list[float]:
        return _laid_out(self.tables.per_sequence, dict.fromkeys(self.tables.per_sequence, 1), MOST_TOKENS)

    def _rank_us(self, part: Work) -> float:
        if not part.tokens:
            return 0.0
        time = self._dense_by_tokens[part.tokens]
        chunk = {"prefill_chunk": max(part.chunk, 16), "kv_prefill": part.kv_prefill}
        decode = {"n_decode": part.n_decode, "kv_decode": max(part.kv_decode, 16)}
        if not part.chunk:
            return time + self._decode_us(**decode)
        if not part.n_decode:
            return time + float(self.tables.prefill.at(**chunk))
        return time + float(self.tables.mixed.at(**chunk, **decode))

    def _decode_us(self, n_decode: int, kv_decode: float) -> float:
        """Pure decode attention: the table's row for this many sequences, made once, then read along the context."""
        table = self.tables.decode
        contexts = table.axes["kv_decode"]
        if kv_decode > contexts[-1]:
            return float(table.at(n_decode=n_decode, kv_decode=kv_decode))
        if n_decode not in self._decode_rows:
            self._decode_rows[n_decode] = np.log(table.at(n_decode=n_decode, kv_decode=contexts))
        return float(np.exp(np.interp(np.log(kv_decode), self._log_contexts, self._decode_rows[n_decode])))

    @functools.cached_property
    def _decode_rows(self) -> dict[int, np.ndarray]:
        return {}

    @functools.cached_property
    def _log_contexts(self) -> np.ndarray:
        return np.log(self.tables.decode.axes["kv_decode"])


def _laid_out(tables: dict[str, Table], counts: dict[str, int], most: int) -> list[float]:
    sizes = np.arange(1, most + 1)
    total = sum(counts[name] * table.at(**{next(iter(table.axes)): sizes}) for name, table in tables.items())
    return [0.0, *total.tolist()]


def expert_curve(
    tables: RtxTables, load: np.ndarray, *, gpus: int, top_k: int, most: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over layers of the slowest GPU's expert time, for batches of 1, 2, 4 ... `most` tokens: (tokens, us).

    `load` (layers, N): tokens are drawn from it; experts lie on GPUs in order, N / gpus each, without copies.
    """
    sizes = 2 ** np.arange(int(np.ceil(np.log2(most))) + 1)
    times = np.zeros((len(load), len(sizes)))
    for at, layer in enumerate(load):
        picked = batches.sample_topk(layer, int(sizes[-1]), top_k, [seed, at, 11])
        for j, size in enumerate(sizes):
            counts = batches.counts(picked[:size], len(layer)).reshape(gpus, -1)
            times[at, j] = tables.moe.at(activated=(counts > 0).sum(axis=1), tokens=counts.sum(axis=1)).max()
    return sizes.astype(float), times.mean(axis=0)
