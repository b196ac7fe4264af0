"""Measures from raw runs, one function per table; every row is a dict with policy, measure, value and seed."""

from collections.abc import Iterator
from typing import Any

import polars as pl

Rows = Iterator[dict[str, Any]]


def _row(policy: str, measure: str, value: float | None, seed: int, **more: Any) -> dict[str, Any]:
    return {
        "policy": policy,
        "measure": measure,
        "value": None if value is None else float(value),
        "seed": seed,
        **more,
    }


def rates(table: pl.DataFrame) -> Rows:
    """CPU time and fences per operation, one process (or the fewest there is), no skew; medians over repetitions."""
    base = table.filter((pl.col("procs") == table["procs"].min()) & (pl.col("zipf") == table["zipf"].min()))
    grouped = base.with_columns(ns=pl.col("cpu_s") / pl.col("ops") * 1e9, f=pl.col("fences") / pl.col("ops")).group_by(
        "impl", "structure", "persist", "seed", maintain_order=True
    )
    for row in grouped.agg(pl.col("ns", "f").median(), pl.col("update_pct").first()).iter_rows(named=True):
        where = {"structure": row["structure"]}
        yield _row(row["impl"], f"cpu_ns_per_op_{row['persist']}", row["ns"], row["seed"], **where)
        if row["persist"] == "clwb":
            yield _row(row["impl"], "fences_per_op", row["f"], row["seed"], **where)


def survivors(table: pl.DataFrame) -> Rows:
    """Calls of the others while a holder is stopped, over their calls before; and the worst 500 ms of the stop."""
    for (impl, seed), one in table.partition_by("impl", "seed", as_dict=True, maintain_order=True).items():
        per = one.group_by("t_s", "stopped").agg(pl.col("ops").sum()).sort("t_s")
        stop_from = per.filter("stopped")["t_s"].min()
        before = per.filter(pl.col("t_s") < stop_from)["ops"]
        during = per.filter("stopped")["ops"]
        yield _row(impl, "survivor_rate_ratio", during.mean() / before.mean(), seed)
        half_seconds = [during[i : i + 5].sum() for i in range(0, len(during) - 4, 5)] or [during.sum()]
        yield _row(impl, "survivor_worst_500ms", min(half_seconds), seed)
        settled = one.select(pl.col("lost", "doubled", "stuck", "torn").max()).row(0)
        yield _row(impl, "errors_after_continue", sum(settled), seed)


def soaks(table: pl.DataFrame) -> Rows:
    """Errors, kills per second and recovery time of the soaks with kills."""
    with_kills = table.filter((pl.col("kind") == "soak") & (pl.col("kill_rate") > 0))
    for (impl, seed), one in with_kills.partition_by("impl", "seed", as_dict=True, maintain_order=True).items():
        errors = one.select(pl.col("lost", "doubled", "stuck", "torn").sum()).row(0)
        yield _row(impl, "soak_errors", sum(errors), seed)
        yield _row(impl, "soak_torn", one["torn"].sum(), seed)
        yield _row(impl, "kills_per_s", (one["kills"] / one["seconds"]).max(), seed)
        recovery = one["recovery_us"].drop_nulls()
        if len(recovery):
            yield _row(impl, "recovery_us", recovery.max(), seed)


def both(stop: pl.DataFrame, soak: pl.DataFrame) -> Rows:
    """1 where survivors went on in every window of the stop and nothing was lost, doubled or stuck under kills."""
    found = {(row["policy"], row["seed"], row["measure"]): row["value"] for row in (*survivors(stop), *soaks(soak))}
    for policy, seed in sorted({key[:2] for key in found}):
        worst, after = (found.get((policy, seed, name)) for name in ("survivor_worst_500ms", "errors_after_continue"))
        errors = found.get((policy, seed, "soak_errors"))
        if None not in (worst, after, errors):
            yield _row(policy, "both_ok", worst > 0 and after == 0 and errors == 0, seed)


def sweeps(table: pl.DataFrame) -> Rows:
    """Points at which a call was lost or doubled or a lock stayed held; none where nothing could be measured."""
    real = table.filter(pl.col("kind") != "not measured")
    for (seed,), one in real.partition_by("seed", as_dict=True, maintain_order=True).items():
        yield _row("rflock_flat", "sweep_violations", (~one["ok"]).sum(), seed)
        yield _row("rflock_flat", "sweep_points", len(one), seed)
        yield _row("rflock_flat", "sweep_applied_share", one["applied"].mean(), seed)


def explored(table: pl.DataFrame) -> Rows:
    """Violations of the correct core by memory, states without an end alone, share of mutants caught.

    A search that reached its limit has no verdict: it counts for nothing. A mutant counts as caught only when the
    correct core passes the same search.
    """
    for (seed,), one in table.partition_by("seed", as_dict=True, maintain_order=True).items():
        sound = one.filter((pl.col("mutant") == "none") & (pl.col("verdict") != "limit"))
        for memory, name in (("px86", "violations_px86"), ("sc", "violations_sc")):
            some = sound.filter((pl.col("memory") == memory) & ((pl.col("crashes") > 0) | (memory == "sc")))
            if len(some):
                yield _row("rflock_flat", name, some["violations"].sum(), seed, basis="modelled")
        if len(sound):
            yield _row("rflock_flat", "unbounded", sound["unbounded"].sum(), seed, basis="modelled")
        broken = one.filter(pl.col("mutant") != "none")
        passed = set(sound.filter(pl.col("verdict") == "ok").select("config", "memory").rows())
        if len(broken):
            caught = [
                row["verdict"] == "violation" and (row["config"], row["memory"]) in passed
                for row in broken.iter_rows(named=True)
            ]
            yield _row("rflock_flat", "mutants_caught", sum(caught) / len(caught), seed, basis="modelled")


def states(table: pl.DataFrame) -> Rows:
    """Calls and final states that differ from the sequential reference."""
    for row in table.iter_rows(named=True):
        policy = row["impl"]
        yield _row(policy, "state_mismatches", row["mismatches"], row["seed"], structure=row["structure"])


def histories(lincheck: pl.DataFrame, own: pl.DataFrame, soak: pl.DataFrame) -> Rows:
    """Agreement of the checker with the known verdicts; violations of real crashes (own history, death of all)."""
    known = lincheck.filter(~pl.col("history").str.starts_with("own/"))
    seed = int(own["seed"][0]) if len(own) else 0
    agree = (known["verdict"] == known["expected"]).mean()
    yield _row("checker", "checker_agreement", agree, seed, data=known["data"][0])
    died = soak.filter(pl.col("kind") == "all_die")
    errors = sum(died.select(pl.col("lost", "doubled", "stuck", "torn").sum()).row(0))
    bad = lincheck.filter(pl.col("history").str.starts_with("own/") & (pl.col("verdict") != "ok"))
    amounts = own.filter(pl.col("t_return").is_not_null())
    counted = abs(len(amounts) - int(own["final_calls"].max() or 0)) if len(own) else 0
    yield _row("rflock_flat", "violations_real", errors + len(bad) + counted, seed)
