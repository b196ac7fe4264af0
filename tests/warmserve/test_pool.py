"""The block pool: bytes survive a remap, every block has one owner, promotion leaves weights where they are."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from operators.warmserve import pool as module
from operators.warmserve.errors import ConfigError, InvariantError
from operators.warmserve.pool import BlockPool

pytestmark = pytest.mark.skipif(module._native is None, reason="the native core is not built")


@pytest.fixture
def pool():
    one = BlockPool(12, slots=3)
    yield one
    one.validate()


def filled(pool: BlockPool, name: str, count: int, value: int) -> np.ndarray:
    view = pool.add(name, count)
    view[:] = value
    return view


def test_bytes_written_before_a_remap_are_read_after_it(pool):
    filled(pool, "a", 3, 7)
    other = filled(pool, "b", 4, 9)
    blocks = list(pool.slots["b"].weights)
    assert other.sum() == 9 * other.size
    pool.promote("a")
    assert pool.wait("a") == 9
    pool.validate()
    assert set(pool.slots) == {"a"}
    assert (pool.weights("a") == 7).all()
    # what model b wrote is now seen through a's KV, in the place its blocks were mapped to
    kv = pool.kv("a").reshape(9, -1)
    seen = [int(kv[i, 0]) for i, block in enumerate(pool.slots["a"].kv) if block in blocks]
    assert seen == [9] * 4
    kv[:] = 5
    pool.demote("a")
    pool.validate()
    assert len(pool.free) == 9
    assert (pool.weights("a") == 7).all()
    again = pool.add("b", 9)
    assert set(np.unique(again)) == {5}


def test_k_and_v_share_the_freed_blocks_and_an_odd_one_is_v_s(pool):
    filled(pool, "a", 3, 1)
    pool.promote("a")
    pool.wait("a")
    k, v = pool.halves("a")
    assert (len(k), len(v)) == (4, 5)
    assert not set(k) & set(v)


def test_slow_mode_publishes_progress_and_can_be_cut_off(pool):
    filled(pool, "a", 2, 1)
    pool.promote("a", pause_every=1, pause_us=60_000_000)  # a minute after the first run of blocks
    before = pool.progress("a")
    assert 0 <= before <= 10
    pool.slots["a"].job.cancel()
    assert pool.slots["a"].job is not None


def test_a_draining_model_gives_blocks_and_takes_them_back(pool):
    filled(pool, "a", 2, 3)
    pool.promote("a")
    pool.wait("a")
    pool.kv("a")[:] = 4
    assert pool.give("a", 6) == 6
    pool.validate()
    filled(pool, "b", 5, 8)
    assert (pool.kv("a") == 4).all()
    pool.remove("b")
    assert pool.take_back("a") == 6
    pool.validate()
    assert len(pool.kv("a")) == 10 * pool.block_bytes
    assert (pool.kv("a")[: 4 * pool.block_bytes] == 4).all()


def test_impossible_requests_are_refused(pool):
    filled(pool, "a", 3, 1)
    with pytest.raises(InvariantError, match="mapped twice"):
        pool.add("a", 1)
    with pytest.raises(ConfigError, match="needs 10, 9 are free"):
        pool.add("b", 10)
    with pytest.raises(InvariantError, match="promoted but not mapped"):
        pool.promote("b")
    pool.remove("nobody")
    pool.add("b", 1)
    pool.add("c", 1)
    with pytest.raises(ConfigError, match="slots"):
        pool.add("d", 1)
    with pytest.raises(ConfigError, match="blocks"):
        BlockPool(0)
    with pytest.raises(IndexError):
        pool.slots["a"].range.map(pool.memory, 11, [0, 1])


def test_blocks_that_are_not_the_pool_s_cannot_be_mapped(pool):
    pool.add("a", 1)
    with pytest.raises(RuntimeError, match="mmap"):
        pool.slots["a"].range.map(pool.memory, 1, [12])


def test_many_threads_may_wait_for_one_promotion(pool):
    filled(pool, "a", 2, 1)
    pool.promote("a", pause_every=1, pause_us=50_000)
    job = pool.slots["a"].job
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(job.join) for _ in range(4)]
        while not all(one.done() for one in found):
            assert 0 <= job.progress <= 10
        assert [one.result() for one in found] == [10] * 4
    assert pool.wait("a") == job.progress == 10
    assert pool.wait("gone") == 0


def test_a_range_refuses_what_lies_outside(pool):
    slot = module._native.Range(4)
    for offset, count in ((3, 2), (-1, 1), (1, -1), (2**62, 2**62)):
        with pytest.raises(IndexError, match="outside"):
            slot.unmap(offset, count)
