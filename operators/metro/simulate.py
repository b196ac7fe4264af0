"""Stage: what the routing would cost on the paper's accelerators: TPOT, TTFT, throughput, serving, Pareto, roofline.

Sections 2.7, 2.8 and 2.10. Decode times are calibrated (measured kernel and collective tables), prefill is modelled,
and both say so in `basis`. Both ways of dispatch are simulated for every router; the paper's METRO is all-gather, an
engine's even split is all-to-all. Departures: parts of the step without a public table are modelled (steptime.py).
"""

import functools
import itertools
from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.metro.settings import Settings, Setup

REAL_SYSTEM = ("a100-40g", 8192)  # the paper's real machine and its context, simulated beside the settings' own
PARETO_LAYERS, PARETO_STEPS = 6, 4  # layers spread over the model, drawn steps each
PARETO_ROUTERS = ("even", "metro")
SERVE_LAYERS = 8  # permuted layers the expert time of the serving run is averaged over
VALIDATION = ("vllm-measured", "RTXPRO6000_Qwen3-30B-A3B-Instruct-2507_requests.parquet")
ROOFLINE = [("deepseek-v3", "bfloat16"), ("deepseek-v3", "fp8"), ("qwen3-30b", "bfloat16")]
ROOFLINE_TOKENS = (16, 32, 63, 64, 256, 1024)

LOOKUPS = ("levels", "step")  # both readings of the expert tables, see steptime.moe_us
RUN = ["model", "accelerator", "gpus", "system", "framework", "dtype", "lookup"]
KEYS = ["workload", "batches", "data", "placed_on", "r", "batch_per_gpu", "router", "seed"]


def schemas() -> dict[str, dict[str, Any]]:
    """Columns of every table this stage writes."""
    import polars as pl

    text, whole, real = pl.String, pl.Int32, pl.Float64
    run = dict.fromkeys(RUN, text) | {"gpus": whole}
    keys = dict.fromkeys(KEYS, text) | {"r": real, "batch_per_gpu": real, "seed": whole}
    tpot = [
        "t_moe_us",
        "t_comm_us",
        "t_dispatch_us",
        "t_combine_us",
        "t_router_us",
        "t_attn_us",
        "t_other_us",
        "t_rest_us",
    ]
    tpot += ["layer_us", "ffn_us", "comm_us", "comm_extra_us", "router_us", "exact_us", "tpot_us"]
    tpot += ["lam", "lam_exact", "lam_over_exact", "activated", "max_tokens", "gpu_bytes"]
    ttft = {"requests_per_gpu": whole, "input_tokens": whole, "prefill_steps": whole}
    ttft |= dict.fromkeys(["prefill_us", "first_decode_us", "ttft_us", "max_tokens"], real)
    mix = {"comm": text, "input_tokens": whole, "output_tokens": whole}
    mix |= dict.fromkeys(["tpot_us", "prefill_tok_s", "throughput_tok_s"], real)
    times = dict.fromkeys(["ttft_us", "tpot_us", "measured_ttft_us", "measured_tpot_us"], real)
    requests = {"gate": text, "request_id": text, "rank": whole, "arrival_s": real, "input_tokens": whole}
    pareto = {"grid": text, "router": text, "r": real, "comm": text, "batch": whole, "tp": whole, "ep": whole}
    pareto |= dict.fromkeys(["lam", "tpot_us", "throughput_per_gpu"], real) | {"layers_used": whole, "seed": whole}
    roofline = {"model": text, "accelerator": text, "dtype": text, "tokens": whole}
    roofline |= dict.fromkeys(["activated", "flop_per_byte", "ridge_flop_per_byte", "ridge_over_intensity"], real)
    roofline |= dict.fromkeys(["activation_bytes", "weight_bytes", "activation_share"], real)
    basis = {"basis": text}
    where = {"comm": text, "context": real, "layers": whole, "steps": whole, "comm_basis": text}
    return {
        "tpot": run | keys | where | basis | dict.fromkeys(tpot, real),
        "ttft": run | keys | ttft | basis,
        "throughput": run | keys | mix | basis,
        "serve": requests | {"output_tokens": whole} | times | {"data": text} | basis,
        "pareto": run | pareto | {"batches": text, "data": text} | basis,
        "roofline": roofline | {"data": text} | basis,
    }


def main(
    *,
    routing: Path,
    costs: Path,
    settings: Settings,
    out_tpot: Path,
    out_ttft: Path,
    out_throughput: Path,
    out_serve: Path,
    out_pareto: Path,
    out_roofline: Path,
    data: Path | None = None,
) -> None:
    """Simulate decode, prefill, serving and the Pareto sweep of the routed batches.

    Args:
        routing: routing table of the route stage
        costs: fitted costs of the calibrate stage
        out_tpot: time per output token and its parts
        out_ttft: time to first token
        out_throughput: total token throughput of the mixes
        out_serve: per-request latencies of the serving run, measured ones beside them where the data set is there
        out_pareto: TPOT and throughput over batch, TP and EP
        out_roofline: arithmetic intensity against the ridge point
        data: data root; without it the synthetic tables
    """
    import polars as pl

    from operators.metro.calibrate import read_costs

    rows = stage.read_table(routing)
    fitted = read_costs(costs)
    done: dict[str, list[pl.DataFrame]] = {name: [] for name in schemas()}
    for setup, lookup in itertools.product(settings.setups, LOOKUPS):
        step = setup_tables(setup, fitted, data, lookup)
        some = rows.filter((pl.col("model") == setup.model) & (pl.col("G") == setup.gpus))
        decoded = decode_runs(step, setup, some.filter(pl.col("phase") == "decode"), settings)
        prefills = some.filter(pl.col("phase") == "prefill")
        done["tpot"].append(decoded)
        done["ttft"].append(ttft_runs(step, setup, prefills, decoded, settings))
        done["throughput"].append(mix_runs(step, setup, prefills, decoded, settings))
        done["pareto"].append(pareto_runs(step, setup, some, settings, data))
    done["serve"].append(serve_runs(settings, fitted, data))
    done["roofline"].append(roofline_rows())
    outs = {"tpot": out_tpot, "ttft": out_ttft, "throughput": out_throughput, "serve": out_serve}
    for name, path in (outs | {"pareto": out_pareto, "roofline": out_roofline}).items():
        schema = schemas()[name]
        frames = [_shaped(frame, schema) for frame in done[name] if len(frame)]
        table = pl.concat(frames) if frames else pl.DataFrame(schema=schema)
        stage.write_table(table, path, schema=schema, settings=settings)


def setup_tables(setup: Setup, costs: dict[str, Any], data: Path | None, lookup: str) -> Any:
    """Step tables of a set-up with its calibrated cost attached."""
    from operators.llm import steptime
    from operators.metro.calibrate import cost_key

    return steptime.step_tables(
        setup.model,
        accelerator=setup.accelerator,
        system=setup.system,
        framework=setup.framework,
        dtype=setup.dtype,
        data=data,
        cost=costs[cost_key(setup)],
        lookup=lookup,
    )


def _named(frame: Any, setup: Setup, step: Any) -> Any:
    import polars as pl

    marks = {name: getattr(setup, name) for name in RUN[:-1]} | {"lookup": step.lookup}
    return frame.with_columns(**{name: pl.lit(value) for name, value in marks.items()})


def _shaped(frame: Any, schema: dict[str, Any]) -> Any:
    import polars as pl

    return frame.select(pl.col(name).cast(kind) for name, kind in schema.items())


def _mark(frame: Any, table_data: str) -> Any:
    """`data` is real only when both the routing and the step-time tables are."""
    import polars as pl

    both = pl.when((pl.col("data") == "real") & (pl.lit(table_data) == "real"))
    return frame.with_columns(data=both.then(pl.lit("real")).otherwise(pl.lit("synthetic")))


def decode_runs(step: Any, setup: Setup, rows: Any, settings: Settings) -> Any:
    """TPOT and parts of every routed decode batch, both dispatches, at the settings' context and the paper's."""
    import polars as pl

    from operators.metro import routing, serving

    if not len(rows):
        return pl.DataFrame()
    context = settings.input_tokens + settings.output_tokens / 2
    options = {name: getattr(settings, name) for name in ("topk_extra_us", "pad_pow2", "step_overhead_us")}
    options["router_overhead_us"] = settings.router_overhead_us
    runs = []
    for _, part in rows.group_by("B", maintain_order=True):
        for comm in ("allgather", "alltoall"):
            runs.append(serving.tpot(step, serving.decode(step, part, context=context, comm=comm, **options)))
    found = pl.concat(runs)
    exact = found.filter((pl.col("router") == "exact") & (pl.col("comm") == "allgather"))
    match = ["workload", "r", "batch_per_gpu", "seed"]
    found = found.join(exact.select(*match, exact_us="routed_us").unique(match), on=match, how="left")
    if setup.accelerator == REAL_SYSTEM[0]:
        found = pl.concat([found, serving.with_context(step, found, REAL_SYSTEM[1], settings.pad_pow2)])
    shape = step.shape
    slots = {r: routing.slots_for(r, shape.n_experts, setup.gpus) / setup.gpus for r in found["r"].unique()}
    weights = {r: float(shape.weight_bytes(count, setup.dtype)) for r, count in slots.items()}
    cache = shape.kv_bytes_per_token("bfloat16") * pl.col("batch_per_gpu") * pl.col("context")
    return _mark(_named(found, setup, step), step.data).with_columns(
        ffn_us=pl.col("t_moe_us"),
        comm_us=pl.col("t_comm_us"),
        router_us=pl.col("t_router_us"),
        activated=pl.col("activated_mean"),
        gpu_bytes=pl.col("r").replace_strict(weights, return_dtype=pl.Float64) + cache,
        comm_basis=pl.lit("table" if setup.gpus <= 8 else "extrapolated from 8 GPUs"),
        basis=pl.lit("calibrated"),
    )


def ttft_runs(step: Any, setup: Setup, rows: Any, decoded: Any, settings: Settings) -> Any:
    """Unloaded TTFT of 8, 16 and 32 requests a GPU, with short prompts and the settings' own."""
    import polars as pl

    from operators.metro import serving

    if not len(rows):
        return pl.DataFrame()
    options = {"chunk": settings.chunk, "attn_eff": settings.attn_eff}
    runs = [
        serving.ttft(step, part, requests_per_gpu=count, input_tokens=inputs, **options)
        for _, part in rows.group_by("B", maintain_order=True)
        for count in serving.REQUESTS_PER_GPU
        for inputs in (serving.SHORT_INPUT, settings.input_tokens)
    ]
    found = pl.concat(runs)
    first = decoded.filter((pl.col("router") == "even") & (pl.col("comm") == "alltoall")) if len(decoded) else decoded
    if not len(first):
        return pl.DataFrame()
    first = first.filter(pl.col("batch_per_gpu") == first["batch_per_gpu"].min())
    first = first.group_by("r").agg(first_decode_us=pl.col("tpot_us").mean())
    found = found.join(first, on="r", how="left").with_columns(
        prefill_us=pl.col("ttft_us"), ttft_us=pl.col("ttft_us") + pl.col("first_decode_us"), basis=pl.lit("modelled")
    )
    return _mark(_named(found, setup, step), step.data)


def mix_runs(step: Any, setup: Setup, prefills: Any, decoded: Any, settings: Settings) -> Any:
    """Total token throughput of every (input, output) mix: prefill with even routing at the same replication."""
    import polars as pl

    from operators.metro import serving

    if not len(prefills) or not len(decoded):
        return pl.DataFrame()
    context = settings.input_tokens + settings.output_tokens / 2
    base = decoded.filter(pl.col("context") == context)
    out = []
    for inputs, outputs in settings.mixes:
        size = min(settings.chunk, inputs * settings.decode_batch_per_gpu)
        done = serving.prefill(step, prefills, tokens_per_gpu=size, context=inputs / 2, attn_eff=settings.attn_eff)
        rate = done.group_by("r").agg(rate=size * setup.gpus / pl.col("prefill_us").mean())
        runs = serving.with_context(step, base, inputs + outputs / 2, settings.pad_pow2).join(rate, on="r", how="inner")
        batch = pl.col("batch_per_gpu") * setup.gpus
        total = serving.mix_throughput(batch, inputs, outputs, pl.col("rate"), pl.col("tpot_us"))
        out.append(
            runs.with_columns(
                input_tokens=pl.lit(inputs),
                output_tokens=pl.lit(outputs),
                prefill_tok_s=pl.col("rate") * 1e6,
                throughput_tok_s=total,
            )
        )
    return pl.concat(out).with_columns(basis=pl.lit("calibrated decode, modelled prefill"))


@functools.cache  # both readings of the kernel tables sweep the same draws
def pareto_inputs(model: str, workloads: tuple[str, str], layers: int, data: Path | None, seed: int) -> tuple:
    """Load to place on, counts by batch size drawn from the load to evaluate on, and whether they are real."""
    from operators.llm.shapes import MODELS
    from operators.metro import pareto

    found, kind = pareto.loads(model, list(workloads), layers, data, seed)
    place_on, evaluate_on = workloads
    drawn = pareto.draw(found[evaluate_on], pareto.FINE_BATCHES, MODELS[model].top_k, PARETO_STEPS, seed)
    return found[place_on], drawn, kind


def pareto_runs(step: Any, setup: Setup, rows: Any, settings: Settings, data: Path | None) -> Any:
    """The TP x EP x batch sweep; the paper's batches are among the fine grid's, so they are simulated once."""
    import polars as pl

    from operators.metro import pareto, serving

    if not settings.pareto or (setup.model != "deepseek-v3" and setup.model not in pareto.PERMUTED):
        return pl.DataFrame()
    layers = min(PARETO_LAYERS, settings.layers) if settings.layers else PARETO_LAYERS
    workloads = (settings.place_on, settings.evaluate_on)
    place_load, counts, kind = pareto_inputs(setup.model, workloads, layers, data, settings.seed)
    fine, paper = pareto.FINE_BATCHES, pareto.grid_batches("paper", setup.model)
    inputs, outputs = settings.mixes[0]
    timed = rows.filter((pl.col("phase") == "decode") & (pl.col("router") == "metro") & (pl.col("r") > 1))
    overhead = serving.router_us(timed, settings.router_overhead_us).mean() if len(timed) else 0.0
    runs = pareto.sweep(
        step,
        gpus=setup.gpus,
        sizes=fine,
        ratios=settings.ratios,
        routers=PARETO_ROUTERS,
        place_load=place_load,
        counts=counts,
        context=inputs + outputs / 2,
        router_us={"metro": float(overhead)},
        **{name: getattr(settings, name) for name in ("topk_extra_us", "pad_pow2", "step_overhead_us")},
    )
    both = pl.concat(
        [
            runs.filter(pl.col("batch").is_in(paper)).with_columns(grid=pl.lit("paper")),
            runs.with_columns(grid=pl.lit("fine")),
        ]
    )
    marks = {
        "layers_used": layers,
        "seed": settings.seed,
        "batches": "synthesised",
        "data": kind,
        "basis": "calibrated",
    }
    marked = _named(both, setup, step).with_columns(**{key: pl.lit(value) for key, value in marks.items()})
    return _mark(marked, step.data)


def serve_runs(settings: Settings, costs: dict[str, Any], data: Path | None) -> Any:
    """The measured vLLM run again, simulated: once per assumption on how its requests load the experts.

    No routing was recorded in that run. `batch1024`: the marginals of the one measured 1,024-token batch of this model;
    `uniform`: all experts equally likely (as the peer simulator's balanced gate).
    """
    import dataclasses

    import numpy as np
    import polars as pl

    from operators.llm import tables, workloads
    from operators.llm.shapes import MODELS
    from operators.metro import continuous, pareto

    if not settings.serve:
        return pl.DataFrame()
    rtx = tables.load_rtx(data)
    rtx = dataclasses.replace(rtx, moe=rtx.moe.with_fit(costs["rtx_pro_6000/VLLM/qwen3-30b/bfloat16"]))
    requests, kind = workloads.read("sharegpt_300", data, seed=settings.seed)
    engine = continuous.Engine(step_overhead_us=settings.step_overhead_us)
    load, gate_kind = pareto.loads("qwen3-30b", ["any"], SERVE_LAYERS, data, settings.seed)
    gates = {"batch1024": (load["any"], gate_kind), "uniform": (np.ones_like(load["any"]), kind)}
    measured, top_k = measured_run(data), MODELS["qwen3-30b"].top_k
    most = engine.ranks * engine.max_num_batched_tokens
    runs = []
    for gate, (weights, source) in gates.items():
        curve = continuous.expert_curve(rtx, weights, gpus=engine.ranks, top_k=top_k, most=most, seed=settings.seed)
        served = continuous.serve(requests, continuous.RtxStep(rtx, *curve), engine)
        real = {kind, source, rtx.data} == {"real"}
        marks = {"gate": gate, "data": "real" if real else "synthetic", "basis": "calibrated"}
        served = served.join(requests, on="request_id").join(measured, on="request_id", how="left")
        runs.append(served.with_columns(**{key: pl.lit(value) for key, value in marks.items()}))
    return pl.concat(runs)


def measured_run(data: Path | None) -> Any:
    """Measured TTFT and TPOT by request (validation only); empty without the data set."""
    import polars as pl

    from operators.lab import datasets

    names = ["measured_ttft_us", "measured_tpot_us"]
    if not datasets.present(VALIDATION[0], data):
        return pl.DataFrame(schema={"request_id": pl.String} | dict.fromkeys(names, pl.Float64))
    raw = datasets.read(*VALIDATION, data)
    first, last = pl.col("first_token_s"), pl.col("last_token_s")
    return raw.select(
        "request_id",
        measured_ttft_us=(first - pl.col("queued_s")) * 1e6,
        measured_tpot_us=(last - first) * 1e6 / (pl.col("output_tokens") - 1),
    )


def roofline_rows() -> Any:
    """Intensity of an expert layer against the ridge point: arithmetic on published shapes, no data set."""
    import polars as pl

    from operators.llm.accelerators import ACCELERATORS
    from operators.llm.roofline import moe_layer
    from operators.llm.shapes import MODELS

    rows = []
    for (model, dtype), name, tokens in itertools.product(ROOFLINE, ("h100", "b200"), ROOFLINE_TOKENS):
        layer, ridge = moe_layer(MODELS[model], tokens, dtype), ACCELERATORS[name].ridge(dtype)
        values = {"model": model, "accelerator": name, "dtype": dtype, "tokens": tokens, "activated": layer.activated}
        values |= {"flop_per_byte": layer.intensity, "ridge_flop_per_byte": ridge}
        values |= {"ridge_over_intensity": ridge / layer.intensity, "activation_bytes": layer.activation_bytes}
        values |= {"weight_bytes": layer.layer_weight_bytes, "activation_share": layer.activation_share}
        rows.append(values | {"data": "real", "basis": "modelled"})
    return pl.DataFrame(rows)


if __name__ == "__main__":
    stage.run(main)
