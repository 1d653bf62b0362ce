"""YAML and JSON that is read: bounded, each key once, no aliases, and checked against the types of what it becomes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ardor.errors import ArdorError, ConfigError, shown

LARGEST = {"YAML": 1 << 18, "JSON": 1 << 26}
"""Bytes of a text."""
DEPTH = 32
"""Levels of mappings and lists in one another."""
AMBIGUOUS = re.compile(r"[-+]?(0[\d_]+|\d[\d_]*(:[0-5]?\d)+(\.\d*)?)")
"""Numbers of YAML 1.1 in base 8 and 60, which YAML 1.2 reads otherwise: 016 is 14 or 16, 1:30 is 90 or text."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe or config file. Raises ConfigError where it is missing, damaged or no mapping."""
    content = parse_yaml(_text(path, "YAML"), path)
    if not isinstance(content, dict):
        raise ConfigError(f"expected `key: value` lines in {path}, got {type(content).__name__}")
    return content


def parse_yaml(text: str, path: str | Path) -> Any:
    """The content of a YAML text of `path`. Raises ConfigError, with the line."""
    _require_small(len(text), path, "YAML")
    try:
        return copy.deepcopy(_loaded(text))
    except (yaml.YAMLError, ValueError) as error:
        line = shown(" ".join(str(error).split()), 200)
        raise ConfigError(f"expected YAML in {path}, got a file that cannot be read ({line}): repair it") from error
    except _RefusedError as error:
        raise ConfigError(f"expected {error.args[0]} in {path}, got {error.args[1]}") from None


@functools.lru_cache(32)
def _loaded(text: str) -> Any:
    """The content of a YAML text; a command reads the config of its run several times, at 20 ms each."""
    return yaml.load(text, _Loader)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file. Raises ConfigError where it is missing, damaged or no mapping."""
    return parse_json(_text(path, "JSON"), path)


def parse_json(text: str | bytes, path: str | Path) -> dict[str, Any]:
    """The mapping in a JSON text of `path`. Raises ConfigError, also for a key that stands twice and for NaN."""
    _require_small(len(text), path, "JSON")
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        _require_shallow(content)
    except (ValueError, RecursionError) as error:
        cause = shown(str(error) or type(error).__name__, 200)
        raise ConfigError(f"expected JSON in {path}, got a text that cannot be read ({cause}): repair it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"expected a JSON mapping in {path}, got {type(content).__name__}: name another file")
    return content


def checked(value: Any, hint: Any, path: str | Path, key: str = "", error: type[ArdorError] = ConfigError) -> Any:
    """A value that was read, checked against a type; a mapping becomes the dataclass that is expected.

    Parameters
    ----------
    value : Any
        Of YAML or JSON.
    hint : type
        A scalar type, list, tuple, dict, Literal, union, dataclass (every key is a field), TypedDict (other keys are
        kept), or Any.
    path, key : str or Path, str
        The file and the place in it, for messages.
    error : type
        Of the error.

    Raises
    ------
    ArdorError
        `error`, with the file and the key.
    """
    try:
        return _checked(value, hint, key)
    except _RefusedError as refusal:
        raise error(
            f"expected {refusal.args[0]} in {path}, got {refusal.args[1]}: it was changed, or is of another version; "
            "make it again"
        ) from None


class _RefusedError(Exception):
    """What was expected, what was read, and the key."""


def _checked(value: Any, hint: Any, key: str) -> Any:
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any:
        return value
    if kind in (typing.Union, types.UnionType):
        refusals = []
        for option in inner:
            try:
                return _checked(value, option, key)
            except _RefusedError as refusal:
                refusals.append(refusal)
        inside = [refusal for refusal in refusals if isinstance(value, dict | list) and refusal.args[2] != key]
        raise inside[0] if inside else _refused(value, hint, key)
    if kind in (typing.Required, typing.NotRequired):
        return _checked(value, inner[0], key)
    if kind is typing.Literal and value in inner:
        return value
    if kind in (dict, Mapping) and isinstance(value, dict):
        return {name: _checked(one, (*inner, Any, Any)[1], f"{key}.{name}") for name, one in value.items()}
    if kind in (list, tuple) and isinstance(value, list | tuple):
        hints = inner if kind is tuple and ... not in inner and inner else (*inner, Any)[:1] * len(value)
        if len(hints) == len(value):
            return kind(_checked(one, of, f"{key}[{k}]") for k, (one, of) in enumerate(zip(value, hints, strict=True)))
    if (dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)) and isinstance(value, dict):
        return _fields(value, kind, key)
    exact = type(value) is kind or value is kind
    if (exact or (kind in (type(None), None) and value is None)) and not (kind is int and abs(value) >= 2**63):
        return value
    if kind is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    raise _refused(value, hint, key)


def _refused(value: Any, hint: Any, key: str) -> _RefusedError:
    return _RefusedError(f"{_name(hint)} as {shown(key.lstrip('.') or 'its content')}", shown(repr(value), 40), key)


def _fields(value: dict[str, Any], kind: Any, key: str) -> Any:
    """The fields of a dataclass or TypedDict."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        fields = [field for field in dataclasses.fields(kind) if field.init]
        nothing = dataclasses.MISSING
        needed = {f.name for f in fields if f.default is nothing and f.default_factory is nothing}
        if other := next((name for name in value if name not in {field.name for field in fields}), None):
            place = f"{key}.{other}"
            raise _RefusedError("known keys", f"the key {shown(place.lstrip('.'))}", place)
    else:
        # from the hints, for __required_keys__ is wrong where annotations are text
        needed = {name for name, of in hints.items() if typing.get_origin(of) is typing.Required or (
            kind.__total__ and typing.get_origin(of) is not typing.NotRequired)}  # fmt: skip
    if missing := sorted(needed - value.keys()):
        raise _RefusedError(f"the key {shown(f'{key}.{missing[0]}'.lstrip('.'))}", "none", f"{key}.{missing[0]}")
    result = {name: _checked(one, hints.get(name, Any), f"{key}.{name}") for name, one in value.items()}
    make: Any = kind if dataclasses.is_dataclass(kind) else dict
    return make(**result) if make is kind else result


NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", dict: "keys with values"}


def _name(hint: Any) -> str:
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_name(option) for option in inner)
    if kind is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if kind in (type(None), None):
        return "null"
    if kind in (list, tuple):
        return "a list" if kind is list or not inner or ... in inner else f"a list of {len(inner)}"
    return NAMES.get(kind, NAMES[dict])


def _text(path: Path, kind: str) -> str:
    try:
        _require_small(path.stat().st_size, path, kind)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"expected a readable file, got {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"expected {kind} in {path}, got a byte that is no UTF-8 ({error.reason} at {error.start:,}): repair it"
        ) from error


def _require_small(size: int, path: str | Path, kind: str) -> None:
    if size > LARGEST[kind]:
        raise ConfigError(f"expected {kind} of at most {LARGEST[kind]:,} bytes in {path}, got {size:,}: shorten it")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} for a number")
    return value


def _require_shallow(content: Any) -> None:
    level = [content]
    for _ in range(DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = [one for part in parts for one in part]
    if any(isinstance(part, dict | list) for part in level):
        raise ValueError(f"more than {DEPTH} levels")


class _Loader(yaml.SafeLoader):
    """YAML without aliases, tags, dates, merges and ambiguous numbers, of bounded depth, each key once."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        where = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _RefusedError(
                "values without aliases", f"the alias {shown(event.anchor, 20)} on {where}: write it out"
            )
        if event.tag is not None:
            raise _RefusedError("plain values", f"the tag {shown(event.tag, 40)} on {where}: remove it")
        self.depth += 1
        if self.depth > DEPTH:
            raise _RefusedError(f"at most {DEPTH} levels", f"more on {where}: flatten it")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError("words as keys", f"a list or mapping on line {line}: write a word")
            name = self.construct_object(key)
            if name in lines:
                got = f"{shown(key.value, 40)} on line {lines[name]} and again on line {line}: remove one"
                raise _RefusedError("each key once", got)
            lines[name] = line
        return super().construct_mapping(node, deep)

    def number(self, node: Any) -> Any:
        if AMBIGUOUS.fullmatch(node.value):
            got = f"{shown(node.value, 20)} on line {node.start_mark.line + 1}, which YAML 1.1 and 1.2 read otherwise"
            raise _RefusedError(
                "decimal numbers without leading zeros and colons", f"{got}: write 16, or '016' for text"
            )
        if node.tag == "tag:yaml.org,2002:int":
            return self.construct_yaml_int(node)
        return _finite(str(self.construct_yaml_float(node)))


_LEFT_OUT = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "merge", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in _LEFT_OUT]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.number)
