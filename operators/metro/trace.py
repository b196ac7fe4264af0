"""Stage: the batches a run will route and the expert loads its placements are fitted on."""

from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.metro.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from operators.metro.draws import Source


def _schemas() -> tuple[dict, dict]:
    import polars as pl

    keys = {"model": pl.String, "workload": pl.String}
    batches = keys | {
        "batches": pl.String,  # real | synthesised
        "data": pl.String,  # real | synthetic
        "seed": pl.Int32,
        "step": pl.Int32,
        "layer": pl.Int16,
        "token": pl.Int32,
        "experts": pl.List(pl.UInt8),
    }
    load = keys | {
        "role": pl.String,  # place | evaluate | prefill
        "serves": pl.String,  # the batches' workload this load belongs to
        "phase": pl.String,  # decode | prefill
        "layer": pl.Int16,
        "expert": pl.Int16,
        "tokens": pl.Float64,  # assignments, or a weight in proportion
        "data": pl.String,
    }
    return batches, load


def __getattr__(name: str) -> dict:
    if name in ("SCHEMA", "LOAD_SCHEMA"):
        return _schemas()[name == "LOAD_SCHEMA"]
    raise AttributeError(name)


def main(*, settings: Settings, out_batches: Path, out_load: Path, data: Path | None = None) -> None:
    """Draw or read every batch of the run.

    Args:
        out_batches: table of tokens, one row each with its experts
        out_load: table of expert loads: what to place on, what was drawn from, what prefill draws from
        data: data root; without it synthetic twins are used
    """
    import polars as pl

    from operators.metro import draws

    tokens, loads = [], []
    largest = max(*settings.batch_per_gpu, settings.decode_batch_per_gpu)
    gpus: dict[str, int] = {}
    for setup in settings.setups:
        gpus[setup.model] = max(gpus.get(setup.model, 0), setup.gpus)
    for source in draws.sources(settings, data):
        count = max(largest * gpus.get(source.model, 0), settings.global_batch)
        tokens += [_block(source, seed, step, topk) for seed, step, topk in _steps(source, settings, count)]
        loads += _loads(source)
    batch_schema, load_schema = _schemas()
    stage.write_table(pl.concat(tokens).select(list(batch_schema)), out_batches, schema=batch_schema, settings=settings)
    stage.write_table(pl.concat(loads).select(list(load_schema)), out_load, schema=load_schema, settings=settings)


def _steps(source: "Source", settings: Settings, count: int):
    if source.batches == "real":
        for step, topk in source.given:
            yield settings.seed, step, topk
        return
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for step in range(settings.steps):
            yield seed, step, source.draw(step, count, seed)


def _block(source: "Source", seed: int, step: int, topk) -> "pl.DataFrame":
    import numpy as np
    import polars as pl

    layers, count, k = topk.shape
    flat = np.ascontiguousarray(topk.reshape(-1, k).astype(np.uint8))
    columns = {
        "layer": np.repeat(source.layers.astype(np.int16), count),
        "token": np.tile(np.arange(count, dtype=np.int32), layers),
        "experts": pl.Series(flat, dtype=pl.Array(pl.UInt8, k)).cast(pl.List(pl.UInt8)),
    }
    return pl.DataFrame(columns).with_columns(
        model=pl.lit(source.model),
        workload=pl.lit(source.workload),
        batches=pl.lit(source.batches),
        data=pl.lit(source.data),
        seed=pl.lit(seed, pl.Int32),
        step=pl.lit(step, pl.Int32),
    )


def _loads(source: "Source") -> list["pl.DataFrame"]:
    import numpy as np
    import polars as pl

    frames = []
    roles = (
        ("place", source.placed_on, "decode", source.place),
        ("evaluate", source.workload, "decode", source.evaluate),
        ("prefill", source.prefill_name, "prefill", source.prefill),
    )
    for role, workload, phase, load in roles:
        if load is None:
            continue
        layers, experts = load.shape
        columns = {
            "layer": np.repeat(source.layers.astype(np.int16), experts),
            "expert": np.tile(np.arange(experts, dtype=np.int16), layers),
            "tokens": load.ravel().astype(np.float64),
        }
        marks = {
            "model": source.model,
            "workload": workload,
            "role": role,
            "serves": source.workload,
            "phase": phase,
            "data": source.data,
        }
        frames.append(pl.DataFrame(columns).with_columns(**{key: pl.lit(value) for key, value in marks.items()}))
    return frames


if __name__ == "__main__":
    stage.run(main)
