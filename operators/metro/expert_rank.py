"""One expert-parallel rank: a pure state machine that owns the weights of its slots and computes its part of a layer.

No Ray, no queue, no clock: messages are method calls, times come from the kernel's own counters (actors.py wraps it,
tests drive it directly). A rank serves exactly the (token, k) pairs whose slot is one of its own; the sum of all ranks'
partial outputs is the layer. Slots are worked on in ascending id and tokens in ascending row, so the order of every
sum is fixed: the same call gives the same bits.
"""

from dataclasses import dataclass

import numpy as np

from operators.metro import experts, kernel

EXPERT_DTYPE_BYTES = 4


class RankError(ValueError):
    """A rank was given a slot, expert or array it cannot hold or does not hold; the message names rank and value."""


@dataclass
class _Layer:
    slots: np.ndarray  # (n,) global slot ids, ascending
    experts: np.ndarray  # (n,) the expert in each
    slab: np.ndarray  # (capacity, width, 3, hidden)
    seed: int | None  # None: given as arrays
    served: np.ndarray  # (n,) assignments served by each slot since it was loaded


class ExpertRank:
    """The expert weights and counters of rank `rank` with room for `capacity` slots in every layer."""

    def __init__(self, rank: int, *, capacity: int, width: int, hidden: int):
        if capacity < 1:
            raise RankError(f"rank {rank}: capacity (={capacity}): must be >= 1 slot")
        experts.empty_slab(0, width, hidden)  # refuses impossible sizes
        self.rank, self.capacity, self.width, self.hidden = rank, capacity, width, hidden
        self.calls = self.tokens = self.activated = self.bytes = 0
        self._layers: dict[int, _Layer] = {}
        self._served_before = 0  # by slots that have been loaded anew since

    @property
    def expert_bytes(self) -> int:
        return 3 * self.width * self.hidden * EXPERT_DTYPE_BYTES

    def load(
        self,
        layer: int,
        slots: np.ndarray,
        expert_ids: np.ndarray,
        *,
        seed: int | None = None,
        arrays: list[np.ndarray] | None = None,
    ) -> int:
        """Hold `expert_ids[i]` in slot `slots[i]` of `layer`; returns how many experts were written.

        Weights come from `seed`, or from `arrays` (packed, `(width, 3, hidden)` each). A slot position that already
        holds the same expert of the same seed is left as it is. Raises RankError.
        """
        slots, expert_ids = np.asarray(slots, np.int64), np.asarray(expert_ids, np.int64)
        self._check_load(layer, slots, expert_ids, seed, arrays)
        order = np.argsort(slots, kind="stable")
        slots, expert_ids = slots[order], expert_ids[order]
        old = self._layers.pop(layer, None)
        slab = old.slab if old else experts.empty_slab(self.capacity, self.width, self.hidden)
        self._served_before += int(old.served.sum()) if old else 0
        written = 0
        for place, expert in enumerate(expert_ids):
            if arrays is not None:
                slab[place] = arrays[order[place]]
            elif old and old.seed == seed and place < len(old.experts) and old.experts[place] == expert:
                continue
            else:
                experts.fill(slab[place], seed=seed, layer=layer, expert=int(expert))
            written += 1
        self._layers[layer] = _Layer(slots, expert_ids, slab, seed, np.zeros(len(slots), np.int64))
        return written

    def _check_load(self, layer, slots, expert_ids, seed, arrays) -> None:
        where = f"rank {self.rank}, layer {layer}"
        if slots.shape != expert_ids.shape or slots.ndim != 1:
            raise RankError(f"{where}: slots {slots.shape} and experts {expert_ids.shape}: expected one expert a slot")
        if len(slots) > self.capacity:
            raise RankError(f"{where}: {len(slots)} slots; there is room for {self.capacity}")
        if len(np.unique(slots)) != len(slots) or (len(slots) and min(slots.min(), expert_ids.min()) < 0):
            raise RankError(f"{where}: slots {slots.tolist()}, experts {expert_ids.tolist()}: expected distinct, >= 0")
        if (seed is None) == (arrays is None):
            raise RankError(f"{where}: expected either a seed or arrays")
        for expert, array in zip(expert_ids, arrays or (), strict=arrays is not None):
            if array.shape != (self.width, 3, self.hidden):
                raise RankError(
                    f"{where}: expert {expert} has shape {array.shape}; expected {(self.width, 3, self.hidden)}"
                )

    def weights(self, layer: int, slot: int) -> np.ndarray:
        """The packed weights in `slot`, as a view."""
        held = self._layer(layer)
        place = np.flatnonzero(held.slots == slot)
        if not len(place):
            raise RankError(f"rank {self.rank}, layer {layer}: slot {slot} is not here; it has {held.slots.tolist()}")
        return held.slab[place[0]]

    def forward(
        self, layer: int, x: np.ndarray, topk: np.ndarray, weights: np.ndarray, slot: np.ndarray
    ) -> tuple[np.ndarray, dict[str, int]]:
        """This rank's part of the layer `(T, d)` f32 and what it cost.

        x `(T, d)` f32; topk, weights (the gates) and slot `(T, k)`; slots of other ranks are passed over. The dict has
        cpu_ns and wall_ns (round the kernel alone), activated (slots with tokens), tokens (assignments), bytes (of
        weights read). Raises RankError when a slot here holds another expert than the token chose.
        """
        held = self._layer(layer)
        x = self._checked_tokens(layer, x, topk, weights, slot)
        rows, place, gates = self._mine(layer, held, topk, weights, slot)
        used, start = np.unique(place, return_index=True)
        start = np.append(start, len(place)).astype(np.int64)
        partial = np.zeros_like(x)
        cpu_ns, wall_ns = kernel.core().forward(held.slab, used, start, rows, gates, x, partial)
        held.served += np.bincount(place, minlength=len(held.slots))
        read = len(used) * self.expert_bytes
        self.calls, self.tokens = self.calls + 1, self.tokens + len(rows)
        self.activated, self.bytes = self.activated + len(used), self.bytes + read
        return partial, {
            "cpu_ns": cpu_ns,
            "wall_ns": wall_ns,
            "activated": len(used),
            "tokens": len(rows),
            "bytes": read,
        }

    def _layer(self, layer: int) -> _Layer:
        if layer not in self._layers:
            raise RankError(f"rank {self.rank}: layer {layer} is not loaded; loaded: {sorted(self._layers)}")
        return self._layers[layer]

    def _checked_tokens(self, layer, x, topk, weights, slot) -> np.ndarray:
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim != 2 or x.shape[1] != self.hidden:
            raise RankError(f"rank {self.rank}: x (shape {x.shape}): expected (tokens, {self.hidden})")
        shapes = [np.shape(part) for part in (topk, weights, slot)]
        if len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][0] != len(x):
            raise RankError(f"layer {layer}: topk, weights, slot {shapes}: expected the same shape ({len(x)}, k)")
        return x

    def _mine(self, layer, held, topk, weights, slot) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, slot position and gate of every assignment served here, by slot and then by row."""
        flat = np.asarray(slot, np.int64).ravel()
        place = np.searchsorted(held.slots, flat)
        here = np.flatnonzero(np.append(held.slots, -1)[np.minimum(place, len(held.slots))] == flat)
        here = here[np.argsort(place[here], kind="stable")]
        place = place[here]
        chosen = np.asarray(topk).ravel()[here]
        wrong = np.flatnonzero(held.experts[place] != chosen)
        if len(wrong):
            at = wrong[0]
            raise RankError(
                f"rank {self.rank}, layer {layer}: slot {held.slots[place[at]]} holds expert "
                f"{held.experts[place[at]]}, a token chose expert {chosen[at]}"
            )
        gates = np.ascontiguousarray(np.asarray(weights).ravel()[here], np.float32)
        return here // np.shape(topk)[1], place, gates

    def counters(self) -> dict[str, int]:
        """Totals since the start: calls, tokens, activated, bytes."""
        return {"calls": self.calls, "tokens": self.tokens, "activated": self.activated, "bytes": self.bytes}

    def validate(self) -> None:
        """Raise RankError unless slots fit the capacity, weights are there for each, and the counters add up."""
        for layer, held in self._layers.items():
            where = f"rank {self.rank}, layer {layer}"
            if not len(held.slots) == len(held.experts) == len(held.served) <= self.capacity == len(held.slab):
                raise RankError(f"{where}: {len(held.slots)} slots for a capacity of {self.capacity}")
            if (np.diff(held.slots) <= 0).any():
                raise RankError(f"{where}: slots {held.slots.tolist()} do not ascend")
            empty = [int(slot) for slot, block in zip(held.slots, held.slab, strict=False) if not block[0].any()]
            if empty:
                raise RankError(f"{where}: slots {empty} have no weights")
        served = self._served_before + sum(int(held.served.sum()) for held in self._layers.values())
        if served != self.tokens:
            raise RankError(f"rank {self.rank}: slots served {served} assignments, the counter says {self.tokens}")
        if self.activated * self.expert_bytes != self.bytes or self.activated > self.tokens:
            raise RankError(f"rank {self.rank}: counters {self.counters()} do not add up")
