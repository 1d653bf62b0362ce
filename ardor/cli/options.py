"""Help for dotted options: the parameters of what a command line names, from its signature and numpydoc."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docstring_parser import parse
from rich import box
from rich.table import Table

from ardor import data, models
from ardor.attacks.threat import Linf
from ardor.cli import display
from ardor.cli.selection import Overrides, configuration
from ardor.cli.words import split_words
from ardor.data import load
from ardor.storage.config import as_text, find_class, parameters
from ardor.training.recipe import Recipe

PIECES = {
    "train": ("method", "recipe", "threat", "data", "student", "teacher", "averaging"),
    "plan": ("method", "recipe", "threat", "data", "student", "teacher", "averaging"),
    "evaluate": ("threat", "data", "model"),
    "doctor": ("threat", "data", "model"),
    "gate": ("threat", "data", "teacher", "student"),
    "export": ("threat", "data", "model"),
    "deploy": ("threat", "data"),
}
"""The keys under which a command has dotted options."""


def print_options(words: Sequence[str]) -> None:
    """Display the dotted options of a command, of the pieces that its words name."""
    plain, overrides = split_words(words)
    for key, makers in _makers(words[0], plain, overrides):
        rows = list(option_rows(key, *makers))
        if rows:
            table = Table(title=f"--{key}.", title_justify="left", box=box.ROUNDED, show_header=False, expand=True)
            for option, default, text in rows:
                table.add_row(option, default, text)
            display.out.print(table)


def option_rows(key: str, *makers: Callable[..., Any]) -> Iterator[tuple[str, str, str]]:
    """(option, default, help) for each parameter of the makers that text can give, those inside them too."""
    seen = set()
    for maker in makers:
        texts = {p.arg_name: (p.description or "") for p in parse(inspect.getdoc(maker) or "").params}
        for name, (_, default) in parameters(maker).items():
            if name == "name" or name in seen or (callable(default) and not dataclasses.is_dataclass(default)):
                continue
            seen.add(name)
            if dataclasses.is_dataclass(default) and not isinstance(default, type):
                yield f"--{key}.{name}", type(default).__name__.lower(), " ".join(texts.get(name, "").split())
                yield from option_rows(f"{key}.{name}", type(default))
            else:
                yield f"--{key}.{name}", _shown(default), " ".join(texts.get(name, "").split())


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return as_text(default)
    return "" if default is None else str(default)


def _makers(
    command: str, words: Sequence[str], overrides: Overrides
) -> Iterator[tuple[str, tuple[Callable[..., Any], ...]]]:
    """Each key with the callables that its options are parameters of."""
    named = dict(zip(words, [*words[1:], ""], strict=True))
    names = {key: named.get(f"--{key}") for key in PIECES.get(command, ())}
    first = Path(words[1]) if len(words) > 1 and not words[1].startswith("-") else None
    if command == "gate" and first is not None:
        names["teacher"] = str(first)
    config: Mapping[str, Any] = names
    if command in ("train", "plan"):
        config = configuration(first, named.get("--variant", ""), names, overrides)
    for key in PIECES.get(command, ()):
        part = config.get(key)
        name = part.get("name") if isinstance(part, Mapping) else part
        if key in ("student", "teacher", "model"):
            if name and not Path(name).is_dir() and models.loading.source_of(name) is None:
                yield key, (models.builder(name), models.build)
        elif key == "data":
            yield key, (*((data.reader(name),) if name else ()), load)
        elif key == "recipe":
            yield key, (Recipe,)
        elif key == "threat":
            yield key, (find_class(name, "threat", key) if name else Linf,)
        elif name or key == "method":
            yield key, (find_class(name or "rslad", key, key),)
