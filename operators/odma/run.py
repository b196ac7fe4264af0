"""Stage: real arenas with real copies in Ray devices under faults, and the alpha curve of this host's memory."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import stage
from operators.odma.settings import Settings

if TYPE_CHECKING:
    import polars as pl


def _schemas() -> dict[str, dict]:
    import polars as pl

    text, number, count = pl.String, pl.Float64, pl.Int64
    case = {"target": text, "action": text, "phase": text, "after": count}
    faults = case | {
        **{"submitted": count, "completed_share": number, "failed": count, "restarts": count, "restarts_max": count},
        **{"corrupt": count, "copies": count, "grown": count, "refusals": count, "doubtful": count, "version": count},
        **{"covered_first": number, "covered_last": number, "level": number, "struck": count, "pids_gone": pl.Boolean},
        **{"reserved_left": count, "wall_s": number, "seed": count, "data": text, "basis": text},
    }
    requests = case | {
        **{
            "request_id": count,
            "device": count,
            "input_tokens": count,
            "output_tokens": count,
            "reserved_first": count,
        },
        **{"reserved_last": count, "copies": count, "grown": count, "restarts": count, "error": text, "order": count},
        **{"seed": count, "data": text, "basis": text},
    }
    moves = case | {"bytes": count, "seconds": number, "GBps": number, "seed": count, "data": text, "basis": text}
    curve = {"repeat": count, "page_bytes": count, "gather_Bps": number, "stream_Bps": number, "alpha": number,
             "memory_bytes": count, "cache_bytes": count, "machine": text, "data": text, "basis": text}  # fmt: skip
    return {"faults": faults, "requests": requests, "moves": moves, "curve": curve}


def __getattr__(name: str) -> dict:
    kinds = {"SCHEMA": "faults", "REQUESTS_SCHEMA": "requests", "MOVES_SCHEMA": "moves", "CURVE_SCHEMA": "curve"}
    if name in kinds:
        return _schemas()[kinds[name]]
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    predictions: Path,
    predictor: Path,
    out_faults: Path,
    out_requests: Path,
    out_moves: Path,
    out_curve: Path,
    address: Path | None = None,
    data: Path | None = None,
) -> None:
    """Serve real bytes on device processes, once without and once per fault of the settings; measure alpha.

    Args:
        predictions: predictions of the tested prompts (trace)
        predictor: folder of trained predictors (trace)
        out_faults: one row per run
        out_requests: one row per request of each run
        out_moves: every copy, with bytes and seconds
        out_curve: gather against streaming bandwidth by page size
        address: address file of the run's Ray head (default: RAY_ADDRESS, else a private head)
        data: data root; without it synthetic twins are used
    """
    import polars as pl

    from operators.lab import cluster
    from operators.odma.actors import Pool

    schemas = _schemas()
    table = stage.read_table(predictions)
    target = "generated" if "alpaca" in settings.sets else "hard"
    prompts = _prompts(settings, table.filter(pl.col("target") == target), target, data)
    mark, tables = table["data"][0], {"faults": [], "requests": [], "moves": []}
    tables["curve"] = _curve(settings)
    with cluster.connect(address) as ray, Pool(ray) as pool:
        for fault in (None, *settings.faults):
            for kind, rows in _serve(ray, pool, settings, predictor / target, target, prompts, fault).items():
                tables[kind] += rows
    outs = {"faults": out_faults, "requests": out_requests, "moves": out_moves, "curve": out_curve}
    for kind, path in outs.items():
        rows = [row | {"data": mark if kind != "curve" else "real", "basis": "real"} for row in tables[kind]]
        frame = pl.DataFrame(rows, schema=schemas[kind])
        stage.write_table(frame, path, schema=schemas[kind], settings=settings)


def _prompts(settings: Settings, predicted: "pl.DataFrame", target: str, data: Path | None) -> list[tuple]:
    """(number, instruction, input, input tokens, output tokens) of the requests of the real run."""
    from operators.odma import sets

    if target == "hard":
        table, _ = sets.hard(data, models=settings.hard_models, longest=settings.longest("hard"), seed=settings.seed)
    else:
        rows, _ = sets.alpaca_rows(data, prompts=settings.prompts, seed=settings.seed)
        table = sets.generated(rows, prompts=settings.prompts, seed=settings.seed)
    tested = table.join(predicted.select("prompt_id", "label", "input_tokens"), on=["prompt_id", "label"])
    some = tested.sample(min(settings.real_requests, len(tested)), seed=settings.seed, shuffle=True)
    some = some.select("instruction", "input", "input_tokens", "length")
    return [(number, *row) for number, row in enumerate(some.rows())]


def _serve(
    ray: Any, pool: Any, settings: Settings, folder: Path, target: str, prompts: list, fault: Any
) -> dict[str, list[dict]]:
    """One real run and its rows."""
    from operators.lab import faults
    from operators.odma.actors import ClusterManager
    from operators.odma.predictor import LengthPredictor

    tau = LengthPredictor.load(folder).tau(settings.tau_quantile)
    case = {"target": "none", "action": "none", "phase": "", "after": 0}
    if fault is not None:
        phase = fault.phase if fault.target == "device" and fault.action == "kill" else ""
        case = {"target": fault.target, "action": fault.action, "phase": phase, "after": fault.after}
    began = time.perf_counter()
    manager = ClusterManager(
        ray, predictor=folder, level=settings.real_level, devices=settings.real_devices, capacity=settings.real_tokens,
        width=settings.real_token_bytes, longest=settings.longest("alpaca" if target == "generated" else "hard"),
        classes=settings.classes, tau=tau, pool=pool, patience_s=settings.real_patience_s,
        schedule=[fault] if fault else [],
    )  # fmt: skip
    with manager:
        state = manager.serve(prompts)
        pids = [pid for _, pid in manager.struck]
    patience = time.monotonic() + 20
    while any(faults.is_alive(pid) for pid in pids) and time.monotonic() < patience:
        time.sleep(0.02)
    records, keys = list(state.records.values()), {"seed": settings.seed}
    half = max(1, len(manager.covered) // 4)
    row = case | {
        "submitted": len(records),
        "completed_share": len(state.finished) / len(records),
        "failed": len(state.failed),
        **{name: sum(getattr(one, name) for one in records) for name in ("restarts", "corrupt", "copies", "grown")},
        "restarts_max": max(one.restarts for one in records),
        "refusals": sum(one.refusals for one in records),
        "doubtful": manager.doubtful,
        "version": manager.version,
        "covered_first": sum(manager.covered[:half]) / half,
        "covered_last": sum(manager.covered[-half:]) / half,
        "level": settings.real_level,
        "struck": len(manager.struck),
        "pids_gone": not any(faults.is_alive(pid) for pid in pids),
        "reserved_left": sum(state.reserved.values()),
        "wall_s": time.perf_counter() - began,
    }
    requests = [
        case | keys | {"request_id": number, "device": one.device, "input_tokens": one.request.input_tokens,
                       "output_tokens": one.request.output_tokens, "reserved_first": one.request.reserve,
                       "reserved_last": one.reserved_last, "copies": one.copies, "grown": one.grown,
                       "restarts": one.restarts, "error": one.error, "order": one.order}
        for number, one in state.records.items()
    ]  # fmt: skip
    moves = [case | keys | {"bytes": size, "seconds": s, "GBps": size / s / 1e9} for size, s in manager.moves]
    return {"faults": [row | keys], "requests": requests, "moves": moves}


def _curve(settings: Settings) -> list[dict]:
    """The alpha curve, repeated; empty where the native kernel is not built."""
    from operators.odma import alpha
    from operators.odma.arena import native

    if native() is None:
        return []
    data = alpha.memory(settings.curve_mib, seed=settings.seed)
    facts = {"memory_bytes": data.nbytes, "cache_bytes": alpha.cache_bytes(), "machine": stage.machine()}
    return [
        facts | row | {"repeat": repeat}
        for repeat in range(settings.curve_repeats)
        for row in alpha.curve(data, ms=settings.curve_ms, seed=settings.seed + repeat)
    ]


if __name__ == "__main__":
    stage.run(main)
