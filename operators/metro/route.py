"""Stage: place and route every batch of the run under every ratio, batch size and router."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import stage
from operators.metro.settings import Settings, Setup

if TYPE_CHECKING:
    import polars as pl

    from operators.metro.sweep import Block, Workload


def _schemas() -> tuple[dict, dict]:
    import polars as pl

    placement = {
        "workload": pl.String,
        "model": pl.String,
        "placed_on": pl.String,
        "data": pl.String,
        "r": pl.Float64,
        "G": pl.Int16,
        "layer": pl.Int16,
        "slot": pl.Int32,
        "gpu": pl.Int16,
        "expert": pl.Int16,
        "copy": pl.Int16,  # rank in the expert's copy order
    }
    routing = {
        "model": pl.String,
        "workload": pl.String,
        "phase": pl.String,  # decode | prefill
        "batches": pl.String,  # real | synthesised
        "data": pl.String,  # real | synthetic
        "placed_on": pl.String,
        "router": pl.String,
        "r": pl.Float64,
        "G": pl.Int16,
        "slots": pl.Int32,
        "B": pl.Int32,  # tokens of the step over all GPUs
        "batch_per_gpu": pl.Float64,
        "seed": pl.Int32,
        "step": pl.Int32,
        "layer": pl.Int16,
        "lam": pl.Int32,
        "activated_sum": pl.Int32,
        "max_tokens": pl.Int64,
        "lam_exact": pl.Int32,
        "certified": pl.Boolean,  # of lam_exact
        "activated": pl.List(pl.UInt16),  # per GPU
        "tokens": pl.List(pl.UInt32),  # per GPU
        "a2a_tokens": pl.Int64,  # null for prefill: it has no token lists
        "time_us": pl.Float64,  # router, per layer, this machine's processor; 0 at r = 1; null for prefill
    }
    return placement, routing


def __getattr__(name: str) -> dict:
    if name in ("PLACEMENT_SCHEMA", "SCHEMA"):
        return _schemas()[name == "SCHEMA"]
    raise AttributeError(name)


def main(*, batches: Path, load: Path, costs: Path, settings: Settings, out_placement: Path, out_routing: Path) -> None:
    """Route the batches of `trace`.

    Args:
        batches: table of tokens with their experts
        load: table of expert loads
        costs: fitted kernel costs (calibrate), which the adaptive router minimises
        out_placement: table of slots: which expert lies where
        out_routing: table of routed layers: activated experts and tokens per GPU, optimum, router time
    """
    import polars as pl

    from operators.llm.shapes import MODELS
    from operators.metro import sweep

    placed, routed = [], []
    for workload in _workloads(batches, load, costs, settings):
        for ratio, placement in sweep.placements(workload, settings):
            placed.append(sweep.placement_frame(workload, ratio, placement))
            routed += sweep.decode_frames(workload, ratio, placement, settings)
            if workload.prefill is not None:
                k = MODELS[workload.model].top_k
                routed.append(sweep.prefill_frame(workload, ratio, placement, settings, k))
    placement_schema, routing_schema = _schemas()
    for frames, path, schema in ((placed, out_placement, placement_schema), (routed, out_routing, routing_schema)):
        stage.write_table(pl.concat(frames).select(list(schema)), path, schema=schema, settings=settings)


def _workloads(batches: Path, load: Path, costs: Path, settings: Settings):
    """Every (model, workload) of the two tables, on the set-ups' numbers of GPUs."""
    import polars as pl

    from operators.metro.calibrate import read_costs
    from operators.metro.draws import REAL_GPUS

    loads, fitted = stage.read_table(load), read_costs(costs)
    lazy = pl.scan_parquet(batches)
    keys = lazy.select("model", "workload", "batches", "data").unique(maintain_order=True).collect()
    for model, name, kind, mark in keys.iter_rows():
        frame = lazy.filter((pl.col("model") == model) & (pl.col("workload") == name)).collect()
        setups = [setup for setup in settings.setups if setup.model == model]
        gpus = list(dict.fromkeys(setup.gpus for setup in setups)) or [REAL_GPUS.get(model, 8)]
        mine = loads.filter((pl.col("model") == model) & (pl.col("serves") == name))
        for count in gpus:
            cost = next((_cost(setup, settings, fitted) for setup in setups if setup.gpus == count), None)
            yield _workload(frame, mine, settings, gpus=count, cost=cost, keys=(model, name, kind, mark))


def _workload(frame, loads, settings, *, gpus: int, cost: Any, keys: tuple[str, ...]) -> "Workload":
    import polars as pl

    from operators.metro.sweep import Workload

    model, name, kind, mark = keys
    layers = frame["layer"].unique().sort().to_numpy()

    def of(role: str):
        rows = loads.filter(pl.col("role") == role).sort("layer", "expert")
        return rows["tokens"].to_numpy().reshape(len(layers), -1) if len(rows) else None

    blocks = _blocks(frame, len(layers))
    placed_on = loads.filter(pl.col("role") == "place")["workload"][0]
    sizes = _sizes(settings, gpus, kind, max(block.topk.shape[2] for block in blocks))
    return Workload(
        model, name, kind, mark, placed_on, layers, of("place"), gpus, sizes, blocks, prefill=of("prefill"), cost=cost
    )


def _blocks(frame: "pl.DataFrame", layers: int) -> list["Block"]:
    """Consecutive steps of one seed and one batch size, as arrays."""
    import numpy as np
    import polars as pl

    from operators.metro.batches import topk_of
    from operators.metro.sweep import Block

    frame = frame.sort("seed", "step", "layer", "token")
    sizes = frame.group_by("seed", "step", maintain_order=True).agg(tokens=pl.len() // layers)
    blocks, at = [], 0
    topk = topk_of(frame)
    for (seed, tokens), part in sizes.group_by("seed", "tokens", maintain_order=True):
        rows = len(part) * layers * tokens
        block = topk[at : at + rows].reshape(len(part), layers, tokens, -1)
        blocks.append(Block(seed, part["step"].to_numpy(), np.ascontiguousarray(block)))
        at += rows
    return blocks


def _sizes(settings: Settings, gpus: int, kind: str, tokens: int) -> tuple[int, ...]:
    """Global batch sizes: the sweep, the paper's decode batch (per GPU and in all) and global batch.

    Of a real batch also the measured experiment's sizes, and all its tokens.
    """
    sizes = {per_gpu * gpus for per_gpu in (*settings.batch_per_gpu, settings.decode_batch_per_gpu)}
    sizes |= {settings.global_batch, settings.decode_batch_per_gpu}
    if kind == "real":
        sizes |= set(settings.cpu.batches) | {tokens}
    return tuple(sorted(size for size in sizes if size <= tokens))


def _cost(setup: Setup, settings: Settings, fitted: dict[str, Any]) -> Any:
    """Kernel cost the adaptive router minimises: the fit of the set-up's table, on its card's memory."""
    if "adaptive" not in settings.routers:
        return None
    from operators.llm.moe_cost import scaled_bandwidth
    from operators.llm.steptime import slower_memory
    from operators.metro.calibrate import cost_key

    return scaled_bandwidth(fitted[cost_key(setup)], slower_memory(setup.system, setup.accelerator))


if __name__ == "__main__":
    stage.run(main)
