"""Stage `evaluate`: PIV over the run's pairs and the re-renders, and the probes of quality; measures for the claims."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.synthpix.settings import Settings

MEASURES = {
    **dict.fromkeys(("system", "policy"), "String"),
    "seed": "Int64",
    **dict.fromkeys(("settings", "data", "flow", "method", "label_at"), "String"),
    **dict.fromkeys(("bias_u", "bias_v", "rms", "median", "p90", "outlier_share", "peak_lock_px"), "Float64"),
    **dict.fromkeys(("slope_second_order", "border_flatness", "slope_size", "label_error_px"), "Float64"),
    "shared_parameters": "Float64",
    "n": "Int64",
}
VECTORS = {
    "pair": "Int64",
    **dict.fromkeys(("source", "method", "windows", "label_at"), "String"),
    **dict.fromkeys(("x", "y", "u", "v", "u_true", "v_true", "u_true_window", "v_true_window"), "Float64"),
    **dict.fromkeys(("flow", "settings"), "String"),
    "seed": "Int64",
    "data": "String",
}
PROBES = {"probe": "String", "series": "String", "x": "Float64", "y": "Float64", "z": "Float64", "data": "String"}


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        return _kinds(MEASURES)
    raise AttributeError(name)


def _kinds(names: dict[str, str]) -> dict[str, Any]:
    import polars as pl

    return {column: getattr(pl, kind) for column, kind in names.items()}


def main(
    *, settings: Settings, manifest: Path, shards: Path, out: Path, out_vectors: Path, out_probes: Path,
    data: Path | None = None,
) -> None:  # fmt: skip
    """Analyse pairs, re-render the items, probe labels, borders, peak locking and the second-order term.

    Args:
        manifest: manifest.parquet (simulate)
        shards: folder of shards (simulate)
        out: measures.parquet
        out_vectors: vectors with their truth (runs/piv/vectors.parquet)
        out_probes: raw numbers of the probes (runs/probes.parquet)
        data: data root (default: synthetic twins)
    """
    import polars as pl

    from operators.synthpix import analysis

    listed = stage.read_table(manifest)
    rows, frames = [], []
    pairs = _pairs(settings, shards, listed)
    groups: dict[tuple, list] = {}
    for keys, found in [*analysis.run_pairs(settings, listed, pairs), *analysis.rerender(settings, data)]:
        frames.append(pl.DataFrame(found).with_columns(pl.lit(v).cast(_kinds(VECTORS)[k]).alias(k)
                                                       for k, v in keys.items()).select(list(VECTORS)))  # fmt: skip
        group = tuple(keys[k] for k in ("source", "settings", "flow", "method", "label_at", "seed", "data"))
        groups.setdefault(group, []).append(found)
    rows += _group_rows(settings, groups)
    probed, raw = _probes(settings)
    rows += probed
    frame = pl.DataFrame([{name: row.get(name) for name in MEASURES} for row in rows], schema=_kinds(MEASURES))
    frame = frame.with_columns(system=pl.lit("synthpix"), data=pl.col("data").fill_null("synthetic"))
    stage.write_table(frame, out, schema=_kinds(MEASURES), settings=settings)
    stage.write_table(pl.concat(frames), out_vectors, schema=_kinds(VECTORS), settings=settings)
    stage.write_table(raw, out_probes, schema=_kinds(PROBES), settings=settings)


def _pairs(settings: Settings, folder: Path, manifest) -> dict[int, tuple]:
    """The pairs that are analysed: spread evenly over the run, of sizes the windows fit into, 512 px at most."""
    from operators.synthpix import rendering

    numbers, first = [], 0
    for size in settings.sizes:
        if max(settings.piv_windows) <= min(size.height, size.width) and max(size.height, size.width) <= 512:
            numbers += list(range(first, first + size.pairs))
        first += size.pairs
    step = max(1, len(numbers) // settings.piv_pairs)
    # Neighbouring pairs have different flows; an odd step would visit only some of them.
    block = len(set(manifest["flow_id"]))
    starts = numbers[: len(numbers) : max(1, step * block)]
    wanted = [n for s in starts for n in numbers[numbers.index(s) : numbers.index(s) + block]][: settings.piv_pairs]
    place = next(path for path in sorted(folder.iterdir()) if path.is_dir())
    return dict(zip(wanted, rendering.read_pairs(place, wanted, settings), strict=True))


def _group_rows(settings: Settings, groups: dict[tuple, list]) -> list[dict]:
    """Measures of every group by both rules of truth; an original stands beside every seed of its re-renders."""
    from operators.synthpix import analysis

    rows = []
    for (source, kind, flow, method, label_at, seed, data), parts in groups.items():
        found = analysis.together(parts)
        for rule in ("point", "window"):
            row = {"policy": source, "settings": kind if rule == "point" else f"{kind}-window", "flow": flow,
                   "method": method, "label_at": label_at, "data": data, **analysis.measures(found, rule)}  # fmt: skip
            seeds = range(settings.seed, settings.seed + settings.rerender_seeds) if seed is None else [seed]
            rows += [{**row, "seed": s} for s in seeds]
    return rows


def _probes(settings: Settings):
    """Rows of the probes of quality over the seeds, and their raw numbers for the figures."""
    import numpy as np
    import polars as pl

    from operators.synthpix import analysis, parameters, quality

    method, _ = analysis.method_of(settings)
    rows = quality.registration()
    rows.append({"policy": "synthpix 0.1.1", "method": "parameters", "shared_parameters": parameters.shared(),
                 "n": sum(1 for p in parameters.PARAMETERS if p.synpivimage)})  # fmt: skip
    raw = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        found, profiles = quality.border(settings.border_pairs, seed)
        locked, curves = quality.peak_lock(settings.lock_pairs, seed)
        rows += found + locked + quality.second_order(method, seed)
        if seed > settings.seed:
            continue
        for name, profile in profiles.items():
            raw.append(("border", name, np.arange(len(profile), dtype=float), profile, np.zeros(len(profile))))
        for name, (true, u, error) in curves.items():
            raw.append(("peak_lock", name, true, u, error))
    frames = [
        pl.DataFrame({"x": x, "y": y, "z": z}).select(probe=pl.lit(probe), series=pl.lit(series), x="x", y="y", z="z",
                                                      data=pl.lit("synthetic"))
        for probe, series, x, y, z in raw
    ]  # fmt: skip
    return rows, pl.concat(frames)


if __name__ == "__main__":
    stage.run(main)
