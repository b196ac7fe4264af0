"""A peer's process that talks too much, ends or hangs never holds up a run."""

import sys
from pathlib import Path

import pytest

from operators.batann import rivals

SCRIPT = """
import sys, time
for line in sys.stdin:
    print("x" * 200_000, file=sys.stderr, flush=True)
    if "hang" in line:
        time.sleep(600)
    elif "die" in line:
        sys.exit("the last words")
    else:
        print("{}", flush=True)
"""


@pytest.fixture
def script(tmp_path, monkeypatch) -> Path:
    """A peer in this interpreter that fills any pipe nobody reads."""
    monkeypatch.setenv("PG_BATANN_PEERS_PYTHON", sys.executable)
    path = tmp_path / "peer.py"
    path.write_text(SCRIPT)
    return path


def test_words_nobody_reads_do_not_block_and_the_last_ones_are_told(script):
    with rivals.Peer(script) as peer:
        assert peer.ask(op="fine") == {}
        with pytest.raises(rivals.PeerError, match="ended with 1: the last words"):
            peer.ask(op="die")


def test_a_peer_that_hangs_is_ended(script, monkeypatch):
    monkeypatch.setattr(rivals, "ANSWER_S", 0.2)
    with rivals.Peer(script) as peer, pytest.raises(rivals.PeerError, match="no answer to hang in"):
        peer.ask(op="hang")
