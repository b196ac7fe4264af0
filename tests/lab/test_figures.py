"""Figures: the table lies beside the picture, looks are stable, and pictures repeat byte for byte."""

import polars as pl

from operators.lab import figures


def test_a_figure_is_saved_with_its_table(tmp_path):
    table = pl.DataFrame({"x": [1, 2], "y": [3.0, 4.0]})
    for name in ("a", "b"):
        figure, axes = figures.panels(1, 2)
        axes[0, 1].plot(table["x"], table["y"], **figures.look(["one", "two"])["two"])
        figures.note(figure, "basis: test")
        figures.save(figure, tmp_path / f"{name}.svg", table)
    assert pl.read_parquet(tmp_path / "a.parquet").equals(table)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_nothing_to_show_is_said(tmp_path):
    figures.save(figures.nothing("metro.pareto is off"), tmp_path / "a.svg", pl.DataFrame())
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_every_policy_of_a_dozen_gets_a_look():
    looks = figures.look([str(i) for i in range(12)])
    assert len({(look["color"], look["marker"]) for look in list(looks.values())[:8]}) == 8
