"""The first help of `ardor` and of a command: what it does, and the options that are needed first.

One rule for all commands: `--help` alone is this help; `--help-all`, and `--help` behind a recipe, a run or an option,
list every option with its value (`options.print_options`).
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from docstring_parser import DocstringStyle, parse
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from ardor.cli.terminal import Terminal
from ardor.cli.words import function_of

if TYPE_CHECKING:
    from cyclopts import Parameter

MOST = 10
"""The options of a command that its first help has at most."""

TRAIN = ("data", "student", "teacher", "method", "threat.eps", "variant", "recipe.epochs", "recipe.batch", "recipe.lr")

FIRST = {
    "train": (*TRAIN, "run"),
    "plan": (*TRAIN, "steps"),
    "sweep": ("over", "trials", "suggest", "suite", "data", "student", "teacher", "method", "out", "plan"),
    "bench": ("scale", "seeds", "data", "teacher", "teacher.weights", "students", "methods", "out", "on", "plan"),
    "evaluate": (
        *("suite", "data", "model", "weights", "threat.eps", "checkpoint", "part", "limit", "out"),
        "recipe.device",
    ),
    "doctor": (
        *("data", "model", "weights", "threat.eps", "record", "checkpoint", "limit", "sarif", "junit"),
        "recipe.device",
    ),
    "check": (
        "min_robust",
        "min_clean",
        "min_class",
        "suite",
        "confidence",
        "checkpoint",
        "threat.eps",
        "json",
        "junit",
    ),
    "gate": ("teacher.weights", "data", "student", "method", "threat.eps", "part", "limit", "batch", "recipe.device"),
    "export": ("to", "out", "model", "weights", "data", "checkpoint", "part", "limit", "agreement", "force"),
    "push": (
        *("checkpoint", "out", "private", "license", "about", "dry_run", "force", "leaderboard", "name", "limit"),
    ),
    "deploy": ("checkpoint", "part", "limit", "queries", "threat.eps", "agreement", "force", "batch", "threads"),
}
"""The options that are needed first, of commands that have more than `MOST`."""

FOOT = """Numbers may be written 8/255. A method, net or data set of your own is file.py:Name: nothing is registered.
ardor COMMAND --help has the options that are needed first, --help-all every one; --debug adds an error's traceback."""


def print_commands(title: str, sections: Mapping[str, Mapping[str, str]]) -> None:
    """The help of `ardor`: every command under what one does."""
    out = Terminal(highlight=False, soft_wrap=False)
    out.print(f"Usage: ardor COMMAND [WORDS]\n\n{title}\n", markup=False)
    width = max(len(name) for section in sections.values() for name in section)
    for section, commands in sections.items():
        _panel(out, section, ((name, text.replace("`", "")) for name, text in commands.items()), width)
    rest = {
        "--install-completion": "Complete the words of ardor in this shell from now on.",
        "--version": "The version.",
    }
    _panel(out, "The rest", rest.items(), width)
    out.print(FOOT, markup=False, soft_wrap=True)


def print_first(command: str) -> None:
    """The first help of a command."""
    function = function_of(command)
    about, examples = _paragraphs((inspect.getdoc(function) or "").partition("\n\nParameters\n")[0])
    arguments = {name: text for name, text, _ in _rows(function, named=False)}
    out = Terminal(highlight=False, soft_wrap=False)
    out.print(f"Usage: {' '.join(['ardor', command, *arguments, '[OPTIONS]'])}\n", markup=False)
    for text in about:
        out.print(f"{text}\n", markup=False)
    own = {name: text for name, text, _ in _rows(function, named=True)}
    names = FIRST.get(command, tuple(own)[:MOST])
    rows = {name: own[name] if name in own else _dotted(name) for name in names}
    if arguments:
        _panel(out, "Arguments", arguments.items())
    every = set(own) <= set(names)
    _panel(out, "Options" if every else "Options to begin with", ((f"--{name}", text) for name, text in rows.items()))
    out.print(
        f"Every option, with its value: ardor {command} --help-all"
        + (f"\nFor example: {examples[0]}" if examples else ""),
        markup=False,
        soft_wrap=True,
    )


def _panel(out: Terminal, title: str, rows: Any, width: int = 0) -> None:
    table = Table.grid(
        Column(no_wrap=True, style="cyan", min_width=width), Column(ratio=1), padding=(0, 2, 0, 0), expand=True
    )
    for name, text in rows:
        table.add_row(name, Text(text))
    out.print(Panel(table, title=title, title_align="left"), soft_wrap=False)


def _paragraphs(text: str) -> tuple[list[str], list[str]]:
    """What a docstring says before its examples, and the examples."""
    about, _, rest = text.replace("`", "").partition("\n\nExample")
    paragraphs = [" ".join(part.split()) for part in about.split("\n\n")]
    examples = [part for part in rest.partition(":")[2].strip().split("\n\n") if part.startswith("ardor ")]
    return [part for part in paragraphs if part], examples


def _rows(function: Any, *, named: bool) -> Iterator[tuple[str, str, Any]]:
    """(name, text, default) of a function's options, or of its arguments as usage has them."""
    texts = _texts(function)
    for p in inspect.signature(function, eval_str=True).parameters.values():
        if named and is_dataclass(p.annotation):
            yield from _rows(p.annotation, named=True)
        elif named and p.kind is p.KEYWORD_ONLY and p.name != "overrides":
            given = _parameter(p.annotation)
            text = (given.help if given else None) or texts.get(p.name, "")
            yield p.name, _with_choices(text, p.annotation, p.default), p.default
        elif not named and p.kind is not p.KEYWORD_ONLY and not is_dataclass(p.annotation):
            given = _parameter(p.annotation)
            name = str(*given.name) if given and isinstance(given.name, tuple) else p.name.upper()
            name = f"{name}..." if p.kind is p.VAR_POSITIONAL else name if p.default is p.empty else f"[{name}]"
            yield name, texts.get(p.name, ""), p.default


def _texts(function: Any) -> dict[str, str]:
    params = parse(inspect.getdoc(function) or "", DocstringStyle.NUMPYDOC).params
    return {
        name: " ".join((p.description or "").replace("`", "").split())
        for p in params
        for name in p.arg_name.split(", ")
    }


def _parameter(annotation: Any) -> Parameter | None:
    from cyclopts import Parameter

    return next((one for one in getattr(annotation, "__metadata__", ()) if isinstance(one, Parameter)), None)


def _with_choices(text: str, annotation: Any, default: Any) -> str:
    """A text with the words that an option takes, where they are few, and its default."""
    kinds = [kind for kind in (typing.get_args(annotation) or (annotation,)) if kind is not NoneType]
    literal = annotation if typing.get_origin(annotation) is typing.Literal else kinds[0]
    choices = typing.get_args(literal) if typing.get_origin(literal) is typing.Literal else ()
    ends = [", ".join(map(str, choices))] if choices else []
    ends += (
        [f"default {default}"] if isinstance(default, str | int | float) and default not in ("", False, True) else []
    )
    return f"{text} ({'; '.join(ends)})" if ends else text


def _dotted(name: str) -> str:
    """The text of a dotted option, of what its part is by default."""
    from ardor import models
    from ardor.attacks.threat import Linf
    from ardor.cli.options import option_rows
    from ardor.training.recipe import Recipe

    part = name.partition(".")[0]
    maker: Any = {"recipe": Recipe, "threat": Linf, "teacher": models.load}[part]
    text = next(text for option, _, text in option_rows(part, maker) if option == f"--{name}")
    return re.sub(r" \(see [^)]*\)", "", text)  # a name of Python's
