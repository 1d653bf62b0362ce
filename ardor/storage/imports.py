"""Third-party code by name, `file.py:Name` or `package.module:Name`, and the hint for a mistyped name.

Shared by models, methods and data, so that third-party pieces need no registration.

A user's file, and each module or package that it imports from its own folder, is imported under a name made from its
path and its content with all that it imports there. So two folders with a helper of one name each use their own, and an
edited helper is another module.
"""

from __future__ import annotations

import builtins
import contextlib
import difflib
import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ardor.errors import ConfigError
from ardor.storage.code import digest_of, is_installed, module_file

MOVED = {"ardor.bench.labels": "ardor.experiments.label_study"}
"""Earlier names of modules, which configurations on disk may contain."""
BUNDLED = {f"{place}:{name}" for place in (*MOVED, *MOVED.values()) for name in ("LabelKinds", "both")}
"""Names of this package's own code in that form, which a file that is read may contain."""
RESERVED = ("npz", "folder", "store", "dataset", "robustbench", "hf", "timm", "ardor")
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
    a file is imported anew where it, or a file beside it that it imports, was edited. A module can import those in the
    working folder.

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
    if not os.path.isfile(path):
        raise ConfigError(f'expected a Python file for the {what}, got "{path}", which is not there: check the path')
    path = path.resolve()
    name = _unique(path.parent, path)
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    with _importing(path.parent, str(path), what), _without_namesakes(path.parent):
        return importlib.import_module(name)


_FILES: dict[str, tuple[Path, Path, str]] = {}
"""Unique name -> the file, or the folder of a package; the folder whose modules it can import; its `digest_of`."""


def content_of(module: str) -> str | None:
    """The `digest_of` a user's file as it was imported by `resolve`, whatever is there now; None for other modules."""
    return _FILES.get(module.partition(".")[0], (None, None, None))[2]


def _unique(folder: Path, path: Path) -> str:
    """The name under which a file or package of a user's folder is imported."""
    files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    content = digest_of(*files)
    digest = hashlib.sha256(f"{path} {content}".encode()).hexdigest()[:12]
    name = f"ardor_user_{re.sub(r'[^a-zA-Z0-9]', '_', path.stem)}_{digest}"
    _FILES[name] = path, folder, content
    return name


class _Finder:
    """Finds modules by their unique names, and the modules inside a package with a unique name."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of a user's module, else None."""
        if (top := name.partition(".")[0]) not in _FILES:
            return None
        file, folder, _ = _FILES[top]
        if "." in name:
            spec = PathFinder.find_spec(name, path)
            if spec is not None and isinstance(spec.loader, SourceFileLoader):
                spec.loader = _Loader(name, str(spec.origin), folder)
            return spec
        if file.suffix == ".py":
            return spec_from_file_location(name, file, loader=_Loader(name, str(file), folder))
        if not (init := file / "__init__.py").is_file():
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(file)]
            return spec
        loader = _Loader(name, str(init), folder)
        return spec_from_file_location(name, init, loader=loader, submodule_search_locations=[str(file)])


class _Loader(SourceFileLoader):
    """Runs a user's file, whose imports are searched in `folder` before sys.path.

    Bytecode in a cache is not used: that of an edit in the same second would be the earlier content's.
    """

    def __init__(self, name: str, path: str, folder: Path) -> None:
        super().__init__(name, path)
        self.folder = folder

    def get_code(self, fullname: str) -> CodeType:
        """The compiled text."""
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the file with an `__import__` of its own, which its functions keep for imports inside them."""
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(self.folder)}
        super().exec_module(module)


def _importer(folder: Path) -> Callable[..., ModuleType]:
    """`__import__` for a file: absolute names of modules in `folder` become unique ones."""

    @functools.cache
    def unique(top: str) -> str:
        path = None if is_installed(top) else module_file(folder, top)
        return top if path is None else _unique(folder, path.parent if path.name == "__init__.py" else path)

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> ModuleType:
        if not level:
            top, dot, rest = name.partition(".")
            name = unique(top) + dot + rest
        return builtins.__import__(name, globals, locals, fromlist, level)

    return import_


@contextlib.contextmanager
def _importing(folder: Path, place: str, what: str) -> Iterator[None]:
    """`folder` is searched last, so that nothing installed is shadowed; a failure becomes one line."""
    importlib.invalidate_caches()
    sys.path.append(str(folder))
    try:
        yield
    except (Exception, SystemExit) as error:
        unknown = isinstance(error, ModuleNotFoundError) and error.name == place
        near = nearest(f"{place}:", [f"{name}:" for name in RESERVED]) if unknown else ""
        raise ConfigError(
            f"expected {place} to import{near}, for the {what}, got {cause_of(error)}: make it import first"
        ) from error
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it
            sys.path.remove(str(folder))


@contextlib.contextmanager
def _without_namesakes(folder: Path) -> Iterator[None]:
    """Set aside modules with the names of those in `folder`, for a file that calls `importlib.import_module`."""
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}

    def take() -> dict[str, ModuleType]:
        tops = {top for top in names & {name.partition(".")[0] for name in sys.modules} if not is_installed(top)}
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}

    present = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(present)


def require_package(module: str, extra: str, name: str) -> Any:
    """An optional package, by its module. Raises ConfigError with how to install it from the extra `extra`."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a torchvision beside another torch fails with a RuntimeError
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            problem = f'the package {module} for {name}, got none: type pip install "ardor[{extra}]"'
        else:
            repair = "install torchvision again, from the same index as torch" if "torchvision" in str(error) else ""
            problem = f"{module} to import for {name}, got {cause_of(error)}: {repair or 'repair it'}"
        raise ConfigError(f"expected {problem}") from error


def cause_of(error: BaseException) -> str:
    """The type and the first line of an exception, for a message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
