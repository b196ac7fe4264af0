"""Comparison rows: direction of the ratio, what a missing peer looks like, talking to a peer's process."""

import sys

import numpy as np
import pytest

from operators.metro import bench_routing, peers
from operators.metro.peers import Peer, PeerError, paired, row


def test_runs_are_interleaved():
    seen = []
    mine, theirs = paired(lambda: seen.append("a"), lambda: seen.append("b"), n=3)
    assert "".join(seen) == "ab" * 4  # one unmeasured pair first
    assert len(mine) == len(theirs) == 3


@pytest.mark.parametrize(("higher", "ratio"), [(False, 4.0), (True, 0.25)])
def test_above_one_means_ours_is_better(higher, ratio):
    found = row(
        bench="route",
        case="x",
        ours="a",
        peer="b",
        unit="us",
        ours_samples=[1.0, 2.0, 1.0],
        peer_samples=[4.0, 4.0, 8.0],
        higher_is_better=higher,
        N=4,
    )
    assert tuple(found) == peers.COLUMNS
    assert found["ratio"] == found["median"] == ratio
    assert (found["n"], found["N"], found["G"], found["status"]) == (3, 4, 0, "measured")


def test_one_number_is_a_limit_for_every_sample():
    found = row(bench="x", case="x", ours="a", peer="limit", unit="us", ours_samples=[2.0, 4.0], peer_samples=[8.0])
    assert (found["ratio_low"], found["ratio_high"], found["n"]) == (2.0, 4.0, 2)


def test_without_samples_nothing_is_measured():
    found = row(bench="x", case="x", ours="a", peer="b", unit="us", reason="not here")
    assert (found["status"], found["ratio"], found["reason"]) == ("not measured", None, "not here")
    with pytest.raises(ValueError, match=r"unknown fields \['size'\]"):
        row(bench="x", case="x", ours="a", peer="b", unit="us", size=3)


def test_missing_peers_give_rows_that_say_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PG_PEERS_PYTHON", str(tmp_path / "nothing"))
    rows = bench_routing.place_rows(np.ones((2, 256)), "synthetic", n=1)
    assert len(rows) == 2 * len(bench_routing.PLACEMENTS)
    assert {found["status"] for found in rows} == {"not measured"}
    assert all("no peers' interpreter" in found["reason"] for found in rows)


def test_a_peer_answers_line_by_line_and_its_last_words_are_kept(monkeypatch):
    monkeypatch.setenv("PG_PEERS_PYTHON", sys.executable)
    script = (
        "import json, sys\nfor line in sys.stdin: print(json.dumps({'twice': 2 * json.loads(line)['x']}), flush=True)"
    )
    with Peer(script) as peer:
        assert [peer.ask(x=x)["twice"] for x in (1, 5)] == [2, 10]
    with Peer("raise SystemExit('out of torch')") as peer, pytest.raises(PeerError, match="ended with 1: out of torch"):
        peer.ask(x=1)
