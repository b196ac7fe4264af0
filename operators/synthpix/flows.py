"""Flow fields and where they come from: .npy, .mat, .h5, .flo files, a Parquet index of files, or arrays in memory.

A source is random access (`len`, `get(i)`, `path(i)`); order, shuffling, episodes and read-ahead are laid over it
(stream.py, prefetch.py). Every field is checked when it is read: shape, finite values, size of the file. Layouts are
those of the official code: `.h5` holds (X, Y, Z, C), one flow (X, Z, C) per y; `.mat` has `V` as (H, W, 2) or (2, H, W)
and may hold images `I0` and `I1`. Departure: an unreadable file is an error with its path, never silently skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from operators.synthpix.errors import ConfigError, CorruptFile

FLO_MAGIC = np.float32(202021.25)
READ_BY = {".h5": "H5Source", ".hdf5": "H5Source", ".mat": "MatSource", ".npy": "NpySource", ".flo": "FloSource"}


@dataclass(frozen=True, eq=False)
class Flow:
    """One field: values `(height, width, 2 or 3)` f32, component 0 along x; nodes per length (y, x), None: it spans
    the image. Raises ConfigError for a wrong shape or values that are not finite.
    """

    values: np.ndarray
    nodes_per_length: tuple[float, float] | None = None
    name: str = "array"
    images: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 3 or values.shape[2] not in (2, 3) or min(values.shape) < 1:
            raise ConfigError("flow", f"{self.name}: expected (height, width, 2 or 3)", values.shape)
        if values.dtype.kind not in "fiu":
            raise ConfigError("flow", f"{self.name}: expected real numbers", str(values.dtype))
        values = np.ascontiguousarray(values, np.float32)
        if not np.isfinite(values).all():
            row, column, component = np.argwhere(~np.isfinite(values))[0].tolist()
            count = int((~np.isfinite(values)).sum())
            raise ConfigError("flow", f"{self.name}: {count} values are not finite, the first at row {row}, column "
                              f"{column}, component {component}")  # fmt: skip
        object.__setattr__(self, "values", values)


class FlowSource(Protocol):
    """Random access to flows."""

    def __len__(self) -> int: ...

    def get(self, index: int) -> Flow: ...

    def path(self, index: int) -> str: ...


class MemorySource:
    """Flows that are there already: arrays or Flow objects."""

    def __init__(self, flows: Sequence[np.ndarray | Flow]):
        self._flows = [f if isinstance(f, Flow) else Flow(f, name=f"array {i}") for i, f in enumerate(flows)]
        if not self._flows:
            raise ConfigError("flows", "empty; give at least one")

    def __len__(self) -> int:
        return len(self._flows)

    def get(self, index: int) -> Flow:
        return self._flows[index]

    def path(self, index: int) -> str:
        return self._flows[index].name


class FileSource:
    """Files of one kind: paths, or folders that are searched for them, in sorted order."""

    suffixes: tuple[str, ...] = ()
    pattern = ""

    def __init__(self, files: Sequence[str | Path]):
        self.files = expand(files, self.pattern, self.suffixes)

    def __len__(self) -> int:
        return len(self.files)

    def get(self, index: int) -> Flow:
        return self.read(self.files[index])

    def path(self, index: int) -> str:
        return str(self.files[index])

    def read(self, path: Path) -> Flow:
        raise NotImplementedError


def expand(files: Sequence[str | Path], pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files meant by a list of files and folders. Raises ConfigError naming what is missing or of another kind."""
    if isinstance(files, (str, Path)) or not isinstance(files, Sequence):
        raise ConfigError("file_list", "expected a list of files or folders", files)
    found: list[Path] = []
    for item in map(Path, files):
        if item.is_dir():
            found += sorted(item.glob(pattern))
        elif not item.is_file():
            raise ConfigError("file_list", "no such file or folder", str(item))
        elif item.suffix not in suffixes:
            raise ConfigError("file_list", f"unknown extension {item.suffix!r}; expected {' or '.join(suffixes)}",
                              str(item))  # fmt: skip
        else:
            found.append(item)
    if not found:
        raise ConfigError("file_list", f"holds no {pattern} file", [str(f) for f in files])
    return found


class NpySource(FileSource):
    """`.npy` arrays `(H, W, 2 or 3)`; a folder gives its `flow_<t>.npy` in sorted order."""

    suffixes, pattern = (".npy",), "flow_*.npy"

    def read(self, path: Path) -> Flow:
        """One file; CorruptFile where its header and its size do not agree."""
        from numpy.lib import format as npy

        with open(path, "rb") as stream:
            try:
                version = npy.read_magic(stream)
                reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = reader(stream)
            except ValueError as error:
                raise CorruptFile(path, f"no valid .npy header ({error})") from None
            if dtype.hasobject:
                raise CorruptFile(path, f"holds {dtype}, not numbers")
            header = stream.tell()
        have, need = path.stat().st_size, header + int(np.prod(shape)) * dtype.itemsize
        if have != need:
            raise CorruptFile(path, f"{have} bytes; its header (shape {shape}) needs {need}, data end at byte {have}")
        return Flow(np.load(path, allow_pickle=False), name=str(path))


class FloSource(FileSource):
    """Middlebury `.flo`: float32 202021.25, int32 width and height, then row-major (u, v), v positive down."""

    suffixes, pattern = (".flo",), "**/*.flo"

    def read(self, path: Path) -> Flow:
        """One file; CorruptFile for a wrong mark or a size that is not its header's."""
        raw = path.read_bytes()
        if len(raw) < 12:
            raise CorruptFile(path, f"{len(raw)} bytes; a .flo file has a header of 12")
        magic = np.frombuffer(raw, "<f4", 1)[0]
        if magic != FLO_MAGIC:
            raise CorruptFile(path, f"starts with {magic!r} at byte 0; a .flo file starts with {FLO_MAGIC}")
        width, height = np.frombuffer(raw, "<i4", 2, 4).tolist()
        need = 12 + 8 * width * height
        if width < 1 or height < 1 or len(raw) != need:
            raise CorruptFile(path, f"{len(raw)} bytes; its header ({width} x {height}) needs {need}")
        return Flow(np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2), name=str(path))


class MatSource(FileSource):
    """MATLAB files, v4 to v7.3: `V`, and `I0`, `I1` where `include_images`.

    `output_shape` (H, W) resizes fields and images bilinearly and scales values by the ratio of sizes (fields are in
    pixels there); None leaves them as they are. Departure: images are resized to (H, W), not (W, H) (defect D9).
    """

    suffixes, pattern = (".mat",), "**/*.mat"

    def __init__(self, files, *, include_images: bool = False, output_shape: tuple[int, int] | None = (256, 256)):
        super().__init__(files)
        self.include_images, self.output_shape = include_images, output_shape

    def read(self, path: Path) -> Flow:
        """One file; CorruptFile where it cannot be read or lacks what it needs."""
        data = _load_mat(path)
        wanted = ("V", "I0", "I1") if self.include_images else ("V",)
        lacking = [key for key in wanted if key not in data]
        if lacking:
            raise CorruptFile(path, f"has no {', '.join(lacking)}; it holds {', '.join(sorted(data)) or 'nothing'}")
        values = np.asarray(data["V"])
        if values.ndim == 3 and values.shape[2] != 2 and values.shape[0] == 2:
            values = values.transpose(1, 2, 0)
        if values.ndim != 3 or values.shape[2] != 2:
            raise CorruptFile(path, f"V has shape {values.shape}; expected (H, W, 2) or (2, H, W)")
        images = tuple(np.asarray(data[key]) for key in ("I0", "I1")) if self.include_images else None
        if self.output_shape is not None:
            ratio = np.array(self.output_shape[::-1]) / np.array(values.shape[1::-1])
            values = np.stack([resized(values[..., k], self.output_shape) * ratio[k] for k in range(2)], axis=-1)
            if images:
                images = tuple(resized(image, self.output_shape) for image in images)
        return Flow(values, name=str(path), images=images)


def resized(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear resize to `(H, W)`, with averaging where it shrinks (pillow's rule)."""
    if image.shape[:2] == tuple(shape):
        return image
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _load_mat(path: Path) -> dict[str, np.ndarray]:
    if path.read_bytes()[:8] == b"\x89HDF\r\n\x1a\n" or _is_hdf5(path):
        found = {}
        with _hdf5(path) as file:
            file.visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "shape") else None)
        return found
    import scipy.io

    try:
        return {k: v for k, v in scipy.io.loadmat(path, squeeze_me=True).items() if not k.startswith("__")}
    except Exception as error:  # scipy raises many kinds on damaged files; each means the same to the user
        raise CorruptFile(path, f"not a readable MATLAB file ({type(error).__name__}: {error})") from None


def _is_hdf5(path: Path) -> bool:
    """MATLAB 7.3 puts 512 bytes of text before the HDF5 signature."""
    with open(path, "rb") as stream:
        stream.seek(512)
        return stream.read(8) == b"\x89HDF\r\n\x1a\n"


def _hdf5(path: Path):
    try:
        import h5py
    except ImportError:
        raise ConfigError("file_list", "HDF5 files (.h5, MATLAB 7.3) need the package h5py: pip install h5py",
                          str(path)) from None  # fmt: skip
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CorruptFile(path, f"not a readable HDF5 file ({error})") from None


class H5Source(FileSource):
    """HDF5: the first data set of a file, `(X, Y, Z, C)`, gives Y flows `(X, Z, C)`."""

    suffixes, pattern = (".h5", ".hdf5"), "**/*.h5"

    def __init__(self, files):
        super().__init__(files)
        self._slices = [(path, y) for path in self.files for y in range(self._count(path))]

    def __len__(self) -> int:
        return len(self._slices)

    def path(self, index: int) -> str:
        path, y = self._slices[index]
        return f"{path}[{y}]"

    def get(self, index: int) -> Flow:
        path, y = self._slices[index]
        with _hdf5(path) as file:
            try:
                values = file[next(iter(file))][:, y]
            except OSError as error:
                raise CorruptFile(path, f"slice {y} cannot be read ({error})") from None
        return Flow(values[..., :2] if values.shape[2] > 3 else values, name=self.path(index))

    @staticmethod
    def _count(path: Path) -> int:
        with _hdf5(path) as file:
            first = next(iter(file), None)
            shape = getattr(file[first], "shape", None) if first else None
        if shape is None or len(shape) != 4 or shape[3] < 2:
            raise CorruptFile(path, f"its first entry {first!r} has shape {shape}; expected (X, Y, Z, C)")
        return shape[1]


class IndexSource:
    """A Parquet table with a column `path` (relative to the table's folder), files of any kind above, one flow each."""

    def __init__(self, index: str | Path):
        import polars as pl

        index = Path(index)
        try:
            table = pl.read_parquet(index)
        except (pl.exceptions.ComputeError, OSError) as error:
            raise CorruptFile(index, f"not a readable Parquet index ({error})") from None
        if "path" not in table.columns:
            raise CorruptFile(index, f"has no column 'path'; it has {', '.join(table.columns)}")
        self.files = [index.parent / name for name in table["path"].to_list()]
        self._parts = [open_source([file]) for file in self.files]
        if not self.files:
            raise ConfigError("file_list", "the index is empty", str(index))

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        return str(self.files[index])

    def get(self, index: int) -> Flow:
        return self._parts[index].get(0)


def open_source(files: Sequence[str | Path], *, kind: str | None = None, **options) -> FlowSource:
    """The source for a list of files and folders; `kind` (".npy" ...) is needed where there are only folders.

    A single `.parquet` file is an index. Raises ConfigError for an unknown extension.
    """
    files = list(files)
    kind = kind or next((Path(f).suffix for f in files if not Path(f).is_dir()), "")
    if kind == ".parquet":
        return IndexSource(files[0])
    if kind not in READ_BY:
        raise ConfigError("file_list", f"unknown extension {kind!r}; known: {', '.join(READ_BY)}, .parquet",
                          [str(f) for f in files])  # fmt: skip
    return globals()[READ_BY[kind]](files, **options)
