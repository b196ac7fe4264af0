"""The expert kernel against the dense layer; native and numba against each other; bad input."""

import numpy as np
import pytest

from operators.metro import experts, kernel

CORES = ["native", "numba"]


@pytest.fixture(params=CORES)
def core(request):
    try:
        return kernel.core(request.param)
    except ValueError as error:
        pytest.skip(str(error))


def make(experts_tokens, *, width, hidden, tokens, seed=0):
    """A slab and a batch in which expert e has `experts_tokens[e]` random tokens."""
    rng = np.random.default_rng([seed, width])
    slab = experts.empty_slab(len(experts_tokens), width, hidden)
    for expert, block in enumerate(slab):
        experts.fill(block, seed=seed, layer=0, expert=expert)
    rows = [np.sort(rng.permutation(tokens)[:count]) for count in experts_tokens]
    start = np.concatenate([[0], np.cumsum(experts_tokens)]).astype(np.int64)
    flat = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
    gates = rng.random(len(flat), np.float32)
    x = rng.standard_normal((tokens, hidden), np.float32)
    return slab, np.arange(len(experts_tokens)), start, flat, gates, x


def reference(slab, slots, start, rows, gates, x):
    y = np.zeros(x.shape)
    for expert, begin, end in zip(slots, start[:-1], start[1:], strict=True):
        topk = np.full((len(x), 1), -1)
        weight = np.zeros((len(x), 1))
        topk[rows[begin:end], 0], weight[rows[begin:end], 0] = expert, gates[begin:end]
        chosen = topk[:, 0] >= 0
        y[chosen] += experts.dense(x[chosen], topk[chosen], weight[chosen], lambda e: slab[e])
    return y


@pytest.mark.parametrize(
    ("counts", "width", "hidden", "tokens"),
    [
        ([1], 1, 16, 1),
        ([2, 1, 0, 3], 7, 32, 3),
        ([4, 5, 8], 12, 48, 9),
        ([0, 0], 4, 16, 2),
        ([], 4, 16, 2),
        ([33, 1], 10, 2064, 40),  # hidden beyond one chunk of columns
    ],
)
def test_equals_the_dense_layer(core, counts, width, hidden, tokens):
    case = make(counts, width=width, hidden=hidden, tokens=tokens)
    y = np.zeros_like(case[-1])
    cpu_ns, wall_ns = core.forward(*case, y)
    np.testing.assert_allclose(y, reference(*case), rtol=1e-4, atol=1e-5)
    assert cpu_ns >= 0
    assert wall_ns >= 0


def test_adds_to_what_is_there(core):
    case = make([2, 2], width=8, hidden=32, tokens=4)
    once, twice = np.zeros_like(case[-1]), np.zeros_like(case[-1])
    core.forward(*case, once)
    core.forward(*case, twice)
    core.forward(*case, twice)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-6)


def test_a_token_does_not_depend_on_its_company():
    """Blocks of 1 to 4 tokens and the odd last rows sum in the same order: bit for bit."""
    core = kernel.core()
    slab, slots, start, rows, gates, x = make([9], width=11, hidden=64, tokens=9)
    together = np.zeros_like(x)
    core.forward(slab, slots, start, rows, gates, x, together)
    alone = np.zeros_like(x)
    for i in range(len(rows)):
        core.forward(slab, slots, np.array([0, 1]), rows[i : i + 1], gates[i : i + 1], x, alone)
    assert together.tobytes() == alone.tobytes()


def test_weights_are_the_same_in_both_cores_and_depend_on_every_key():
    made = {}
    for name in CORES:
        try:
            core = kernel.core(name)
        except ValueError:
            continue
        made[name] = np.empty((3, 3, 16), np.float32)
        core.fill_weights(made[name], 123, 2**32 - 5, 0.5)
    assert len({block.tobytes() for block in made.values()}) == 1
    blocks = [
        experts.generate(e, seed=s, layer=layer, width=64, hidden=64)
        for e, s, layer in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len({block.tobytes() for block in blocks}) == 4
    assert abs(blocks[0].mean()) < 0.005
    assert blocks[0].std() == pytest.approx(64**-0.5, rel=0.03)
    assert abs(np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1]) < 0.05


def test_stream_reads_every_stream_count(core):
    data = np.ones(kernel.STREAM_UNIT, np.float32)
    for streams in kernel.STREAMS:
        assert min(core.stream_read(data, streams)) > 0
    with pytest.raises(ValueError, match="streams"):
        core.stream_read(data, 3)
    with pytest.raises(ValueError, match="multiple of 2 MiB"):
        core.stream_read(data[:-1], 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": np.array([0, 2])}, "slots"),
        ({"slots": np.array([0, -1])}, "slots"),
        ({"rows": np.array([0, 1, 9])}, "rows"),
        ({"start": np.array([0, 1])}, "start"),
        ({"start": np.array([0, 4, 3])}, "start"),
        ({"gates": np.zeros(2, np.float32)}, "gates"),
        ({"x": np.zeros((4, 32), np.float32)}, "x and y"),
        ({"slab": np.zeros((2, 4, 3, 24), np.float32), "x": np.zeros((4, 24), np.float32)}, "multiple of 16"),
    ],
)
def test_bad_input_is_refused_before_it_is_touched(core, change, message):
    good = {
        "slab": np.zeros((2, 4, 3, 16), np.float32),
        "slots": np.array([0, 1]),
        "start": np.array([0, 1, 3]),
        "rows": np.array([0, 1, 2]),
        "gates": np.ones(3, np.float32),
        "x": np.zeros((4, 16), np.float32),
    }
    y = np.zeros((4, 24 if "slab" in change else 16), np.float32)
    with pytest.raises(ValueError, match=message):
        core.forward(*(good | change).values(), y)


def test_unknown_core_and_bad_sizes():
    with pytest.raises(ValueError, match="native"):
        kernel.core("cuda")
    with pytest.raises(experts.ExpertError, match="multiple of 16"):
        experts.empty_slab(1, 4, 20)
    with pytest.raises(experts.ExpertError, match="w1, w3, w2"):
        experts.pack(np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((2, 4)))


def test_pack_and_unpack_are_inverse():
    packed = experts.generate(3, seed=1, layer=2, width=5, hidden=16)
    w1, w3, w2 = experts.unpack(packed)
    assert w2.shape == (16, 5)
    assert experts.pack(w1, w3, w2).tobytes() == packed.tobytes()


def test_bench_rows_are_complete_without_running_long(monkeypatch):
    """A machine whose cache holds the experts, or without the native core, gives rows that say so."""
    from operators.metro import bench_kernel, cold
    from operators.metro.settings import Cpu, Settings

    monkeypatch.setattr(cold, "l3_bytes", lambda: 2**31)
    rows = bench_kernel.rows(Settings(cpu=Cpu(experts=16, hidden=32, width=6)))
    assert {row["status"] for row in rows} == {"not measured"}
    assert all(row["reason"] for row in rows)
    monkeypatch.setattr(cold, "l3_bytes", lambda: 2**18)
    rows = bench_kernel.rows(Settings(cpu=Cpu(experts=128, hidden=256, width=64)))
    if kernel.name_of(kernel.core()) == "native":
        assert [row["status"] for row in rows] == ["measured"] * 10
        assert rows[0]["bar"] == 0.45


@pytest.mark.perf
def test_perf_of_the_kernel():
    """Bars of the kernel beside their peers: bandwidth, BLAS, numba."""
    from operators.metro import bench_kernel
    from operators.metro.settings import Settings

    found = bench_kernel.rows(Settings())
    assert found
    assert all(row["status"] == "measured" or row["reason"] for row in found)
    for row in found:
        if row["status"] != "measured":
            print(f"{row['case']:22} {row['status']}: {row['reason']}")
            continue
        print(
            f"{row['case']:22} {row['ours_value']:8.2f} against {row['peer']} {row['peer_value']:8.2f} {row['unit']}: "
            f"{row['median']:.2f}x (bar {row['bar']}), {row['ratio_low']:.2f} to {row['ratio_high']:.2f}, n={row['n']}"
        )
