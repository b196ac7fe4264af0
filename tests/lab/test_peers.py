"""Comparison rows: direction of the ratio, what is not measured; interleaving; talking to a peer's process."""

import sys

import pytest

from operators.lab import peers
from operators.lab.peers import Peer, PeerError, interpreter, paired, row


def test_runs_are_interleaved():
    seen = []
    mine, theirs = paired(lambda: seen.append("a"), lambda: seen.append("b"), n=3)
    assert "".join(seen) == "ab" * 4  # one unmeasured pair first
    assert len(mine) == len(theirs) == 3


@pytest.mark.parametrize(("higher", "ratio"), [(False, 4.0), (True, 0.25)])
def test_above_one_means_ours_is_better(higher, ratio):
    samples = {"ours_samples": [1.0, 2.0, 1.0], "peer_samples": [4.0, 4.0, 8.0]}
    found = row(bench="x", case="x", ours="a", peer="b", unit="us", **samples, higher_is_better=higher, recall=0.9)
    assert tuple(found) == (*peers.COLUMNS, "recall")
    assert found["ratio"] == found["median"] == ratio
    assert (found["n"], found["status"]) == (3, "measured")


def test_one_number_is_a_limit_for_every_sample():
    found = row(bench="x", case="x", ours="a", peer="limit", unit="us", ours_samples=[2.0, 4.0], peer_samples=[8.0])
    assert (found["ratio_low"], found["ratio_high"], found["n"]) == (2.0, 4.0, 2)


def test_without_samples_nothing_is_measured():
    found = row(bench="x", case="x", ours="a", peer="b", unit="us", reason="not here")
    assert (found["status"], found["ratio"], found["reason"]) == ("not measured", None, "not here")


def test_an_environment_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PG_PEERS_NOBODY_PYTHON", str(tmp_path / "nothing"))
    with pytest.raises(PeerError, match="venv-peers-nobody"):
        interpreter(".venv-peers-nobody")
    monkeypatch.setenv("PG_PEERS_NOBODY_PYTHON", sys.executable)
    assert str(interpreter(".venv-peers-nobody")) == sys.executable
    with pytest.raises(PeerError, match="no_such_package"):
        interpreter(".venv-peers-nobody", package="no_such_package")


def test_a_peer_answers_line_by_line_and_its_last_words_are_kept():
    script = (
        "import json, sys\nfor line in sys.stdin: print(json.dumps({'twice': 2 * json.loads(line)['x']}), flush=True)"
    )
    with Peer(sys.executable, "-c", script) as peer:
        assert [peer.ask(x=x)["twice"] for x in (1, 5)] == [2, 10]
    command = (sys.executable, "-c", "raise SystemExit('out of torch')")
    with Peer(*command) as peer, pytest.raises(PeerError, match="ended with 1: out of torch"):
        peer.ask(x=1)
