"""The bars of the serving half beside their peers: printed, never deciding anything (`pytest -m perf -s`)."""

import pytest

from operators.batann import bench, bench_disk
from operators.batann.settings import Settings
from operators.lab import datasets

pytestmark = pytest.mark.perf


def show(rows: list[dict]) -> None:
    for found in rows:
        if found["status"] == "measured":
            sides = (
                f"{found['ours']} {found['ours_value']:.4g}, {found['peer']} {found['peer_value']:.4g} {found['unit']}"
            )
            spread = f"[{found['ratio_low']:.2f}, {found['ratio_high']:.2f}], n={found['n']}"
            print(
                f"{found['bench']}: {found['case']}: {sides}: ratio {found['ratio']:.2f} {spread}, bar {found['bar']}"
            )
        else:
            print(f"{found['bench']}: {found['case']}: {found['peer']}: not measured: {found['reason']}")


def test_disk_search_beside_its_peers(tmp_path):
    show(bench_disk.rows(Settings(profile="laptop"), datasets.find_root(), tmp_path))


def test_hand_offs(ray_head):
    show(bench._transport(Settings(profile="laptop"), ray_head))
