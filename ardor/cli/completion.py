"""Completion in a shell: the commands with their dotted options and the names of what they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ardor import data, models
from ardor.attacks.suites import SUITES
from ardor.cli.options import option_rows
from ardor.cli.words import NETS, PARTS, function_of
from ardor.data import NAMED, reader
from ardor.models.builders import BUILDERS
from ardor.storage.config import classes
from ardor.training.recipe import Recipe

NAMES = {
    "method": (*classes("method"),),
    "student": (*BUILDERS,),
    "data": (*NAMED,),
    "threat": (*classes("threat"),),
    "averaging": (*classes("averaging"),),
    "suite": (*SUITES,),
}
"""What an option that takes a name may be completed to; other names are as good."""

MAKERS: dict[str, tuple[Callable[..., Any], ...]] = {
    "recipe": (Recipe,),
    "data": (data.load, *map(reader, ("npz:x", "folder:x", "store:x"))),
    "transfer_from": (models.load,),
    **{kind: (*classes(kind).values(),) for kind in ("method", "threat", "averaging")},
    **dict.fromkeys(NETS, (models.load, models.build, *BUILDERS.values())),
}
"""What the dotted options of a part are parameters of."""


def completable(command: str) -> Callable[..., int]:
    """A function with the words of a command, dotted options among them, to make a completion from; not to call."""
    function = function_of(command)
    kept = [_named(p) for p in _parameters(function) if p.name != "overrides"]
    dotted = [
        inspect.Parameter(
            option.strip("-").replace(".", "__"),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[bool if value == "False" else str, Parameter(name=option, help=text)],
        )
        for part in PARTS.get(command, ())
        for option, value, text in _dotted(part)
    ]

    def words(*args: Any, **options: Any) -> int:
        raise NotImplementedError

    words.__doc__, words.__name__ = inspect.getdoc(function), function.__name__
    every = {p.name: p for p in sorted([*kept, *dotted], key=lambda p: p.kind)}
    signature = inspect.Signature(list(every.values()))
    vars(words)["__signature__"] = signature
    words.__annotations__ = {p.name: p.annotation for p in every.values()}
    return words


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """The parameters of a function, with those of its groups of options."""
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            group: Any = parameter.annotation
            yield from _parameters(group)
        else:
            yield parameter


def _named(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter, whose value may be one of `NAMES`."""
    names = NAMES.get(parameter.name)
    if names is None or "Literal" in str(parameter.annotation) or parameter.kind is not parameter.KEYWORD_ONLY:
        return parameter
    return parameter.replace(annotation=Literal[names])


def _dotted(part: str) -> Iterator[tuple[str, str, str]]:
    """The options of a part of the configuration, or a single one such as recipe.device."""
    key, dot, _ = part.partition(".")
    rows = option_rows(key, *MAKERS[key])
    return (row for row in rows if not dot or f"{row[0]}.".startswith(f"--{part}."))
