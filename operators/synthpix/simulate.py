"""Stage `simulate`: render every pair of the run into shards, by workers that may die, and write the manifest."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.synthpix.settings import Settings

_WHOLE = ("pair", "seed", "epoch", "shard", "n_particles", "visible_1", "visible_2", "saturated_1", "saturated_2",
          "label_failed")  # fmt: skip
_TEXT = ("flow_id", "sha256", "data")
COLUMNS = (
    *("pair", "flow_id", "seed", "epoch", "shard", "sha256", "data", "density", "diameter_lo", "diameter_hi"),
    *("intensity_lo", "intensity_hi", "rho_lo", "rho_hi", "n_particles", "ppp_effective", "visible_1", "visible_2"),
    *("loss_of_pair", "saturated_1", "saturated_2", "grey_mean_1", "grey_mean_2", "snr", "label_failed"),
)
KINDS = {c: "Int64" if c in _WHOLE else "String" if c in _TEXT else "Float64" for c in COLUMNS}


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        import polars as pl

        return {column: getattr(pl, kind) for column, kind in KINDS.items()}
    raise AttributeError(name)


def main(
    *, settings: Settings, flows: Path, shards: Path, out: Path, data: Path | None = None, address: Path | None = None
) -> None:
    """Render what is missing of the run's shards and list every pair with its hash.

    Args:
        flows: flows.parquet (trace)
        shards: folder of shards; those of this run that are whole are kept
        out: table to write (runs/manifest.parquet)
        data: data root (default: synthetic twins)
        address: address file of the run's Ray head (default: RAY_ADDRESS, else a private head)
    """
    import logging

    import polars as pl

    from operators.lab import cluster
    from operators.synthpix import rendering

    hashes = stage.read_table(flows)["sha256"].to_list()
    _, manifest, report = rendering.run(settings, shards, data, hashes, lambda: cluster.connect(address))
    for what in report.struck:
        logging.getLogger("synthpix").info("fault: %s", what)
    logging.getLogger("synthpix").info("%d pairs in %.1f s, %d workers replaced", len(manifest), report.seconds,
                                       report.restarts)  # fmt: skip
    schema = {column: getattr(pl, kind) for column, kind in KINDS.items()}
    stage.write_table(manifest, out, schema=schema, settings=settings)


if __name__ == "__main__":
    stage.run(main)
