"""METRO's comparison rows: sizes, and what a missing peer looks like."""

import numpy as np
import pytest

from operators.metro import bench_routing, peers
from operators.metro.peers import row


def test_every_row_has_all_sizes():
    found = row(bench="route", case="x", ours="a", peer="b", unit="us", N=4)
    assert list(found) == list(peers.schema())
    assert (found["N"], found["G"], found["B"]) == (4, 0, 0)
    with pytest.raises(ValueError, match=r"unknown fields \['size'\]"):
        row(bench="x", case="x", ours="a", peer="b", unit="us", size=3)


def test_missing_peers_give_rows_that_say_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PG_PEERS_PYTHON", str(tmp_path / "nothing"))
    rows = bench_routing.place_rows(np.ones((2, 256)), "synthetic", n=1)
    assert len(rows) == 2 * len(bench_routing.PLACEMENTS)
    assert {found["status"] for found in rows} == {"not measured"}
    assert all("no peers' interpreter" in found["reason"] for found in rows)
