"""Stage `trace`: which flows this run uses, what they are like, and a hash of each."""

import hashlib
from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.synthpix.settings import Settings

KINDS = {
    **dict.fromkeys(("flow_id", "name", "data", "path"), "String"),
    **dict.fromkeys(("height", "width", "components"), "Int64"),
    **dict.fromkeys(("u_min", "u_max", "v_min", "v_max", "std_u", "std_v", "grad_rms", "div_rms"), "Float64"),
    "sha256": "String",
}


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        import polars as pl

        return {column: getattr(pl, kind) for column, kind in KINDS.items()}
    raise AttributeError(name)


def main(*, settings: Settings, out: Path, data: Path | None = None) -> None:
    """List the flows of a run for every image size, with their statistics.

    Args:
        out: table to write (runs/flows.parquet)
        data: data root (default: synthetic twins)
    """
    import polars as pl

    from operators.synthpix import catalogue, twins

    rows = []
    for size in settings.sizes:
        shape = (size.height, size.width)
        for entry in catalogue.entries(settings.analytic, settings.items, data):
            values = catalogue.load(entry, shape, seed=settings.seed, root=data).values
            rows.append(
                {
                    **{"flow_id": f"{entry.name}-{shape[0]}x{shape[1]}", "name": entry.name, "data": entry.data},
                    **{"path": entry.path, "height": shape[0], "width": shape[1], "components": values.shape[2]},
                    **{key: float(value) for key, value in twins.statistics(values).items()},
                    "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
                }
            )
    schema = {column: getattr(pl, kind) for column, kind in KINDS.items()}
    stage.write_table(pl.DataFrame(rows, schema=schema), out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
