"""Stage: who trains and who tests, trained predictors, predictions of unseen prompts, and the traces to serve."""

from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.odma.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from operators.odma.predictor import LengthPredictor


def _schemas(settings: Settings | None = None) -> tuple[dict, dict, dict]:
    import polars as pl

    levels = (settings or Settings()).levels
    numbers = [f"{letter}{round(level * 100)}" for letter in "qn" for level in levels]
    split = {"target": pl.String, "prompt_id": pl.Int32, "label": pl.String, "split": pl.String, "length": pl.Int32,
             "data": pl.String}  # fmt: skip
    predictions = {
        **{"target": pl.String, "prompt_id": pl.Int32, "label": pl.String, "split": pl.String, "length": pl.Int32},
        **{"second": pl.Int32, "input_tokens": pl.Int32, "mean": pl.Float64, "u": pl.Float64},
        **dict.fromkeys(numbers, pl.Float64),
        "shares": pl.List(pl.List(pl.Float32)),  # class probabilities, one list per rule of scenarios.RULES
        "data": pl.String,
    }
    trace = {
        **{"request_id": pl.String, "arrival_s": pl.Float64, "input_tokens": pl.Int32, "output_tokens": pl.Int32},
        **{"prompt_id": pl.Int32, "mean": pl.Float64, "u": pl.Float64},
        **dict.fromkeys(numbers, pl.Float64),
        "data": pl.String,
    }
    return predictions, split, trace


def __getattr__(name: str) -> dict:
    if name in ("SCHEMA", "SPLIT_SCHEMA", "TRACE_SCHEMA"):
        return _schemas()[("SCHEMA", "SPLIT_SCHEMA", "TRACE_SCHEMA").index(name)]
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    out_split: Path,
    out_predictions: Path,
    out_predictor: Path,
    out_traces: Path,
    data: Path | None = None,
) -> None:
    """Train predictors on one side of each set, predict the other, and draw the traces of the run.

    Args:
        out_split: who trains and who tests, with lengths
        out_predictions: predictions of every tested prompt
        out_predictor: folder of the trained predictors, one below it per target
        out_traces: folder of the traces, <set>-<load>-<drift>-<seed>.parquet
        data: data root; without it synthetic twins are used
    """
    import polars as pl

    from operators.odma import scenarios

    schemas = _schemas(settings)
    tables, switched, mark = _tables(settings, data)
    frames, parts = {}, []
    for target in scenarios.targets(settings):
        frame = tables[target]
        predictor = _trained(frame.filter(pl.col("split") == "train"), settings)
        predictor.save(out_predictor / target)
        tested = frame.filter(pl.col("split") == "val")
        frames[target] = _predicted(predictor, tested, target)
        parts.append(frames[target])
        if target == "reference":
            frames["before"] = _predicted(predictor, switched, "before")
            after = tables["generated"].filter(pl.col("split") == "val")
            frames["after"] = _predicted(predictor, after, "after")
            parts += [frames["before"], frames["after"]]
    splits = [table.with_columns(target=pl.lit(target)) for target, table in tables.items()]
    split = pl.concat(splits).with_columns(data=pl.lit(mark)).select(list(schemas[1]))
    stage.write_table(split, out_split, schema=schemas[1], settings=settings)
    together = pl.concat(parts).with_columns(data=pl.lit(mark)).select(list(schemas[0]))
    stage.write_table(together, out_predictions, schema=schemas[0], settings=settings)
    _write_traces(frames, settings, out_traces, mark, data, schemas[2])


def _tables(settings: Settings, data: Path | None) -> "tuple[dict[str, pl.DataFrame], pl.DataFrame | None, str]":
    """The sets by target, the reference lengths of the tested prompts, and whether the run's data are real."""
    from operators.odma import sets

    tables, marks, switched = {}, set(), None
    if "alpaca" in settings.sets:
        rows, mark = sets.alpaca_rows(data, prompts=settings.prompts, seed=settings.seed)
        tables["generated"] = sets.generated(rows, prompts=settings.prompts, seed=settings.seed)
        tables["reference"] = sets.reference(
            rows, prompts=settings.reference_prompts, tested=tables["generated"], seed=settings.seed
        )
        switched = sets.switched(rows, tables["generated"])
        marks.add(mark)
    if "hard" in settings.sets:
        longest = settings.longest("hard")
        tables["hard"], mark = sets.hard(data, models=settings.hard_models, longest=longest, seed=settings.seed)
        marks.add(mark)
    return tables, switched, "real" if marks == {"real"} else "synthetic"


def _trained(frame: "pl.DataFrame", settings: Settings) -> "LengthPredictor":
    from operators.odma.predictor import LengthPredictor

    labels = frame["label"].to_list()
    return LengthPredictor(settings.levels).fit(
        frame["instruction"].to_list(),
        frame["input"].to_list(),
        frame["length"].to_numpy(),
        meta=labels if any(labels) else None,
    )


def _predicted(predictor: "LengthPredictor", frame: "pl.DataFrame", target: str) -> "pl.DataFrame":
    """Predictions of prompts the predictor has not seen; it is given the two texts and the label, nothing else."""
    import numpy as np
    import polars as pl

    from operators.odma import scenarios, sets
    from operators.odma.device import q_column

    texts, inputs, labels = (frame[name].to_list() for name in ("instruction", "input", "label"))
    rules = [] if target in ("before", "after") else scenarios.RULES  # those serve streams, not accuracy
    edges = [scenarios.rule_edges(rule, size, predictor.train_lengths) for rule, size in rules]
    found, needs, shares = predictor.all_at_once(texts, inputs, labels, edges)
    columns = {"mean": found.mean, "u": found.u}
    columns |= {q_column(level): found.q[:, i] for i, level in enumerate(predictor.levels)}
    columns |= {q_column(level, "n"): needs[:, i] for i, level in enumerate(predictor.levels)}
    rows = [[rule[i].astype(np.float32).tolist() for rule in shares] for i in range(len(frame))]
    return frame.select("prompt_id", "label", "split", "length", "second").with_columns(
        target=pl.lit(target),
        input_tokens=sets.prompt_tokens(frame),
        shares=pl.Series(rows, dtype=pl.List(pl.List(pl.Float32))),
        **{name: pl.Series(values) for name, values in columns.items()},
    )


def _write_traces(frames: dict, settings: Settings, folder: Path, mark: str, data: Path | None, schema: dict) -> None:
    import numpy as np
    import polars as pl

    from operators.llm import workloads
    from operators.odma import scenarios
    from operators.odma.metrics import measures
    from operators.odma.policies import oracle

    # Once here, so that the kernels are compiled before several jobs want them.
    _serve_all(_stream(frames, scenarios.names(settings)[0], np.random.default_rng(0))[:200], settings, oracle())
    gaps = None
    for name in scenarios.names(settings):
        rng = np.random.default_rng([settings.seed, name.seed, 21])
        frame = _stream(frames, name, rng)
        if name.load != scenarios.QUEUED:
            if gaps is None:
                azure, where = workloads.read("azure_conv", data, seed=settings.seed)
                gaps = np.diff(azure["arrival_s"].to_numpy(), prepend=0.0)
                mark = mark if where == "real" else "synthetic"
            served = _serve_all(frame, settings, oracle())
            frame = frame.with_columns(
                arrival_s=_arrivals(gaps, len(frame), float(name.load) * measures(served)["rps"], rng)
            )
        frame = frame.with_columns(data=pl.lit(mark), request_id=pl.Series([str(i) for i in range(len(frame))]))
        stage.write_table(frame.select(list(schema)), folder / f"{name}.parquet", schema=schema, settings=settings)


def _stream(frames: dict, name, rng) -> "pl.DataFrame":
    """The requests of one trace in order, all at t = 0."""
    import numpy as np
    import polars as pl

    if name.drift == "switch":
        order, half = rng.permutation(len(frames["before"])), len(frames["before"]) // 2
        frame = pl.concat([frames["before"][np.sort(order[:half])], frames["after"][np.sort(order[half:])]])
        inside = np.concatenate([rng.permutation(half), half + rng.permutation(len(order) - half)])
        frame = frame[inside]
    else:
        frame = frames[name.target]
        frame = frame[rng.permutation(len(frame))]
    return frame.rename({"length": "output_tokens"}).with_columns(arrival_s=pl.lit(0.0))


def _serve_all(frame, settings: Settings, policy):
    from operators.odma import scenarios
    from operators.odma.device import serve

    return serve(frame, scenarios.shape(settings), scenarios.device(settings), policy, sample_rows=0,
                 charge_prefill=settings.charge_prefill, align=settings.align)  # fmt: skip


def _arrivals(gaps, n: int, rps: float, rng):
    """`n` arrival times with the trace's gaps in their order, from a random place on, at `rps` on average."""
    import numpy as np

    start = int(rng.integers(len(gaps)))
    some = np.take(gaps, np.arange(start, start + n), mode="wrap")
    times = np.cumsum(some)
    times -= times[0]
    return times * ((n - 1) / rps / times[-1])


if __name__ == "__main__":
    stage.run(main)
