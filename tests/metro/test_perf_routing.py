"""Bars of routing and placement beside their peers: printed, never deciding anything."""

import pytest

from operators.metro import bench_routing
from operators.metro.settings import Settings


@pytest.mark.perf
def test_print_every_bar(capsys):
    from operators.lab import datasets

    rows = bench_routing.rows(Settings(), datasets.find_root())
    with capsys.disabled():
        print()
        for row in rows:
            name = f"{row['bench']:6} {row['case']:44} N={row['N']} G={row['G']} vs {row['peer']}"
            if row["status"] != "measured":
                print(f"{name}: not measured ({row['reason']})")
                continue
            bar = (
                f"bar {row['bar']:g}: {'met' if row['ratio'] >= row['bar'] else 'NOT met'}" if row["bar"] else "no bar"
            )
            print(
                f"{name}: {row['ours_value']:.4g} vs {row['peer_value']:.4g} {row['unit']}, ratio {row['ratio']:.3g} "
                f"[{row['ratio_low']:.3g}, {row['ratio_high']:.3g}] n={row['n']}, {bar}; {row['reason']}"
            )
    assert len(rows) > 10
