"""Job logs in the Standard Workload Format: raw (.swf, .swf.gz, .zip) or as the archive's Parquet tables.

Fields kept (Parallel Workloads Archive, SWF 2.2): job, submit, wait, run time, allocated and requested processors,
requested time, status, user, group, application, queue; fields 6, 7, 10 and 16 to 18 are not kept. -1 means unknown.
A line that is no job stops the reading with its number: a log cut off in the middle is not a shorter log.
"""

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

FIELDS = {  # name -> position in a line
    "job_id": 0, "submit": 1, "wait": 2, "run_time": 3, "procs": 4, "req_procs": 7, "req_time": 8, "status": 10,
    "user": 11, "group": 12, "app": 13, "queue": 14,
}  # fmt: skip
COLUMNS = 18
NEEDED = ("submit", "run_time", "procs", "req_procs")


class SwfFormatError(ValueError):
    """A log is damaged: the message names file and line (`line_no`, 0 when the file itself cannot be read)."""

    def __init__(self, source: str, line_no: int, what: str):
        super().__init__(f"{source}, line {line_no}: {what}")
        self.line_no = line_no


class EmptyLog(ValueError):
    """A log without a usable job."""


def load_swf(source: Path | str | bytes, *, drop_nonpositive: bool = True) -> "pl.DataFrame":
    """Jobs of a log, one row each, columns of FIELDS (Int64), in the log's order.

    `source` is a path (.swf, .swf.gz, .zip with one log, .parquet) or the bytes of a plain log. Rows with run_time <= 0
    (173 in NASA's) are dropped, or refused by ValueError naming the job when `drop_nonpositive` is off. Raises
    SwfFormatError (file and line) and EmptyLog.
    """
    import polars as pl

    name = "<bytes>" if isinstance(source, bytes) else str(source)
    frame = _read_parquet(Path(source)) if name.endswith(".parquet") else _parse(_text(source, name), name)
    if missing := [column for column in NEEDED if column not in frame.columns]:
        raise SwfFormatError(name, 0, f"no column {missing[0]!r}; a job log has {', '.join(FIELDS)}")
    bad = frame.filter(pl.col("run_time") <= 0)
    if len(bad) and not drop_nonpositive:
        row = bad.row(0, named=True)
        raise ValueError(f"{name}: job {row.get('job_id')}: run_time (={row['run_time']}); expected > 0 s")
    kept = frame.filter(pl.col("run_time") > 0)
    if kept.is_empty():
        raise EmptyLog(f"{name}: {len(frame)} jobs, none with run_time > 0")
    return kept


def processors(jobs: "pl.DataFrame"):
    """PEs of each job `(n,)` int32: allocated, else requested, else 1."""
    import numpy as np

    given, asked = jobs["procs"].to_numpy(), jobs["req_procs"].to_numpy()
    return np.where(given > 0, given, np.where(asked > 0, asked, 1)).astype(np.int32)


def _read_parquet(path: Path) -> "pl.DataFrame":
    import polars as pl

    try:
        return pl.read_parquet(path)
    except (pl.exceptions.ComputeError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise SwfFormatError(str(path), 0, f"not a readable Parquet table ({str(error).splitlines()[0]})") from None


def _text(source: Path | str | bytes, name: str) -> str:
    raw = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        if name.endswith(".gz"):
            raw = gzip.decompress(raw)
        elif name.endswith(".zip"):
            raw = _unzipped(raw, name)
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        whole = _whole_lines(raw) if name.endswith(".gz") else 0
        raise SwfFormatError(name, whole, f"the archive is truncated or damaged ({error})") from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SwfFormatError(name, line, "not text; compressed logs must end in .gz or .zip") from None


def _unzipped(raw: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        logs = [member for member in archive.namelist() if not member.endswith("/")]
        if len(logs) != 1:
            raise SwfFormatError(name, 0, f"holds {len(logs)} files; expected one log")
        return archive.read(logs[0])


def _whole_lines(raw: bytes) -> int:
    """How many whole lines of a truncated .gz can still be read."""
    try:
        return zlib.decompressobj(wbits=31).decompress(raw).count(b"\n")
    except zlib.error:
        return 0


def _parse(text: str, name: str) -> "pl.DataFrame":
    import polars as pl

    columns: dict[str, list[int]] = {field: [] for field in FIELDS}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(";"):
            continue
        if len(words) != COLUMNS:
            raise SwfFormatError(name, number, f"{len(words)} fields; a job has {COLUMNS}")
        for field, place in FIELDS.items():
            try:
                columns[field].append(int(float(words[place])))
            except (ValueError, OverflowError):
                raise SwfFormatError(name, number, f"{field} (={words[place]!r}): expected a number") from None
    if not columns["job_id"]:
        raise EmptyLog(f"{name}: no job in it")
    return pl.DataFrame(columns, schema=dict.fromkeys(FIELDS, pl.Int64))
