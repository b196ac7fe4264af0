"""Readers of every kind and what they say of damaged files; streams, episodes, read-ahead and their faults."""

import threading
import time

import h5py
import numpy as np
import pytest
import scipy.io

from operators.synthpix import (
    ConfigError,
    CorruptFile,
    EpisodeEnd,
    Episodic,
    FloSource,
    Flow,
    H5Source,
    MatSource,
    MemorySource,
    NpySource,
    Prefetch,
    SourceTimeout,
    Stream,
    analytic,
    make,
    open_source,
)
from tests.synthpix.configurations import configuration, same, small_flow

PATIENCE_S = 60


@pytest.fixture
def field():
    return np.random.default_rng(0).normal(size=(12, 9, 2)).astype(np.float32)


def write_flo(path, values, magic=202021.25):
    height, width = values.shape[:2]
    head = np.array([magic], "<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    path.write_bytes(head + values.astype("<f4").tobytes())


def test_flo_is_read_back_and_damage_names_the_file_and_the_place(tmp_path, field):
    path = tmp_path / "a.flo"
    write_flo(path, field)
    assert same(FloSource([path]).get(0).values, field)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(CorruptFile, match=r"a.flo: 871 bytes; its header \(9 x 12\) needs 876") as caught:
        FloSource([tmp_path]).get(0)
    assert caught.value.path == path
    write_flo(path, field, magic=1.0)
    with pytest.raises(CorruptFile, match=r"starts with .*1.0.* at byte 0"):
        FloSource([path]).get(0)
    path.write_bytes(b"PIEH")
    with pytest.raises(CorruptFile, match=r"4 bytes; a .flo file has a header of 12"):
        FloSource([path]).get(0)


def test_npy_is_read_back_and_damage_is_named(tmp_path, field):
    path = tmp_path / "flow_1.npy"
    np.save(path, field)
    np.save(tmp_path / "other.npy", field)
    source = NpySource([tmp_path])
    assert len(source) == 1
    assert same(source.get(0).values, field)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorruptFile, match=r"flow_1.npy: 200 bytes; its header .* data end at byte 200"):
        source.get(0)
    path.write_bytes(b"no array at all")
    with pytest.raises(CorruptFile, match=r"no valid .npy header"):
        source.get(0)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CorruptFile, match=r"holds object, not numbers"):
        source.get(0)


def test_mat_of_both_layouts_and_of_version_7_3(tmp_path, field):
    scipy.io.savemat(tmp_path / "a.mat", {"V": field})
    scipy.io.savemat(tmp_path / "b.mat", {"V": field.transpose(2, 0, 1)}, format="4" if False else "5")
    with h5py.File(tmp_path / "c.mat", "w", userblock_size=512) as file:
        file["V"] = field
    (tmp_path / "c.mat").open("r+b").write(b"MATLAB 7.3 MAT-file")
    source = MatSource([tmp_path], output_shape=None)
    assert [source.get(k).values.shape for k in range(3)] == [(12, 9, 2)] * 3
    assert all(same(source.get(k).values, field) for k in range(3))
    (tmp_path / "b.mat").write_bytes((tmp_path / "b.mat").read_bytes()[:150])
    with pytest.raises(CorruptFile, match=r"b.mat"):
        source.get(1)
    scipy.io.savemat(tmp_path / "a.mat", {"W": field})
    with pytest.raises(CorruptFile, match=r"a.mat: has no V; it holds W"):
        source.get(0)


def test_mat_images_are_resized_to_height_and_width_and_flow_is_scaled(tmp_path):
    values = np.ones((20, 40, 2), np.float32)
    image = np.tile(np.arange(40, dtype=np.uint8), (20, 1))
    scipy.io.savemat(tmp_path / "a.mat", {"V": values, "I0": image, "I1": image})
    flow = MatSource([tmp_path], include_images=True, output_shape=(10, 80)).get(0)
    assert flow.values.shape == (10, 80, 2)
    assert flow.values[5, 5].tolist() == [2.0, 0.5]
    assert [i.shape for i in flow.images] == [(10, 80)] * 2  # defect D9 gives (80, 10)
    config = {"scheduler_class": ".mat", "batch_size": 2, "flow_fields_per_batch": 1, "include_images": True,
              "image_shape": [20, 40], "file_list": [str(tmp_path)]}  # fmt: skip
    batch = next(make(config))
    assert batch.images1.shape == (2, 20, 40)
    assert (batch.images1[0] == image).all()
    assert batch.params is None


def test_h5_gives_one_flow_per_y(tmp_path):
    data = np.random.default_rng(0).normal(size=(6, 4, 8, 2)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["velocity"] = data
    source = H5Source([tmp_path])
    assert len(source) == 4
    assert same(source.get(2).values, np.ascontiguousarray(data[:, 2]))
    assert source.path(2).endswith("a.h5[2]")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:300])
    with pytest.raises(CorruptFile, match=r"b.h5: not a readable HDF5 file"):
        H5Source([tmp_path])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["flat"] = data[0]
    with pytest.raises(CorruptFile, match=r"its first entry 'flat' has shape \(4, 8, 2\)"):
        H5Source([tmp_path])


def test_an_index_lists_files_of_any_kind(tmp_path, field):
    import polars as pl

    write_flo(tmp_path / "a.flo", field)
    np.save(tmp_path / "b.npy", field * 2)
    pl.DataFrame({"path": ["b.npy", "a.flo"]}).write_parquet(tmp_path / "index.parquet")
    source = open_source([tmp_path / "index.parquet"])
    assert len(source) == 2
    assert same(source.get(0).values, field * 2)
    (tmp_path / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptFile, match=r"not a readable Parquet index"):
        open_source([tmp_path / "index.parquet"])


def test_flows_that_cannot_be_are_refused_by_name(tmp_path):
    bad = np.zeros((5, 6, 2))
    bad[2, 3, 1] = np.nan
    with pytest.raises(ConfigError, match=r"flow: array: 1 values are not finite, the first at row 2, column 3"):
        Flow(bad)
    with pytest.raises(ConfigError, match=r"flow: \(5, 6\); array: expected \(height, width, 2 or 3\)"):
        Flow(np.zeros((5, 6)))
    with pytest.raises(ConfigError, match=r"expected real numbers"):
        Flow(np.zeros((5, 6, 2), complex))
    with pytest.raises(ConfigError, match=r"unknown extension '.csv'"):
        open_source(["flow.csv"])
    with pytest.raises(ConfigError, match=r"no such file or folder"):
        NpySource([tmp_path / "none.npy"])
    with pytest.raises(ConfigError, match=r"holds no flow_\*\.npy file"):
        NpySource([tmp_path])
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ConfigError, match=r"unknown extension '.txt'; expected .npy"):
        NpySource([tmp_path / "a.txt"])


def test_a_finite_stream_is_filled_up_and_masked_and_then_over():
    source = MemorySource([small_flow(t) for t in range(5)])
    blocks = list(Stream(source, 2, loop=False))
    assert [b.mask.tolist() for b in blocks] == [[True, True], [True, True], [True, False]]
    assert not blocks[2].flows[1].values.any()
    shuffled = [b.files for b in [next(s) for s in [Stream(source, 5, randomize=True, seed=3)] for _ in range(3)]]
    assert len({tuple(f) for f in shuffled}) == 3
    assert all(sorted(f) == sorted(shuffled[0]) for f in shuffled)


class Broken(MemorySource):
    def __init__(self, bad):
        super().__init__([small_flow(t) for t in range(4)])
        self.bad = bad

    def get(self, index):
        if index in self.bad:
            raise CorruptFile(f"flow_{index}.npy", "damaged")
        return super().get(index)


def test_unreadable_files_are_errors_or_counted_never_silent():
    with pytest.raises(CorruptFile, match=r"flow_1.npy: damaged"):
        list(Stream(Broken({1}), 2, loop=False))
    blocks = list(Stream(Broken({1}), 2, loop=False, on_bad_file="skip"))
    assert [b.skipped for b in blocks] == [1, 1]
    assert sum(b.mask.sum() for b in blocks) == 3
    with pytest.raises(CorruptFile, match=r"no file of the source is readable"):
        next(Stream(Broken({0, 1, 2, 3}), 2, loop=True, on_bad_file="skip"))


def test_a_file_truncated_while_in_use_names_itself(tmp_path):
    config = configuration(tmp_path, flows=2, flow_fields_per_batch=1, batches_per_flow_batch=1)
    with make(config) as sampler:
        next(sampler)
        path = tmp_path / "flow_1.npy"
        path.write_bytes(path.read_bytes()[:999])
        with pytest.raises(CorruptFile, match=r"flow_1.npy: 999 bytes"):
            next(sampler)


def test_episodes_are_runs_of_one_folder_and_end(tmp_path):
    for folder, count in (("a", 6), ("b", 4)):
        (tmp_path / folder).mkdir()
        for t in range(count):
            np.save(tmp_path / folder / f"flow_{t}.npy", small_flow(t).values)
    files = sorted(str(p) for p in tmp_path.glob("*/flow_*.npy"))
    episodes = Episodic(NpySource(files), 3, 4, seed=1)
    steps = [next(episodes) for _ in range(4)]
    for k in range(3):
        names = [step.files[k] for step in steps]
        start = files.index(names[0])
        assert names == files[start : start + 4]
        assert len({name.rpartition("/")[0] for name in names}) == 1
    assert [step.done.tolist() for step in steps] == [[False] * 3] * 3 + [[True] * 3]
    with pytest.raises(EpisodeEnd, match=r"call next_episode"):
        next(episodes)
    episodes.next_episode()
    assert episodes.steps_remaining() == 4
    again = Episodic(NpySource(files), 3, 4, seed=1)
    again.restore({"episode": 1, "step": 2})
    next(episodes), next(episodes)
    assert next(again).files == next(episodes).files
    with pytest.raises(ConfigError, match=r"episode_length: 5; .*b has only 4 flows"):
        Episodic(NpySource(files), 3, 5)
    config = configuration(tmp_path, flows=0, file_list=files, episode_length=4, buffer_size=2)
    with make(config) as sampler:
        batches = [next(sampler) for _ in range(4)]
        assert [b.done.all() for b in batches] == [False] * 3 + [True]
        with pytest.raises(EpisodeEnd):
            next(sampler)
        sampler.next_episode()
        assert not next(sampler).done.any()


class Gated(MemorySource):
    """A source whose reads wait at a gate from number `first` on."""

    def __init__(self, first=2):
        super().__init__([small_flow(t) for t in range(6)])
        self.first, self.reads, self.gate = first, 0, threading.Event()

    def get(self, index):
        self.reads += 1
        if self.reads > self.first:
            assert self.gate.wait(PATIENCE_S)
        return super().get(index)


def test_a_stalled_reader_is_a_timeout_and_then_data_never_the_end():
    source = Gated()
    reading = Prefetch(Stream(source, 1), 2, steady_s=0.2)
    first = [next(reading).files for _ in range(2)]
    for _ in range(2):
        with pytest.raises(SourceTimeout, match=r"not read within 0.2 s"):
            next(reading)
    source.gate.set()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            rest = [next(reading).files for _ in range(4)]
            break
        except SourceTimeout:
            assert time.monotonic() < deadline
    plain = Stream(MemorySource([small_flow(t) for t in range(6)]), 1)
    assert first + rest == [next(plain).files for _ in range(6)]
    reading.close()


def test_waiting_for_a_stalled_reader_gives_the_same_stream():
    source = Gated()
    reading = Prefetch(Stream(source, 1, loop=False), 1, steady_s=0.05, on_timeout="wait")
    threading.Timer(0.3, source.gate.set).start()
    assert len(list(reading)) == 6
    with pytest.raises(StopIteration):
        next(reading)


def test_a_dead_reader_is_an_error():
    class Dying(MemorySource):
        def get(self, index):
            raise SystemExit("the thread ends")

    reading = Prefetch(Stream(Dying([small_flow()]), 1), 1)
    with pytest.raises(SystemExit):
        next(reading)

    class Vanished(Prefetch):
        def _start(self):
            super()._start()
            self._stop.set()  # the reader ends without a word
            self._thread.join()
            while not self._queue.empty():
                self._queue.get()

    with pytest.raises(SourceTimeout):
        next(Vanished(Stream(MemorySource([small_flow()]), 1), 1, on_timeout="wait"))


def test_the_last_batch_survives_a_queue_that_stays_full():
    """Defect D8: the consumer pauses while the queue is full at the end of a finite stream."""
    reading = Prefetch(Stream(MemorySource([small_flow(t) for t in range(5)]), 1, loop=False), 1)
    got = [next(reading)]
    deadline = time.monotonic() + PATIENCE_S
    while not reading._queue.full():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    got += list(reading)
    assert len(got) == 5


def test_a_field_in_parts_is_the_field():
    y, x = np.mgrid[:30, :40].astype(float)
    whole = analytic.solenoidal().velocity
    for one, other in zip(analytic.in_parts(whole, 64)(y, x), whole(y, x), strict=True):
        assert one.shape == (30, 40)
        assert one == pytest.approx(other, abs=1e-12)
