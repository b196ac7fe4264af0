"""Prints the simulator's bars beside their peers; decides nothing."""

import polars as pl
import pytest

from operators.lab import datasets
from operators.metro import bench_serving


@pytest.mark.perf
def test_print_the_simulators_bars(repository, capsys):
    found = bench_serving.estimate_rows(datasets.find_root(base=repository))
    assert all(row["status"] == "measured" or row["reason"] for row in found)
    with capsys.disabled(), pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=240, fmt_str_lengths=120):
        print(bench_serving.report(found))
