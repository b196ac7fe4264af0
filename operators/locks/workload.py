"""The transfer: the section that most bars and proofs use, and its arguments from a seed.

64 accounts and 64 locks; an amount goes from one random account to another under two nested locks, and the call is
counted for the slot that made it: three stores. `amount` never is 0, so a lost or doubled call shows in the balances.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from operators.locks.handles import Cells
from operators.locks.region import Region
from operators.locks.sections import Section, section

if TYPE_CHECKING:
    import numpy as np

ACCOUNTS, INITIAL = 64, 1_000
STREAM = 1
SLOTS = 64


def transfer_on(region: Region, *, accounts: int = ACCOUNTS, nest: str = "flat") -> tuple[Section, Cells, Cells]:
    """The section `transfer(a, b, amount, who)` bound to a region, its balances and its counters per slot."""
    balances = region.cells(accounts, INITIAL, name="balances")
    counts = region.cells(SLOTS, name="counts")
    locks = region.locks(accounts, name="account locks")

    @section(nest=nest)
    def transfer(tx, a, b, amount, who):
        with tx.lock(locks[min(a, b)]), tx.lock(locks[max(a, b)]):
            balances[a] -= amount
            balances[b] += amount
            counts[who] += 1

    transfer.bind(region)
    return transfer, balances, counts


def rows(seed: int, n: int, *, accounts: int = ACCOUNTS, zipf: float = 0.0) -> "np.ndarray":
    """`(n, 3)` int32: account from, another account to, amount 1 to 99."""
    import numpy as np

    rng = np.random.default_rng([seed, STREAM])
    weights = 1.0 / np.arange(1, accounts + 1) ** zipf
    a = rng.choice(accounts, n, p=weights / weights.sum())
    b = (a + rng.integers(1, accounts, n)) % accounts
    return np.ascontiguousarray(np.stack([a, b, rng.integers(1, 100, n)], axis=1), dtype=np.int32)


def write_rows(table: "np.ndarray", path: Path) -> Path:
    """The rows as the native worker reads them."""
    table.tofile(path)
    return path


def expected(table: "np.ndarray", calls: dict[int, int], *, accounts: int = ACCOUNTS) -> "np.ndarray":
    """Balances after each slot has made its first `calls[slot]` calls (call k has row k mod n), in any order."""
    import numpy as np

    times = np.zeros(len(table), dtype=np.int64)
    for count in calls.values():
        times += count // len(table)
        times[: count % len(table)] += 1
    balances = np.full(accounts, INITIAL, dtype=np.int64)
    np.subtract.at(balances, table[:, 0], times * table[:, 2])
    np.add.at(balances, table[:, 1], times * table[:, 2])
    return balances


def set_rows(seed: int, n_rows: int, *, n: int, update_pct: int, zipf: float = 0.0) -> "tuple[np.ndarray, np.ndarray]":
    """Keys `(n_rows,)` int32 from 0 to 2n-1 and operations uint8 (0 find, 1 insert, 2 remove)."""
    import numpy as np

    rng = np.random.default_rng([seed, STREAM + 1])
    weights = 1.0 / np.arange(1, 2 * n + 1) ** zipf
    keys = rng.permutation(2 * n)[rng.choice(2 * n, n_rows, p=weights / weights.sum())]
    update = update_pct / 200
    ops = rng.choice(3, n_rows, p=[1 - 2 * update, update, update])
    return keys.astype(np.int32), ops.astype(np.uint8)


def fill_order(seed: int, n: int) -> "np.ndarray":
    """`n` of the 2n keys, in random order: what a set holds at the start."""
    import numpy as np

    return np.random.default_rng([seed, STREAM + 2]).permutation(2 * n)[:n].astype(np.int32)
