"""Comparison rows of METRO: the common ones with the sizes N (experts), G (GPUs) and B (tokens) of each case."""

from typing import Any

from operators.lab import peers

SIZES = ("N", "G", "B")


def schema() -> dict[str, Any]:
    """Columns and types of METRO's bench.parquet."""
    import polars as pl

    return peers.schema(dict.fromkeys(SIZES, pl.Int64))


def row(*, bench: str, case: str, ours: str, peer: str, unit: str, **fields: Any) -> dict[str, Any]:
    """`lab.peers.row` with all of N, G and B, 0 where a case has no such size."""
    sizes = {name: fields.pop(name, 0) for name in SIZES}
    made = peers.row(bench=bench, case=case, ours=ours, peer=peer, unit=unit, **fields, **sizes)
    if unknown := set(made) - set(peers.COLUMNS) - set(SIZES):
        raise ValueError(f"row: unknown fields {sorted(unknown)}; sizes are N, G and B")
    return made
