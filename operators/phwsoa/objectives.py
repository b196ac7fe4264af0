"""The three objectives of an assignment: makespan (s), imbalance of the machines' finish times, cost.

`evaluate` is the fast path (numba, releases the interpreter lock), `reference` the plain numpy loop it is tested
against, `Delta` changes a solution task by task. Imbalance is `cv` = std/mean of the finish times, `di` = (max - min) /
mean, or `std`; which of them the paper uses is not stated in the sources available. Cost bills a machine's seconds
from its first start to its last finish, rounded up to a quantum where one is set.

The kernel adds a task's length into one of four accumulators in turn: a single chain of dependent additions would wait
for the floating-point adder. The order of additions therefore differs from `reference`; results agree to 1e-12.
"""

import math

import numpy as np
from numba import njit

from operators.lab.compiled import inner
from operators.phwsoa.instance import RELATED, SIMULATED, UNRELATED, Instance
from operators.phwsoa.semantics import run_space

BALANCES = ("cv", "di", "std")
SECONDS_PER_HOUR = 3600.0
free_kernel = njit(cache=True, nogil=True, no_cfunc_wrapper=True)


@inner
def loads_related(x, length, mips, loads):
    """Finish times of related machines `(m,)` into `loads`."""
    n, m = x.shape[0], mips.shape[0]
    a, b, c, d = np.zeros(m), np.zeros(m), np.zeros(m), np.zeros(m)
    whole = n - n % 4
    for i in range(0, whole, 4):
        a[x[i]] += length[i]
        b[x[i + 1]] += length[i + 1]
        c[x[i + 2]] += length[i + 2]
        d[x[i + 3]] += length[i + 3]
    for i in range(whole, n):
        a[x[i]] += length[i]
    for j in range(m):
        loads[j] = ((a[j] + b[j]) + (c[j] + d[j])) / mips[j]


@inner
def loads_simulated(x, length, mips, pes, vm_pes, release, loads, first):
    """Last finish and first start per machine under CloudSim's space-shared rule."""
    n, m = x.shape[0], mips.shape[0]
    ids, start, finish = np.empty(n, np.int64), np.zeros(n), np.zeros(n)
    for vm in range(m):
        count = 0
        for i in range(n):
            if x[i] == vm:
                ids[count] = i
                count += 1
        loads[vm], first[vm] = 0.0, 0.0
        if count == 0:
            continue
        run_space(ids, count, length, pes, release, mips[vm], vm_pes[vm], False, start, finish)
        first[vm] = np.inf
        for k in range(count):
            loads[vm] = max(loads[vm], finish[ids[k]])
            first[vm] = min(first[vm], start[ids[k]])


@inner
def summarise(loads, first, price, balance, quantum, out):
    """Objectives `(3,)` from the machines' finish times; `balance` indexes BALANCES."""
    m = loads.shape[0]
    total, high, low, cost = 0.0, loads[0], loads[0], 0.0
    for j in range(m):
        load = loads[j]
        total += load
        high = max(high, load)
        low = min(low, load)
        billed = load - first[j]
        if quantum > 0.0:
            billed = math.ceil(billed / quantum - 1e-12) * quantum
        cost += billed * price[j]
    mean = total / m
    if balance == 1:
        out[1] = (high - low) / mean
    else:
        spread = 0.0
        for j in range(m):
            spread += (loads[j] - mean) * (loads[j] - mean)
        out[1] = math.sqrt(spread / m)
        if balance == 0:
            out[1] /= mean
    out[0], out[2] = high, cost / SECONDS_PER_HOUR


@free_kernel
def evaluate_related(low, high, solutions, arrays, balance, quantum, out):
    """Objectives of `solutions[low:high]` on related machines."""
    m = arrays[2].shape[0]
    loads, first = np.zeros(m), np.zeros(m)
    for p in range(low, high):
        loads_related(solutions[p], arrays[1], arrays[2], loads)
        summarise(loads, first, arrays[3], balance, quantum, out[p])


@free_kernel
def evaluate_unrelated(low, high, solutions, arrays, balance, quantum, out):
    """Objectives of `solutions[low:high]` under an ETC matrix."""
    m, etc = arrays[2].shape[0], arrays[4]
    loads, first = np.zeros(m), np.zeros(m)
    for p in range(low, high):
        for j in range(m):
            loads[j] = 0.0
        for i in range(solutions.shape[1]):
            loads[solutions[p, i]] += etc[i, solutions[p, i]]
        summarise(loads, first, arrays[3], balance, quantum, out[p])


@free_kernel
def evaluate_simulated(low, high, solutions, arrays, balance, quantum, out):
    """Objectives of `solutions[low:high]` with rigid tasks or release times."""
    _, length, mips, _, _, pes, vm_pes, release, _ = arrays
    loads, first = np.zeros(mips.shape[0]), np.zeros(mips.shape[0])
    for p in range(low, high):
        loads_simulated(solutions[p], length, mips, pes, vm_pes, release, loads, first)
        summarise(loads, first, arrays[3], balance, quantum, out[p])


# By kind of instance; kernels of their own, so that nobody compiles a simulator to add numbers.
EVALUATE = {RELATED: evaluate_related, UNRELATED: evaluate_unrelated, SIMULATED: evaluate_simulated}


def evaluate_many(solutions, arrays, balance, quantum, out) -> None:
    """Objectives `(P, 3)` of `solutions` (P, n) into `out`."""
    EVALUATE[arrays[0]](0, len(solutions), solutions, arrays, balance, quantum, out)


def balance_code(balance: str) -> int:
    """Position of `balance` in BALANCES; ValueError listing them."""
    if balance not in BALANCES:
        raise ValueError(f"balance (={balance!r}): expected one of {', '.join(BALANCES)}")
    return BALANCES.index(balance)


def evaluate(inst: Instance, solutions, *, balance: str = "cv", billing_quantum_s: float = 0, out=None) -> np.ndarray:
    """Objectives `(P, 3)` of assignments `(P, n)`: makespan (s), imbalance, cost.

    Raises ValueError naming index and value of a gene that is no machine.
    """
    x = inst.check_assignment(np.atleast_2d(solutions))
    found = np.empty((len(x), 3)) if out is None else out
    if found.shape != (len(x), 3):
        raise ValueError(f"out: shape {found.shape}; expected {(len(x), 3)}")
    if not billing_quantum_s >= 0:
        raise ValueError(f"billing_quantum_s (={billing_quantum_s}): expected >= 0 s")
    evaluate_many(x, tuple(inst.arrays), balance_code(balance), float(billing_quantum_s), found)
    return found


def reference(inst: Instance, solutions, *, balance: str = "cv", billing_quantum_s: float = 0) -> np.ndarray:
    """The same by a plain numpy loop, additive instances only; what users write first."""
    if inst.kind == SIMULATED:
        raise ValueError("reference: rigid tasks and release times have no closed form; use simulate")
    rows, out = np.arange(inst.n), []
    for x in np.atleast_2d(solutions).astype(np.int64):
        if inst.kind == RELATED:
            loads = np.bincount(x, weights=inst.length, minlength=inst.m) / inst.mips
        else:
            loads = np.bincount(x, weights=inst.etc[rows, x], minlength=inst.m)
        mean = loads.mean()
        spread = {"cv": loads.std() / mean, "di": (loads.max() - loads.min()) / mean, "std": loads.std()}[balance]
        billed = np.ceil(loads / billing_quantum_s - 1e-12) * billing_quantum_s if billing_quantum_s else loads
        out.append((loads.max(), spread, (billed * inst.price).sum() / SECONDS_PER_HOUR))
    return np.array(out)


class Delta:
    """A solution that is changed task by task; each `move` costs O(m) instead of O(n).

    Loads are kept as sums that are changed in place; after `REFRESH` moves they are computed anew, so that rounding
    cannot pile up. Instances whose loads are no sums are evaluated in full.
    """

    REFRESH = 100_000

    def __init__(self, inst: Instance, x, *, balance: str = "cv", billing_quantum_s: float = 0):
        self._inst, self._x = inst, inst.check_assignment(x).copy()
        self._how = (balance_code(balance), float(billing_quantum_s))
        self._loads, self._first, self._out = np.zeros(inst.m), np.zeros(inst.m), np.zeros(3)
        self._trail: list[tuple[int, int]] = []
        self._since = 0
        self._refresh()

    @property
    def x(self) -> np.ndarray:
        """The solution as it is now `(n,)`."""
        return self._x.copy()

    @property
    def objectives(self) -> np.ndarray:
        """Objectives of the solution as it is now `(3,)`."""
        return self._out.copy()

    def move(self, i: int, j: int) -> np.ndarray:
        """Give task `i` to machine `j`; the new objectives `(3,)`."""
        if not 0 <= i < self._inst.n or not 0 <= j < self._inst.m:
            raise ValueError(f"move({i}, {j}): expected a task below {self._inst.n} and a machine below {self._inst.m}")
        self._trail.append((i, int(self._x[i])))
        return self._place(i, j)

    def undo(self) -> np.ndarray:
        """Take the last move back; ValueError when there is none."""
        if not self._trail:
            raise ValueError("undo: no move to take back")
        return self._place(*self._trail.pop())

    def _place(self, i: int, j: int) -> np.ndarray:
        self._since += 1
        if self._inst.kind == SIMULATED or self._since >= self.REFRESH:
            self._x[i] = j
            self._refresh()
        else:
            move_one(self._x, i, j, tuple(self._inst.arrays), *self._how, self._loads, self._first, self._out)
        return self._out.copy()

    def _refresh(self) -> None:
        self._since = 0
        arrays = tuple(self._inst.arrays)
        out = np.empty((1, 3))
        evaluate_many(self._x[None], arrays, *self._how, out)
        self._out[:] = out[0]
        if self._inst.kind != SIMULATED:
            each = self._inst.et()[np.arange(self._inst.n), self._x]
            self._loads[:] = np.bincount(self._x, weights=each, minlength=self._inst.m)


@inner
def shift(x, i, j, arrays, loads):
    """Move task `i` to machine `j` in `x` and `loads` (additive instances)."""
    kind, length, mips, etc = arrays[0], arrays[1], arrays[2], arrays[4]
    old = x[i]
    if kind == UNRELATED:
        loads[old] -= etc[i, old]
        loads[j] += etc[i, j]
    else:
        loads[old] -= length[i] / mips[old]
        loads[j] += length[i] / mips[j]
    x[i] = j


@free_kernel
def move_one(x, i, j, arrays, balance, quantum, loads, first, out):
    """One move and the objectives after it."""
    shift(x, i, j, arrays, loads)
    summarise(loads, first, arrays[3], balance, quantum, out)


@free_kernel
def move_many(x, tasks, targets, arrays, balance, quantum, loads, first, out):
    """Moves in a row with the objectives after each, as a search makes them (see bench)."""
    for k in range(tasks.shape[0]):
        shift(x, tasks[k], targets[k], arrays, loads)
        summarise(loads, first, arrays[3], balance, quantum, out)
