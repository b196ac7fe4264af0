"""The crash sweep: SIGKILL after every machine instruction (ptrace) and at every shared access of one section call.

`python -m operators.locks.sweep` sweeps the nested transfer; with FILE.py and --section it sweeps a section of yours,
on a copy of the region it is bound to. Where ptrace is forbidden, the instruction sweep says `not measured` and why.
"""

import argparse
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from operators.locks import workload
from operators.locks.core import program
from operators.locks.errors import LocksError
from operators.locks.region import MiB, Region
from operators.locks.sections import Section

KINDS = ("instruction", "shared")
CHUNK = 100_000  # more points than any call has


@dataclass
class Swept:
    """Points of one sweep: (point, done, helped, locks held, cells equal to the reference, recovery microseconds)."""

    kind: str
    points: list[tuple[int, int, int, int, int, float]] = field(default_factory=list)
    end: int | None = None  # the call was over at this point
    reason: str = ""  # why nothing could be measured

    @property
    def violations(self) -> int:
        return sum(1 for _, _, _, held, equal, _ in self.points if held or not equal)

    def __str__(self) -> str:
        if self.reason:
            return f"{self.kind}: not measured ({self.reason})"
        done, helped = sum(p[1] for p in self.points), sum(p[2] for p in self.points)
        stuck, slowest = sum(1 for p in self.points if p[3]), max((p[5] for p in self.points), default=0.0)
        return (
            f"{self.kind}: {len(self.points)} points, {self.violations} violations, {stuck} stuck locks; "
            f"done at {done}, not started at {len(self.points) - done}; finished by the survivor at {helped}; "
            f"slowest recovery {slowest:.0f} us"
        )


def sweep(path: Path, name: str, args: Sequence[int | str], *, kind: str, stride: int = 1, first: int = 1) -> Swept:
    """Kill one call of section `name` of the region at `path` at every `stride`-th point (the region is copied first).

    `args`: ints, or `@` for the caller's slot. Nobody may be attached.
    """
    if kind not in KINDS:
        raise LocksError(f"kind (={kind!r}): expected one of {', '.join(KINDS)}")
    if stride < 1:
        raise LocksError(f"stride (={stride}): expected an int >= 1")
    with tempfile.TemporaryDirectory(prefix="pg-sweep-", dir=_fast()) as folder:
        region, reference = Path(folder) / "region", Path(folder) / "reference"
        shutil.copyfile(path, region)
        shutil.copyfile(path, reference)
        words = [program("stepper"), region, reference, name, kind, first, stride, CHUNK, *args]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise LocksError(f"sweep of {name}: {done.stderr.strip() or f'ended with {done.returncode}'}")
    return _read(kind, done.stdout)


def _read(kind: str, text: str) -> Swept:
    found = Swept(kind)
    for line in text.splitlines():
        words = line.split()
        if words[0] == "end":
            found.end = int(words[1])
        elif words[0] == "errno":
            found.reason = f"ptrace refused: errno {words[1]}, {' '.join(words[2:])}"
        elif words[0] != "limit":
            found.points.append((*map(int, words[:5]), float(words[5])))
    return found


def _fast() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def transfer(nest: str, *, kind: str, stride: int = 1) -> Swept:
    """The sweep of one nested transfer on a small region."""
    with tempfile.TemporaryDirectory(prefix="pg-sweep-", dir=_fast()) as folder:
        path = Path(folder) / "region"
        with Region.create(path, size=MiB, max_procs=2, descriptors_per_proc=2) as region:
            workload.transfer_on(region, accounts=4, nest=nest)
        return sweep(path, "transfer", (1, 2, 7, "@"), kind=kind, stride=stride)


def main(argv: list[str] | None = None) -> None:
    """Sweep a section; ends with 1 when a point violates exactly-once or leaves a lock held."""
    parser = argparse.ArgumentParser(prog="python -m operators.locks.sweep", description=main.__doc__)
    parser.add_argument(
        "file", nargs="?", type=Path, help="Python file with the section (default: the nested transfer)"
    )
    parser.add_argument("--section", help="its name in FILE")
    parser.add_argument("--args", nargs="*", default=[], help="arguments of the call; @ is the caller's slot")
    parser.add_argument("--nest", choices=("flat", "stacked"), nargs="+", default=["flat", "stacked"])
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args(argv)
    try:
        if options.file:
            path, name = _of_file(options.file, options.section)
            found = {name: [sweep(path, name, options.args, kind=kind, stride=options.stride) for kind in KINDS]}
        else:
            found = {
                f"transfer, {nest}": [transfer(nest, kind=kind, stride=options.stride) for kind in KINDS]
                for nest in options.nest
            }
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name, swept in found.items():
        for one in swept:
            print(f"{name}: {one}")
    sys.exit(any(one.violations for swept in found.values() for one in swept))


def _of_file(file: Path, name: str | None) -> tuple[Path, str]:
    """Region path and name of a section defined in a user's file; its regions are closed."""
    scope = runpy.run_path(str(file))
    sections = {key: value for key, value in scope.items() if isinstance(value, Section)}
    if name not in sections:
        raise LocksError(f"--section (={name!r}): {file} defines {', '.join(sections) or 'no section'}")
    regions = [value for value in scope.values() if isinstance(value, Region)]
    if len(regions) != 1:
        raise LocksError(f"{file}: defines {len(regions)} regions; expected one")
    sections[name].bind(regions[0])
    path = regions[0].path
    for region in regions:
        region.close()
    return path, sections[name].__name__


if __name__ == "__main__":
    main()
