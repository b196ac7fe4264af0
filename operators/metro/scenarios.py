"""From raw runs to measures: one table in which every policy stands beside EPLB's even split and no replication.

Pure functions, one per scenario (`decode`, `prefill`, `throughput`, `pareto`, `tp_ep`, `roofline`, `real_batch`, `cpu`,
`cpu_fit`; `decode_single` and `throughput_single` are the unsampled batches of one layer, taken for every layer).
Policy `none` is no replication (r = 1.0), repeated at every ratio so that it can be compared there.

Dispatch is part of a policy: routers that look at every token's choice need the all-gather of the settings, the others
are served by an all-to-all, as engines do. At r = 1.0 there is nothing to route and every policy is the all-to-all.
"""

import polars as pl

from operators.metro import measured as experiment
from operators.metro import pareto as frontiers

TEXT = ("scenario", "model", "gpu", "router", "comm", "lookup", "workload", "batches", "data", "basis", "mix", "grid")
WHOLE = ("gpus", "batch", "requests_per_gpu", "seed")
FLAGS = ("paper_batch", "nested")
MEASURES = (
    "tpot_s",
    "ttft_s",
    "throughput_tok_s",
    "lam",
    "lam_over_exact",
    "activated",
    "imbalance",
    "layer_us",
    "ffn_us",
    "ffn_saving_us",
    "attn_us",
    "other_us",
    "comm_us",
    "comm_extra_share",
    "router_us",
    "exact_us",
    "pareto_ratio",
    "interactivity",
    "ridge_over_intensity",
    "activation_share",
    "makespan_ms",
    "predicted_ms",
    "over_best",
    "r2_activated",
    "r2_tokens",
)
SCHEMA = (
    dict.fromkeys(TEXT, pl.String)
    | dict.fromkeys(WHOLE, pl.Int64)
    | {"r": pl.Float64, "batch_per_gpu": pl.Float64}
    | dict.fromkeys(FLAGS, pl.Boolean)
    | dict.fromkeys(MEASURES, pl.Float64)
)
GLOBAL_ROUTERS = ("metro", "exact", "exact_balanced", "adaptive", "lp")  # they need every token's choice
REAL_SYSTEM = ("a100-40g", 8192.0)  # this accelerator is judged at this context, the paper's real system
WITHOUT = "primary"
PRIMARY = "levels"  # the reading of the kernel tables that figures show; claims name theirs


def _shaped(frame: pl.DataFrame, scenario: str) -> pl.DataFrame:
    """`frame` with exactly the columns of SCHEMA; what it lacks is null."""
    frame = frame.with_columns(scenario=pl.lit(scenario))
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in SCHEMA.items()
    )


def _with_none(frame: pl.DataFrame, of: str = WITHOUT) -> pl.DataFrame:
    """Add policy `none`: the rows of `of` at r = 1.0, once for every ratio of `frame`."""
    none = frame.filter((pl.col("r") == 1.0) & (pl.col("router") == of))
    none = none.drop("r").join(frame.select("r").unique(), how="cross").with_columns(router=pl.lit("none"))
    return pl.concat([frame, none.select(frame.columns)])


def _split(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep batches drawn for every layer of a model apart from real batches of one layer."""
    single = pl.when(pl.col("batches") == "real").then(pl.format("{}_single", pl.col("scenario")))
    return frame.with_columns(scenario=single.otherwise(pl.col("scenario")))


def _dispatched(frame: pl.DataFrame, comm: str) -> pl.DataFrame:
    """Of every policy's two simulated dispatches, the one it runs with."""
    wants = pl.when(pl.col("router").is_in(GLOBAL_ROUTERS) & (pl.col("r") > 1.0)).then(pl.lit(comm))
    return frame.filter(pl.col("comm") == wants.otherwise(pl.lit("alltoall")))


def _in_paper(batch_per_gpu: int, global_batch: int) -> pl.Expr:
    batch = pl.col("batch_per_gpu")
    return (batch == batch_per_gpu) | (batch * pl.col("gpus") == global_batch)


def routed(routing: pl.DataFrame) -> pl.DataFrame:
    """Counts per run of the routing table: lam (mean), lam_over_exact (worst layer), activated, imbalance, router."""
    tokens = pl.col("tokens").list
    return (
        routing.filter(pl.col("phase") == "decode")
        .group_by("model", "workload", "batches", "data", "router", "r", "G", "B", "batch_per_gpu", "seed")
        .agg(
            pl.col("lam").mean(),
            lam_over_exact=(pl.col("lam") / pl.col("lam_exact")).max(),
            activated=pl.col("activated_sum").mean(),
            imbalance=(tokens.max() / tokens.mean()).mean(),
            router_us=pl.col("time_us").mean(),
        )
        .rename({"G": "gpus", "B": "batch"})
    )


def decode(
    tpot: pl.DataFrame, routing: pl.DataFrame, *, comm: str, batch_per_gpu: int, global_batch: int
) -> pl.DataFrame:
    """TPOT and its parts beside the counts they came from, per set-up, ratio, batch, policy and seed."""
    wanted = pl.when(pl.col("accelerator") == REAL_SYSTEM[0]).then(REAL_SYSTEM[1]).otherwise(pl.col("context").min())
    frame = _dispatched(tpot, comm).filter(pl.col("context") == wanted)
    counted = ["model", "workload", "router", "r", "gpus", "batch_per_gpu", "seed"]
    counts = routed(routing).with_columns(pl.col("gpus", "seed").cast(pl.Int32)).drop("batches", "data")
    frame = frame.drop("lam", "lam_over_exact", "activated", "router_us").join(counts, on=counted, how="left")
    same = [key for key in (*counted, "lookup") if key != "router"]
    even = frame.filter(pl.col("router") == "even").select(*same, even_ffn="ffn_us")
    frame = frame.join(even, on=same, how="left")
    frame = frame.with_columns(
        gpu=pl.col("accelerator"),
        tpot_s=pl.col("tpot_us") / 1e6,
        ffn_saving_us=pl.col("even_ffn") - pl.col("ffn_us"),
        comm_extra_share=pl.col("comm_extra_us") / pl.col("layer_us"),
        attn_us=pl.col("t_attn_us"),
        other_us=pl.col("t_other_us"),
        exact_us=pl.when(pl.col("router") == "exact").then(pl.col("router_us")),
        paper_batch=_in_paper(batch_per_gpu, global_batch),
    )
    return _split(_shaped(_with_none(frame), "decode"))


def small_batches(routing: pl.DataFrame, total: int) -> pl.DataFrame:
    """Counts of batches of `total` tokens over all GPUs, drawn and real: no timing model."""
    frame = routed(routing).filter(pl.col("batch") == total).with_columns(basis=pl.lit("real"))
    return _shaped(_with_none(frame), "decode_total")


def real_batches(routing: pl.DataFrame) -> pl.DataFrame:
    """Counts of the unsampled batches."""
    frame = routed(routing).filter(pl.col("batches") == "real").with_columns(basis=pl.lit("real"))
    return _shaped(_with_none(frame), "real_batch")


def prefill(ttft: pl.DataFrame) -> pl.DataFrame:
    """TTFT with even routing by ratio and requests per GPU, beside no replication."""
    frame = ttft.with_columns(
        gpu=pl.col("accelerator"),
        ttft_s=pl.col("ttft_us") / 1e6,
        mix=pl.format("{}+1", pl.col("input_tokens")),
    )
    return _shaped(_with_none(frame, of="even"), "prefill")


def throughput(mixes: pl.DataFrame, *, comm: str, batch_per_gpu: int, global_batch: int) -> pl.DataFrame:
    """Total token throughput per mix, ratio, batch and policy."""
    frame = _dispatched(mixes, comm).with_columns(
        gpu=pl.col("accelerator"),
        mix=pl.format("{}+{}", pl.col("input_tokens"), pl.col("output_tokens")),
        batch=pl.col("batch_per_gpu") * pl.col("gpus"),
        paper_batch=_in_paper(batch_per_gpu, global_batch),
        tpot_s=pl.col("tpot_us") / 1e6,
    )
    return _split(_shaped(_with_none(frame), "throughput"))


def pareto(runs: pl.DataFrame, *, comm: str) -> pl.DataFrame:
    """Throughput of METRO's frontier over EPLB's at every TPOT limit, per set-up, ratio above 1 and grid."""
    keys = ["model", "accelerator", "gpus", "lookup", "grid", "r", "seed", "batches", "data", "basis"]
    parts = []
    for group, part in _dispatched(runs.filter(pl.col("r") > 1.0), comm).group_by(keys, maintain_order=True):
        metro, even = (part.filter(pl.col("router") == name) for name in ("metro", "even"))
        found = frontiers.equal_tpot_ratio(metro, even)
        parts.append(found.with_columns(**{key: pl.lit(value) for key, value in zip(keys, group, strict=True)}))
    if not parts:
        return _shaped(pl.DataFrame(), "pareto")
    frame = pl.concat(parts).with_columns(
        gpu=pl.col("accelerator"), router=pl.lit("metro"), tpot_s=pl.col("tpot_us") / 1e6
    )
    return _shaped(frame, "pareto")


def tp_ep(runs: pl.DataFrame) -> pl.DataFrame:
    """Full tensor against full expert parallelism without replication, per set-up and batch."""
    frame = runs.filter(
        (pl.col("grid") == "fine")
        & (pl.col("router") == "even")
        & (pl.col("r") == 1.0)
        & (pl.col("comm") == "alltoall")
    )
    full = (pl.col("tp") == pl.col("gpus")) | (pl.col("ep") == pl.col("gpus"))
    frame = frame.filter(full & (pl.col("gpus") > 1)).with_columns(
        gpu=pl.col("accelerator"),
        router=pl.when(pl.col("tp") == pl.col("gpus")).then(pl.lit("full_tp")).otherwise(pl.lit("full_ep")),
        tpot_s=pl.col("tpot_us") / 1e6,
    )
    return _shaped(frame, "tp_ep")


def roofline(table: pl.DataFrame) -> pl.DataFrame:
    """Distance of an expert layer from the ridge point, by tokens."""
    frame = table.with_columns(
        gpu=pl.col("accelerator"), batch=pl.col("tokens"), workload=pl.col("dtype"), seed=pl.lit(0), batches=pl.lit("-")
    )
    return _shaped(frame, "roofline")


def cpu(measured: pl.DataFrame) -> pl.DataFrame:
    """Measured makespans per router, ratio and batch; without claims where the experts fit the cache."""
    usable = measured.filter(~pl.col("cache_resident"))
    if usable.is_empty():
        return _shaped(pl.DataFrame(), "cpu")
    gpus = measured["rank"].max() + 1
    steps = experiment.makespans(usable)
    gap = experiment.adaptive_gap(usable).select("r", "nested", "B", router=pl.lit("adaptive"), over_best=pl.col("gap"))
    frame = steps.join(gap, on=["r", "nested", "B", "router"], how="left")
    none = frame.filter((pl.col("router") == WITHOUT) & (pl.col("r") == 1.0) & ~pl.col("nested")).drop("r")
    none = none.join(frame.select("r").unique(), how="cross").with_columns(router=pl.lit("none"))
    frame = pl.concat([frame, none.select(frame.columns)])
    frame = frame.rename({"B": "batch"}).with_columns(
        model=pl.lit("qwen3-30b"), gpu=pl.lit("this processor"), gpus=pl.lit(gpus), basis=pl.lit("real")
    )
    return _shaped(frame, "cpu")


def cpu_fit(measured: pl.DataFrame) -> pl.DataFrame:
    """How well the measured time follows activated experts, and tokens, at up to two tokens an expert."""
    usable = measured.filter(~pl.col("cache_resident"))
    if usable.is_empty():
        return _shaped(pl.DataFrame(), "cpu_fit")
    fit = experiment.regression(usable).filter(pl.col("subset") == "<=2")
    of = dict(zip(fit["model"], fit["r2"], strict=True))
    frame = pl.DataFrame({"r2_activated": [of["A"]], "r2_tokens": [of["n"]]}).with_columns(
        gpu=pl.lit("this processor"),
        seed=pl.lit(measured["seed"][0]),
        data=pl.lit(measured["data"][0]),
        batches=pl.lit(measured["batches"][0]),
        basis=pl.lit("real"),
    )
    return _shaped(frame, "cpu_fit")
