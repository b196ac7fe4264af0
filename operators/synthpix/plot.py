"""Stage: the figures, each with the plotted table beside it."""

from pathlib import Path

from operators.lab import stage
from operators.synthpix.settings import Settings


def main(
    *, settings: Settings, vectors: Path, probes: Path, bench: Path, rates: Path, manifest: Path, shards: Path,
    out_folder: Path,
) -> None:  # fmt: skip
    """Draw errors of originals and re-renders, peak locking, borders, throughput and one pair with its label.

    Args:
        vectors: vectors with their truth (evaluate)
        probes: raw numbers of the probes (evaluate)
        bench: bench.parquet (bench)
        rates: every single rate (bench)
        manifest: manifest.parquet (simulate)
        shards: folder of shards (simulate)
        out_folder: folder of the figures
    """
    from operators.lab import figures
    from operators.synthpix import charts

    measured, compared = stage.read_table(probes), stage.read_table(bench)
    drawn = {
        "errors": charts.errors(stage.read_table(vectors)),
        "locking": charts.locking(measured),
        "border": charts.border(measured, compared),
        "throughput": charts.throughput(stage.read_table(rates)),
        "pair": charts.pair(*_shown(settings, stage.read_table(manifest), shards)),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


def _shown(settings: Settings, manifest, folder: Path) -> tuple:
    """The pair that is shown: the first of the last item (or flow) at the largest size of at most 256 px."""
    import numpy as np
    import polars as pl

    from operators.synthpix import rendering

    size = max((k for k, s in enumerate(settings.sizes) if s.height <= 256), default=0,
               key=lambda k: settings.sizes[k].height)  # fmt: skip
    here = manifest.filter(pl.col("epoch") == size)
    names = [n for n in (*settings.items[1:2], *settings.analytic[-1:]) if len(here.filter(
        pl.col("flow_id").str.starts_with(f"{n}-")))]  # fmt: skip
    row = here.filter(pl.col("flow_id").str.starts_with(f"{names[0]}-") if names else pl.lit(True)).row(0, named=True)
    place = next(path for path in sorted(folder.iterdir()) if path.is_dir())
    image1, image2, label = rendering.read_pairs(place, [row["pair"]], settings)[0]
    scale = 255.0 / (2 ** (settings.bit_depth or 8) - 1)
    look = f"{row['ppp_effective']:.3f} per px), {settings.psf} spots"
    text = (f"Pair {row['pair']} ({row['flow_id']}, {row['data']}), {row['visible_1']} particles in image 1 "
            f"({look}, label: {settings.label_at} of the path.")  # fmt: skip
    return image1.astype(np.float64) * scale, image2.astype(np.float64) * scale, np.array(label), text


if __name__ == "__main__":
    stage.run(main)
