"""Fetch data sets of the inventory from their pinned commits, convert, check, and only then put them in place.

A download goes to `<name>.part` and is resumed where it stopped; a set appears under the data folder by one rename once
every file has the right hash. What has no recipe in the inventory is named with its source, never half-filled.
"""

import argparse
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.lab import datasets

if TYPE_CHECKING:
    import polars as pl

RAW = "https://raw.githubusercontent.com"
TRIES = 4
CHUNK = 1 << 16


class FetchError(ValueError):
    """A download or a conversion did not give the file the inventory describes."""


def download(url: str, to: Path, *, tries: int = TRIES, wait_s: float = 1.0) -> Path:
    """Download `url` to `to`, resuming a `.part` file left by an earlier try; FetchError after `tries` failures."""
    import requests

    part = to.with_name(to.name + ".part")
    to.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(tries):
        try:
            _continue(requests, url, part)
            os.replace(part, to)
            return to
        except (requests.RequestException, EOFError) as error:
            last = error
            if isinstance(error, requests.HTTPError) and error.response.status_code < 500:
                break
            time.sleep(wait_s * attempt)
    raise FetchError(f"{url}: {last}")


def _continue(requests: Any, url: str, part: Path) -> None:
    """Fetch what `part` still lacks of `url`; EOFError when the connection ends before the announced length."""
    import urllib3

    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code == 416:  # the part is at least as long as the file: start afresh
            part.unlink()
            raise EOFError("stale partial download")
        answer.raise_for_status()
        resumed = answer.status_code == 206
        expected = int(answer.headers.get("Content-Length", -1)) + (have if resumed else 0)
        try:
            with open(part, "ab" if resumed else "wb") as stream:
                # read1 hands over what has come; iter_content would drop the last, cut block.
                while block := answer.raw.read1(CHUNK):
                    stream.write(block)
        except urllib3.exceptions.HTTPError as error:
            raise EOFError(f"connection ended early ({error})") from None
    size = part.stat().st_size
    if "Content-Length" in answer.headers and size != expected:
        raise EOFError(f"{size} of {expected} bytes came")


def fetch(name: str, out: Path, *, base: str = RAW, say: Callable[[str], None] = print) -> Path:
    """Fetch, convert and verify one set into `out/<name>`; FetchError leaves nothing there but resumable parts."""
    spec = datasets.lookup(name)
    made = {recipe["to"] for recipe in spec.fetch}
    lacking = [file for file in spec.files if file not in made]
    if lacking:
        raise FetchError(
            f"{name}: no recipe for {', '.join(lacking)}; convert by hand from {spec.source} at {spec.commit[:12]} to "
            f"the columns in workflows/datasets.yaml and lay them under {out / name}"
        )
    work = out / f".{name}.part"
    ready = work / "ready"
    ready.mkdir(parents=True, exist_ok=True)
    for recipe in spec.fetch:
        say(f"{name}: {recipe['to']}")
        _make(spec, recipe, work, ready, base)
    target = out / name
    if target.exists():
        shutil.rmtree(target)
    os.replace(ready, target)
    shutil.rmtree(work)
    return target


def _make(spec: datasets.Dataset, recipe: dict[str, Any], work: Path, ready: Path, base: str) -> None:
    repository, commit = recipe.get("source", spec.source), recipe.get("commit", spec.commit)
    owner = repository.removeprefix("https://github.com/")
    sources = [download(f"{base}/{owner}/{commit}/{path}", work / Path(path).name) for path in recipe["from"]]
    target = ready / recipe["to"]
    if "with" in recipe:
        _converter(recipe["with"])(sources).write_parquet(target)
    else:
        shutil.copyfile(sources[0], target)
    try:
        datasets.path(ready.name, recipe["to"], ready.parent, spec=spec)
    except datasets.DatasetError as error:
        for source in sources:
            source.unlink()
        target.unlink()
        raise FetchError(f"{spec.name}: {error}") from None


def _converter(where: str) -> "Callable[[list[Path]], pl.DataFrame]":
    module, _, function = where.partition(":")
    return getattr(importlib.import_module(module), function)


def main(argv: list[str] | None = None) -> None:
    """Fetch every data set that is missing."""
    parser = argparse.ArgumentParser(prog="python -m operators.lab.fetch", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="sets (default: all that are missing)")
    parser.add_argument("--out", type=Path, default=Path("data"), help="data folder (default: data)")
    parser.add_argument("--base", default=RAW, help="mirror of the source hosting")
    options = parser.parse_args(argv)
    root = datasets.find_root()
    failed = False
    for name in options.names or datasets.catalogue():
        if not options.names and datasets.present(name, root):
            print(f"{name}: present in {root}")
            continue
        try:
            print(f"{name}: ready in {fetch(name, options.out, base=options.base)}")
        except (FetchError, datasets.DatasetError) as error:
            failed = True
            print(error, file=sys.stderr)
    if failed:
        sys.exit("some sets are not there; runs use their synthetic twins and say so in every row")


if __name__ == "__main__":
    main()
