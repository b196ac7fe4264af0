"""EPLB's placement: the published example, a slow twin, the reference file where it is installed, our two options."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.lab import peers
from operators.llm import twins
from operators.metro import bench_routing
from operators.metro.placement import Placement, PlacementError, place


def slow_packing(weight: np.ndarray, packs: int) -> tuple[list[int], list[int]]:
    """The reference's balanced_packing of one row, in float32, with a stable sort."""
    room = len(weight) // packs
    if room == 1:
        return list(range(len(weight))), [0] * len(weight)
    pack_of, rank_of = [0] * len(weight), [0] * len(weight)
    total, items = [np.float32(0)] * packs, [0] * packs
    for item in sorted(range(len(weight)), key=lambda i: -weight[i]):
        pack = min((p for p in range(packs) if items[p] < room), key=lambda p: total[p])
        pack_of[item], rank_of[item] = pack, items[pack]
        total[pack] = np.float32(total[pack] + weight[item])
        items[pack] += 1
    return pack_of, rank_of


def slow_place(load: np.ndarray, slots: int, gpus: int, groups: int, nodes: int) -> tuple[list[int], list[int]]:
    """One layer of the reference, hierarchical; (expert, copy rank) of every slot."""
    load = np.asarray(load, np.float32)
    size = len(load) // groups
    sums = load.reshape(groups, size).sum(-1)
    pack, rank = slow_packing(sums, nodes)
    renumbered = [0] * len(load)
    for group in range(groups):
        for inside in range(size):
            renumbered[(pack[group] * (groups // nodes) + rank[group]) * size + inside] = group * size + inside
    phys, ranks, per_node = [], [], len(load) // nodes
    for node in range(nodes):
        experts = renumbered[node * per_node : (node + 1) * per_node]
        weight = load[experts]
        owner, copy, count = list(range(per_node)), [0] * per_node, np.ones(per_node, np.float32)
        for _ in range(slots // nodes - per_node):
            best = int(np.argmax(weight / count))
            owner.append(best)
            copy.append(int(count[best]))
            count[best] += 1
        packs, places = slow_packing((weight / count)[owner], gpus // nodes)
        order = sorted(range(len(owner)), key=lambda item: (packs[item], places[item]))
        phys += [experts[owner[item]] for item in order]
        ranks += [copy[item] for item in order]
    return phys, ranks


def decode_load(layers: int = 58) -> np.ndarray:
    frame = twins.dsv3_load(seed=0)
    rows = frame.filter(frame["workload"] == "decode_in1000out1000").sort("layer", "expert")
    return rows["tokens"].to_numpy().reshape(58, 256)[:layers].copy()


def real_load(root, workload: str = "decode_in1000out1000") -> np.ndarray:
    from operators.lab import datasets

    frame = datasets.read("moe_load_dsv3", "dsv3_expert_load.parquet", root)
    rows = frame.filter(frame["workload"] == workload).sort("layer", "expert")
    return rows["tokens"].to_numpy().reshape(58, 256)


def test_docstring_example():
    assert place([[90, 132, 40, 61]], num_slots=6, num_gpus=2).phys2log.tolist() == [[1, 3, 2, 1, 0, 0]]


@pytest.mark.parametrize("sizes", [(288, 16, 1, 1), (384, 16, 1, 1), (320, 16, 8, 2), (256, 256, 4, 4)])
def test_equals_the_slow_twin(sizes):
    load = decode_load(3)
    load[2] = load[2] // 300_000  # few different values: ties everywhere
    placement = place(load, *sizes)
    for layer in range(3):
        phys, ranks = slow_place(load[layer], *sizes)
        assert placement.phys2log[layer].tolist() == phys
        assert placement.log2phys[layer, phys, ranks].tolist() == list(range(sizes[0]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_small_placements_equal_the_slow_twin(data):
    nodes = data.draw(st.sampled_from([1, 2]))
    gpus, groups = nodes * data.draw(st.integers(1, 3)), nodes * data.draw(st.integers(1, 2))
    experts = groups * data.draw(st.integers(1, 4))
    per_gpu = -(-experts // gpus) + data.draw(st.integers(0, 2))
    load = data.draw(st.lists(st.integers(0, 5), min_size=experts, max_size=experts).filter(any))
    placement = place([load], per_gpu * gpus, gpus, groups, nodes)
    assert placement.phys2log[0].tolist() == slow_place(load, per_gpu * gpus, gpus, groups, nodes)[0]
    for avoid in (False, True):
        for nested in (False, True) if experts % gpus == 0 else (False,):
            check(place([load], per_gpu * gpus, gpus, groups, nodes, avoid_same_gpu=avoid, nested=nested))


def check(placement: Placement):
    """Every slot holds the expert it is listed under, every expert has its copies."""
    for layer in range(placement.num_layers):
        assert (
            placement.copies[layer].tolist()
            == np.bincount(placement.phys2log[layer], minlength=placement.num_experts).tolist()
        )
        for expert, row in enumerate(placement.log2phys[layer]):
            slots = row[row >= 0]
            assert len(slots) == placement.copies[layer, expert] >= 1
            assert (row[len(slots) :] == -1).all()
            assert (placement.phys2log[layer, slots] == expert).all()


def imbalance(load: np.ndarray, placement: Placement) -> float:
    """Tokens of the busiest GPU over the mean, copies sharing evenly; mean over layers."""
    per_slot = np.take_along_axis(load / placement.copies, placement.phys2log, 1)
    per_gpu = per_slot.reshape(len(load), placement.num_gpus, -1).sum(axis=2)
    return float((per_gpu.max(axis=1) / per_gpu.mean(axis=1)).mean())


def test_imbalance_of_the_real_load(real_data):
    """A placement looks perfect on the load it was fitted on, and is not on another."""
    load, other = real_load(real_data), real_load(real_data, "prefill_in1024")
    facts = {8: (1.67, 1.005, 1.15, 1.11), 16: (1.93, 1.024, 1.33, 1.22)}
    for gpus, (contiguous, same, elsewhere, replicated) in facts.items():
        plain = Placement.from_slots(np.tile(np.arange(256), (58, 1)), gpus, num_experts=256)
        assert imbalance(other, plain) == pytest.approx(contiguous, abs=0.01)
        assert imbalance(other, place(other, 256, gpus)) == pytest.approx(same, abs=0.002)
        assert imbalance(other, place(load, 256, gpus)) == pytest.approx(elsewhere, abs=0.01)
        assert imbalance(other, place(load, 384, gpus)) == pytest.approx(replicated, abs=0.01)


def test_avoid_same_gpu_changes_nothing_else():
    load = decode_load(6)
    plain, spread = place(load, 384, 16), place(load, 384, 16, avoid_same_gpu=True)
    assert spread.same_gpu_duplicates < plain.same_gpu_duplicates
    assert np.array_equal(plain.copies, spread.copies)


def test_unavoidable_duplicates_are_counted():
    assert place([[9, 1]], 4, 1, avoid_same_gpu=True).same_gpu_duplicates == 2


def test_nested_begins_with_the_placement_without_replication():
    load = decode_load(4)
    nested, base = place(load, 384, 16, nested=True), place(load, 256, 16)
    assert np.array_equal(nested.phys2log.reshape(4, 16, 24)[:, :, :16], base.phys2log.reshape(4, 16, 16))
    first = nested.log2phys[:, :, 0]
    assert (first % 24 < 16).all()  # copy 0 is always one of those


def test_no_load_spreads_by_index():
    assert place(np.zeros((1, 4)), 6, 2).copies.tolist() == [[2, 2, 1, 1]]


def test_one_copy_and_one_gpu_are_legal():
    assert sorted(place([[3, 1, 2]], 3, 3).phys2log[0].tolist()) == [0, 1, 2]
    assert place([[3, 1, 2]], 4, 1).copies.tolist() == [[2, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slots": 385}, r"num_slots \(=385\): must be a multiple of num_gpus \(=16\)"),
        ({"num_slots": 240}, r"num_slots \(=240\): must be >= the number of experts \(=256\)"),
        ({"num_gpus": 0}, r"num_gpus \(=0\): must be an integer >= 1"),
        ({"num_slots": 384.0}, r"num_slots \(=384.0\): must be an integer"),
        ({"load": np.ones((0, 256))}, "expected shape"),
        ({"num_groups": 7}, r"num_groups \(=7\): must divide"),
        ({"num_nodes": 3}, r"num_nodes \(=3\): must divide num_gpus"),
        ({"load": np.full((1, 256), np.nan)}, "load .*must be finite"),
        ({"load": np.full((1, 256), -1.0)}, r"load \(=-1.0 at layer 0, expert 0\): must be >= 0"),
        ({"load": [[1, 2], [3]]}, "load: not a table"),
        ({"load": np.ones((1, 255)), "nested": True}, "nested: N"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"load": np.ones((1, 256)), "num_slots": 384, "num_gpus": 16} | changes
    with pytest.raises(PlacementError, match=message):
        place(**arguments)


def test_from_slots_wants_every_expert():
    with pytest.raises(PlacementError, match="expert 2 of layer 0 has no slot"):
        Placement.from_slots([[0, 1, 1, 0]], 2, num_experts=3)
    placement = Placement.from_slots([[0, 1, 1, 0]], 2, num_experts=2)
    check(placement)
    assert placement.layer(0).candidates() == [(0, 1), (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["real", "twin"])
def test_equals_the_published_reference_on_every_layer(kind, request, tmp_path):
    try:
        python = peers.interpreter()
    except peers.PeerError as missing:
        pytest.skip(str(missing))
    load = real_load(request.getfixturevalue("real_data")) if kind == "real" else decode_load()
    np.save(tmp_path / "load.npy", load.astype(np.float32))
    with peers.Peer(python, "-c", bench_routing.EPLB_PEER, "original", tmp_path / "load.npy") as peer:
        for sizes in bench_routing.PLACEMENTS:
            assert peer.ask(sizes=sizes)["phys2log"] == place(load, *sizes).phys2log.tolist()
