"""Measured step-time tables as functions: kernels, collectives, attention. All times are microseconds inside.

A `Table` is a grid, interpolated log-log. Outside its range the attached fit takes over, scaled to meet the table at
its edge so that there is no jump; without a fit the answer is a ValueError that names axis, value and range. The
expert kernels' tables have a shape of their own (moe_table.py). Real files and their synthetic twins have the same
columns, so there is one way through this file for both; `.data` says which it was.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from operators.lab import datasets
from operators.llm import twins_steptime
from operators.llm.moe_table import MoeTable, TableError
from operators.llm.shapes import MODELS

CALIB, RTX = "moe_calib_a100_b200", "moe_calib_rtxpro6000"
L2_EXPERTS = 16  # RTX: fewer experts than this fit the card's L2 cache, so they are left out


@functools.cache
def raw(source: str, file: str, data: Path | None) -> tuple[pl.DataFrame, str]:
    """One file of a calibration set, real when the set is there, else its twin; and which of the two."""
    if datasets.present(source, data):
        return datasets.read(source, file, data), "real"
    return twins_steptime.table(source, file), "synthetic"


@dataclass(frozen=True)
class Table:
    """A grid of times: `values` (one dimension per axis, us, NaN where not measured), log-log between the points."""

    name: str
    axes: dict[str, np.ndarray] = field(hash=False)
    values: np.ndarray = field(hash=False)
    data: str
    fit: Callable[..., np.ndarray] | None = field(default=None, hash=False)

    def at(self, **point: Any) -> np.ndarray:
        """Time at a point given by axis name; arrays broadcast. TableError naming axis, value and range."""
        if set(point) != set(self.axes):
            raise TableError(f"{self.name}: look-up by {sorted(point)}; its axes are {', '.join(self.axes)}")
        query = np.broadcast_arrays(*[np.asarray(point[name], float) for name in self.axes])
        clipped = [np.clip(x, axis[0], axis[-1]) for x, axis in zip(query, self.axes.values(), strict=True)]
        inside = np.exp(self._blend(self._log_values, clipped))
        outside = np.any([x != c for x, c in zip(query, clipped, strict=True)], axis=0) | np.isnan(inside)
        if not outside.any():
            return inside
        if self.fit is None:
            raise self._beyond(query, outside)
        edge = np.exp(self._blend(self._log_ratios, clipped))
        return np.where(outside, edge * self.fit(*query), inside)

    @functools.cached_property
    def _log_values(self) -> np.ndarray:
        return np.log(self.values)

    @functools.cached_property
    def _log_ratios(self) -> np.ndarray:
        """log(measured / fit); a point that was not measured takes the ratio of the last one before it on the row."""
        mesh = np.meshgrid(*self.axes.values(), indexing="ij")
        ratios = self._log_values - np.log(self.fit(*mesh))
        flat = pl.DataFrame(ratios.reshape(-1, ratios.shape[-1]).T).fill_nan(None)
        filled = flat.with_columns(pl.all().forward_fill().backward_fill()).to_numpy()
        return filled.T.reshape(ratios.shape)

    @functools.cached_property
    def _spread(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(axis, _coordinate(axis, axis)) for axis in self.axes.values()]

    def _blend(self, grid: np.ndarray, query: list[np.ndarray]) -> np.ndarray:
        """Multilinear interpolation of `grid` in the logarithms of the axes, at points inside the range."""
        lows, shares = [], []
        for x, (axis, spread) in zip(query, self._spread, strict=True):
            low = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, max(len(axis) - 2, 0))
            gap = spread[np.minimum(low + 1, len(axis) - 1)] - spread[low]
            shares.append((_coordinate(x, axis) - spread[low]) / np.where(gap > 0, gap, 1.0))
            lows.append(low)
        total = np.zeros(query[0].shape)
        for corner in np.ndindex(*[2] * len(lows)):
            weight = math.prod(s if bit else 1 - s for s, bit in zip(shares, corner, strict=True))
            ends = zip(lows, corner, self._spread, strict=True)
            index = tuple(np.minimum(low + bit, len(axis) - 1) for low, bit, (axis, _) in ends)
            total = total + np.where(weight > 0, weight * grid[index], 0.0)
        return total

    def _beyond(self, query: list[np.ndarray], outside: np.ndarray) -> TableError:
        first = np.flatnonzero(outside.ravel())[0]
        values = [float(x.ravel()[first]) for x in query]
        for (name, axis), value in zip(self.axes.items(), values, strict=True):
            if not axis[0] <= value <= axis[-1]:
                return TableError(f"{self.name}: {name} (={value:g}): outside the table's {axis[0]:g}..{axis[-1]:g}")
        where = ", ".join(f"{name}={value:g}" for name, value in zip(self.axes, values, strict=True))
        return TableError(f"{self.name}: {where}: not measured, and no fit is attached")


def _coordinate(x: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """log2, with a zero of the axis put one halving below its smallest positive value."""
    floor = axis[axis > 0][0] / (2.0 if axis[0] == 0 else 1.0)
    return np.log2(np.maximum(x, floor))


def grid(name: str, frame: pl.DataFrame, axes: list[str], data: str, *, fit: bool | Callable = False) -> Table:
    """A Table of `frame`'s median `us` over its axes; `fit=True` attaches a line in the product of the axes."""
    if not len(frame):
        raise TableError(f"{name}: no such rows in the table")
    cells = frame.group_by(axes).agg(pl.col("us").median())
    points = {axis: np.sort(cells[axis].unique().to_numpy()).astype(float) for axis in axes}
    values = np.full([len(axis) for axis in points.values()], np.nan)
    index = tuple(np.searchsorted(points[axis], cells[axis].to_numpy()) for axis in axes)
    values[index] = cells["us"].to_numpy()
    if fit is True:
        fit = _line(*[cells[axis].to_numpy().astype(float) for axis in axes], us=cells["us"].to_numpy())
    return Table(name, points, values, data, fit or None)


def _line(*axes: np.ndarray, us: np.ndarray) -> Callable[..., np.ndarray]:
    """us = floor or c + rate * product of the axes, whichever is more; least squares of the relative error."""
    work = np.prod(axes, axis=0)
    design = np.stack([np.ones_like(us), work], axis=1) / us[:, None]
    start, rate = np.linalg.lstsq(design, np.ones_like(us), rcond=None)[0]
    floor = float(us.min())
    return lambda *point: np.maximum(floor, max(start, 0.0) + rate * np.prod(np.broadcast_arrays(*point), axis=0))


@functools.cache
def moe_rows(data: Path | None) -> tuple[pl.DataFrame, str]:
    """Rows of moe.parquet measured with balanced routing, with A and n of the rank (power-law rows do not say A)."""
    frame, kind = raw(CALIB, "moe.parquet", data)
    share = pl.col("topk") * pl.col("num_tokens") / pl.col("moe_ep_size")
    local = pl.col("num_experts") / pl.col("moe_ep_size")
    frame = frame.filter(pl.col("distribution") == "balanced").with_columns(n=share, local=local)
    return frame.with_columns(activated=pl.min_horizontal("local", pl.col("n").ceil())), kind


@functools.cache
def load_moe(system: str, framework: str, model: str, dtype: str, data: Path | None = None) -> MoeTable:
    """Expert-kernel table of one system, framework, model and number type.

    Levels are the ranks of moe_ep_size e with all their E/e experts active (rows where only part of a rank's experts is
    active repeat those levels at tau = 1). Costs are fitted to the rows of moe_ep_size 1: the kernels of larger sizes
    also walk over the other ranks' assignments, which shows above some thousand tokens and is no part of t(A, n).
    TableError listing what there is, and for rows that exist only with power-law routing.
    """
    frame, kind = moe_rows(data)
    keys = (pl.col("system") == system) & (pl.col("framework") == framework) & (pl.col("moe_dtype") == dtype)
    rows = frame.filter(keys & (pl.col("model") == MODELS[model].card))
    if not len(rows):
        have = frame.select("system", "framework", "model", "moe_dtype").unique().sort(pl.all()).rows()
        raise TableError(f"moe table {(system, framework, model, dtype)}: no balanced rows; there are {have}")
    full = rows.filter(pl.col("n") >= pl.col("local")).group_by("local", "n").agg(pl.col("latency_us").median())
    levels, tau, us = [], [], []
    for (level,), part in full.sort("local", "n").group_by("local", maintain_order=True):
        levels.append(level)
        tau.append(part["n"].to_numpy() / level)
        us.append(part["latency_us"].to_numpy())
    name = f"moe {system} {framework} {model} {dtype}"
    whole = rows.filter(pl.col("moe_ep_size") == 1).select("activated", "n", "latency_us").sort("n").to_numpy().T
    return MoeTable(name, np.array(levels), tuple(tau), tuple(us), kind, tuple(whole))


@functools.cache
def load_nccl(system: str, data: Path | None = None) -> dict[str, Table]:
    """Collectives by operation, over (gpus, bytes): whole gathered buffer for all_gather, a rank's buffer else."""
    frame, kind = raw(CALIB, "nccl.parquet", data)
    frame = _of_system(frame.filter(pl.col("nccl_dtype") == "half"), system, "nccl.parquet")
    frame = frame.rename({"latency_us": "us", "num_gpus": "gpus"})
    return {
        op: grid(f"{op} {system}", part, ["gpus", "bytes"], kind, fit=True)
        for (op,), part in frame.group_by("op_name", maintain_order=True)
    }


def _of_system(frame: pl.DataFrame, system: str, file: str) -> pl.DataFrame:
    rows = frame.filter(pl.col("system") == system)
    if not len(rows):
        raise TableError(f"{file}: system {system!r} is not there; it has {frame['system'].unique().sort().to_list()}")
    return rows


@functools.cache
def load_decode_attention(system: str, heads: int, kv: int, data: Path | None = None) -> Table:
    """Decode attention of one layer over (batch, context) for query and kv heads, bf16 cache, head width 128."""
    frame, kind = _perf(f"{system}_generation_attention_perf.parquet", data)
    frame = frame.filter(pl.col("kv_cache_dtype") == "bfloat16")
    have = frame.select("num_heads", "num_key_value_heads").unique().sort(pl.all()).rows()
    if (heads, kv) not in have:
        raise TableError(f"attention {system}: heads, kv (={heads}, {kv}): not measured; there are {have}")
    frame = frame.filter((pl.col("num_heads") == heads) & (pl.col("num_key_value_heads") == kv))
    frame = frame.with_columns(us=pl.col("latency") * 1e3, batch=pl.col("batch_size"), context=pl.col("step") + 1)
    return grid(f"attention {system} {heads}/{kv}", frame, ["batch", "context"], kind, fit=True)


@functools.cache
def load_mla(dtype: str, heads: int = 128, data: Path | None = None) -> Table:
    """DeepSeek's attention block on B200, projections included, over (batch, context); `dtype` of its weights."""
    frame, kind = _perf("b200_sxm_mla_generation_module_perf.parquet", data)
    have = frame["gemm_type"].unique().sort().to_list()
    if dtype not in have:
        raise TableError(f"mla: dtype (={dtype!r}): not measured; there are {have}")
    frame = frame.filter((pl.col("kv_cache_dtype") == "bfloat16") & (pl.col("gemm_type") == dtype))
    frame = frame.filter(pl.col("num_heads") == heads)
    frame = frame.with_columns(us=pl.col("latency") * 1e3, batch=pl.col("batch_size"), context=pl.col("step"))
    return grid(f"mla b200_sxm {dtype} {heads} heads", frame, ["batch", "context"], kind, fit=True)


def _perf(file: str, data: Path | None) -> tuple[pl.DataFrame, str]:
    known = [name for _, name in twins_steptime.TABLES]
    if file not in known:
        raise TableError(f"{file}: no such table; there are {', '.join(name for name in known if '_perf' in name)}")
    return raw(CALIB, file, data)


@dataclass(frozen=True)
class GemmTables:
    """Matrix products by weight shape: (m, n, k) with the nearest measured n x k scaled by weight bytes."""

    name: str
    frame: pl.DataFrame = field(hash=False, repr=False)
    data: str
    _cache: dict[tuple[int, int], Table] = field(default_factory=dict, hash=False, repr=False)

    @functools.cached_property
    def shapes(self) -> np.ndarray:
        """Measured weight shapes, (s, 2) of n, k."""
        return self.frame.select("n", "k").unique().sort("n", "k").to_numpy()

    def nearest(self, n: int, k: int) -> tuple[int, int]:
        distance = np.abs(np.log(self.shapes / [n, k])).sum(axis=1)
        found = self.shapes[int(distance.argmin())]
        return int(found[0]), int(found[1])

    def at(self, *, m: Any, n: int, k: int) -> np.ndarray:
        """Time of (m, k) x (k, n), us; log-log in m."""
        shape = self.nearest(n, k)
        if shape not in self._cache:
            rows = self.frame.filter((pl.col("n") == shape[0]) & (pl.col("k") == shape[1]))
            self._cache[shape] = grid(f"{self.name} {shape[0]}x{shape[1]}", rows, ["m"], self.data, fit=True)
        return self._cache[shape].at(m=m) * (n * k) / (shape[0] * shape[1])


@functools.cache
def load_gemm(system: str, dtype: str, data: Path | None = None) -> GemmTables:
    """Matrix products of one system and number type."""
    frame, kind = _perf(f"{system}_gemm_perf.parquet", data)
    have = frame["gemm_dtype"].unique().sort().to_list()
    if dtype not in have:
        raise TableError(f"gemm {system}: dtype (={dtype!r}): not measured; there are {have}")
    frame = frame.filter(pl.col("gemm_dtype") == dtype).with_columns(us=pl.col("latency") * 1e3)
    return GemmTables(f"gemm {system} {dtype}", frame.select("m", "n", "k", "us"), kind)


@dataclass(frozen=True)
class RtxTables:
    """Qwen3-30B on the RTX card: expert kernel, dense kernels by layer name, and attention by kind of batch."""

    moe: MoeTable
    dense: dict[str, Table] = field(hash=False)  # over tokens
    per_sequence: dict[str, Table] = field(hash=False)  # over sequences
    decode: Table  # over n_decode, kv_decode
    prefill: Table  # over prefill_chunk, kv_prefill
    mixed: Table  # over prefill_chunk, kv_prefill, n_decode, kv_decode
    data: str


@functools.cache
def load_rtx(data: Path | None = None) -> RtxTables:
    """All tables of the RTX PRO 6000. Few experts fit the card's L2 cache, so levels below 16 are left out."""
    frame, kind = raw(RTX, "moe.csv", data)
    frame = frame.filter(pl.col("activated_experts") >= L2_EXPERTS).sort("activated_experts", "tokens")
    levels, tau, us = [], [], []
    for (level,), part in frame.group_by("activated_experts", maintain_order=True):
        levels.append(float(level))
        tau.append(part["tokens"].to_numpy() * 8.0 / level)
        us.append(part["time_us"].to_numpy())
    points = frame.select(pl.col("activated_experts"), pl.col("tokens") * 8, "time_us").to_numpy().astype(float).T
    name = "moe rtx_pro_6000 VLLM qwen3-30b bfloat16"
    moe = MoeTable(name, np.array(levels), tuple(tau), tuple(us), kind, tuple(points))
    attention = raw(RTX, "attention.parquet", data)[0].rename({"time_us": "us"})
    chunked, decoding = pl.col("prefill_chunk") > 0, pl.col("n_decode") > 0
    doubled = pl.col("prefill_chunk", "kv_prefill", "kv_decode").is_in([0] + [2**i for i in range(15)])
    pure = attention.filter(~chunked), attention.filter(chunked & ~decoding & pl.all_horizontal(doubled))
    mixed = attention.filter(chunked & decoding & pl.all_horizontal(doubled))
    axes = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
    return RtxTables(
        moe,
        _by_layer("dense.csv", "tokens", data),
        _by_layer("per_sequence.csv", "sequences", data),
        grid("rtx decode attention", pure[0], axes[2:], kind, fit=True),
        grid("rtx prefill attention", pure[1], axes[:2], kind),
        grid("rtx mixed attention", mixed, axes, kind),
        kind,
    )


def _by_layer(file: str, axis: str, data: Path | None) -> dict[str, Table]:
    frame, kind = raw(RTX, file, data)
    frame = frame.rename({"time_us": "us"})
    parts = frame.group_by("layer", maintain_order=True)
    return {name: grid(f"rtx {name}", part, [axis], kind, fit=True) for (name,), part in parts}
