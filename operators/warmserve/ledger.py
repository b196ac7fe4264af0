"""What became of every prewarmed replica: loaded when, held how long, used or why not.

One entry per replica, opened when it is decided and closed once. Bytes of a load that was cut off count as far as it
got. The sum of bytes over all outcomes is the sum of bytes of all loads (checked by `balance` against the load events).
"""

from dataclasses import dataclass, field

from operators.warmserve.errors import InvariantError

OUTCOMES = ("hit", "evicted_promotion", "evicted_takeback", "cancelled", "crashed", "left")
GB = 1e9


@dataclass
class Entry:
    """One replica's life, times in s, bytes over all its GPUs."""

    replica_id: int
    model: str
    gpus: tuple[int, ...]
    kind: str
    score: float
    decided_s: float
    load_start_s: float | None = None
    load_end_s: float | None = None
    bytes_loaded: float = 0.0
    gb_s_held: float = 0.0
    outcome: str | None = None


@dataclass
class Ledger:
    """All entries, by replica."""

    entries: dict[int, Entry] = field(default_factory=dict)

    def open(
        self, replica_id: int, model: str, gpus: tuple[int, ...], kind: str, score: float, now: float, *, held: bool
    ) -> None:
        """A replica is decided; `held`: its weights lie there already (an instance ended)."""
        if replica_id in self.entries:
            raise InvariantError(f"replica_id (={replica_id}): opened twice")
        self.entries[replica_id] = Entry(replica_id, model, gpus, kind, score, now)
        if held:
            self.entries[replica_id].load_end_s = now

    def load_start(self, replica_id: int, now: float) -> None:
        self._open_entry(replica_id).load_start_s = now

    def load_end(self, replica_id: int, now: float, size: float) -> None:
        """The load of `size` bytes is complete."""
        entry = self._open_entry(replica_id)
        entry.load_end_s, entry.bytes_loaded = now, float(size)

    def close(self, replica_id: int, outcome: str, now: float, *, partial: float = 0.0, size: float = 0.0) -> Entry:
        """The replica's life as a prewarmed one ends. `partial`: bytes of a load cut off; `size`: bytes it held."""
        entry = self._open_entry(replica_id)
        if outcome not in OUTCOMES:
            raise InvariantError(f"outcome (={outcome!r}): expected one of {', '.join(OUTCOMES)}")
        if entry.load_end_s is None:
            entry.bytes_loaded = float(partial)
        else:
            entry.gb_s_held = size / GB * (now - entry.load_end_s)
        entry.outcome = outcome
        return entry

    def loaded_later(self, replica_id: int, now: float, size: float) -> None:
        """The load of a replica that was promoted while it loaded is complete."""
        entry = self.entries[replica_id]
        entry.load_end_s, entry.bytes_loaded = now, float(size)

    def crashed(self, replica_id: int, partial: float) -> None:
        """A replica that was promoted while it loaded died before its load was complete."""
        entry = self.entries[replica_id]
        entry.outcome, entry.bytes_loaded = "crashed", float(partial)

    def _open_entry(self, replica_id: int) -> Entry:
        entry = self.entries.get(replica_id)
        if entry is None or entry.outcome is not None:
            raise InvariantError(f"replica_id (={replica_id}): not open in the ledger (double free?)")
        return entry

    def validate(self) -> None:
        """Every entry is closed (at the end of a run)."""
        still = [entry.replica_id for entry in self.entries.values() if entry.outcome is None]
        if still:
            raise InvariantError(f"ledger: {len(still)} entries still open, first {still[0]}")

    def totals(self) -> dict[str, float]:
        """Bytes loaded by outcome."""
        sums = dict.fromkeys(OUTCOMES, 0.0)
        for entry in self.entries.values():
            if entry.outcome:
                sums[entry.outcome] += entry.bytes_loaded
        return sums
