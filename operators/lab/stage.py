"""The door between a workflow and a library: one stage, one command, one atomic and stamped output.

A stage is a module with `main(*, ...)`; `stage.run(main)` makes it a command:

- parameters become options from their annotations (`Path`, `int`, `float`, `str`, `bool`, `list[Path]`, a `Settings`
  class); the docstring becomes `--help`;
- `--threads` caps every thread pool we know of before anything heavy is imported, so stages import NumPy, Polars and
  the like inside `main`;
- a ValueError or OSError ends the command with one line and a non-zero exit code (`--debug` shows the traceback);
- `write_table` checks names and types against the stage's schema, stamps where the numbers come from and renames a
  temporary file into place, so no reader ever sees half a table.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import inspect
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from operators.lab.settings import Settings

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
RUN_PID = "PROVING_GROUND_RUN_PID"
STAMPED_PACKAGES = ("numpy", "polars", "numba", "ray", "snakemake")

log = logging.getLogger("stage")


class SchemaError(ValueError):
    """A table does not have the columns and types its stage promises."""


def run(main: Callable[..., None], argv: list[str] | None = None) -> None:
    """Run `main` as a command. Ends with one line after a user's error, with a traceback after a bug."""
    name = inspect.getmodule(main).__spec__.name
    options = vars(_parser(main, name).parse_args(argv))
    threads, debug = options.pop("threads"), options.pop("debug")
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    _end_with_run()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    began = time.perf_counter()
    try:
        main(**_with_settings(main, options))
    except (ValueError, OSError) as error:
        if debug:
            raise
        log.debug("", exc_info=True)
        sys.exit(f"{name}: error: {error}")
    log.info("%s done in %.1f s", name, time.perf_counter() - began)


def enter_run() -> None:
    """Prepare the environment of a workflow: its stages use this interpreter, and end when this process does."""
    os.environ[RUN_PID] = str(os.getpid())
    folder = str(Path(sys.executable).parent)
    if folder not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = folder + os.pathsep + os.environ["PATH"]


def or_exit(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; a user's error (ValueError) ends the run with one line instead of a traceback."""
    try:
        return function(*args)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def _end_with_run() -> None:
    """Let this stage end when the run that started it is gone, even by SIGKILL (RUN_PID names the run's process)."""
    run_pid = os.environ.get(RUN_PID)
    if not run_pid or not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(int(run_pid))
    except ProcessLookupError:
        sys.exit("the run that started this stage is gone")

    def watch() -> None:
        select.select([descriptor], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-run", daemon=True).start()


def _parser(main: Callable[..., None], name: str) -> argparse.ArgumentParser:
    doc = inspect.getdoc(main) or ""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=doc.partition("\nArgs:")[0])
    hints, texts = typing.get_type_hints(main), _argument_texts(doc)
    for key, parameter in inspect.signature(main).parameters.items():
        kind, many = _plain(hints[key])
        if _is_settings(kind):
            parser.add_argument("--settings", type=Path, help="JSON or YAML file of settings (default: built-in)")
            parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting")
            continue
        required = parameter.default is inspect.Parameter.empty
        extra: dict[str, Any] = {"required": required, "default": None if required else parameter.default}
        if kind is bool:
            extra |= {"action": argparse.BooleanOptionalAction, "required": False, "default": parameter.default}
        else:
            extra |= {"type": kind} | ({"nargs": "+"} if many else {})
        parser.add_argument(f"--{key.replace('_', '-')}", dest=key, help=texts.get(key), **extra)
    parser.add_argument("--threads", type=int, default=1, help="threads for every pool (default 1)")
    parser.add_argument("--debug", action="store_true", help="show a traceback for any error")
    return parser


def _argument_texts(doc: str) -> dict[str, str]:
    lines = doc.partition("\nArgs:")[2].splitlines()
    return {key.strip(): text.strip() for key, _, text in (line.partition(":") for line in lines) if text}


def _plain(hint: Any) -> tuple[Any, bool]:
    """The type behind `X | None` and `list[X]`, and whether it is a list."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    return hint, False


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "from_config")


def _with_settings(main: Callable[..., None], options: dict[str, Any]) -> dict[str, Any]:
    for key, hint in typing.get_type_hints(main).items():
        if _is_settings(hint):
            path, pairs = options.pop("settings"), options.pop("set")
            settings = hint.load(path) if path else hint.checked({})
            options[key] = settings.with_values(pairs) if pairs else settings
    return options


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block succeeds and removed when it fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(
    frame: "pl.DataFrame", path: Path | str, *, schema: dict[str, Any], settings: "Settings", data: str | None = None
) -> None:
    """Write `frame` as Parquet with exactly the columns and types of `schema`, and the provenance stamp.

    `data` is `real` or `synthetic` for the whole table; leave it out when the table has a column `data`.
    Raises SchemaError naming the first column that differs.
    """
    check_schema(frame, schema, what=str(path))
    if data is None and "data" not in frame.columns:
        raise SchemaError(
            f"{path}: neither a column `data` nor the argument; say whether the rows are real or synthetic"
        )
    marks = sorted(frame["data"].unique()) if data is None else [data]
    with atomic(path) as temporary:
        frame.write_parquet(temporary, metadata=stamp(settings, "+".join(marks)))


def check_schema(frame: "pl.DataFrame", schema: dict[str, Any], *, what: str) -> None:
    """Raise SchemaError when names, order or types of `frame` differ from `schema`."""
    if list(frame.columns) != list(schema):
        missing, extra = set(schema) - set(frame.columns), set(frame.columns) - set(schema)
        difference = f"missing {sorted(missing)}, extra {sorted(extra)}"
        raise SchemaError(f"{what}: columns {frame.columns}; expected {list(schema)} ({difference})")
    for name, kind in schema.items():
        if frame.schema[name] != kind:
            raise SchemaError(f"{what}: column {name} is {frame.schema[name]}; expected {kind}")


def read_table(path: Path | str, schema: dict[str, Any] | None = None) -> "pl.DataFrame":
    """Read a stage's table; SchemaError when the file is not Parquet or lacks the promised columns."""
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.ComputeError as error:
        raise SchemaError(f"{path}: not a readable Parquet table ({error}); delete it and run again") from None
    if schema is not None:
        check_schema(frame, schema, what=str(path))
    return frame


def read_stamp(path: Path | str) -> dict[str, str]:
    """The provenance stamp of a table written by `write_table`."""
    import polars as pl

    return {key: value for key, value in pl.read_parquet_metadata(path).items() if key != "ARROW:schema"}


def stamp(settings: "Settings", data: str) -> dict[str, str]:
    """Where a table comes from: system, profile, settings hash, seed, data, commit, machine and package versions."""
    return {
        "system": settings.system,
        "profile": settings.profile,
        "settings": settings.digest(),
        "seed": str(settings.seed),
        "data": data,
        "commit": commit(),
        "machine": machine(),
        "packages": " ".join(f"{name}={importlib.metadata.version(name)}" for name in STAMPED_PACKAGES),
    }


@functools.cache
def commit() -> str:
    """Short commit of the checkout this package lies in, `+` when it has uncommitted changes, `unknown` outside git."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else "unknown"


@functools.cache
def machine() -> str:
    """Processor model, cores and memory in GiB: what a figure depends on, and nothing that names a host."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"
