"""Expert placement: how many copies each expert gets and on which GPU each copy lies (METRO keeps EPLB's, unchanged).

A port of DeepSeek's EPLB (deepseek-ai/EPLB @ d52c72d, MIT, `eplb.py`), global and hierarchical. All weights are
float32 as in the reference: float64 breaks ties differently. Departures, each of them said where it happens:

- the sort is stable (the reference's is not, so two runs of it may differ on tied loads);
- a layer without any load spreads its spare copies by index (the reference gives all of them to expert 0);
- `avoid_same_gpu`: do not put two copies of one expert on one GPU while another GPU has room (reference issue 22);
- `nested`: the first N/G slots of every GPU are the placement without replication, so that a router which uses only
  first copies falls back to "no replication" exactly, without moving weights.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from operators.lab.compiled import kernel
from operators.metro.assignment import Tables, live_tables


class PlacementError(ValueError):
    """An argument of `place` is impossible; the message names it, its value and what was expected."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the copies of every expert of `L` layers lie.

    `phys2log[L, R]`: the expert in each slot; slot s is on GPU `s // (R / num_gpus)`. `log2phys[L, N, X]`: an expert's
    slots in copy order (copy 0 first), padded with -1. `copies[L, N]`: how many.
    """

    phys2log: np.ndarray
    log2phys: np.ndarray
    copies: np.ndarray
    num_gpus: int
    num_nodes: int = 1

    @classmethod
    def from_slots(cls, phys2log: np.ndarray, num_gpus: int, *, num_experts: int, num_nodes: int = 1) -> "Placement":
        """A placement given by the expert of each slot `(L, R)`; copy order is slot order."""
        phys2log = np.atleast_2d(np.asarray(phys2log, np.int64))
        ranks = np.zeros_like(phys2log)
        copies = np.zeros((len(phys2log), num_experts), np.int64)
        for layer, slot in np.ndindex(phys2log.shape):
            expert = phys2log[layer, slot]
            ranks[layer, slot] = copies[layer, expert]
            copies[layer, expert] += 1
        if phys2log.shape[1] % num_gpus:
            raise PlacementError(f"phys2log (={phys2log.shape[1]} slots): must be a multiple of num_gpus (={num_gpus})")
        if not copies.all():
            layer, expert = np.argwhere(copies == 0)[0]
            raise PlacementError(f"phys2log: expert {expert} of layer {layer} has no slot; every expert needs one")
        return cls(phys2log, _log2phys(phys2log, ranks, copies), copies, num_gpus, num_nodes)

    @property
    def num_layers(self) -> int:
        return self.phys2log.shape[0]

    @property
    def num_slots(self) -> int:
        return self.phys2log.shape[1]

    @property
    def num_experts(self) -> int:
        return self.copies.shape[1]

    @property
    def slots_per_gpu(self) -> int:
        return self.num_slots // self.num_gpus

    @cached_property
    def tables(self) -> Tables:
        """The kernels' view of all layers with every GPU alive."""
        return live_tables(self.log2phys, self.copies, self.slots_per_gpu, np.ones(self.num_gpus, np.bool_))

    @cached_property
    def same_gpu_duplicates(self) -> int:
        """Slots whose expert already lies in a lower slot of the same GPU: memory spent without any choice gained."""
        inside = np.sort(self.phys2log.reshape(self.num_layers, self.num_gpus, -1), axis=2)
        return int((inside[:, :, 1:] == inside[:, :, :-1]).sum())

    def layer(self, index: int) -> "PlacementLayer":
        """The view of one layer that the routers take."""
        if not 0 <= index < self.num_layers:
            raise PlacementError(f"layer (={index}): expected 0 to {self.num_layers - 1}")
        return PlacementLayer(self, int(index))


@dataclass(frozen=True, eq=False)
class PlacementLayer:
    """One layer of a placement."""

    placement: Placement
    index: int

    @property
    def num_gpus(self) -> int:
        return self.placement.num_gpus

    @property
    def num_experts(self) -> int:
        return self.placement.num_experts

    @property
    def slots_per_gpu(self) -> int:
        return self.placement.slots_per_gpu

    @property
    def phys2log(self) -> np.ndarray:
        return self.placement.phys2log[self.index]

    @property
    def log2phys(self) -> np.ndarray:
        return self.placement.log2phys[self.index]

    @property
    def copies(self) -> np.ndarray:
        return self.placement.copies[self.index]

    def tables(self, alive: np.ndarray | None = None) -> Tables:
        """The kernels' view of this layer; `alive` (bool per GPU) drops the copies on dead GPUs."""
        if alive is None:
            return Tables(*(part[self.index : self.index + 1] for part in self.placement.tables))
        one = slice(self.index, self.index + 1)
        return live_tables(self.placement.log2phys[one], self.placement.copies[one], self.slots_per_gpu, alive)

    def candidates(self, alive: np.ndarray | None = None) -> list[tuple[int, ...]]:
        """For every expert the distinct GPUs that hold a live copy, ascending."""
        tables = self.tables(alive)
        starts, gpus = tables.cand_start[0].tolist(), tables.cand_gpu[0].tolist()
        return [tuple(gpus[begin:end]) for begin, end in itertools.pairwise(starts)]


def place(
    load: np.ndarray,
    num_slots: int,
    num_gpus: int,
    num_groups: int = 1,
    num_nodes: int = 1,
    *,
    avoid_same_gpu: bool = False,
    nested: bool = False,
) -> Placement:
    """EPLB's placement of `num_slots` copies for the expert loads `load[L, N]` (any non-negative unit).

    Hierarchical (groups packed to nodes, replication within a node) when `num_groups % num_nodes == 0`, else global.
    Raises PlacementError naming argument, value and expectation.

    >>> place([[90, 132, 40, 61]], num_slots=6, num_gpus=2).phys2log.tolist()
    [[1, 3, 2, 1, 0, 0]]
    """
    weight = _checked_load(load)
    _check_sizes(weight.shape[1], num_slots, num_gpus, num_groups, num_nodes)
    if nested and weight.shape[1] % num_gpus:
        raise PlacementError(f"nested: N (={weight.shape[1]}) must be a multiple of num_gpus (={num_gpus})")
    weight[weight.max(axis=1) == 0] = 1.0  # no load at all: spread by index
    if num_groups % num_nodes:
        num_groups, num_nodes = 1, 1  # EPLB's global policy
    phys2log, ranks, copies = _hierarchical(weight, num_slots, num_gpus, num_groups, num_nodes, avoid_same_gpu, nested)
    return Placement(phys2log, _log2phys(phys2log, ranks, copies), copies, num_gpus, num_nodes)


def _checked_load(load: np.ndarray) -> np.ndarray:
    try:
        weight = np.array(load, np.float32)
    except ValueError as error:
        raise PlacementError(f"load: not a table of numbers ({error}); expected shape (layers, experts)") from None
    weight = np.ascontiguousarray(np.atleast_2d(weight))
    if weight.ndim != 2 or 0 in weight.shape:
        raise PlacementError(f"load (shape {weight.shape}): expected shape (layers, experts)")
    for name, bad in (("finite", ~np.isfinite(weight)), (">= 0", weight < 0)):
        if bad.any():
            layer, expert = np.argwhere(bad)[0]
            value = weight[layer, expert]
            raise PlacementError(f"load (={value} at layer {layer}, expert {expert}): must be {name}")
    return weight


def _check_sizes(num_experts: int, num_slots: int, num_gpus: int, num_groups: int, num_nodes: int) -> None:
    sizes = {"num_slots": num_slots, "num_gpus": num_gpus, "num_groups": num_groups, "num_nodes": num_nodes}
    for name, value in sizes.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise PlacementError(f"{name} (={value!r}): must be an integer >= 1")
    if num_slots < num_experts:
        raise PlacementError(f"num_slots (={num_slots}): must be >= the number of experts (={num_experts})")
    if num_slots % num_gpus:
        raise PlacementError(f"num_slots (={num_slots}): must be a multiple of num_gpus (={num_gpus})")
    if num_experts % num_groups:
        raise PlacementError(f"num_groups (={num_groups}): must divide the number of experts (={num_experts})")
    if num_gpus % num_nodes:
        raise PlacementError(f"num_nodes (={num_nodes}): must divide num_gpus (={num_gpus})")


def _hierarchical(weight, num_slots, num_gpus, num_groups, num_nodes, avoid_same_gpu, nested):
    """The reference's `rebalance_experts_hierarchical`; one group and one node make it the global policy."""
    layers, experts = weight.shape
    size, groups_per_node, experts_per_node = experts // num_groups, num_groups // num_nodes, experts // num_nodes
    # 1: groups to nodes; experts renumbered ("mlog") so that a node's are contiguous
    pack, rank = _packed(weight.reshape(layers, num_groups, size).sum(-1), num_nodes)
    first = (pack * groups_per_node + rank) * size
    log2mlog = (first[:, :, None] + np.arange(size)).reshape(layers, experts)
    mlog2log = np.argsort(log2mlog, axis=1)
    local = np.ascontiguousarray(np.take_along_axis(weight, mlog2log, 1).reshape(-1, experts_per_node))
    # 2: spare copies within each node
    phy2mlog, phyrank, mlogcnt = _replicate(local, num_slots // num_nodes)
    share = np.take_along_axis(local / mlogcnt.astype(np.float32), phy2mlog, 1)
    # 3: copies to GPUs
    gpus, per_gpu = num_gpus // num_nodes, num_slots // num_gpus
    pack, rank = _pack_copies(local, share, phy2mlog, gpus, avoid_same_gpu, nested)
    pphy2phy = np.argsort(pack * per_gpu + rank, axis=1)
    offset = np.arange(num_nodes)[None, :, None] * experts_per_node
    pphy2mlog = (np.take_along_axis(phy2mlog, pphy2phy, 1).reshape(layers, num_nodes, -1) + offset).reshape(layers, -1)
    phys2log = np.take_along_axis(mlog2log, pphy2mlog, 1)
    ranks = np.take_along_axis(phyrank, pphy2phy, 1).reshape(layers, -1)
    return phys2log, ranks, np.take_along_axis(mlogcnt.reshape(layers, -1), log2mlog, 1)


def _pack_copies(local, share, phy2mlog, gpus, avoid_same_gpu, nested):
    experts, slots = local.shape[1], share.shape[1]
    if not nested:
        return _packed(share, gpus, phy2mlog if avoid_same_gpu else None)
    base_pack, base_rank = _packed(local, gpus)
    start = np.zeros((len(local), gpus), np.float32)
    for row in range(len(local)):
        np.add.at(start[row], base_pack[row], share[row, :experts])
    spare = np.ascontiguousarray(share[:, experts:])
    spare_experts = np.ascontiguousarray(phy2mlog[:, experts:]) if avoid_same_gpu else phy2mlog[:, :0]
    pack, rank = _pack(spare, _descending(spare), spare_experts, base_pack, start, (slots - experts) // gpus)
    return np.concatenate([base_pack, pack], 1), np.concatenate([base_rank, rank + experts // gpus], 1)


def _packed(weight, packs, experts=None):
    """The reference's `balanced_packing` of every row; with `experts` a pack avoids a second copy of one of them."""
    rows, items = weight.shape
    if items == packs:
        return np.tile(np.arange(items), (rows, 1)), np.zeros((rows, items), np.int64)
    none = np.empty((rows, 0), np.int64)
    start = np.zeros((rows, packs), np.float32)
    return _pack(weight, _descending(weight), none if experts is None else experts, none, start, items // packs)


def _descending(weight):
    return np.argsort(-weight, axis=1, kind="stable")


@kernel
def _pack(weight, order, experts, base_pack, start, capacity):
    """Items in `order` to the pack of least weight with room, ties to the lowest; with `experts` avoid duplicates."""
    rows, items = weight.shape
    packs = start.shape[1]
    avoid = experts.shape[1] > 0
    pack_of, rank_of = np.empty((rows, items), np.int64), np.empty((rows, items), np.int64)
    holds = np.zeros((packs, experts.max() + 1 if avoid and experts.size else 1), np.bool_)
    filled = np.empty(packs, np.int64)
    for row in range(rows):
        filled[:] = 0
        holds[:] = False
        if avoid:
            for expert in range(min(base_pack.shape[1], holds.shape[1])):
                holds[base_pack[row, expert], expert] = True
        for item in order[row]:
            expert = experts[row, item] if avoid else 0
            best = spare = -1
            for pack in range(packs):
                if filled[pack] < capacity:
                    if spare < 0 or start[row, pack] < start[row, spare]:
                        spare = pack
                    if not holds[pack, expert] and (best < 0 or start[row, pack] < start[row, best]):
                        best = pack
            best = spare if best < 0 else best
            pack_of[row, item], rank_of[row, item] = best, filled[best]
            start[row, best] += weight[row, item]
            filled[best] += 1
            holds[best, expert] = avoid
    return pack_of, rank_of


@kernel
def _replicate(weight, slots):
    """The reference's `replicate_experts`: each spare copy goes to the first expert of largest load per copy."""
    rows, experts = weight.shape
    expert_of, rank_of = np.empty((rows, slots), np.int64), np.zeros((rows, slots), np.int64)
    copies = np.ones((rows, experts), np.int64)
    per_copy = np.empty(experts, np.float32)
    for row in range(rows):
        for expert in range(experts):
            per_copy[expert] = weight[row, expert]
            expert_of[row, expert] = expert
        for slot in range(experts, slots):
            best = 0
            for expert in range(1, experts):
                if per_copy[expert] > per_copy[best]:
                    best = expert
            expert_of[row, slot], rank_of[row, slot] = best, copies[row, best]
            copies[row, best] += 1
            per_copy[best] = weight[row, best] / np.float32(copies[row, best])
    return expert_of, rank_of, copies


def _log2phys(phys2log: np.ndarray, ranks: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """`(L, N, X)`: the slot of every (expert, copy rank), -1 where there is no such copy."""
    out = np.full((*copies.shape, int(copies.max())), -1, np.int64)
    out[np.arange(len(phys2log))[:, None], phys2log, ranks] = np.arange(phys2log.shape[1])
    return out
