"""A peer's process that talks too much, ends or hangs never holds up a run."""

import sys
from pathlib import Path

import pytest

from operators.lab.peers import Peer, PeerError

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
def script(tmp_path) -> Path:
    """A peer in this interpreter that fills any pipe nobody reads."""
    path = tmp_path / "peer.py"
    path.write_text(SCRIPT)
    return path


def test_words_nobody_reads_do_not_block_and_the_last_ones_are_told(script):
    with Peer(sys.executable, script) as peer:
        assert peer.ask(op="fine") == {}
        with pytest.raises(PeerError, match="ended with 1: the last words"):
            peer.ask(op="die")


def test_a_peer_that_hangs_is_ended(script):
    with (
        Peer(sys.executable, script, patience_s=0.2) as peer,
        pytest.raises(PeerError, match=r"no answer within 0\.2 s"),
    ):
        peer.ask(op="hang")
