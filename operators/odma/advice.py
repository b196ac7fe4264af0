"""Advice for one trace: which allocator, how many classes, which level and pool, and what the next best choice loses.

The first half of the trace is the past, the second half is served on the modelled device by every candidate. With a
column `instruction` (and `input`) a predictor is trained on the first half; without prompts nothing can be predicted
and only policies that need no prediction are compared. Arrivals are taken from `arrival_s`, else all is queued.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from operators.odma import device, metrics, policies, scenarios
from operators.odma.buckets import expected_reservation, histogram, optimal_buckets
from operators.odma.device import q_column
from operators.odma.policies import Policy
from operators.odma.predictor import LengthPredictor
from operators.odma.settings import Settings

LEAST_ROWS = 200
CLASSES = (1, 2, 4, 8, 12, 16)


def read(path: Path) -> pl.DataFrame:
    """The trace; ValueError naming what is missing or the first impossible row."""
    frame = pl.read_parquet(path)
    for name in ("input_tokens", "output_tokens"):
        if name not in frame.columns:
            raise ValueError(
                f"{path}: no column {name!r}; expected input_tokens, output_tokens; it has {frame.columns}"
            )
        bad = (frame[name] < 1).fill_null(True)
        if bad.any():
            row = int(bad.arg_max())
            raise ValueError(f"{path}: row {row}: {name} is {frame[name][row]}; must be >= 1")
    if len(frame) < LEAST_ROWS:
        raise ValueError(f"{path}: {len(frame)} rows; advice needs at least {LEAST_ROWS}")
    return frame if "arrival_s" in frame.columns else frame.with_columns(arrival_s=pl.lit(0.0))


def candidates(settings: Settings, past: pl.DataFrame, future: pl.DataFrame) -> tuple[pl.DataFrame, list[Policy]]:
    """The trace to serve, with predictions where prompts allow them, and the policies to try on it."""
    lengths = past["output_tokens"].to_numpy()
    longest = -(-max(int(lengths.max()), int(future["output_tokens"].max())) // settings.align) * settings.align
    made = [policies.static(longest), policies.paged(settings.page, watermark=settings.watermark)]
    made += [policies.constant_quantile(level, lengths, longest, align=settings.align).but(
        name=f"one quantile for all, level {level:g}") for level in settings.levels]  # fmt: skip
    if "instruction" not in past.columns:
        return future, [*made, policies.oracle()]
    texts = [_texts(past), _texts(future)]
    predictor = LengthPredictor(settings.levels).fit(*texts[0], lengths)
    found = predictor.predict(*texts[1])
    needs = predictor.needs(found.mean)
    future = future.with_columns(
        mean=pl.Series(found.mean), u=pl.Series(found.u),
        **{q_column(level): pl.Series(found.q[:, i]) for i, level in enumerate(settings.levels)},
        **{q_column(level, "n"): pl.Series(needs[:, i]) for i, level in enumerate(settings.levels)},
    )  # fmt: skip
    for k in settings.frontier_classes:
        for level in settings.frontier_levels:
            one = scenarios.policy(
                "odma", settings, predictor, longest, k=min(k, longest // settings.align), level=level
            )
            one = one.but(name=f"odma, {len(one.boundaries)} classes, level {level:g}")
            if one not in made:  # few different reservations: K has collapsed
                made.append(one)
    return future, [*made, policies.oracle()]


def _texts(table: pl.DataFrame) -> list[list[str]]:
    """Instructions and inputs, empty inputs where there is no such column."""
    return [table[name].to_list() if name in table.columns else [""] * len(table) for name in ("instruction", "input")]


def rank(settings: Settings, trace: pl.DataFrame) -> list[dict[str, Any]]:
    """Every candidate with its measures, best first (tokens per second, then mean latency); the oracle last."""
    middle = len(trace) // 2
    future, made = candidates(settings, trace[:middle], trace[middle:])
    future = future.with_columns(arrival_s=pl.col("arrival_s") - future["arrival_s"][0])
    rows = []
    for policy in made:
        served = device.serve(future, scenarios.shape(settings), scenarios.device(settings), policy,
                              charge_prefill=settings.charge_prefill, align=settings.align)  # fmt: skip
        rows.append({"policy": policy, **metrics.measures(served)})
    rows.sort(key=lambda row: (row["policy"].kind == "fixed", -round(row["tps"], 3), row["latency_mean_s"]))
    return rows


def pool(policy: Policy, lengths: np.ndarray, batch: float, capacity: int) -> float:
    """Tokens to keep free for overflows of `policy` when `batch` requests run (policies.safety_pool)."""
    bounds = np.array(policy.boundaries)
    missed = float((lengths > np.quantile(lengths, policy.level)).mean())
    live = np.full(len(bounds), batch / len(bounds))
    return policies.safety_pool(
        np.full(len(bounds), missed), live, np.append(bounds[1:], bounds[-1]), capacity=capacity
    )


def report(settings: Settings, path: Path) -> str:
    """The advice as text."""
    trace = read(path)
    rows = rank(settings, trace)
    lengths, longest = trace["output_tokens"].to_numpy(), int(trace["output_tokens"].max())
    capacity = scenarios.device(settings).kv_tokens(scenarios.shape(settings), settings.align)
    best, oracle = rows[0], rows[-1]
    lines = [f"{len(trace)} requests, answers {lengths.mean():.0f} tokens on average, {longest} at most; alpha "
             f"{settings.alpha:g}, {capacity} KV tokens; the second half was served, the first half was the past", "",
             f"{'policy':36s} {'tokens/s':>9s} {'of oracle':>9s} {'copies':>7s} {'final/reserved':>14s} "
             f"{'p99 s':>8s}"]  # fmt: skip
    for row in rows:
        lines.append(
            f"{row['policy'].name:36s} {row['tps']:9.1f} {row['tps'] / oracle['tps']:9.2f} {row['copies_share']:7.1%} "
            f"{row['util_final']:14.2f} {row['latency_p99_s']:8.1f}"
        )
    others = [row for row in rows[1:-1] if row["policy"].kind != best["policy"].kind] or rows[1:2]
    loss = 1 - others[0]["tps"] / best["tps"]
    second = 1 - rows[1]["tps"] / best["tps"]
    lines += ["", f"take: {best['policy'].name}; the next choice ({rows[1]['policy'].name}) loses {second:.1%}, the "
              f"best of another kind ({others[0]['policy'].name}) {loss:.1%}"]  # fmt: skip
    contiguous = next((row for row in rows if row["policy"].kind == "classes"), None)
    if contiguous:
        kept = pool(contiguous["policy"], lengths, contiguous["batch_mean"], capacity)
        lines += [f"best contiguous: {contiguous['policy'].name}, boundaries {list(contiguous['policy'].boundaries)}, "
                  f"safety pool {kept:.0f} tokens ({kept / capacity:.1%})"]  # fmt: skip
    hist = histogram(lengths, longest)
    lines += ["expected reservation under perfect prediction, by classes: " + ", ".join(
        f"{k}: {expected_reservation(hist, optimal_buckets(hist, k, settings.align)):.0f}"
        for k in CLASSES if k <= len(np.unique(-(-lengths // settings.align))))]  # fmt: skip
    return "\n".join(lines)
