"""What the fault claims count: each way to be bad is counted, and real servers that come back give none."""

import numpy as np
import polars as pl
import pytest

from operators.batann import evaluate, run
from operators.batann.actors import Cluster
from operators.batann.client import Outcome
from operators.batann.engine import native_core
from operators.batann.faulted import bad_after_restart, bad_answers
from operators.batann.outcomes import Result
from operators.batann.settings import Settings
from tests.batann import folders

OK, DOWN, LATE = ("ok", ""), ("failed", "partition_down"), ("failed", "deadline")
EXPECTED = np.zeros((4, 2), np.uint32)


def result(*ends: tuple[str, str], other: int = 0) -> Result:
    outcomes = [Outcome([0, 0], [0.0, 0.0], status, reason, 0, 1, 0, []) for status, reason in ends]
    ids = EXPECTED.copy()
    ids[:other] = 7
    return Result(ids, np.zeros(ids.shape, np.float32), outcomes, 1.0)


@pytest.mark.parametrize(
    ("ends", "other", "replicas", "fault", "bad"),
    [
        ((OK, OK, DOWN, LATE), 0, 1, "kill", 0),
        ((OK, OK, DOWN, LATE), 1, 1, "kill", 1),
        ((OK, OK, DOWN, ("failed", "io")), 0, 1, "kill", 1),
        ((OK, OK, DOWN, ("failed", "")), 0, 1, "kill", 1),
        ((DOWN, DOWN, LATE, DOWN), 0, 1, "kill", 4),
        ((OK, OK, DOWN, LATE), 0, 2, "kill", 2),
        ((OK, OK, ("partial", "hops"), ("failed", "")), 0, 1, "settings", 1),
        ((OK, OK, OK, OK), 4, 2, "kill", 4),
    ],
)
def test_every_way_to_be_bad_is_counted(ends, other, replicas, fault, bad):
    assert bad_answers(result(*ends, other=other), EXPECTED, replicas=replicas, fault=fault) == bad


@pytest.mark.skipif(native_core() is None, reason="the native core is not built")
def test_a_server_that_comes_back_answers_everything_and_wrong_answers_are_counted():
    queries = folders.queries(40)
    settings = Settings(mem_l=10)
    with Cluster.start(folders.index(3), 3, launch="process") as cluster:
        beam = run.Beam(30, 0.0, 0.0)
        expected = cluster.search(queries, 10, beam.L, 1, mem_l=10, timeout_s=30).ids
        cluster.kill(1)
        wrong = expected.copy()
        wrong[:3, 0] = 0
        wrong[:3, 1] = 0  # no answer holds a node twice
        assert bad_after_restart(cluster, [1], queries, wrong, beam, settings) == 3
        assert bad_after_restart(cluster, [], queries, expected, beam, settings) == 0
        assert cluster.dead() == []


def test_a_run_in_which_every_query_failed_keeps_its_row():
    schemas = run.SCHEMA, run.SUMMARY_SCHEMA
    config = {"scenario": "fault", "mode": "baton", "n": 9, "S": 3, "method": "gp", "transport": "tcp", "seed": 0}
    config |= {"W": 1, "L": 10, "rate": 0.0, "replicas": 1, "fault": "kill", "refill": "one"}
    rows = [config | {"status": "failed", "reason": "partition_down", "query": 0}, config | {"bad_answers": 1}]
    runs, summary = (
        pl.DataFrame([{name: row.get(name) for name in schema}], schema=schema)
        for row, schema in zip(rows, schemas, strict=True)
    )
    assert evaluate._measured(runs, summary)["bad_answers"].to_list() == [1]
