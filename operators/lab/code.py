"""Which files a stage's result depends on: the stage and all of this package it imports, found without running it.

A workflow gives these files as inputs, so that an edit reruns what it touches and nothing else. Imports are read from
the syntax tree (also those inside functions), and a package's native sources count as soon as one of its modules
imports `_native`.
"""

import ast
import functools
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "operators"


def sources(module: str) -> list[str]:
    """Files of this package that `module` (such as `operators.metro.route`) reaches, relative to the current folder."""
    reached: set[Path] = set()
    waiting = [_file(module)]
    if waiting == [None]:
        raise ValueError(f"module (={module!r}): no such module under {PACKAGE}/")
    while waiting:
        file = waiting.pop()
        if file in reached:
            continue
        reached.add(file)
        waiting.extend(_imported(file))
    return sorted(os.path.relpath(file) for file in reached)


def imports(file: Path) -> list[str]:
    """Names this file imports from the package, as `operators.x.y`; a `from` import of a name yields both forms."""
    names = []
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name == PACKAGE or name.startswith(PACKAGE + ".")]


@functools.cache
def _imported(file: Path) -> tuple[Path, ...]:
    if file.suffix != ".py":
        return ()
    found = []
    for name in imports(file):
        if name.endswith("._native"):
            found += sorted(path for path in (_folder(name) / "native").glob("*") if path.is_file())
        elif (target := _file(name)) is not None:
            found.append(target)
    return tuple(found)


def _folder(name: str) -> Path:
    return ROOT.joinpath(*name.split(".")[:-1])


def _file(name: str) -> Path | None:
    place = ROOT.joinpath(*name.split("."))
    if place.with_suffix(".py").is_file():
        return place.with_suffix(".py")
    return place / "__init__.py" if (place / "__init__.py").is_file() else None
