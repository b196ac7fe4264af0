"""Stage: one figure."""

from pathlib import Path

from operators.lab import figures, stage
from operators.toy.settings import Settings


def main(*, settings: Settings, measures: Path, out: Path) -> None:
    """Draw the means.

    Args:
        measures: means by policy and seed
        out: the figure
    """
    frame = stage.read_table(measures)
    figure, axes = figures.panels(1, 1)
    axes[0, 0].bar(frame["policy"], frame["mean"])
    axes[0, 0].set_ylabel("mean of the numbers (1)")
    figures.save(figure, out, frame)


if __name__ == "__main__":
    stage.run(main)
