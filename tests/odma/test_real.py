"""Devices with real bytes, the books of a cluster, and real processes that are killed at the three bad moments."""

import numpy as np
import pytest

from operators.lab import cluster, faults
from operators.odma import LengthPredictor
from operators.odma.actors import ClusterManager, Pool
from operators.odma.cluster_state import ClusterState
from operators.odma.real_device import PHASES, RealDevice, Report, Request, pattern
from operators.odma.settings import Fault

BOUNDS = [32, 64, 128]


def requests(n, *, reserve=32, seed=0):
    rng = np.random.default_rng([seed, n])
    return [Request(i, int(rng.integers(5, 60)), int(rng.integers(5, 120)), reserve) for i in range(n)]


def served(device, waiting, rounds=400):
    """Rounds until everything has finished; numbers and corrupt counts of what did."""
    known = {request.number: request for request in waiting}
    done = []
    for _ in range(rounds):
        report = device.round(waiting[:6], BOUNDS, 8)
        device.validate()
        waiting = [known[number] for number in report.refused] + waiting[6:]
        done += report.finished
        if not waiting and not device.live:
            return done
    raise AssertionError("the device does not come to an end")


def test_every_byte_survives_moves_and_growth():
    device = RealDevice(1600, 8)
    done = served(device, requests(40))
    assert sorted(number for number, *_ in done) == list(range(40))
    assert sum(corrupt for *_, corrupt in done) == 0
    assert sum(copies for _, _, copies, _, _ in done) > 0
    assert sum(grown for *_, grown, _ in done) > 0
    assert device.arena.free == device.arena.capacity


def test_a_crowded_device_still_ends():
    done = served(RealDevice(320, 4), requests(30, seed=3))
    assert len(done) == 30


@pytest.mark.parametrize("phase", ["copy", "decode"])
def test_one_flipped_byte_is_found(phase):
    """Corruption in the middle of a copy, or while the request runs, is counted at the end at the latest."""

    def flip(moment):
        if moment == phase and device.live and not flipped:
            one = next(iter(device.live.values()))
            device.arena.bytes[one.extent.offset * 8 + 3] ^= 1
            flipped.append(one.request.number)

    flipped = []
    device = RealDevice(1600, 8, hold=flip)
    done = served(device, requests(30))
    assert flipped
    assert sum(corrupt for *_, corrupt in done) >= 1


def test_holds_come_at_the_three_moments():
    seen = set()
    served(RealDevice(1600, 8, hold=seen.add), requests(30))
    assert seen == set(PHASES)


def test_patterns_of_two_requests_differ():
    assert not np.array_equal(pattern(1, 0, 4, 8), pattern(2, 0, 4, 8))
    assert np.array_equal(pattern(1, 2, 2, 8), pattern(1, 0, 4, 8)[16:])


def test_a_request_is_always_in_one_place():
    state = ClusterState(2)
    state.submit(requests(10))
    given = state.dispatch([0, 1], 3)
    assert sum(len(part) for part in given.values()) == 6
    assert all(given.values())
    state.validate()
    assert state.lost(0) == sorted(one.number for one in given[0])
    assert state.reserved[0] == 0
    assert list(state.waiting)[: len(given[0])] == sorted(one.number for one in given[0])  # in front, in order
    state.validate()
    again = state.dispatch([1], 3)[1]
    state.report(1, Report(finished=[(again[0].number, 64, 0, 0, 0)], refused=[again[1].number], reserved=64))
    state.validate()
    lost = state.lost(1)
    assert again[2].number not in lost  # its second device
    assert state.failed == [again[2].number]
    assert "device 1 died, the second one" in state.records[again[2].number].error
    state.validate()
    with pytest.raises(ValueError, match="submitted twice"):
        state.submit(requests(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small trained predictor on disk."""
    place = tmp_path_factory.mktemp("predictor")
    texts = [f"{'Explain' if i % 2 else 'Name'} thing {i % 37}" for i in range(300)]
    LengthPredictor().fit(texts, [""] * 300, np.random.default_rng(4).integers(10, 140, 300)).save(place)
    return place


@pytest.fixture(scope="module")
def ray(ray_head):
    with cluster.connect(ray_head) as ray:
        yield ray


@pytest.fixture(scope="module")
def pool(ray):
    with Pool(ray) as pool:
        yield pool


LENGTHS = np.random.default_rng(5).integers(10, 150, 40).tolist()  # nothing to predict: half outgrow their block
PROMPTS = [(i, f"{'Explain' if i % 2 else 'Name'} thing {i}", "", 20 + i % 30, LENGTHS[i]) for i in range(40)]


def run(ray, pool, folder, fault, prompts=PROMPTS, patience_s=60.0):
    sizes = {"devices": 2, "capacity": 2048, "width": 64, "longest": 160, "classes": 4}
    manager = ClusterManager(ray, predictor=folder, level=0.5, **sizes,
                             tau=9.0, patience_s=patience_s, pool=pool, schedule=[fault] if fault else [])  # fmt: skip
    with manager:
        state = manager.serve(prompts)
        state.validate()
    assert len(state.finished) == len(prompts)
    assert not state.failed
    assert sum(one.corrupt for one in state.records.values()) == 0
    assert all(value == 0 for value in state.reserved.values())
    assert not any(faults.is_alive(pid) for target, pid in manager.struck if target == "device")
    return manager, state


def test_without_faults_everything_ends(ray, pool, folder):
    manager, state = run(ray, pool, folder, None)
    assert not manager.struck
    assert sum(one.copies for one in state.records.values()) > 0
    assert manager.moves


@pytest.mark.parametrize("phase", PHASES)
def test_a_device_killed_in_this_phase_loses_no_request(ray, pool, folder, phase):
    manager, state = run(ray, pool, folder, Fault(target="device", phase=phase, after=3))
    assert [target for target, _ in manager.struck] == ["device"]
    restarts = [one.restarts for one in state.records.values()]
    assert max(restarts) == 1


def test_without_a_predictor_requests_get_the_large_class(ray, pool, folder):
    manager, state = run(ray, pool, folder, Fault(target="predictor", action="kill", after=3))
    assert manager.struck
    assert manager.doubtful > 0
    assert sum(one.request.reserve == 160 for one in state.records.values()) >= manager.doubtful


def test_devices_go_on_without_a_bucket_manager(ray, pool, folder):
    manager, _ = run(ray, pool, folder, Fault(target="buckets", after=3))
    assert manager.struck
    assert len(manager.boundaries) == 4


def test_a_predictor_that_lies_is_overruled(ray, pool, folder):
    many = [(100 + i, text, "", a, b) for i, (_, text, _, a, b) in enumerate(PROMPTS * 5)]
    manager, _ = run(ray, pool, folder, Fault(target="predictor", action="lie", after=3), prompts=many)
    assert manager.struck
    assert np.mean(manager.covered[-30:]) > np.mean(manager.covered[30:60])
