"""Who serves what: the table of servers that every server and client holds, and the choice among replicas."""

from dataclasses import dataclass
from typing import Any, Self

DOWN_S = 0.5  # a server found down is not tried again before this
REFUSED_S = 30.0  # nor one of another index, unless a new table comes
PING_S = 0.3  # how often servers and clients ask whether the others are there
SILENT_S = 1.0  # a server that has not answered for this long is taken for down until it does


@dataclass(frozen=True)
class Peer:
    """One server: where it listens, the partitions it holds, the fingerprint of its index."""

    id: int
    address: int
    parts: tuple[int, ...]
    epoch: int


class Peers:
    """The table, with what is known of each server: down until when, how many states wait there."""

    def __init__(self, peers: list[Peer] | None = None):
        self.update(peers or [])

    @classmethod
    def from_list(cls, rows: list[list[Any]]) -> Self:
        """From `to_list`, as control messages carry it."""
        return cls([Peer(who, address, tuple(parts), epoch) for who, address, parts, epoch in rows])

    def to_list(self) -> list[list[Any]]:
        return [[peer.id, peer.address, list(peer.parts), peer.epoch] for peer in self.by_id.values()]

    def update(self, peers: list[Peer]) -> None:
        """Replace the table; what is known of a server whose address stays is kept."""
        old = getattr(self, "by_id", {})
        kept = {peer.id for peer in peers if peer.id in old and old[peer.id].address == peer.address}
        self.by_id = {peer.id: peer for peer in peers}
        self.by_address = {peer.address: peer for peer in peers}
        self.holders: dict[int, list[int]] = {}
        for peer in sorted(peers, key=lambda peer: peer.id):
            for part in peer.parts:
                self.holders.setdefault(part, []).append(peer.id)
        self._down = {who: until for who, until in getattr(self, "_down", {}).items() if who in kept}
        self._load = {who: load for who, load in getattr(self, "_load", {}).items() if who in kept}
        self._asked = {who: since for who, since in getattr(self, "_asked", {}).items() if who in kept}

    def mark_down(self, who: int, now_s: float, *, refused: bool = False) -> None:
        self._down[who] = now_s + (REFUSED_S if refused else DOWN_S)

    def heard_from(self, who: int, load: int) -> None:
        """A frame came from a server: it is up, and this many states wait there."""
        self._down.pop(who, None)
        self._asked.pop(who, None)
        self._load[who] = load

    def asked(self, who: int, now_s: float) -> None:
        """A ping goes out; the oldest that is unanswered counts."""
        self._asked.setdefault(who, now_s)

    def is_up(self, who: int, now_s: float) -> bool:
        """Not found down just now, and not silent."""
        return self._down.get(who, 0) <= now_s and now_s - self._asked.get(who, now_s) < SILENT_S

    def holder(self, part: int, now_s: float, *, but: int = -1) -> int | None:
        """The server to send a state for `part` to: of those up, the one with the fewest states waiting.

        The partition's own server comes first among equals. None: no server that holds it is up.
        """
        holders = self.holders.get(part, [])
        first = part % len(self.by_id) if self.by_id else 0
        up = [who for who in holders if who != but and self.is_up(who, now_s)]
        return min(up, key=lambda who: (self._load.get(who, 0), who != first, who), default=None)

    def any_up(self, now_s: float, start: int, *, but: frozenset[int] = frozenset()) -> int | None:
        """The first server that is up, counting round from `start`."""
        ids = sorted(self.by_id)
        for step in range(len(ids)):
            who = ids[(start + step) % len(ids)]
            if who not in but and self.is_up(who, now_s):
                return who
        return None


def parts_of(server: int, servers: int, parts: int, replicas: int) -> tuple[int, ...]:
    """Partitions a server holds: p lives on servers p, p + 1, ... p + replicas - 1 (mod servers)."""
    if not 1 <= replicas <= servers:
        raise ValueError(f"replicas (={replicas}): expected 1 to the number of servers (={servers})")
    if servers > parts:
        raise ValueError(f"servers (={servers}): expected at most the index's {parts} partitions")
    return tuple(part for part in range(parts) if (server - part % servers) % servers < replicas)
