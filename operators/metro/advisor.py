"""Command: advice for your own routing trace (it belongs to no workflow rule).

The trace is a Parquet table with a column `experts` (list of ids, one row per token) and, if there are several,
`layer` and `step`; or a NumPy file with ids of shape (tokens, k) or (steps, layers, tokens, k). Every step counts as
one batch. With a single step the tokens are halved: placement is fitted on one half and judged on the other.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.metro.settings import Settings

if TYPE_CHECKING:
    import numpy as np


def main(
    *,
    trace: Path,
    settings: Settings,
    model: str = "qwen3-30b",
    out: Path | None = None,
    data: Path | None = None,
) -> None:
    """Print which replication ratio and router suit a routing trace, and what memory each ratio costs.

    Args:
        trace: Parquet or NumPy file of expert ids
        model: set-up whose shapes, GPUs and kernel table are used (one of the settings' set-ups)
        out: write the table here as Parquet
        data: data root for the kernel tables; without it synthetic ones
    """
    from rich.console import Console
    from rich.table import Table

    from operators.llm.accelerators import ACCELERATORS
    from operators.llm.shapes import MODELS
    from operators.metro.advice import advise

    setup = next((one for one in settings.setups if one.model == model), None)
    if setup is None:
        raise ValueError(f"model (={model!r}): expected one of {', '.join(one.model for one in settings.setups)}")
    shape, card = MODELS[model], ACCELERATORS[setup.accelerator]
    counts = counts_of_trace(trace, shape.n_experts)
    table = advise(
        counts,
        kernel_cost(setup, data),
        card.mem_bytes,
        settings.ratios,
        num_gpus=setup.gpus,
        expert_bytes=float(shape.expert_bytes(setup.dtype)) * shape.n_moe_layers / counts.shape[1],
    )
    shown = Table(
        title=f"{trace.name}: {counts.shape[0]} steps, {counts.shape[1]} layers, {model} on {setup.gpus} x {card.name}"
    )
    for name in ("r", "router", "expert time per layer (us)", "expert weights per GPU (GB)", "fits"):
        shown.add_column(name, justify="right")
    for row in table.iter_rows(named=True):
        layer_us, gigabytes = row["tpot_us"] / counts.shape[1], row["bytes_per_gpu"] / 1e9
        shown.add_row(
            f"{row['r']:g}", row["router"], f"{layer_us:.1f}", f"{gigabytes:.1f}", "yes" if row["fits"] else "no"
        )
    Console().print(shown)
    if out:
        with stage.atomic(out) as temporary:
            table.write_parquet(temporary)


def kernel_cost(setup, data: Path | None):
    """The set-up's kernel cost, fitted to its table, on its card's memory."""
    from operators.llm.moe_cost import scaled_bandwidth
    from operators.llm.steptime import slower_memory, step_tables

    where = {"system": setup.system, "framework": setup.framework, "dtype": setup.dtype}
    tables = step_tables(setup.model, accelerator=setup.accelerator, data=data, **where)
    return scaled_bandwidth(tables.moe.fit, slower_memory(setup.system, setup.accelerator))


def counts_of_trace(path: Path, num_experts: int) -> "np.ndarray":
    """Tokens per expert `(steps, layers, N)` of a trace file; TraceError or ValueError names what is wrong with it."""
    import numpy as np

    from operators.metro.batches import counts

    batches = _from_numpy(path) if path.suffix in (".npy", ".npz") else _from_parquet(path)
    if len(batches) == 1:
        half = len(batches[0][0]) // 2
        batches = [[topk[:half] for topk in batches[0]], [topk[half:] for topk in batches[0]]]
    return np.array([[counts(topk, num_experts) for topk in layers] for layers in batches])


def _from_numpy(path: Path) -> list:
    import numpy as np

    ids = np.load(path)
    if path.suffix == ".npz":
        ids = ids[ids.files[0]]
    if ids.ndim not in (2, 4) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"{path}: {ids.dtype} of shape {ids.shape}; expected integer ids (tokens, k) or (steps, layers, tokens, k)"
        )
    return [[ids]] if ids.ndim == 2 else [list(layers) for layers in ids]


def _from_parquet(path: Path) -> list:
    import polars as pl

    from operators.metro.batches import topk_of

    frame = stage.read_table(path)
    if "experts" not in frame.columns:
        raise ValueError(f"{path}: no column `experts`; it has {', '.join(frame.columns)}")
    keys = {
        name: frame[name] if name in frame.columns else pl.repeat(0, len(frame), eager=True)
        for name in ("step", "layer")
    }
    frame = frame.with_columns(**keys)
    steps = [
        [topk_of(layer) for _, layer in step.group_by("layer", maintain_order=True)]
        for _, step in frame.group_by("step", maintain_order=True)
    ]
    if len({len(layers) for layers in steps}) != 1:
        raise ValueError(f"{path}: steps hold different numbers of layers; expected every layer in every step")
    return steps


if __name__ == "__main__":
    stage.run(main)
