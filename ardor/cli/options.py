"""From the signature of a concrete class or function to command-line options, and back: DESIGN section 2, second stage.

`options_for(RSLAD)` is a dataclass with RSLAD's fields, one dataclass inside for each dataclass among their values, so
that cyclopts offers `--method.alpha` and `--method.attack.threat.eps`; `built` turns what was parsed into the object.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter, Token

from ardor.errors import ConfigError
from ardor.storage.config import as_text, number

Make = Callable[..., Any]

SPELLING = Parameter(name_transform=lambda name: name)
"""Options are spelt as in Python and in recipes, with underscores; the shell understands hyphens."""


def options_for(
    make: Make, default: Any = None, skip: Collection[str] = (), also: dict[str, Any] | None = None
) -> type:
    """A dataclass with one field for each parameter of `make` that text can give.

    default: an instance whose values are the defaults. skip: parameters that come from elsewhere. also: further
    fields by name, name -> (annotation, default).
    """
    rows = [
        _row(name, hint, value, _help(make, name))
        for name, hint, value in _parameters(make, default)
        if name not in skip
    ]
    fields: list[Any] = [row for row in rows if row is not None]
    fields += [(name, annotation, value) for name, (annotation, value) in (also or {}).items()]
    empty = inspect.Parameter.empty
    required = tuple(name for name, _, value in _parameters(make, default) if value is empty and name not in skip)
    return grouped(fields, make=staticmethod(make), required=tuple(n for n in required if n in {f[0] for f in fields}))


def grouped(rows: Sequence[Any], **found: Any) -> type:
    """A dataclass with `rows` as for `make_dataclass`, and further attributes that are no options."""
    made = dataclasses.make_dataclass("Options", rows, kw_only=True, namespace=found)
    made.__module__ = __name__  # cyclopts takes what make_dataclass writes there for a builtin, and looks no further
    return made


def piece(name: str, options: type) -> tuple[Any, ...]:
    """A field that holds `options` with their defaults."""
    return name, options, dataclasses.field(default_factory=options)


def built(parsed: Any) -> Any:
    """The object that a parsed options dataclass describes."""
    return type(parsed).make(**values(parsed))


def values(parsed: Any) -> dict[str, Any]:
    """The arguments in a parsed options dataclass, its inner ones built."""
    found = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(parsed)}
    for name in type(parsed).required:
        if found[name] is None:
            whose = getattr(type(parsed).make, "__name__", "it")
            raise ConfigError(f"expected a value for {name} of {whose}, got none: type it with that option")
    return {name: built(v) if hasattr(type(v), "make") else v for name, v in found.items()}


def _parameters(make: Make, default: Any) -> list[tuple[str, Any, Any]]:
    """(name, type hint or None, default or empty) for each parameter."""
    try:
        hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except (NameError, TypeError):
        hints = {}  # a user's file whose hints cannot be resolved: its defaults still say the types
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    rows = []
    for name, p in inspect.signature(make).parameters.items():
        if p.kind not in kinds:
            value = p.default if default is None else getattr(default, name)
            rows.append((name, hints.get(name), value))
    return rows


def _row(name: str, hint: Any, value: Any, text: str) -> tuple[Any, ...] | None:
    """A field for `make_dataclass`, or None for a parameter that a command line cannot give."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = options_for(type(value), value)
        return piece(name, inner)
    empty = value is inspect.Parameter.empty
    if hint is None:
        hint = str if empty or value is None else type(value)
    plain = [t for t in _members(hint) if t is not type(None)]
    hint = hint | None if empty else hint  # asked for when it is missed, in words of our own
    annotation: Any
    if plain == [int]:
        annotation = Annotated[hint, Parameter(converter=_to_integer, help=text)]
    elif plain == [float]:
        annotation = Annotated[hint, Parameter(converter=_to_number, show_default=_shown, help=text)]
    elif all(_is_text(t) for t in plain):
        several = any(typing.get_origin(t) in (tuple, list) for t in plain)
        annotation = Annotated[hint, Parameter(help=text, negative="", consume_multiple=several)]
    else:
        return None
    return name, annotation, None if empty else value


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_text(hint: Any) -> bool:
    """Whether text can give it: a number, a word, one of some words, or a row of numbers."""
    origin = typing.get_origin(hint)
    if origin in (tuple, list):
        return all(a in (int, float, str, Ellipsis) for a in typing.get_args(hint))
    return hint in (int, float, bool, str) or origin is Literal


def _to_number(hint: Any, tokens: Sequence[Token]) -> float | None:
    text = tokens[0].value
    if text.lower() in ("none", "null", "") and type(None) in _members(hint):
        return None
    try:
        return number(text)
    except ConfigError as error:
        raise CycloptsError(msg=f"{tokens[0].keyword or tokens[0].keys}: {error}") from error


def _to_integer(hint: Any, tokens: Sequence[Token]) -> int | None:
    """A whole number; 2.5 is none, and is not rounded to one."""
    text = tokens[0].value
    if text.lower() in ("none", "null", "") and type(None) in _members(hint):
        return None
    try:
        return int(text)
    except ValueError:
        raise CycloptsError(
            msg=f"{tokens[0].keyword or tokens[0].keys}: expected a whole number, got {text!r}"
        ) from None


def _shown(value: Any) -> str | None:
    return None if value is None else as_text(value)


def _help(make: Make, name: str) -> str:
    """The sentence `name: ...` of the class's or function's own docstring."""
    text = " ".join((inspect.getdoc(make) or "").split())
    found = re.search(rf"(?:^|[\s,]){re.escape(name)}(?:, \w+)*: (.+?[.:])(?=\s|$)", text)
    return found[1].rstrip(".:") if found else ""


def with_options(function: Callable[..., Any], options: type) -> Callable[..., Any]:
    """`function` as cyclopts reads it, its parameter `more` being the dataclass `options`, flattened."""
    hints = typing.get_type_hints(function, include_extras=True) | {"more": Annotated[options, Parameter(name="*")]}
    signature = inspect.signature(function)
    rows = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
    rows = [p.replace(default=options()) if p.name == "more" else p for p in rows]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{"more": options(), **kwargs})  # nothing is passed where nothing was typed

    call.__signature__ = signature.replace(parameters=rows)  # type: ignore[attr-defined]
    call.__annotations__ = hints
    return call
