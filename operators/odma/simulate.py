"""Stage: serve every trace of the run with one policy, at every alpha, on the modelled device."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import stage
from operators.odma.settings import Settings

if TYPE_CHECKING:
    import polars as pl

LOG_ROWS = 2_000_000


def _schemas() -> dict[str, dict]:
    import polars as pl

    from operators.odma.metrics import MEASURES

    text, number, count = pl.String, pl.Float64, pl.Int64
    keys = {"system": text, "policy": text, "set": text, "alpha": number, "load": text, "seed": count, "data": text,
            "basis": text}  # fmt: skip
    requests = keys | {
        **{"request_id": text, "device": pl.Int32, "arrival_s": number, "input_tokens": pl.Int32},
        **{"output_tokens": pl.Int32, "predicted": number, "class": pl.Int32, "reserved_first": pl.Int32},
        **{"reserved_last": pl.Int32, "start_s": number, "first_token_s": number, "finish_s": number},
        **{"copies": pl.Int32, "copied_tokens": pl.Int32, "preemptions": pl.Int32, "parked_s": number},
        "restarts": pl.Int32,
    }
    samples = keys | {"drift": text, "step": count, "t_s": number}
    samples |= dict.fromkeys(("live", "reserved", "free", "largest_free", "n_free", "batch", "queue"), count)
    samples["boundaries"] = pl.List(pl.Int32)
    log = keys | {"seq": count, "t_s": number, "op": text, "request_id": pl.Int32, "offset": count, "tokens": count}
    log["result"] = text
    measured = {
        **{"scenario": text, "policy": text, "set": text, "arena": text, "prefill": pl.Boolean, "alpha": number},
        **{"load": text, "drift": text, "k": count, "level": number, "devices": count, "seed": count},
        **dict.fromkeys(MEASURES, number),
        **{"data": text, "basis": text},
    }
    return {"requests": requests, "samples": samples, "alloc": log, "measured": measured}


def __getattr__(name: str) -> dict:
    if name in ("SCHEMA", "SAMPLES_SCHEMA", "ALLOC_SCHEMA", "MEASURED_SCHEMA"):
        kind = {
            "SCHEMA": "requests",
            "SAMPLES_SCHEMA": "samples",
            "ALLOC_SCHEMA": "alloc",
            "MEASURED_SCHEMA": "measured",
        }
        return _schemas()[kind[name]]
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    policy: str,
    traces: Path,
    predictor: Path,
    out_requests: Path,
    out_samples: Path,
    out_alloc: Path,
    out_measured: Path,
) -> None:
    """Serve all traces with one policy; the step time is modelled, the allocator is the real one.

    Requests, samples and allocation log are kept for one seed with prefill charged; the log for all queued at t = 0.

    Args:
        policy: name of a policy of the settings
        traces: folder of traces (trace)
        predictor: folder of trained predictors (trace)
        out_requests: one row per request
        out_samples: one row per hundred steps
        out_alloc: every operation on the arena, replayable
        out_measured: measures per trace, alpha and prefill charge
    """
    import polars as pl

    kept: dict[str, list[pl.DataFrame]] = {"requests": [], "samples": [], "alloc": [], "measured": []}
    run = _Run(settings, policy, traces, predictor)
    for case in run.cases():
        for kind, frame in run.serve(case).items():
            kept[kind].append(frame)
    schemas = _schemas()
    outs = {"requests": out_requests, "samples": out_samples, "alloc": out_alloc, "measured": out_measured}
    for kind, path in outs.items():
        frame = pl.concat(kept[kind]).select(list(schemas[kind])) if kept[kind] else pl.DataFrame(schema=schemas[kind])
        stage.write_table(frame, path, schema=schemas[kind], settings=settings)


class _Run:
    """One policy over the traces of a run."""

    def __init__(self, settings: Settings, policy: str, traces: Path, predictor: Path):
        self.settings, self.policy, self._traces, self._folder = settings, policy, traces, predictor
        self._predictors: dict[str, Any] = {}
        self._last: tuple[str, Any] = ("", None)

    def cases(self):
        """(scenario, trace name, options) of everything this policy is to serve."""
        from operators.odma import scenarios

        settings = self.settings
        alphas = settings.alphas if self.policy in ("paged", "hybrid") else (None,)
        for name in scenarios.names(settings):
            if name.drift == "switch":
                if self.policy in ("odma", "odma_frozen", "static", "oracle"):
                    yield "drift", name, {}
                continue
            for prefill in (True, False):
                for alpha in alphas:
                    yield "grid", name, {"prefill": prefill, "alpha": alpha}
                if name.load == scenarios.QUEUED and name.set == "alpaca" and self.policy != "hybrid":
                    yield (
                        "count",
                        name,
                        {"prefill": prefill, "alpha": 1.0 if self.policy == "paged" else None, "count": True},
                    )
            if self.policy == "odma" and name.load == scenarios.QUEUED and name.set == "alpaca":
                for k in settings.frontier_classes:
                    for level in settings.frontier_levels:
                        yield "frontier", name, {"k": k, "level": level}
            if (
                self.policy in ("odma", "static", "oracle", "paged")
                and settings.devices > 1
                and name.seed == settings.seed
            ):
                yield "cluster", name, {"devices": settings.devices}

    def serve(self, case) -> "dict[str, pl.DataFrame]":
        """Tables of one case: always `measured`, the others where they are kept."""
        import polars as pl

        from operators.odma import cluster, device, metrics, scenarios

        scenario, name, options = case
        settings = self.settings
        prefill = options.get("prefill", settings.charge_prefill)
        alpha, devices = options.get("alpha"), options.get("devices", 1)
        policy = scenarios.policy(self.policy, settings, self._predictor(name.target), settings.longest(name.set),
                                  k=options.get("k"), level=options.get("level"))  # fmt: skip
        trace, spec = self._trace(name), scenarios.device(settings, alpha)
        keep = name.seed == settings.seed and prefill and scenario in ("grid", "drift")
        keep = keep and (alpha is None or alpha == min(settings.alphas, key=lambda a: abs(a - settings.alpha)))
        log = LOG_ROWS if keep and name.load == scenarios.QUEUED and scenario == "grid" else 0
        rules = {"count": options.get("count", False), "charge_prefill": prefill, "align": settings.align}
        if devices > 1:
            found = cluster.measures(trace, scenarios.shape(settings), [spec] * devices, policy, **rules)
        else:
            outcome = device.serve(trace, scenarios.shape(settings), spec, policy, log_rows=log, **rules)
            found = metrics.measures(outcome)
        data = trace["data"][0]
        row = {"scenario": scenario, "policy": self.policy, "set": name.set, "alpha": alpha, "load": name.load,
               "arena": "count" if rules["count"] else "real", "prefill": prefill, "drift": name.drift,
               "k": options.get("k"), "level": options.get("level"), "devices": devices, "seed": name.seed,
               **found, "data": data, "basis": "modelled"}  # fmt: skip
        tables = {"measured": pl.DataFrame([row], schema=_schemas()["measured"])}
        if keep:
            marks = {"system": "odma", "policy": self.policy, "set": name.set, "alpha": alpha, "load": name.load,
                     "seed": name.seed, "data": data, "basis": "modelled"}  # fmt: skip
            tables |= _kept(outcome, trace, marks, name.drift, bool(log))
        return tables

    def _trace(self, name) -> "pl.DataFrame":
        if self._last[0] != str(name):
            self._last = (str(name), stage.read_table(self._traces / f"{name}.parquet"))
        return self._last[1]

    def _predictor(self, target: str) -> Any:
        from operators.odma.predictor import LengthPredictor

        if target not in self._predictors:
            self._predictors[target] = LengthPredictor.load(self._folder / target)
        return self._predictors[target]


def _kept(outcome, trace, marks: dict, drift: str, log: bool) -> "dict[str, pl.DataFrame]":
    """Requests, samples and (with `log`) the allocation log, with the keys of the run."""
    import polars as pl

    from operators.odma import metrics

    schemas = _schemas()
    tables = {"requests": metrics.requests(trace, outcome), "samples": metrics.samples(outcome)}
    if log:
        tables["alloc"] = metrics.alloc_log(outcome)
    if drift != "none":
        del tables["requests"]
    marks = marks | {"drift": drift}
    return {
        kind: frame.with_columns(
            **{key: pl.lit(value, schemas[kind][key]) for key, value in marks.items() if key in schemas[kind]}
        ).select(list(schemas[kind]))
        for kind, frame in tables.items()
    }


if __name__ == "__main__":
    stage.run(main)
