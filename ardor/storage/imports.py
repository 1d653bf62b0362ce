"""Names of a user's own code, `file.py:Name` or `package.module:Name`, and the hint for a name mistyped.

Shared by models, methods and data: this is why a user's own pieces need no registration.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ardor.errors import ConfigError

MOVED = {"ardor.bench.labels": "ardor.experiments.label_study"}
"""Modules that a configuration on disk may call by an earlier name."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean "X"?)` for the choice most like `word`, whatever its case, or "" where none is near."""
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f' (did you mean "{lower[near[0]]}"?)' if near else ""


def resolve(reference: str, what: str) -> object:
    """The object that `file.py:Name` or `package.module:Name` names. `what` is for the message: "model", "method".

    Importing runs the file. The same content of the same file is imported once, so its classes stay the same classes;
    a file edited since is imported anew. Files beside it (or, for a module, in the working folder) can be imported by
    it. Raises ConfigError: not of this form, no such file or module, no such name in it, or it fails on import.
    """
    place, colon, name = reference.rpartition(":")
    place = MOVED.get(place, place)
    if not (colon and place and name):
        raise ConfigError(
            f'expected a {what} as file.py:Name or package.module:Name, got "{reference}": '
            "put a colon between the file and the name in it"
        )
    module = _from_file(Path(place), what) if place.endswith(".py") else _from_package(place, what)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(
            f'expected the {what} "{name}" in {place}, got no such name{nearest(name, public)}: '
            f"it has {', '.join(public) or 'none'}"
        )
    found: object = getattr(module, name)
    return found


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f'expected a Python file for the {what}, got "{path}", which is not there: check the path')
    path = path.resolve()
    # Path and content make the name: two files called net.py never meet, and an edited one is not taken for its past.
    digest = hashlib.sha256(bytes(path) + b"\0" + path.read_bytes()).hexdigest()[:12]
    unique = f"ardor_user_{path.stem}_{digest}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:  # not so for any .py file
        raise ConfigError(f"expected a Python file for the {what}, got {path}: check its name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # before it runs: dataclasses look their module up there
    try:
        with _importing(path.parent, str(path), what):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def _from_package(place: str, what: str) -> ModuleType:
    with _importing(Path.cwd(), place, what):
        return importlib.import_module(place)


@contextlib.contextmanager
def _importing(folder: Path, place: str, what: str) -> Iterator[None]:
    """Imports may look in `folder` last, so that nothing installed is shadowed; a failure becomes one line."""
    importlib.invalidate_caches()
    sys.path.append(str(folder))
    try:
        yield
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"expected {place} to import, for the {what}, got {cause}: make it import first") from error
    finally:
        with contextlib.suppress(ValueError):  # the file may have put sys.path in order itself
            sys.path.remove(str(folder))


def require_package(module: str, extra: str, name: str) -> Any:
    """An optional package, or a ConfigError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise ConfigError(f"expected {module} to import for {name}, got {_cause(error)}: repair it") from error
        raise ConfigError(
            f'expected the package {module} for {name}, got none: type pip install "ardor[{extra}]"'
        ) from error
    except Exception as error:  # a torchvision beside another torch fails with a RuntimeError
        raise ConfigError(f"expected {module} to import for {name}, got {_cause(error)}: repair it") from error


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
