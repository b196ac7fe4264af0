"""Routing rows for the tests, in the route stage's columns, made from the synthetic twin."""

import numpy as np
import polars as pl

from operators.metro import pareto, placement, routing

MODEL, GPUS, LAYERS = "deepseek-v3", 16, 3
WORKLOADS = ["decode_in1000out1000", "decode_in1800out100"]


def routed_rows():
    """Decode rows of the DeepSeek-V3 twin: three ratios, three routers, three batches."""
    loads, kind = pareto.loads(MODEL, WORKLOADS, LAYERS, None, 0)
    counts = pareto.draw(loads[WORKLOADS[1]], [128, 512, 8192], 8, 2, 0)
    frames = []
    for ratio in (1.0, 1.25, 1.5):
        placed = placement.place(loads[WORKLOADS[0]], routing.slots_for(ratio, 256, GPUS), GPUS)
        for batch, drawn in counts.items():
            best = routing.route_counts("exact", placed, drawn).lam
            for router in ("even", "metro", "exact"):
                routed = routing.route_counts(router, placed, drawn)
                frames.append(frame(routed, best, ratio, batch, router, kind))
    return pl.concat(frames)


def frame(routed, best, ratio, batch, router, kind):
    steps, layers = routed.lam.shape
    index = np.indices((steps, layers)).reshape(2, -1)
    columns = {
        "step": index[0],
        "layer": index[1],
        "lam": routed.lam.ravel(),
        "lam_exact": best.ravel(),
        "activated_sum": routed.activated.sum(axis=2).ravel(),
        "max_tokens": routed.tokens.max(axis=2).ravel(),
        "activated": routed.activated.reshape(-1, GPUS).tolist(),
        "tokens": routed.tokens.reshape(-1, GPUS).tolist(),
    }
    fixed = {"model": MODEL, "workload": WORKLOADS[1], "phase": "decode", "batches": "synthesised", "data": kind}
    fixed |= {"placed_on": WORKLOADS[0], "router": router, "r": ratio, "G": GPUS, "B": batch, "seed": 0}
    fixed |= {"batch_per_gpu": batch / GPUS, "time_us": 5.0}
    marks = {name: pl.lit(value) for name, value in fixed.items()}
    return pl.DataFrame(columns).with_columns(**marks, a2a_tokens=pl.lit(None, pl.Int64))
