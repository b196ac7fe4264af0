"""Stage: the workload of a run from its seed, and the recorded histories (real, or their twin) as one table."""

import json
from pathlib import Path

from operators.lab import stage
from operators.locks.settings import Settings


def _schemas() -> tuple[dict, dict]:
    import polars as pl

    work = {
        "policy": pl.String,  # `all`: every policy runs the same rows
        "structure": pl.String,
        "zipf": pl.Float64,
        "proc": pl.Int32,
        "rep": pl.Int32,
        "i": pl.Int32,
        "op": pl.UInt8,  # 0 find or transfer, 1 insert, 2 remove
        "a": pl.Int32,  # account from, or key
        "b": pl.Int32,  # account to
        "amount": pl.Int32,
        "update_pct": pl.Int32,
        "seed": pl.Int64,
        "data": pl.String,
    }
    histories = {
        "history": pl.String,
        "model": pl.String,  # register | kv
        "key": pl.String,
        "process": pl.Int64,
        "op": pl.String,
        "args": pl.String,  # JSON list
        "result": pl.String,  # JSON, null = unknown
        "t_invoke": pl.Int64,  # line number
        "t_return": pl.Int64,  # null = never
        "expected": pl.Boolean,  # the known verdict on the whole history
        "data": pl.String,
    }
    return work, histories


def __getattr__(name: str) -> dict:
    if name in ("SCHEMA", "HISTORY_SCHEMA"):
        return _schemas()[name == "HISTORY_SCHEMA"]
    raise AttributeError(name)


def main(*, settings: Settings, out_workload: Path, out_histories: Path, data: Path | None = None) -> None:
    """Draw every row of the workloads and read or generate every history.

    Args:
        out_workload: arguments of the calls, by structure and skew
        out_histories: calls of the recorded histories with their known verdicts
        data: data root; without it the synthetic twin is used
    """
    import polars as pl

    work_schema, history_schema = _schemas()
    frames = [
        frame
        for structure in settings.structures
        for zipf in settings.zipf
        for frame in _workload(settings, structure, zipf)
    ]
    stage.write_table(pl.concat(frames).select(list(work_schema)), out_workload, schema=work_schema, settings=settings)
    rows = _histories(settings, data)
    table = pl.DataFrame(rows, schema=history_schema, orient="row")
    stage.write_table(table, out_histories, schema=history_schema, settings=settings)


def _workload(settings: Settings, structure: str, zipf: float):
    import numpy as np
    import polars as pl

    from operators.locks import workload

    n = settings.sizes[structure]
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for pct in settings.update_pct if structure != "transfer" else (100,):
            if structure == "transfer":
                table = workload.rows(seed, settings.rows, accounts=n, zipf=zipf)
                op = np.zeros(len(table), np.uint8)
            else:
                keys, op = workload.set_rows(seed, settings.rows, n=n, update_pct=pct, zipf=zipf)
                table = np.stack([keys, np.zeros_like(keys), np.zeros_like(keys)], axis=1)
            marks = {"policy": "all", "structure": structure, "zipf": zipf, "update_pct": pct, "seed": seed}
            yield (
                pl.DataFrame(
                    {"i": np.arange(len(table), dtype=np.int32), "op": op, "a": table[:, 0], "b": table[:, 1]}
                    | {"amount": table[:, 2]}
                )
                .with_columns(
                    **{key: pl.lit(value) for key, value in marks.items()},
                    proc=pl.lit(0, pl.Int32),
                    rep=pl.lit(0, pl.Int32),
                    data=pl.lit("synthetic"),
                )
                .with_columns(pl.col("update_pct").cast(pl.Int32), pl.col("seed").cast(pl.Int64))
            )


def _histories(settings: Settings, data: Path | None) -> list[tuple]:
    from operators.locks import history, twin

    real = data is not None and (Path(data) / history.SET).is_dir()
    source = list(history.read_real(data) if real else twin.histories(settings.seed))
    if settings.lincheck:  # a few of both kinds, evenly
        etcd, kv = [s for s in source if not s[0].startswith("kv/")], [s for s in source if s[0].startswith("kv/")]
        few = max(1, settings.lincheck - len(kv))
        source = etcd[:: max(1, len(etcd) // few)][:few] + kv[: max(0, settings.lincheck - few)]
    mark, rows = "real" if real else "synthetic", []
    for name, text, verdict in source:
        if name.startswith("kv/"):
            parts = {("kv", key): ops for key, ops in history.parse_kv(text, name).items()}
        else:
            parts = {("register", ""): history.parse_register(text, name)}
        for (model, key), ops in parts.items():
            rows += [
                (
                    *(name, model, key, op.process, op.op, json.dumps(op.args), _json(op.result)),
                    *(op.t_invoke, op.t_return, verdict, mark),
                )
                for op in ops
            ]
    return rows


def _json(result: object) -> str | None:
    return None if result is None else json.dumps(result)


if __name__ == "__main__":
    stage.run(main)
