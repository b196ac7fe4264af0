"""The commands `serve` and `query` as a user runs them: other processes, plain sockets, a kill, an end."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from operators.batann import write_index
from operators.batann.endpoints import Endpoints, EndpointsError, check_free
from operators.batann.query import main as query_main
from operators.batann.serve import main as serve_main
from operators.lab import faults
from tests.batann import sets

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
SERVERS = 3


def until(found: Callable[[], object], what: str) -> object:
    """Poll for something that comes in its own time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {PATIENCE_S:g} s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An index of three partitions, and queries."""
    made = tmp_path_factory.mktemp("serve")
    x, graph, pq, codes, head = sets.parts_of_an_index()
    part = (np.argsort(np.argsort(x[:, :8].astype(int).sum(1))) * SERVERS // len(x)).astype(np.uint8)
    write_index(made / "layout", x, graph, pq, codes, part, head)
    np.save(made / "q.npy", sets.vectors(60, 0, 1))
    return made


class Serving:
    """A `serve` process and what it has printed."""

    def __init__(self, folder: Path, *words: str):
        command = [sys.executable, "-m", "operators.batann.serve", str(folder / "layout"), "--no-ray", *words]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        self.lines.extend(line.rstrip() for line in iter(self.process.stdout.readline, ""))

    def line(self, pattern: str) -> re.Match:
        """The first printed line that matches, once it is there."""

        def found() -> re.Match | None:
            return next((match for line in [*self.lines] if (match := re.search(pattern, line))), None)

        return until(found, f"a line {pattern!r} in {self.lines}")

    def pids(self) -> list[int]:
        return [int(self.line(rf"server {server}: .* process (\d+)").group(1)) for server in range(SERVERS)]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def serving(folder) -> Iterator[Serving]:
    made = Serving(folder, "--replicas", "2", "--io", "mem")
    try:
        made.line("endpoints: ")
        yield made
    finally:
        if made.process.poll() is None:
            os.killpg(made.process.pid, signal.SIGKILL)  # its servers end with their input
            made.process.wait()


@pytest.fixture
def query(folder, capsys) -> Callable[..., tuple[int, str]]:
    """The command `query`, in this process: its exit code and what it printed."""

    def run(*words: str) -> tuple[int, str]:
        files = ["--endpoints", str(folder / "endpoints.json"), "--queries", str(folder / "q.npy")]
        with pytest.raises(SystemExit) as ended:
            query_main([*files, "-L", "20", "-W", "1", "--timeout-s", "5", *words])
        return ended.value.code, capsys.readouterr().out

    return run


def test_a_killed_server_changes_no_answer_comes_back_and_nothing_is_left(folder, serving, query):
    pids = serving.pids()
    code, printed = query("--out", str(folder / "before.parquet"))
    assert code == 0
    for word in ("queries/s", "p99", "60 ok"):
        assert word in printed

    faults.strike("kill", pids[1])
    assert query("--out", str(folder / "during.parquet"))[0] == 0
    again = int(serving.line(r"server 1: started again, process (\d+)").group(1))
    assert query("--out", str(folder / "after.parquet"))[0] == 0
    before, during, after = (pl.read_parquet(folder / f"{name}.parquet") for name in ("before", "during", "after"))
    assert before.height == 60 * 10
    assert during.equals(before)
    assert after.equals(before)

    code, printed = query("--explain", "3")
    assert code == 0
    assert re.search(r"query 3: ok, .* visits?, \d+ nodes explored", printed)
    assert re.search(r"visit \d: server \d: \d+ \(\+\d+ us\)", printed)

    assert serving.end(signal.SIGINT) == 0
    for pid in [*pids, again]:
        until(lambda pid=pid: not faults.is_alive(pid), f"the end of server process {pid}")
    assert not (folder / "endpoints.json").exists()
    assert "ended" in serving.lines


def test_servers_end_with_the_process_that_serves_even_when_it_is_killed(folder, serving, query):
    pids = serving.pids()
    assert Endpoints.read(folder / "endpoints.json").replicas == 2
    serving.end(signal.SIGKILL)
    for pid in pids:
        until(lambda pid=pid: not faults.is_alive(pid), f"the end of server process {pid}")
    check_free(folder / "endpoints.json")  # what it left behind stands in nobody's way
    code, printed = query()
    assert code == 1
    assert "60 failed (partition_down)" in printed


def test_errors_are_one_line(folder, tmp_path):
    words = ["--endpoints", str(tmp_path / "none.json"), "--queries", "q.npy"]
    with pytest.raises(SystemExit, match=r"^operators.batann.query: error: endpoints .*none.json\): no such file"):
        query_main(words)
    with pytest.raises(SystemExit, match=r"^operators.batann.serve: error: servers \(=9\)"):
        serve_main([str(folder / "layout"), "--servers", "9", "--no-ray"])
    with pytest.raises(SystemExit, match=r"^operators.batann.serve: error: port \(=80\): expected 1024"):
        serve_main([str(folder / "layout"), "--port", "80", "--no-ray"])


@pytest.mark.parametrize("main", [serve_main, query_main])
def test_help_tells_the_command(main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "usage: python -m operators.batann." in capsys.readouterr().out


def test_endpoints_are_checked_when_read(tmp_path):
    path = tmp_path / "endpoints.json"
    path.write_text("{")
    with pytest.raises(EndpointsError, match="not JSON"):
        Endpoints.read(path)
    path.write_text(json.dumps({"format": "another"}))
    with pytest.raises(EndpointsError, match="expected a file of format"):
        Endpoints.read(path)
    path.write_text(json.dumps({"format": "batann-endpoints-1", "servers": [], "mode": "baton"}))
    with pytest.raises(EndpointsError, match="shape"):
        Endpoints.read(path)


def test_endpoints_of_a_process_that_serves_are_not_overwritten(tmp_path):
    path = tmp_path / "endpoints.json"
    shape = {"metric": "l2", "dim_in": 8, "dtype": "uint8", "scale": 1.0}
    server = {"id": 0, "host": "127.0.0.1", "port": 1, "parts": [0], "epoch": "00ff"}
    found = {"format": "batann-endpoints-1", "index": "x", "mode": "baton", "replicas": 1, "pid": os.getpid()}
    path.write_text(json.dumps(found | {"shape": shape, "servers": [server]}))
    with pytest.raises(ValueError, match=f"process {os.getpid()} serves there"):
        check_free(path)
    told = Endpoints.read(path)
    assert told.servers[0].epoch == 255
    assert told.mode_for("rpc") == "rpc"
    with pytest.raises(ValueError, match="mode"):
        told.mode_for("scatter")
    told.write(tmp_path / "again.json")
    assert Endpoints.read(tmp_path / "again.json") == told
