"""Figures one can read: one style, one colour per policy, and the plotted table beside every picture.

matplotlib is imported here only when a figure is drawn.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import stage

if TYPE_CHECKING:
    import polars as pl

# Okabe and Ito's palette: told apart by readers with any common colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
CHARACTERS_PER_INCH = 17  # of the note under a figure
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "proving-ground",
}


def look(names: list[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each policy, stable in the order of `names`."""
    return {
        name: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(names)
    }


def panels(rows: int, columns: int, *, width: float = 4.2, height: float = 3.2, **extra: Any) -> tuple[Any, Any]:
    """A figure with `rows` x `columns` axes (always a 2-d array) of `width` x `height` inches each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    return pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, **extra)


def plain_ticks(axis: Any) -> None:
    """Numbers as one says them on a logarithmic axis (`20`, not `2 x 10^1`); `axis` is an x or y axis."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")


def note(figure: Any, text: str) -> None:
    """A grey line under the figure: basis, data, and what a reader must know to judge it."""
    text = textwrap.fill(text, int(figure.get_figwidth() * CHARACTERS_PER_INCH))
    figure.supxlabel(text, fontsize=7.5, color="#555555", x=0.01, ha="left")


def nothing(reason: str) -> Any:
    """A figure that says why there is nothing to show."""
    figure, axes = panels(1, 1)
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, textwrap.fill(reason, 40), ha="center", va="center")
    return figure


def save(figure: Any, path: Path, table: "pl.DataFrame") -> None:
    """Write the picture and, beside it, the plotted table as `<name>.parquet`; both atomically."""
    from matplotlib import pyplot

    with stage.atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), metadata={"Date": None})
    with stage.atomic(path.with_suffix(".parquet")) as temporary:
        table.write_parquet(temporary)
    pyplot.close(figure)
