"""Stage: the figures, each with the plotted table beside it."""

from pathlib import Path

from operators.lab import stage
from operators.locks.settings import Settings


def main(
    *, settings: Settings, throughput: Path, stop: Path, soak: Path, sweep: Path, explore: Path, out_folder: Path
) -> None:
    """Draw throughput, survivors of a stop, kill rate, fences, explored states and sweep map, as SVG with a table each.

    Args:
        throughput: rates and fences of every policy (run)
        stop: windows around a SIGSTOP (run)
        soak: kill soaks (run)
        sweep: crash sweep (run)
        explore: model explorer (run)
        out_folder: folder of the figures
    """
    from operators.lab import figures
    from operators.locks import charts

    rates, soaks = stage.read_table(throughput), stage.read_table(soak)
    drawn = {
        "throughput": charts.throughput(rates),
        "stop": charts.stop(stage.read_table(stop)),
        "kills": charts.kills(soaks),
        "fences": charts.fences(rates),
        "states": charts.states(stage.read_table(explore)),
        "sweep": charts.sweep(stage.read_table(sweep)),
    }
    for name, (figure, frame) in drawn.items():
        figures.save(figure, out_folder / f"{name}.svg", frame)


if __name__ == "__main__":
    stage.run(main)
