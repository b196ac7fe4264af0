"""Instances: n independent tasks and m virtual machines, checked once and then immutable.

Kinds of instances: `additive` ones (one PE each, everything there at time 0), whose machine finish times are sums, on
related machines (`length / mips`) or unrelated ones (an ETC matrix); and `simulated` ones (rigid tasks of several PEs,
release times), whose finish times are those of CloudSim's space-shared scheduler (semantics.py). The paper's own
mapping of a log to tasks and its price table are not stated in the sources available; the rule here is CloudSim's
(`length = run_time * rating`) and the table is ours.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from operators.phwsoa import swf

if TYPE_CHECKING:
    import polars as pl

RATING_MIPS = 1000.0  # CloudSim's WorkloadFileReader multiplies the run time by a rating
CLASS_MIPS = np.array([500.0, 1000.0, 1500.0, 2000.0, 2500.0])
CLASS_PRICE = np.array([0.010, 0.022, 0.036, 0.052, 0.070])  # per hour, our table
CONSTANT_PRICE = 0.00002  # per hour and MIPS: every assignment costs the same
RELATED, UNRELATED, SIMULATED = 0, 1, 2


class InfeasibleTask(ValueError):
    """A task needs more PEs than any machine (or the one it was given to) has."""

    def __init__(self, task: int, pes: int, room: int):
        super().__init__(f"task {task}: needs {pes} PEs; at most {room} are there")
        self.task, self.pes = task, pes


class Arrays(NamedTuple):
    """What the kernels see of an instance; shapes `(n,)`, `(m,)` and `(n, m)`, empty where there is none."""

    kind: int
    length: np.ndarray
    mips: np.ndarray
    price: np.ndarray
    etc: np.ndarray
    pes: np.ndarray
    vm_pes: np.ndarray
    release: np.ndarray
    group: np.ndarray  # machines of one number have one price per MI, 0 the cheapest


@dataclass(frozen=True, eq=False)
class Instance:
    """Tasks `length` (n,) in MI per PE, machines `mips` (m,) per PE and `price` (m,) per hour.

    Optional: `pes` (n,) and `vm_pes` (m,) PEs, `release` (n,) s, `etc` (n, m) s of unrelated machines. Raises
    ValueError naming field, index and value; InfeasibleTask when a task fits no machine.
    """

    length: np.ndarray
    mips: np.ndarray
    price: np.ndarray
    pes: np.ndarray | None = None
    vm_pes: np.ndarray | None = None
    release: np.ndarray | None = None
    etc: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("length", "mips", "price", "release", "etc"):
            self._freeze(name, np.float64)
        for name in ("pes", "vm_pes"):
            self._freeze(name, np.int32)
        n, m = len(self.length), len(self.mips)
        if n == 0 or m == 0:
            raise ValueError(f"{'length' if n == 0 else 'mips'}: empty; expected at least one")
        shapes = {"price": (m,), "pes": (n,), "vm_pes": (m,), "release": (n,), "etc": (n, m)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name}: shape {value.shape}; expected {shape}")
        for name, least in {"length": 0, "mips": 0, "etc": 0, "pes": 0, "vm_pes": 0}.items():
            _check(name, getattr(self, name), least, strict=True)
        for name in ("price", "release"):
            _check(name, getattr(self, name), 0, strict=False)
        if self.etc is not None and (self.pes is not None or self.release is not None):
            raise ValueError("etc: cannot be combined with pes or release; unrelated machines run one task at a time")
        if self.pes is not None:
            room = int(self.arrays.vm_pes.max())
            if self.pes.max() > room:
                task = int(np.argmax(self.pes > room))
                raise InfeasibleTask(task, int(self.pes[task]), room)

    def _freeze(self, name: str, kind: type) -> None:
        value = getattr(self, name)
        if value is None:
            return
        array = np.array(value)
        if kind is np.int32 and array.dtype.kind not in "iu":
            raise ValueError(f"{name}: {array.dtype}; expected integers")
        if array.ndim != (2 if name == "etc" else 1):
            raise ValueError(f"{name}: {array.ndim} dimensions; expected {2 if name == 'etc' else 1}")
        array = np.ascontiguousarray(array, kind)
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    @property
    def n(self) -> int:
        """Tasks."""
        return len(self.length)

    @property
    def m(self) -> int:
        """Machines."""
        return len(self.mips)

    @property
    def kind(self) -> int:
        """RELATED, UNRELATED or SIMULATED."""
        if self.etc is not None:
            return UNRELATED
        many = self.pes is not None and bool((self.pes > 1).any())
        return SIMULATED if many or self.release is not None else RELATED

    @cached_property
    def arrays(self) -> Arrays:
        """The arrays the kernels take."""
        per_work = self.price / self.mips
        group = np.unique(per_work.round(15), return_inverse=True)[1].ravel().astype(np.int64)
        if self.etc is not None:
            group = np.arange(self.m)
        parts = (
            self.length,
            self.mips,
            self.price,
            np.zeros((0, 0)) if self.etc is None else self.etc,
            np.ones(self.n, np.int32) if self.pes is None else self.pes,
            np.ones(self.m, np.int32) if self.vm_pes is None else self.vm_pes,
            np.zeros(self.n) if self.release is None else self.release,
            group,
        )
        for part in parts:  # all read-only: a kernel is compiled once for one kind of array
            part.setflags(write=False)
        return Arrays(self.kind, *parts)

    @property
    def gene_type(self) -> type:
        """uint8 up to 255 machines (fastest), else uint16."""
        return np.uint8 if self.m <= 255 else np.uint16

    @property
    def cost_degenerate(self) -> bool:
        """Whether every assignment costs the same: one price per MIPS and PE (related, billed by busy seconds)."""
        per_work = self.price / self.mips
        return self.kind == RELATED and bool(np.ptp(per_work) <= 1e-12 * per_work.max())

    def et(self) -> np.ndarray:
        """Expected seconds of each task on each machine `(n, m)`; inf where it does not fit."""
        if self.etc is not None:
            return self.etc
        a = self.arrays
        out = self.length[:, None] / self.mips[None, :]
        return np.where(a.pes[:, None] <= a.vm_pes[None, :], out, np.inf)

    def check_assignment(self, assign) -> np.ndarray:
        """`assign` as genes `(..., n)`; ValueError naming index and value of the first that is no machine."""
        x = np.asarray(assign)
        if x.dtype.kind not in "iu":
            first = int(np.argmax(x != np.floor(x))) if x.size and x.dtype.kind == "f" else 0
            value = x.ravel()[first] if x.size else None
            raise ValueError(f"assign[{first}] (={value!r}): {x.dtype}; expected integers")
        if x.shape[-1:] != (self.n,):
            raise ValueError(f"assign: shape {x.shape}; expected {self.n} tasks in the last axis")
        wrong = (x < 0) | (x >= self.m)
        if wrong.any():
            where = tuple(int(k) for k in np.argwhere(wrong)[0])
            raise ValueError(f"assign{list(where)} (={int(x[where])}): expected a machine, 0 to {self.m - 1}")
        if self.pes is not None:
            self._check_room(x)
        return np.ascontiguousarray(x, self.gene_type)

    def _check_room(self, x: np.ndarray) -> None:
        a = self.arrays
        wrong = a.pes > a.vm_pes[x.astype(np.int64)]
        if wrong.any():
            where = tuple(int(k) for k in np.argwhere(wrong)[0])
            raise InfeasibleTask(where[-1], int(a.pes[where[-1]]), int(a.vm_pes[x[where]]))


def _check(name: str, value: np.ndarray | None, least: float, *, strict: bool) -> None:
    if value is None:
        return
    bad = ~np.isfinite(value) | (value <= least if strict else value < least)
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        sign = ">" if strict else ">="
        raise ValueError(f"{name}{list(where)} (={value[where]}): expected a finite number {sign} {least}")


def five_class(jobs: "pl.DataFrame", n: int, m: int, seed: int, *, price: str = "five_class") -> Instance:
    """The first `n` jobs on `m` machines whose classes are drawn from five speeds and prices.

    `price` is `five_class` (price per MIPS rises with speed) or `constant` (cost is then the same for every
    assignment). Raises EmptyLog or ValueError when there are fewer than `n` jobs.
    """
    return Instance(lengths(jobs, n), *machines(m, seed, price=price))


def rigid(jobs: "pl.DataFrame", n: int, m: int, seed: int, *, vm_pes: int, release: bool = False) -> Instance:
    """As `five_class`, with each job's processors as PEs (at most `vm_pes`), and its submit time as release."""
    mips, price = machines(m, seed)
    pes = np.minimum(swf.processors(jobs)[:n], vm_pes)
    start = jobs["submit"].to_numpy()[:n].astype(float)
    times = start - start.min() if release else None
    return Instance(lengths(jobs, n), mips, price, pes=pes, vm_pes=np.full(m, vm_pes, np.int32), release=times)


def lengths(jobs: "pl.DataFrame", n: int) -> np.ndarray:
    """Lengths in MI of the first `n` jobs."""
    if len(jobs) == 0:
        raise swf.EmptyLog("jobs: none")
    if not 1 <= n <= len(jobs):
        raise ValueError(f"n (={n}): the log has {len(jobs)} usable jobs; expected 1 to {len(jobs)}")
    return jobs["run_time"].to_numpy()[:n].astype(np.float64) * RATING_MIPS


def machines(m: int, seed: int, *, price: str = "five_class") -> tuple[np.ndarray, np.ndarray]:
    """MIPS and price per hour of `m` machines of the five classes."""
    if m < 1:
        raise ValueError(f"m (={m}): expected at least 1 machine")
    if price not in ("five_class", "constant"):
        raise ValueError(f"price (={price!r}): expected 'five_class' or 'constant'")
    classes = np.random.default_rng(seed).integers(0, 5, m)
    mips = CLASS_MIPS[classes]
    return mips, CLASS_PRICE[classes] if price == "five_class" else mips * CONSTANT_PRICE


def with_transfer(inst: Instance, megabytes: np.ndarray, bandwidth: np.ndarray) -> Instance:
    """`inst` with the time to move each task's input and output added: `megabytes` (n,) over `bandwidth` (m,) MB/s.

    Speed then depends on task and machine, so the result is an instance of unrelated machines. Raises ValueError naming
    field, index and value, and for instances of rigid or released tasks.
    """
    if inst.kind == SIMULATED:
        raise ValueError("with_transfer: expected tasks of one PE without release times")
    sizes, rates = np.asarray(megabytes, float), np.asarray(bandwidth, float)
    for name, value, count in (("megabytes", sizes, inst.n), ("bandwidth", rates, inst.m)):
        if value.shape != (count,):
            raise ValueError(f"{name}: shape {value.shape}; expected {(count,)}")
        _check(name, value, 0, strict=name == "bandwidth")
    return Instance(inst.length, inst.mips, inst.price, etc=inst.et() + sizes[:, None] / rates[None, :])
