"""Stage: draw numbers with two policies."""

import time
from pathlib import Path

from operators.lab import stage
from operators.toy.settings import Settings


def main(*, settings: Settings, out: Path) -> None:
    """Draw `rows` numbers per seed and policy.

    Args:
        out: raw draws
    """
    import numpy as np
    import polars as pl

    while settings.hold and Path(settings.hold).exists():
        time.sleep(0.05)
    rows = [
        (policy, seed, float(scale * np.random.default_rng([seed, stream]).random(settings.rows).mean()), "synthetic")
        for stream, (policy, scale) in enumerate({"plain": 1.0, "half": 0.5}.items())
        for seed in range(settings.seed, settings.seed + settings.seeds)
    ]
    schema = {"policy": pl.String, "seed": pl.Int64, "mean": pl.Float64, "data": pl.String}
    stage.write_table(pl.DataFrame(rows, schema=schema, orient="row"), out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
