"""Data sets: the inventory `workflows/datasets.yaml`, and one checked way to read a file of it.

A set is looked for under one root: the folder the user gives, else `./data`, else `../shared/data`. A set that is
there is verified (sha256, columns) before its first use; one that is not there is replaced by its synthetic twin, which
the system's own code makes. There is nothing in between: a set that is there but damaged is an error.
"""

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import polars as pl

CATALOGUE = Path(__file__).parents[2] / "workflows" / "datasets.yaml"
SEARCHED = ("data", "../shared/data")


class DatasetError(ValueError):
    """A data set is missing, damaged, or not of the promised shape."""


@dataclass(frozen=True)
class File:
    """One file of a set: its size-independent identity and the columns its reader relies on."""

    name: str
    sha256: str
    content: str | None = None  # hash of the table's values, for a file converted from its source (see content_hash)
    columns: dict[str, str] = field(
        default_factory=dict, hash=False
    )  # name -> polars type, written as polars prints it


@dataclass(frozen=True)
class Dataset:
    """One entry of the inventory."""

    name: str
    title: str
    source: str
    commit: str
    licence: str
    systems: tuple[str, ...]
    files: dict[str, File]
    fetch: tuple[dict[str, Any], ...] = ()


@functools.cache
def catalogue(path: Path = CATALOGUE) -> dict[str, Dataset]:
    """Every data set of the inventory, by name."""
    sets = {}
    for name, entry in yaml.safe_load(Path(path).read_text()).items():
        entry = dict(entry)
        files = {file: File(file, **spec) for file, spec in entry.pop("files").items()}
        fetch, systems = tuple(entry.pop("fetch", ())), tuple(entry.pop("systems"))
        sets[name] = Dataset(name, files=files, fetch=fetch, systems=systems, **entry)
    return sets


def lookup(name: str) -> Dataset:
    """The entry called `name`; DatasetError listing what there is."""
    if name not in catalogue():
        raise DatasetError(f"data set {name!r}: unknown; the inventory has {', '.join(catalogue())}")
    return catalogue()[name]


def find_root(given: str | Path | None = None, base: Path | None = None) -> Path | None:
    """The data folder in use: `given` (which must exist), else the first of `data`, `../shared/data` that holds a set.

    Relative folders are seen from `base` (default: the current folder). None means: no data, use twins; the word
    `synthetic` asks for that.
    """
    base = base or Path.cwd()
    if given == "synthetic":
        return None
    if given:
        root = base / given
        if not root.is_dir():
            raise DatasetError(
                f"data (={given}): no such folder; give one that exists, or leave it out for synthetic twins"
            )
        return root
    places = (base / place for place in SEARCHED)
    return next((root for root in places if any(present(name, root) for name in catalogue())), None)


def describe(root: Path | None) -> str:
    """One line for the start of a run: which sets are real."""
    if root is None:
        return "data: none found; synthetic twins stand in, and claims on real data are not measured"
    lacking = [name for name in catalogue() if not present(name, root)]
    return f"data: {root}" + (f"; twins stand in for {', '.join(lacking)}" if lacking else ", every set is there")


def present(name: str, root: Path | None) -> bool:
    """Whether the set's folder is under `root`."""
    return root is not None and (Path(root) / lookup(name).name).is_dir()


def inputs(names: list[str], root: Path | None) -> list[str]:
    """The files of the sets that are present, for a workflow to depend on."""
    return [str(root / name / file) for name in names if present(name, root) for file in lookup(name).files]


def path(name: str, file: str, root: Path, *, spec: Dataset | None = None) -> Path:
    """The verified path of one file; DatasetError when it is missing or is not the file the inventory describes.

    `spec` replaces the inventory's entry, for a folder under another name.
    """
    spec = spec or lookup(name)
    if file not in spec.files:
        raise DatasetError(f"data set {spec.name}: has no file {file!r}; it has {', '.join(spec.files)}")
    place = Path(root) / name / file
    if not place.is_file():
        raise DatasetError(
            f"data set {spec.name}: {place} is missing; run `make data`, or remove the folder to use the twin"
        )
    stat = place.stat()
    _verify(place, stat.st_mtime_ns, stat.st_size, spec.files[file])
    return place


@functools.cache
def _verify(place: Path, mtime_ns: int, size: int, spec: File) -> None:
    found = sha256(place)
    if found == spec.sha256:
        return
    if spec.content and place.suffix == ".parquet" and _content_of(place) == spec.content:
        return
    raise DatasetError(
        f"{place}: sha256 {found[:12]}... ({size} bytes); expected {spec.sha256[:12]}...; "
        "the file is damaged or of another version: fetch it again with `make data`"
    )


def sha256(place: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(place, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _content_of(place: Path) -> str | None:
    import polars as pl

    try:
        return content_hash(pl.read_parquet(place))
    except pl.exceptions.ComputeError:
        return None


def content_hash(frame: "pl.DataFrame") -> str:
    """Hex sha256 of a table's column names, types and values, whatever wrote the file.

    Rows count in their order. Lists are written out; floats by their shortest exact decimal form.
    """
    digest = hashlib.sha256()
    for name, kind in frame.schema.items():
        column = frame[name].to_list()
        digest.update(f"{name}:{kind}\n".encode())
        digest.update("\n".join(map(repr, column)).encode())
    return digest.hexdigest()


def read(name: str, file: str, root: Path) -> "pl.DataFrame":
    """Read a verified Parquet or CSV file of a set and check its columns."""
    import polars as pl

    place = path(name, file, root)
    frame = pl.read_csv(place) if place.suffix == ".csv" else pl.read_parquet(place)
    for column, kind in lookup(name).files[file].columns.items():
        if column not in frame.columns:
            raise DatasetError(f"{place}: no column {column!r}; it has {', '.join(frame.columns)}")
        if str(frame.schema[column]) != kind:
            raise DatasetError(f"{place}: column {column} is {frame.schema[column]}; expected {kind}")
    return frame
