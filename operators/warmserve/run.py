"""Stage: real worker processes, real bytes, real signals: starts of every kind, a stream of requests, faults."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import stage
from operators.warmserve.settings import Settings

if TYPE_CHECKING:
    import polars as pl

STARTS = ("hit", "loading", "ondemand")


def _schemas() -> dict[str, dict]:
    import polars as pl

    return {
        "starts": {"kind": pl.String, "turn": pl.Int32, "ttft_s": pl.Float64, "data": pl.String},
        "faults": {
            **{"name": pl.String, "ok": pl.Boolean, "seconds": pl.Float64, "answered": pl.Int64},
            **{"restarts": pl.Int64, "reason": pl.String, "data": pl.String},
        },
        "memory": {"what": pl.String, "seconds": pl.Float64, "blocks": pl.Int64, "data": pl.String},
    }


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        return _schemas()["faults"]
    raise AttributeError(name)


def main(*, settings: Settings, out_folder: Path, address: Path | None = None) -> None:
    """Run the system for real on this machine; every listener is on 127.0.0.1.

    Args:
        out_folder: folder that gets starts, faults, memory and, as simulate does, requests, events, gpu and ledger
        address: address file of the run's Ray head (default: a private one)
    """
    import tempfile

    import polars as pl

    from operators.lab import cluster
    from operators.warmserve import run_tables, scenarios, weightfiles
    from operators.warmserve.catalogue import BLOCK_BYTES
    from operators.warmserve.frontend import FrontEnd, http

    found: dict[str, list] = {"starts": [], "faults": []}
    with tempfile.TemporaryDirectory(prefix="pg-weights-") as folder, cluster.connect(address) as ray:
        blocks = settings.real_weight_blocks // 2
        manifest = weightfiles.write(Path(folder), {"one": 1, "two": 1, "wide": 2}, blocks, BLOCK_BYTES, settings.seed)
        front = FrontEnd(ray, settings, manifest, BLOCK_BYTES)
        with http(front) as port:
            play = scenarios.Stage(front, port, manifest)
            play.start("hit", 1)  # unmeasured: first imports in the workers
            for turn in range(settings.real_starts):
                found["starts"] += [(kind, turn, play.start(kind, 100 + turn), "synthetic") for kind in STARTS]
            right = play.stream(settings.real_requests, settings.seed)
            if right != settings.real_requests:
                raise RuntimeError(f"stream: {right} of {settings.real_requests} answers are those of the weights")
            outcomes = [play.fault(failure) for failure in settings.faults]
            play.clear()
        tables = front.close()
        outcomes.append(scenarios.Outcome("nothing left", *_left_behind(front), 0, 0))
    found["faults"] = [(*dataclasses.astuple(one), "synthetic") for one in outcomes]
    found["memory"] = [(what, seconds, blocks, "synthetic") for what, seconds in tables["measured"]]
    for name, schema in _schemas().items():
        frame = pl.DataFrame(found[name], schema=schema, orient="row")
        stage.write_table(frame, out_folder / f"{name}.parquet", schema=schema, settings=settings)
    keys = {
        **{"policy": "warmserve", "cold": "real", "process_pool": True, "nodes": 1, "rps": 0.0, "alpha": 0.0},
        **{"seed": settings.seed, "data": "synthetic", "basis": "real"},
    }
    made = {"requests": _requests(front, keys), **run_tables.of_cluster(tables["cluster"], keys)}
    for name, frame in made.items():
        schema = run_tables.SCHEMAS[name]
        stage.write_table(frame, out_folder / f"{name}.parquet", schema=schema, settings=settings)


def _left_behind(front: Any) -> tuple[bool, float]:
    """(whether every process of the run is gone, 0 s): waited for, since signals take a moment."""
    from operators.lab import faults
    from operators.warmserve import scenarios

    pids = [*front.pids, *front.past_pids, front.manager_pid]
    try:
        scenarios.until(lambda: not any(faults.is_alive(pid) for pid in pids), "every process gone")
    except scenarios.ScenarioError:
        return False, 0.0
    return True, 0.0


def _requests(front: Any, keys: dict) -> "pl.DataFrame":
    import polars as pl

    from operators.warmserve import run_tables

    first = min((one.arrival_s for one in front.answers), default=0.0)
    rows = [
        {
            **{"request_id": one.request_id, "model": one.model, "arrival_s": one.arrival_s - first},
            **{"input_tokens": one.prompt, "output_tokens": len(one.tokens), "engine_id": one.engine},
            **{"start_kind": one.start_kind, "queue_s": one.sent_s - one.arrival_s},
            **{"first_token_s": one.first_s - first, "finish_s": one.finish_s - first},
            "ttft_s": one.first_s - one.arrival_s if one.first_s else None,
            "tpot_s": (one.finish_s - one.first_s) / max(len(one.tokens) - 1, 1),
            **{"preemptions": 0, "restarts": one.restarts, "failed": bool(one.error)},
        }
        for one in front.answers
    ]
    return run_tables.keyed(pl.DataFrame(rows), keys, run_tables.REQUESTS)


if __name__ == "__main__":
    stage.run(main)
