"""Help for dotted options: the parameters of what a command line names, from its signature and numpydoc."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from docstring_parser import DocstringStyle, parse
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from ardor import data, models
from ardor.cli import display
from ardor.cli.commands.train import NAMED, TrainWords
from ardor.cli.selection import find_threat, threat_of
from ardor.cli.words import NETS, PARTS
from ardor.data import load
from ardor.storage.config import as_text, find_class, name_of, parameters
from ardor.training.job import method_of, recipe_of

DEFAULTS = {"method": "rslad", "threat": "linf", "recipe": "recipe"}
"""What a part is where nothing names it."""

OF_RECIPES = ("train", "plan", "sweep")
"""The commands that take a recipe and the options of `ardor train`."""


def print_options(command: str, arguments: Mapping[str, Any]) -> None:
    """Display the dotted options of the parts that a command's arguments name, with their values."""
    for key, makers, values in _makers(command, arguments):
        rows = list(option_rows(key, *makers, values=values))
        if makers == (models.load,):  # a trained net: a run, or a published one
            of_source = models.loading.PUBLISHED.get(str(models.loading.source_of(values.name)), ("checkpoint",))
            rows = [row for row in rows if row[0].rpartition(".")[2] in of_source]
        if rows:
            columns = Column(no_wrap=True, style="cyan"), Column(max_width=12), Column(ratio=1)
            table = Table.grid(*columns, padding=(0, 2, 0, 0), expand=True)
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


def _makers(command: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Callable[..., Any], ...], Any]]:
    """Each key with the callables that its options are parameters of, and an object with their values."""
    words = arguments.get("words")
    config = {key: getattr(words, key, arguments.get(key)) for key in PARTS.get(command, ())}
    objects: dict[str, Any] = {}
    if command in OF_RECIPES:
        typed = {key: arguments[key] for key in (*NAMED, "variant") if key in arguments}  # of a sweep
        config = (words or TrainWords(**typed)).configuration(arguments.get("recipe"), arguments.get("overrides", {}))
    config = {key: part if isinstance(part, Mapping) else {"name": part} for key, part in config.items()}
    if command in OF_RECIPES:
        with contextlib.suppress(TypeError):  # a method of the user's may have parameters without a default
            objects = {"method": method_of(config), "recipe": recipe_of(config)}
    for key in PARTS.get(command, ()):
        part = config.get(key) or {}
        name = part.get("name") or DEFAULTS.get(key)
        makers: tuple[Callable[..., Any], ...]
        if key == "data":
            makers = (load, *((data.reader(name),) if name else ()))
        elif not name:
            continue
        elif key == "threat" and command not in OF_RECIPES:
            run = arguments.get("run") or arguments.get("teacher")
            used = find_threat(part.get("name"), arguments.get("overrides", {}), threat_of(run))
            makers, objects["threat"] = (type(used),), used
        elif key in (*NETS, "transfer_from"):
            trained = Path(name).is_dir() or models.loading.source_of(name) is not None
            built = not trained and (models.builders.known(name) or ":" in name)  # else a run that is still to be made
            makers = (models.load, *((models.build, models.builder(name)) if built else ()))
        else:
            makers = (find_class(name, key, key),)
        yield key, makers, objects.get(key, SimpleNamespace(**part))
