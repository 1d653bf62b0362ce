"""Third-party code by name, `file.py:Name` or `package.module:Name`, and the hint for a mistyped name.

Shared by models, methods and data, so that third-party pieces need no registration.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ardor.errors import ConfigError

MOVED = {"ardor.bench.labels": "ardor.experiments.label_study"}
"""Earlier names of modules, which configurations on disk may contain."""
BUNDLED = {f"{place}:{name}" for place in (*MOVED, *MOVED.values()) for name in ("LabelKinds", "both")}
"""Names of this package's own code in that form, which a file that is read may contain."""
RESERVED = ("npz", "folder", "robustbench", "hf", "timm")
"""What stands before the colon in names of data and nets, and is never imported."""
CODE = re.compile(r"(.*\.py|[\w.-]+):[^\W\d]\w*", re.DOTALL)
"""The form of a name of code, file.py:Name or module:Name, where other text is possible."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """` (did you mean "X"?)` for the choice most like `name`, whatever its case, or "" where none is near."""
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f' (did you mean "{lower[near[0]]}"?)' if near else ""


def resolve(reference: str, what: str) -> object:
    """The object that `file.py:Name` or `package.module:Name` names.

    Importing runs the file. The same content of the same file is imported once, so its classes stay the same classes;
    an edited file is imported anew. It can import the files beside it, a module those in the working folder.

    Parameters
    ----------
    reference
        The name.
    what
        For messages: "model", "method".

    Raises
    ------
    ConfigError
        For another form, no such file or module, no such name in it, or a failure on import.
    """
    place, colon, name = reference.rpartition(":")
    place = MOVED.get(place, place)
    if not (colon and place and name) or reference.partition(":")[0] in RESERVED:
        raise ConfigError(
            f'expected a {what} as file.py:Name or package.module:Name, got "{reference}": '
            "put a colon between the file and the name in it"
        )
    if place.endswith(".py"):
        module = _from_file(Path(place), what)
    else:
        with _importing(Path.cwd(), place, what):
            module = importlib.import_module(place)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(
            f'expected the {what} "{name}" in {place}, got no such name{nearest(name, public)}: '
            f"it has {', '.join(public) or 'none'}"
        )
    result: object = getattr(module, name)
    return result


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f'expected a Python file for the {what}, got "{path}", which is not there: check the path')
    path = path.resolve()
    # The name has path and content, so that two files called net.py, and a file before and after an edit, are distinct.
    digest = hashlib.sha256(bytes(path) + b"\0" + path.read_bytes()).hexdigest()[:12]
    unique = f"ardor_user_{path.stem}_{digest}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:  # not so for any .py file
        raise ConfigError(f"expected a Python file for the {what}, got {path}: check its name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # before it runs: dataclasses need the entry
    try:
        with _importing(path.parent, str(path), what):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


@contextlib.contextmanager
def _importing(folder: Path, place: str, what: str) -> Iterator[None]:
    """`folder` is searched last, so that nothing installed is shadowed; a failure becomes one line."""
    importlib.invalidate_caches()
    sys.path.append(str(folder))
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"expected {place} to import, for the {what}, got {cause_of(error)}: make it import first"
        ) from error
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it
            sys.path.remove(str(folder))


def require_package(module: str, extra: str, name: str) -> Any:
    """An optional package, by its module. Raises ConfigError with how to install it from the extra `extra`."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a torchvision beside another torch fails with a RuntimeError
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            problem = f'the package {module} for {name}, got none: type pip install "ardor[{extra}]"'
        else:
            problem = f"{module} to import for {name}, got {cause_of(error)}: repair it"
        raise ConfigError(f"expected {problem}") from error


def cause_of(error: BaseException) -> str:
    """The type and the first line of an exception, for a message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
