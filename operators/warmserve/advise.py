"""Stage: your own log under every policy: latency, GPU-seconds, what a perfect forecast adds, what is wasted."""

from pathlib import Path
from typing import TYPE_CHECKING

from operators.lab import stage
from operators.warmserve.settings import Settings

if TYPE_CHECKING:
    import polars as pl

POLICIES = ("warmserve", "no_prewarm", "sllm_gpu", "predictive_autoscale", "static", "muxserve", "oracle")
KINDS = {
    **{"policy": "String", "ttft_p50_s": "Float64", "ttft_p95_s": "Float64", "ttft_p99_s": "Float64"},
    **{"share_ttft_100ms": "Float64", "gpu_s": "Float64", "gb_loaded": "Float64", "gb_unused": "Float64"},
    "data": "String",
}


def __getattr__(name: str) -> dict:
    if name == "SCHEMA":
        import polars as pl

        return {key: getattr(pl, kind) for key, kind in KINDS.items()}
    raise AttributeError(name)


def main(
    *,
    settings: Settings,
    log: Path,
    history_share: float = 0.5,
    names: str = "",
    cold: str = "w5",
    policies: str = ",".join(POLICIES),
    out: Path | None = None,
) -> None:
    """Serve your request log under every policy in simulated time and print what each would give.

    Args:
        log: CSV or Parquet with arrival_s, model, input_tokens, output_tokens
        history_share: first part of the log, from which forecasts are made
        names: names in the log for models of the settings, as in chat=7b-a,code=70b (default: they are the same)
        cold: cold-start model, w5 (engine start and slow loader) or pcie (weights at PCIe speed)
        policies: names, separated by commas
        out: the table as Parquet (default: only printed)
    """
    import polars as pl

    from operators.warmserve import ownlog, simulator

    if not 0.0 < history_share < 1.0:
        raise ValueError(f"history_share (={history_share}): expected between 0 and 1")
    frame = ownlog.read(log, names)
    trace, history, changed = ownlog.split(frame, settings, history_share)
    rows = []
    for name in policies.split(","):
        result = simulator.simulate(trace, changed, history, name=name.strip(), cold=cold)
        rows.append((name.strip(), *ownlog.figures(result, changed), "real"))
    schema = {key: getattr(pl, kind) for key, kind in KINDS.items()}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    print(report(table, len(trace.arrival_s), changed, cold))
    if out:
        stage.write_table(table, out, schema=schema, settings=settings)


def report(table: "pl.DataFrame", requests: int, settings: Settings, cold: str) -> str:
    """The table and the answers in words."""
    rows = {row["policy"]: row for row in table.iter_rows(named=True)}
    lines = [
        f"{requests} requests over {settings.hours:.3g} h on {settings.nodes} x {settings.gpus_per_node} GPUs,"
        f" cold starts {cold}:",
        f"{'policy':22}{'P50 (s)':>9}{'P95 (s)':>9}{'P99 (s)':>9}{'<=100 ms':>10}{'GPU-h':>8}{'GB in':>8}{'unused':>8}",
    ]
    for row in rows.values():
        lines.append(
            f"{row['policy']:22}{row['ttft_p50_s']:9.3f}{row['ttft_p95_s']:9.3f}{row['ttft_p99_s']:9.3f}"
            f"{row['share_ttft_100ms']:10.1%}{row['gpu_s'] / 3600:8.2f}{row['gb_loaded']:8.0f}{row['gb_unused']:8.0f}"
        )
    own, oracle = rows.get("warmserve"), rows.get("oracle")
    if own and oracle:
        lines.append(
            f"A perfect forecast would take {own['ttft_p99_s'] - oracle['ttft_p99_s']:.3g} s off warmserve's P99 and"
            f" {(own['gpu_s'] - oracle['gpu_s']) / 3600:.3g} GPU-hours off its use."
        )
    if own:
        lines.append(f"warmserve loaded {own['gb_loaded']:.0f} GB, {own['gb_unused']:.0f} GB of them for nothing.")
    return "\n".join(lines)


if __name__ == "__main__":
    stage.run(main)
