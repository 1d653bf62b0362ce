"""Code is named by what is typed. A file that is read names none, unless `--trust-code` is typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ardor.errors import ConfigError, shown
from ardor.storage.imports import BUNDLED, CODE, RESERVED

PATHS = ("root", "weights", "run", "soft_labels_in")
"""Keys whose values are paths, which no name is made from."""
NAMES = (
    "name", "data", "student", "teacher", "method", "threat", "attack", "val_attack", "averaging", "optimiser", "net",
    "model", "natural", "robust",
)  # fmt: skip
"""Keys whose text is a name in any case; under others it may be any text."""


ADVICE = "where you trust it, type --trust-code"


def require_no_code(
    content: Any, path: str | Path, key: str = "", *, trust_code: bool = False, advice: str = ADVICE
) -> None:
    """Refuse names of code, at any depth, in what was read from a file. Call it before anything is built from that.

    Parameters
    ----------
    content : Any
        What was read: a mapping of a configuration, a part of one, or a name.
    path : str or Path
        The file, for messages.
    key : str
        Of `content` in the file, dotted.
    trust_code : bool
        Accept `file.py:Name`, with the file in the working folder or below; never `module:function`.
    advice : str
        For the message where code is refused.

    Raises
    ------
    ConfigError
        With the name, its key and the file, and what to type. Also for the key `trust_code`: no file grants it.
    """
    for place, name in _names(content, key):
        if place.rpartition(".")[2] == "trust_code":
            raise ConfigError(f"expected --trust-code on the command line, got {place} in {path}: remove it there")
        file = Path(name.rpartition(":")[0])
        what = f'"{shown(name)}" as {shown(place or "its content")} in {path}'
        if file.suffix != ".py":
            raise ConfigError(
                f"expected names of ardor in a file, got {what}, code that was not run: module:function is taken from "
                "the command line only, never from a file that is read"
            )
        if not trust_code:
            raise ConfigError(f"expected names of ardor in a file, got {what}, code that was not run: {advice}")
        if not file.resolve().is_relative_to(Path.cwd().resolve()):
            raise ConfigError(
                f"expected trusted code in the working folder {Path.cwd()} or below, got {what}, which was not run: "
                "copy it there, or change to its folder"
            )


def names_code(content: Any, key: str = "") -> bool:
    """Whether `require_no_code` refuses the content without `trust_code`.

    Parameters
    ----------
    content : Any
        What a file has, or will have.
    key : str
        Of `content` in the file, dotted.
    """
    return any(_names(content, key))


def _names(content: Any, key: str) -> Iterator[tuple[str, str]]:
    """(key, value) of each text that could name code: under `name`, or of the form of a name under another key."""
    if isinstance(content, Mapping):
        for inner, value in content.items():
            if inner == "trust_code":
                yield f"{key}.{inner}".lstrip("."), ""
            elif inner not in PATHS:
                yield from _names(value, f"{key}.{inner}".lstrip("."))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _names(value, key)
    elif isinstance(content, str) and content not in BUNDLED:
        rest = content.removeprefix(Path(content).drive)
        named = ":" in rest if key.rpartition(".")[2] in NAMES else CODE.fullmatch(rest)
        if named and rest.partition(":")[0] not in RESERVED:
            yield key, content
