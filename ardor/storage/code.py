"""A user's files: a file, the files that it imports from folders of the user's own, and a digest of them all."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")


def is_installed(name: str) -> bool:
    """Whether a top-level module is Python's, of this package or of an installed one: no user's file shadows it."""
    if name in sys.stdlib_module_names or name == __name__.partition(".")[0]:
        return True
    return importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if in_packages(p)]) is not None


def in_packages(path: str | Path) -> bool:
    """Whether a path is inside a folder of installed packages."""
    return not set(INSTALLED).isdisjoint(Path(path).parts)


def module_file(folder: Path, name: str) -> Path | None:
    """What `name` is in a folder: a package's __init__.py, a file, a folder with Python files without one, or None."""
    for path in (folder / name / "__init__.py", folder / f"{name}.py"):
        if path.is_file():
            return path
    place = folder / name
    return place if place.is_dir() and any(place.rglob("*.py")) else None


def sources(*files: Path) -> dict[Path, bytes]:
    """The content of each file and, transitively, of the user's files that they import, also inside functions.

    Imports are read from the text: of modules and packages beside a file, beside its package, and in folders of
    sys.path that are no installed packages.
    """
    contents: dict[Path, bytes] = {}
    pending = list(files)
    while pending:
        path = pending.pop()
        if path in contents:
            continue
        try:
            contents[path] = path.read_bytes()
        except OSError:
            continue
        for level, name in _imports(contents[path]):
            parts = tuple(name.split("."))
            if level:
                pending += _along(path.parents[level - 1], parts)
            elif not is_installed(parts[0]):
                pending += next(filter(None, (_along(folder, parts) for folder in _folders(path))), [])
    return contents


def digest_of(*files: Path) -> str:
    """A hash of files and their `sources`, wherever their folder is: 16 hexadecimal digits."""
    contents = sources(*files)
    if len(contents) == 1:
        return hashlib.sha256(*contents.values()).hexdigest()[:16]
    named = {os.path.relpath(path, files[0].parent): hashlib.sha256(text).digest() for path, text in contents.items()}
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1000)
def _imports(text: bytes) -> tuple[tuple[int, str], ...]:
    """The modules that a file may import, as (number of leading dots, dotted name)."""
    names: list[tuple[int, str]] = []
    try:
        nodes: Iterable[ast.AST] = ast.walk(ast.parse(text))
    except (SyntaxError, ValueError):
        return ()
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names += [
                (0, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            ]
    return tuple(dict.fromkeys(names))


def _folders(path: Path) -> list[Path]:
    """Where a file's absolute imports are searched: its folder, that of its package, and sys.path's own."""
    package = next(folder for folder in path.parents if not (folder / "__init__.py").is_file())
    return [path.parent, package, *(Path(p).absolute() for p in sys.path if not in_packages(p))]


def _along(folder: Path, parts: Sequence[str]) -> list[Path]:
    """The files that importing a dotted name from a folder runs; the last parts may be names inside a module."""
    files = []
    for part in parts:
        path = module_file(folder, part)
        if path is None:
            break
        files += [path] if path.is_file() else []
        folder /= part
    return files
