"""Help for dotted options: the parameters of what a command line names, from its signature and numpydoc."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from docstring_parser import DocstringStyle, parse
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ardor import data, models
from ardor.attacks.threat import Linf
from ardor.cli import display
from ardor.cli.selection import Overrides, configuration
from ardor.cli.words import split_words
from ardor.data import load
from ardor.storage.config import as_text, find_class, name_of, parameters
from ardor.training.job import method_of, recipe_of
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
    """Display the dotted options of a command, of the pieces that its words name, with their values."""
    plain, overrides = split_words(words)
    for key, makers, values in _makers(words[0], plain, overrides):
        rows = list(option_rows(key, *makers, values=values))
        if rows:
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
            table.add_column(no_wrap=True, style="cyan")
            table.add_column(max_width=12)
            table.add_column(ratio=1)
            for option, value, text in rows:
                table.add_row(option, Text(value), Text(text))
            title = f"Options of {key}, with their values"
            display.out.print(Panel(table, title=title, title_align="left"), soft_wrap=False)


def option_rows(key: str, *makers: Callable[..., Any], values: Any = None) -> Iterator[tuple[str, str, str]]:
    """(option, value, help) for each parameter of the makers that text can give, those inside them too.

    Parameters
    ----------
    key
        Dotted, of the makers' result in the configuration.
    makers
        Callables that take the options.
    values
        An object whose attributes replace the defaults.
    """
    seen = set()
    for maker in makers:
        described = parse(inspect.getdoc(maker) or "", DocstringStyle.NUMPYDOC).params
        texts = {name: p.description or "" for p in described for name in p.arg_name.split(", ")}
        for name, (_, default) in parameters(maker).items():
            value, text = getattr(values, name, default), " ".join(texts.get(name, "").split())
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            if name == "name" or name in seen or (callable(value) and not nested):
                continue
            seen.add(name)
            yield f"--{key}.{name}", name_of(type(value)).lower() if nested else _shown(value), text
            if nested:
                yield from option_rows(f"{key}.{name}", type(value), values=value)


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return as_text(default)
    if isinstance(default, tuple | list):
        return " ".join(map(str, default))
    return "" if default is None else str(default)


def _makers(
    command: str, words: Sequence[str], overrides: Overrides
) -> Iterator[tuple[str, tuple[Callable[..., Any], ...], Any]]:
    """Each key with the callables that its options are parameters of, and an object with their values."""
    named = dict(zip(words, [*words[1:], ""], strict=True))
    names = {key: named.get(f"--{key}") for key in PIECES.get(command, ())}
    first = Path(words[1]) if len(words) > 1 and not words[1].startswith("-") else None
    if command == "gate" and first is not None:
        names["teacher"] = str(first)
    config: Mapping[str, Any] = names
    objects: dict[str, Any] = {}
    if command in ("train", "plan"):
        variants = ",".join(filter(None, (named.get("--variant"), "smoke" * ("--smoke" in named))))
        config = configuration(first, variants, names, overrides)
        config = {key: {"name": part} if isinstance(part, str) else part for key, part in config.items()}
        with contextlib.suppress(TypeError):  # a method of the user's may have parameters without a default
            objects = {"method": method_of(config), "recipe": recipe_of(config)}
    for key in PIECES.get(command, ()):
        part = config.get(key)
        name = part.get("name") if isinstance(part, Mapping) else part
        values = objects.get(key, SimpleNamespace(**part) if isinstance(part, Mapping) else None)
        if key in ("student", "teacher", "model"):
            trained = name and (Path(name).is_dir() or models.loading.source_of(name) is not None)
            if name:
                yield key, (models.load, *(() if trained else (models.build, models.builder(name)))), values
        elif key == "data":
            yield key, (load, *((data.reader(name),) if name else ())), values
        elif key == "recipe":
            yield key, (Recipe,), values
        elif key == "threat":
            yield key, (find_class(name, "threat", key) if name else Linf,), values
        elif name or key == "method":
            yield key, (find_class(name or "rslad", key, key),), values
