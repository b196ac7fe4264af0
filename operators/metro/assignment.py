"""What all routers share: the kernels' view of a placement, the result type, and tokens put into slots.

A router that looks only at counts decides `share[R]`: how many tokens every live copy of every expert gets, in copy
order. Everything else follows from it here: activated experts and tokens per GPU, and the slot of each (token, k).
An expert's assignments, numbered in flattened order over the whole batch, go round its copies in copy order, skipping
copies that have had their share; for equal shares that is "m-th assignment to copy m mod copies", EPLB's even split.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.metro.batches import check_topk


class RoutingError(ValueError):
    """An expert with tokens has no live copy, or a router was asked for something it cannot do."""


class Tables(NamedTuple):
    """A placement as flat int64 arrays, one row a layer; dead copies are left out.

    Copies of expert i are positions `copy_start[i]` to `copy_start[i + 1]` of `copy_slot`, `copy_gpu`, in copy order.
    Its candidates, the distinct GPUs, are the same range of `cand_start`, `cand_gpu`, ascending; `cand_copy` is the
    copy position of the lowest slot of that expert on that GPU. Seen from GPU g, `move_start[g]` to `move_start[g + 1]`
    list the experts that could be there or elsewhere (`move_expert`, ascending) and the candidate that is g
    (`move_cand`).
    """

    copy_start: np.ndarray  # (L, N + 1)
    copy_slot: np.ndarray  # (L, R)
    copy_gpu: np.ndarray  # (L, R)
    cand_start: np.ndarray  # (L, N + 1)
    cand_gpu: np.ndarray  # (L, R)
    cand_copy: np.ndarray  # (L, R)
    move_start: np.ndarray  # (L, G + 1)
    move_expert: np.ndarray  # (L, R)
    move_cand: np.ndarray  # (L, R)


@dataclass(frozen=True, eq=False)
class Routing:
    """Which slot serves each (token, k), and what that means per GPU."""

    slot: np.ndarray  # (T, k) int64
    activated: np.ndarray  # (G,) slots with at least one token
    tokens: np.ndarray  # (G,) assignments served
    lam: int  # the largest of `activated`
    certificate: Any = None  # optimum.Certificate of an exact router

    def validate(self, layer: Any, topk: np.ndarray, *, alive: np.ndarray | None = None) -> None:
        """Raise RoutingError unless every assignment is served once, by a live copy of its own expert."""
        topk = np.asarray(topk)
        if self.slot.shape != topk.shape:
            raise RoutingError(f"slot (shape {self.slot.shape}): expected the shape of topk {topk.shape}")
        held = layer.phys2log[self.slot]
        if (held != topk).any():
            token, k = np.argwhere(held != topk)[0]
            raise RoutingError(
                f"layer {layer.index}: token {token} chose expert {topk[token, k]}; its slot holds {held[token, k]}"
            )
        gpu = self.slot // layer.slots_per_gpu
        if alive is not None and not np.asarray(alive)[gpu].all():
            raise RoutingError(f"layer {layer.index}: a token was sent to a dead GPU")
        activated = np.bincount(np.unique(self.slot) // layer.slots_per_gpu, minlength=layer.num_gpus)
        tokens = np.bincount(gpu.ravel(), minlength=layer.num_gpus)
        for name, have, want in (("activated", self.activated, activated), ("tokens", self.tokens, tokens)):
            if not np.array_equal(have, want):
                raise RoutingError(f"layer {layer.index}: {name} {have}; counted {want}")
        if self.lam != activated.max(initial=0) or tokens.sum() != topk.size:
            raise RoutingError(f"layer {layer.index}: lam {self.lam}; counted {activated.max(initial=0)}")


def checked(layer: Any, topk: np.ndarray, alive: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, Tables]:
    """The batch as int64 `(T, k)`, its counts `(N,)` and the layer's live tables; TraceError, RoutingError."""
    topk = check_topk(topk, layer.num_experts)
    counts = np.bincount(topk.ravel(), minlength=layer.num_experts)
    tables = layer.tables(None if alive is None else check_alive(alive, layer.num_gpus))
    if alive is not None:
        check_served(counts[None, None], tables, first_layer=layer.index)
    return topk, counts, tables


def check_alive(alive: np.ndarray, num_gpus: int) -> np.ndarray:
    """`alive` as bool `(G,)`; RoutingError when it is no flag per GPU, or no GPU is alive."""
    alive = np.asarray(alive)
    if alive.shape != (num_gpus,) or alive.dtype != np.bool_:
        raise RoutingError(f"alive (shape {alive.shape}, {alive.dtype}): expected one bool per GPU ({num_gpus})")
    if not alive.any():
        raise RoutingError(f"alive (={alive.tolist()}): no GPU is alive")
    return alive


def check_served(counts: np.ndarray, tables: Tables, *, first_layer: int = 0) -> None:
    """Raise RoutingError naming expert and layer when `counts[S, L, N]` has tokens for an expert without live copy."""
    lost = (counts > 0) & (np.diff(tables.copy_start, axis=1) == 0)
    if lost.any():
        _, layer, expert = np.argwhere(lost)[0]
        raise RoutingError(f"expert {expert} of layer {first_layer + layer}: has tokens but no live copy")


def source_gpus(source_gpu: np.ndarray | None, tokens: int, num_gpus: int) -> np.ndarray:
    """GPU each token comes from `(T,)`: contiguous blocks of ceil(T/G) unless given."""
    if source_gpu is None:
        return np.arange(tokens, dtype=np.int64) // max(1, -(-tokens // num_gpus))
    source = np.ascontiguousarray(source_gpu, np.int64)
    if source.shape != (tokens,) or (tokens and not 0 <= source.min() <= source.max() < num_gpus):
        raise RoutingError(f"source_gpu (shape {source.shape}): expected {tokens} ids in [0, {num_gpus})")
    return source


def from_share(layer: Any, topk: np.ndarray, tables: Tables, share: np.ndarray, certificate: Any = None) -> Routing:
    """The Routing that gives each copy its `share[R]` of tokens."""
    slot = slots_of(topk[None, None], tables, share[None, None])[0, 0]
    activated, tokens = totals(share[None, None], tables, layer.num_gpus)
    return Routing(slot, activated[0, 0], tokens[0, 0], int(activated.max(initial=0)), certificate)


def from_slots(layer: Any, slot: np.ndarray) -> Routing:
    """The Routing of slots `(T, k)` chosen one by one."""
    activated, tokens = slot_totals(slot[None, None], layer.num_gpus, layer.slots_per_gpu)
    return Routing(slot, activated[0, 0], tokens[0, 0], int(activated.max(initial=0)))


@kernel
def live_tables(log2phys, copies, slots_per_gpu, alive):
    """Tables of `log2phys[L, N, X]`, without the copies on GPUs that are not `alive`."""
    layers, experts, _ = log2phys.shape
    slots, gpus = slots_per_gpu * len(alive), len(alive)
    starts = np.zeros((3, layers, max(experts, gpus) + 1), np.int64)
    copy_start, cand_start = starts[0, :, : experts + 1].copy(), starts[1, :, : experts + 1].copy()
    move_start = starts[2, :, : gpus + 1].copy()
    flat = np.full((6, layers, slots), -1, np.int64)
    lowest = np.full(gpus, -1, np.int64)  # copy position of the lowest slot seen on each GPU
    for layer in range(layers):
        copy_slot, copy_gpu, cand_gpu, cand_copy = flat[0, layer], flat[1, layer], flat[2, layer], flat[3, layer]
        at = cand = 0
        for expert in range(experts):
            for rank in range(copies[layer, expert]):
                slot = log2phys[layer, expert, rank]
                gpu = slot // slots_per_gpu
                if alive[gpu]:
                    copy_slot[at], copy_gpu[at] = slot, gpu
                    if lowest[gpu] < 0 or slot < copy_slot[lowest[gpu]]:
                        lowest[gpu] = at
                    at += 1
            for gpu in range(gpus):
                if lowest[gpu] >= 0:
                    cand_gpu[cand], cand_copy[cand] = gpu, lowest[gpu]
                    lowest[gpu] = -1
                    cand += 1
            copy_start[layer, expert + 1], cand_start[layer, expert + 1] = at, cand
        _moves(cand_start[layer], cand_gpu, move_start[layer], flat[4, layer], flat[5, layer])
    return Tables(copy_start, flat[0], flat[1], cand_start, flat[2], flat[3], move_start, flat[4], flat[5])


@inner
def _moves(cand_start, cand_gpu, move_start, move_expert, move_cand):
    """Fill the lists of movable experts of every GPU (counting sort by GPU, experts stay ascending)."""
    gpus = len(move_start) - 1
    fill = np.zeros(gpus + 1, np.int64)
    for sweep in range(2):
        for expert in range(len(cand_start) - 1):
            if cand_start[expert + 1] - cand_start[expert] > 1:
                for cand in range(cand_start[expert], cand_start[expert + 1]):
                    gpu = cand_gpu[cand]
                    if sweep == 1:
                        move_expert[fill[gpu]], move_cand[fill[gpu]] = expert, cand
                    fill[gpu] += 1
        if sweep == 0:
            for gpu in range(gpus):
                move_start[gpu + 1] = move_start[gpu] + fill[gpu]
            for gpu in range(gpus):
                fill[gpu] = move_start[gpu]


@kernel
def totals(share, t, num_gpus):
    """`activated[S, L, G]` and `tokens[S, L, G]` of `share[S, L, R]`."""
    steps, layers, _ = share.shape
    activated = np.zeros((steps, layers, num_gpus), np.int64)
    tokens = np.zeros((steps, layers, num_gpus), np.int64)
    for step in range(steps):
        for layer in range(layers):
            for at in range(t.copy_start[layer, -1]):
                here = share[step, layer, at]
                if here > 0:
                    gpu = t.copy_gpu[layer, at]
                    activated[step, layer, gpu] += 1
                    tokens[step, layer, gpu] += here
    return activated, tokens


@kernel
def slot_totals(slot, num_gpus, slots_per_gpu):
    """`activated[S, L, G]` and `tokens[S, L, G]` of slots `(S, L, T, k)`."""
    steps, layers, count, k = slot.shape
    activated = np.zeros((steps, layers, num_gpus), np.int64)
    tokens = np.zeros((steps, layers, num_gpus), np.int64)
    used = np.empty(num_gpus * slots_per_gpu, np.bool_)
    for step in range(steps):
        for layer in range(layers):
            used[:] = False
            for token in range(count):
                for j in range(k):
                    here = slot[step, layer, token, j]
                    gpu = here // slots_per_gpu
                    activated[step, layer, gpu] += not used[here]
                    tokens[step, layer, gpu] += 1
                    used[here] = True
    return activated, tokens


@inner
def _deal(t, layer, share, left, turn):
    """Begin a layer: what each copy may still take, and the copy each expert's next assignment tries first."""
    for at in range(len(share)):
        left[at] = share[at]
    for expert in range(len(turn)):
        turn[expert] = t.copy_start[layer, expert]


@inner
def _next_copy(t, layer, expert, left, turn):
    """The copy whose turn it is among those with tokens left; takes one token off it and passes the turn on."""
    first, end = t.copy_start[layer, expert], t.copy_start[layer, expert + 1]
    at = turn[expert]
    while left[at] == 0:
        at = at + 1 if at + 1 < end else first
    left[at] -= 1
    turn[expert] = at + 1 if at + 1 < end else first
    return at


@kernel
def slots_of(topk, t, share):
    """Slots `(S, L, T, k)` of the batches `topk[S, L, T, k]`, dealt round each expert's copies within their shares."""
    steps, layers, count, k = topk.shape
    slot = np.empty((steps, layers, count, k), np.int64)
    experts = t.copy_start.shape[1] - 1
    left, turn = np.empty(share.shape[2], np.int64), np.empty(experts, np.int64)
    for step in range(steps):
        for layer in range(layers):
            _deal(t, layer, share[step, layer], left, turn)
            for token in range(count):
                for j in range(k):
                    at = _next_copy(t, layer, topk[step, layer, token, j], left, turn)
                    slot[step, layer, token, j] = t.copy_slot[layer, at]
    return slot


@kernel
def most_destinations(slot, source, num_gpus, slots_per_gpu):
    """All-to-all volume `(S, L)`: the largest, over source GPUs, sum over its tokens of distinct destination GPUs."""
    steps, layers, count, k = slot.shape
    out = np.zeros((steps, layers), np.int64)
    sent, seen = np.empty(num_gpus, np.int64), np.empty(num_gpus, np.int64)
    for step in range(steps):
        for layer in range(layers):
            sent[:] = 0
            seen[:] = -1
            for token in range(count):
                for j in range(k):
                    gpu = slot[step, layer, token, j] // slots_per_gpu
                    if seen[gpu] != token:
                        seen[gpu] = token
                        sent[source[token]] += 1
            out[step, layer] = sent.max()
    return out


@kernel
def destinations(topk, t, share, source, num_gpus):
    """`most_destinations` of the slots that `slots_of` would give, without holding them."""
    steps, layers, count, k = topk.shape
    out = np.zeros((steps, layers), np.int64)
    left, turn = np.empty(share.shape[2], np.int64), np.empty(t.copy_start.shape[1] - 1, np.int64)
    sent, seen = np.empty(num_gpus, np.int64), np.empty(num_gpus, np.int64)
    for step in range(steps):
        for layer in range(layers):
            _deal(t, layer, share[step, layer], left, turn)
            sent[:] = 0
            seen[:] = -1
            for token in range(count):
                for j in range(k):
                    gpu = t.copy_gpu[layer, _next_copy(t, layer, topk[step, layer, token, j], left, turn)]
                    if seen[gpu] != token:
                        seen[gpu] = token
                        sent[source[token]] += 1
            out[step, layer] = sent.max()
    return out
