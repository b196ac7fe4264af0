"""The parts of the benchmark; each is a function (settings, quick) -> rows of bench.parquet."""

import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from operators.locks import runs, soak, structures, workload
from operators.locks.bench_rows import paired, row
from operators.locks.core import load
from operators.locks.region import MiB, Region
from operators.locks.settings import Settings

Rows = list[dict[str, Any]]
Samples = tuple[list[float], list[float]]
FLOCK = "Flock lock-free (quoted, not run here)"
NOT_IN_CI = "left out at the ci size; runs/stop.parquet and runs/soak.parquet have it"
WHY_QUOTED = "a repository, not a package: neither fetched nor built; its figures and conditions stand in the README"


def _region(stack: ExitStack, **sizes: Any) -> Region:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-bench-", dir=soak.fast_folder()))
    sizes = {"size": 32 * MiB, "max_procs": 4, "descriptors_per_proc": 2} | sizes
    return stack.enter_context(Region.create(Path(folder) / "ground", **sizes))


def _transfers(stack: ExitStack, rows: Any, n: int, *, persist: str, impl: str) -> tuple[Callable[[], float], Region]:
    """A sampler of ns per transfer in this process, and the region it works on."""
    region = _region(stack, persist=persist)
    workload.transfer_on(region, nest=runs.nest_of(impl))
    region.core.set_mode(impl == "blocking", runs.EAGER if impl == "eager" else 0, 0)
    number = region.core.section_id("transfer")

    def sample() -> float:
        done, seconds = region.core.drive(number, rows, n)
        return seconds / done * 1e9

    return sample, region


def _peer(stack: ExitStack, kind: str, rows: Any, n: int) -> Callable[[], float]:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-bench-", dir=soak.fast_folder()))
    path = str(Path(folder) / "peer")
    if not load().create_peer(path, kind, workload.ACCOUNTS, 4, workload.INITIAL):
        raise OSError(f"{kind}: cannot create {path}")
    peer = load().Peer(path)

    def sample() -> float:
        done, seconds = peer.drive(rows, n, 0)
        return seconds / done * 1e9

    return sample


def transfer(settings: Settings, quick: bool) -> Rows:
    """B1 to B4: the nested transfer in one process, against the peers and our ablations."""
    n, reps = (20_000, 5) if quick else (200_000, 15)
    rows, out = workload.rows(settings.seed, 20_000), []
    with ExitStack() as stack:
        ours, _ = _transfers(stack, rows, n, persist="process", impl="rflock_flat")
        for kind in soak.PEERS:
            few = n // 20 if kind == "flock2" else n
            samples = paired(ours, _peer(stack, kind, rows, few), n=reps)
            out.append(
                _ns("transfer", f"process, against {kind}", kind, samples, 0.33 if kind == "robust_mutex" else None)
            )
        for impl in ("eager", "blocking", "rflock_stacked"):
            other, _ = _transfers(stack, rows, n, persist="process", impl=impl)
            out.append(_ns("transfer", f"process, against {impl}", impl, paired(ours, other, n=reps), None))
        quoted = {"ours": "rflock_flat", "peer": FLOCK, "unit": "ns", "reason": WHY_QUOTED}
        mine = [ours() for _ in range(reps)]
        out.append(row("transfer", "process, against Flock lock-free (quoted)", ours_samples=mine, **quoted))
        out += _written_back(stack, rows, max(1, n // 10), reps)
    return out


def _written_back(stack: ExitStack, rows: Any, n: int, reps: int) -> Rows:
    """Write-back mode: deferred against eager and stacked, CPU time and fences."""
    out = []
    ours, region = _transfers(stack, rows, n, persist="clwb", impl="rflock_flat")
    for impl in ("eager", "rflock_stacked"):
        other, theirs = _transfers(stack, rows, n, persist="clwb", impl=impl)
        out.append(_ns("transfer", f"clwb, against {impl}", impl, paired(ours, other, n=reps), 1.3))
        fences = [_fences(region, ours)], [_fences(theirs, other)]
        out.append(_pair("transfer", f"clwb, fences per transfer, against {impl}", impl, fences, "fences", bar=1.5))
    return out


def _fences(region: Region, sample: Callable[[], float]) -> float:
    before = region.core.stats()
    sample()
    after = region.core.stats()
    return (after["fences"] - before["fences"]) / (after["attempts"] - before["attempts"])


def _ns(bench: str, case: str, peer: str, samples: Samples, bar: float | None) -> dict[str, Any]:
    return _pair(bench, case, peer, samples, "ns", bar=bar)


def _pair(bench: str, case: str, peer: str, samples: Samples, unit: str, **more: Any) -> dict[str, Any]:
    ours, theirs = samples
    return row(bench, case, ours="rflock_flat", peer=peer, unit=unit, ours_samples=ours, peer_samples=theirs, **more)


def call(settings: Settings, quick: bool) -> Rows:
    """B7: one section call from Python against `with` on two multiprocessing locks around the same update."""
    import multiprocessing

    n, reps = (2_000, 5) if quick else (20_000, 11)
    with ExitStack() as stack:
        region = _region(stack)
        section, *_ = workload.transfer_on(region)
        locks = [multiprocessing.Lock(), multiprocessing.Lock()]
        values = multiprocessing.RawArray("q", 3)

        def ours() -> float:
            began = time.process_time()
            for _ in itertools.repeat(None, n):
                section.call(region, 1, 2, 5, 0)
            return (time.process_time() - began) / n * 1e6

        def theirs() -> float:
            began = time.process_time()
            for _ in itertools.repeat(None, n):
                with locks[0], locks[1]:
                    values[0] -= 5
                    values[1] += 5
                    values[2] += 1
            return (time.process_time() - began) / n * 1e6

        samples = paired(ours, theirs, n=reps)
    found = _pair("call", "section call, against multiprocessing.Lock", "two multiprocessing.Lock", samples, "us")
    return [found, _filelock(n // 20)]


def _filelock(n: int) -> dict[str, Any]:
    """What workers on one host often use; not a dependency of ours."""
    labels = {"ours": "rflock_flat", "peer": "filelock", "unit": "us"}
    try:
        import filelock
    except ImportError:
        return row("call", "section call, against filelock", reason="filelock is not installed", **labels)
    with tempfile.TemporaryDirectory(prefix="pg-bench-", dir=soak.fast_folder()) as folder, ExitStack() as stack:
        region = _region(stack)
        section, *_ = workload.transfer_on(region)
        locks = [filelock.FileLock(f"{folder}/{i}") for i in range(2)]

        def theirs() -> float:
            began = time.process_time()
            for _ in range(n):
                with locks[0], locks[1]:
                    pass
            return (time.process_time() - began) / n * 1e6

        def ours() -> float:
            began = time.process_time()
            for _ in range(n):
                section.call(region, 1, 2, 5, 0)
            return (time.process_time() - began) / n * 1e6

        samples = paired(ours, theirs, n=5)
    return row("call", "section call, against filelock", ours_samples=samples[0], peer_samples=samples[1], **labels)


def sets(settings: Settings, quick: bool) -> Rows:
    """B8: list, hash map and tree with 50 % updates, one process; against our own ablations, beside Flock's figure."""
    n_ops, reps = (2_000, 3) if quick else (20_000, 7)
    out = []
    names = [name for name in settings.structures if name != "transfer"] or ["list"]
    for name in names:
        n = settings.sizes[name]
        keys, ops = workload.set_rows(settings.seed, n_ops, n=n, update_pct=50)
        with ExitStack() as stack:
            samplers = {
                impl: _set_sampler(stack, impl, name, n, settings.seed, keys, ops)
                for impl in ("rflock_flat", "eager", "blocking")
            }
            for peer in ("eager", "blocking"):
                samples = paired(samplers["rflock_flat"], samplers[peer], n=reps)
                out.append(_pair("sets", f"{name} {n}, against {peer}", peer, samples, "Mop/s", higher_is_better=True))
            if name == "list":
                mine = [samplers["rflock_flat"]() for _ in range(reps)]
                labels = {"ours": "rflock_flat", "peer": FLOCK, "unit": "Mop/s", "higher_is_better": True}
                case = f"list {n}, against Flock lock-free (quoted)"
                out.append(row("sets", case, ours_samples=mine, reason=WHY_QUOTED, **labels))
    return out


def _set_sampler(stack: ExitStack, impl: str, name: str, n: int, seed: int, keys: Any, ops: Any) -> Callable[[], float]:
    region = _region(stack)
    made: structures.SortedList = runs.SETS[name](region, 2 * n)
    for key in workload.fill_order(seed, n).tolist():
        made.insert(key)
    region.core.set_mode(impl == "blocking", runs.EAGER if impl == "eager" else 0, 0)

    def sample() -> float:
        _, seconds = made.drive(keys, ops)
        return len(keys) / seconds / 1e6

    return sample


def stop(settings: Settings, quick: bool) -> Rows:
    """B5: calls of the survivors of a stopped holder, ours against robust mutexes."""
    if quick:
        labels = {"ours": "rflock_flat", "peer": "robust_mutex", "unit": "rate / rate before", "reason": NOT_IN_CI}
        return [row("stop", "survivors of a stopped holder", **labels)]
    seconds, rates = 1.0, {}
    for impl in ("rflock_flat", "robust_mutex"):
        windows, *_ = soak.stop_holder(impl, before_s=seconds, stop_s=seconds, after_s=0.2, seed=settings.seed)
        during = [w.ops for w in windows if w.stopped]
        until = min(w.t_s for w in windows if w.stopped)
        before = [w.ops for w in windows if not w.stopped and w.t_s < until]
        rates[impl] = (sum(during) / len(during)) / (sum(before) / len(before))
    samples = [rates["rflock_flat"]], [rates["robust_mutex"]]
    unit, case = "rate / rate before", "survivors of a stopped holder"
    return [_pair("stop", case, "robust_mutex", samples, unit, bar=0.5, higher_is_better=True)]


def soak_part(settings: Settings, quick: bool) -> Rows:
    """B6: errors of a short kill soak, and the recovery time of one slot."""
    if quick:
        labels = {"ours": "rflock_flat", "peer": "the bar", "unit": "count", "reason": NOT_IN_CI}
        return [row("soak", "lost, doubled, stuck or torn", **labels)]
    found = soak.soak("rflock_flat", seconds=5.0, kill_rate=25, procs=4, seed=settings.seed)
    errors = found.lost + found.doubled + found.stuck + found.torn
    base = {"ours": "rflock_flat", "peer": "the bar", "higher_is_better": False}
    rate = found.kills / found.seconds
    return [
        row("soak", "lost, doubled, stuck or torn", ours_samples=[float(errors)], unit="count", **base),
        row("soak", "kills done", ours_samples=[rate], unit="1/s", **base),
        row("soak", "recovery of one slot", ours_samples=found.recovery_us, unit="us", peer_samples=[1000.0], **base),
    ]


PARTS: dict[str, Callable[[Settings, bool], Rows]] = {
    "transfer": transfer,
    "call": call,
    "sets": sets,
    "stop": stop,
    "soak": soak_part,
}
