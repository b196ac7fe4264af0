"""The pure worker: loads, cancellation, promotion that checks its weights, epochs."""

import threading

import numpy as np
import pytest

from operators.warmserve import pool as module
from operators.warmserve import weightfiles
from operators.warmserve.catalogue import BLOCK_BYTES
from operators.warmserve.errors import InvariantError
from operators.warmserve.worker import PromotionRefused, Worker

pytestmark = pytest.mark.skipif(module._native is None, reason="the native core is not built")


@pytest.fixture
def manifest(tmp_path):
    return weightfiles.write(tmp_path, {"one": 1, "two": 1}, 4, BLOCK_BYTES, seed=3)


def spec(manifest, name):
    return manifest[f"{name}-0"] | {"model": name}


def test_a_worker_goes_through_its_states(manifest):
    worker = Worker(0, 0, 16)
    assert worker.state() == "idle"
    assert worker.load(0, 1, spec(manifest, "one"))["complete"]
    worker.load(0, 2, spec(manifest, "two"))
    assert worker.state() == "universal"
    assert worker.promote(0, 1, 5)["kv_blocks"] == 12
    assert worker.state() == "dedicated"
    assert set(worker.loads) == {1}
    weights = np.fromfile(spec(manifest, "one")["path"], np.uint8)
    found = worker.serve(0, 5, 77, 6)
    assert found["tokens"] == [weightfiles.token(weights, 77, i) for i in range(6)]
    assert found["first_s"] <= found["finish_s"]
    assert worker.drain(0, 5, 6) == 6
    assert worker.state() == "draining"
    worker.load(0, 3, spec(manifest, "two"))  # into what the draining instance gave
    worker.validate()
    assert worker.end(0, 5, 9)
    assert worker.state() == "universal"
    assert set(worker.loads) == {3, 9}
    assert worker.promote(0, 9, 6)["kv_blocks"] == 12  # its weights stayed
    worker.validate()
    assert worker.report()["serving"]["instance"] == 6


def test_cancelling_and_dropping_may_be_repeated(manifest):
    worker = Worker(0, 0, 16)
    worker.hold(2)
    done = []
    thread = threading.Thread(target=lambda: done.append(worker.load(0, 1, spec(manifest, "one"))))
    thread.start()
    while not any(load.done >= 2 for load in list(worker.loads.values())):
        pass
    assert worker.state() == "loading"
    with pytest.raises(PromotionRefused, match="not complete"):
        worker.promote(0, 1, 5)
    assert worker.drop(0, 1)
    assert not worker.drop(0, 1)
    thread.join(30)
    assert not done[0]["complete"]
    assert done[0]["blocks"] == 2
    worker.hold(None)
    worker.validate()
    assert worker.state() == "idle"


def test_a_lie_is_found_at_promotion(manifest):
    worker = Worker(0, 0, 16)
    worker.lie()
    assert worker.load(0, 1, spec(manifest, "one"))["complete"]
    with pytest.raises(PromotionRefused, match="checksum differs"):
        worker.promote(0, 1, 5)
    worker.validate()


def test_messages_of_another_incarnation_are_ignored(manifest):
    worker = Worker(0, 2, 16)
    assert worker.load(1, 1, spec(manifest, "one"))["stale"]
    assert worker.state() == "idle"
    worker.load(2, 1, spec(manifest, "one"))
    assert not worker.drop(1, 1)
    with pytest.raises(PromotionRefused):
        worker.promote(1, 1, 5)
    assert worker.drain(2, 5, 3) == 0
    assert not worker.end(2, 5, 9)
    with pytest.raises(InvariantError, match="loaded twice"):
        worker.load(2, 1, spec(manifest, "one"))


def test_orders_that_overtake_each_other_are_obeyed_in_turn(manifest):
    worker, answers = Worker(0, 0, 16), {}
    orders = [
        ("load", 0, 1, spec(manifest, "one")),
        ("promote", 0, 1, 5),
        ("drain", 0, 5, 2),
        ("end", 0, 5, 2),
        ("drop", 0, 2),
    ]

    def give(number):
        answers[number] = worker.obey(7, number, *orders[number])

    late = [threading.Thread(target=give, args=(number,)) for number in (4, 3, 2)]
    for thread in late:
        thread.start()
    give(0)
    assert worker.state() == "universal"  # the end and the drop that came before wait for the promotion
    give(1)
    for thread in late:
        thread.join(60)
    assert worker.state() == "idle"
    assert [answers[number] for number in (2, 3, 4)] == [2, True, True]


def test_a_drop_cuts_off_the_load_before_it(manifest):
    worker = Worker(0, 0, 16)
    worker.hold(2)
    thread = threading.Thread(target=lambda: worker.obey(7, 0, "load", 0, 1, spec(manifest, "one")))
    thread.start()
    assert worker.obey(7, 1, "drop", 0, 1)
    thread.join(60)
    assert worker.state() == "idle"


def test_orders_of_a_dead_manager_come_too_late(manifest):
    worker = Worker(0, 0, 16)
    assert worker.obey(7, 0, "load", 0, 1, spec(manifest, "one"))["complete"]
    waiting = threading.Thread(target=lambda: worker.obey(7, 2, "drop", 0, 1))
    waiting.start()
    assert worker.obey(8, 0, "report")["held"][1]["complete"]
    waiting.join(60)
    assert worker.obey(7, 1, "drop", 0, 1) is None
    assert worker.state() == "universal"
    with pytest.raises(InvariantError, match=r"order .='lie'"):
        worker.obey(8, 1, "lie")
