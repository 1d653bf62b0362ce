"""Configurations as plain text: numbers such as 8/255, objects as mappings, and the config.yaml of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn

from ardor.errors import ConfigError, shown
from ardor.storage.imports import nearest, resolve
from ardor.storage.reading import read_yaml as read_yaml

HOMES = {
    "method": "ardor.methods",
    "attack": "ardor.attacks",
    "threat": "ardor.attacks.threat",
    "averaging": "ardor.training.averaging",
    "optimiser": "ardor.training.optimisers",
    "recipe": "ardor.training.recipe",
}
"""Kind -> the module whose `__all__` names its public classes, imported on first use."""
FUNCTIONS = {"net": ("ardor.models", "build", "builder"), "data": ("ardor.data", "load", "reader")}
"""Kind -> the module, its function that makes the object, and its function from a name to that name's own options."""
CALLED_LATER = ("optimiser", "schedule")
"""Kinds whose third-party functions training calls: `build` makes a functools.partial of them."""
MOVED = {f"recipe.{name}": f"recipe.optimiser.{name}" for name in ("momentum", "nesterov", "weight_decay")}
"""Earlier keys, and the present ones."""
EXPECTED = {bool: "true or false", int: "a whole number", float: "a number such as 0.1 or 8/255", str: "text"}


class Number(float):
    """A float with the text that it was read from, so that 8/255 is saved as 8/255."""

    text: str


def number(text: str | float | int) -> Number:
    """The value of "8/255", "5/6", "1e-3" or "0.1". Raises ConfigError where it is none or not finite."""
    text = str(text).strip()
    try:
        top, _, bottom = text.partition("/")
        value = Number(float(top) / float(bottom or 1))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"expected a number such as 0.1 or 8/255, got {text!r}") from None
    if not math.isfinite(value):
        raise ConfigError(f"expected a finite number such as 0.1 or 8/255, got {text!r}")
    value.text = text
    return value


def as_text(value: float) -> str:
    """The shortest exact text of a number: the one it was read from, else decimal, n/255 or a small fraction."""
    if isinstance(value, Number):
        return value.text
    if float(f"{value:g}") == value:
        return f"{value:g}"
    if not abs(value) < 1000:
        return repr(value)
    small = Fraction(value).limit_denominator(1000)
    fractions = [(round(value * 255), 255)] * (abs(value) <= 1) + [(small.numerator, small.denominator)]
    return next((f"{n}/{d}" for n, d in fractions if n / d == value), repr(value))


def describe(thing: Any) -> Any:
    """The configuration of an object, in the types of YAML: the inverse of `build`.

    A dataclass becomes a mapping with its `name` first, a net the arguments of `ardor.models.build`, a tuple a list,
    and a float that is no short decimal its fraction, "8/255".
    """
    if isinstance(thing, nn.Module):
        return describe(getattr(thing, "built_as", {"name": name_of(type(thing))}))
    if thing is None or isinstance(thing, bool | int | str):
        return thing
    if isinstance(thing, float):
        return as_text(thing) if "/" in as_text(thing) else float(thing)
    if isinstance(thing, Mapping):
        return {str(k): describe(v) for k, v in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, functools.partial):
        return describe(thing.func) | describe(thing.keywords)
    if isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType):
        return {"name": name_of(thing)}
    if dataclasses.is_dataclass(thing):
        names = [f.name for f in dataclasses.fields(thing) if f.init]
    else:  # attributes, not the repr, which may contain an address in memory
        names = [name for name in vars(thing) if not name.endswith("_")]
    return {"name": name_of(type(thing))} | {name: describe(getattr(thing, name)) for name in names}


def build(content: Any, kind: str, *, default: Any = None, key: str = "") -> Any:
    """The object that a configuration describes: the inverse of `describe`.

    Parameters
    ----------
    content : str or Mapping
        A name, or a mapping of `name` and the parameters of the class or function with that name.
    kind : str
        "method", "attack", "threat", "averaging", "optimiser", "recipe", "net" or "data": where a plain name is
        looked up.
    default : object, optional
        Supplies the values that `content` lacks, where `content` has no name or that of the default's class.
    key : str
        Dotted, for messages: "method.attack".

    Raises
    ------
    ConfigError
        For a name or key that does not exist, with the nearest one that does, and for a value of another type.
    """
    key = key or kind
    if isinstance(content, str):
        content = {"name": content}
    if content is None and default is not None:
        return default
    if not isinstance(content, Mapping):
        raise ConfigError(f"expected {key}: NAME or {key}: {{name: NAME}}, got {content!r}: write one of them")
    name = content.get("name")
    if kind in FUNCTIONS:
        room, function, reader = FUNCTIONS[kind]
        module = importlib.import_module(room)
        load = getattr(module, function)
        return load(**arguments(content, key, load, getattr(module, reader)(str(name))))
    if default is None or str(name or name_of(type(default))).lower() != name_of(type(default)).lower():
        cls, defaults = find_class(name, kind, key), {}
        default = None
    else:
        cls = type(default)
        defaults = {name: getattr(default, name) for name in parameters(cls)}
    values = {k: v for k, v in content.items() if k != "name"}
    if kind in CALLED_LATER and not in_package(cls):
        return functools.partial(cls, **arguments(values, key, cls))
    return cls(**defaults | arguments(values, key, cls, default=default))


def arguments(content: Mapping[str, Any], key: str, *makers: Callable[..., Any], default: Any = None) -> dict[str, Any]:
    """Keyword arguments from the values of a configuration, converted to the types of the parameters.

    A parameter without a type takes that of its default; without either, only fractions become numbers.

    Parameters
    ----------
    content : Mapping
        Values by the names of parameters.
    key : str
        Of `content` in the whole configuration, for messages.
    makers : callable
        The callable that gets the arguments, then those that it passes other keywords on to.
    default : object, optional
        Its attributes are the defaults.

    Returns
    -------
    dict

    Raises
    ------
    ConfigError
        For a name that no parameter has, with the nearest one, and for a value of another type.
    """
    hints: dict[str, tuple[Any, Any]] = {}
    for maker in reversed(makers):
        hints |= parameters(maker)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(makers[-1]).parameters.values())
    result = {}
    for name, value in content.items():
        if name not in hints and not open_ended:
            if new := MOVED.get(f"{key}.{name}"):
                raise ConfigError(f"expected --{new}, got --{key}.{name}: type --{new}")
            near = nearest(name, hints).replace('"', f"--{key}.", 1).replace('"', "")
            raise ConfigError(
                f"expected an option of {key}, got --{key}.{name}{near}: it takes {', '.join(hints) or 'none'}"
            )
        hint, preset = hints.get(name, (None, None))
        option = f"{key}.{name}"
        try:
            result[name] = _converted(value, hint, getattr(default, name, preset), option)
        except ValueError as error:
            raise ConfigError(
                f"expected {option} as {error}, got {value!r}: type --{option} with such a value"
            ) from None
    return result


def parameters(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> (type hint or None, default or None) of the parameters that can be passed by keyword."""
    try:
        hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except (NameError, TypeError):  # hints of a third-party file that do not resolve; its defaults have types too
        hints = {}
    return {
        p.name: (hints.get(p.name), None if p.default is p.empty else p.default)
        for p in inspect.signature(make).parameters.values()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def _converted(value: Any, hint: Any, preset: Any, key: str) -> Any:
    """A value of text, YAML or Python in the type of a parameter. Raises ValueError with what is expected."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value is None:
        return None if hint is None or type(None) in options else preset
    if type(None) in options and isinstance(value, str) and value.lower() in ("none", "null", ""):
        return None
    mapping = (typing.get_origin(hint) or hint) in (dict, Mapping, None, Any)
    described = isinstance(value, Mapping) and ("name" in value or not mapping)
    if described and all(option in (*EXPECTED, type(None)) for option in options):  # nothing is built for a number
        raise ValueError(" or ".join(EXPECTED[option] for option in options if option in EXPECTED))
    if described or (dataclasses.is_dataclass(preset) and not dataclasses.is_dataclass(value)):
        default = preset if dataclasses.is_dataclass(preset) else None
        kind = key.rpartition(".")[2]
        kinds = {"threat": "threat", "base": "method"} | {name: name for name in CALLED_LATER}
        return build(value, kinds.get(kind, "attack"), default=default, key=key)
    if hint is None and preset is not None:
        options = (type(preset),)
    expected = []
    for option in sorted(options, key=lambda option: option not in (int, float)):  # text may be a number's
        try:
            if option is not type(None):
                return _as(value, option, key)
        except (ValueError, TypeError) as error:
            expected.append(str(error))
    raise ValueError(" or ".join(expected))


def _as(value: Any, hint: Any, key: str) -> Any:
    """`value` in a type that is no union. Raises ValueError with what is expected."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Callable and isinstance(value, str) and (name := key.rpartition(".")[2]) in CALLED_LATER:
        if ":" not in value:
            raise ValueError("file.py:Name")
        return build(value, name, key=key)
    if kind is typing.Literal:
        for choice in inner:
            if str(value) == str(choice):
                return choice
        raise ValueError(f"one of {', '.join(map(str, inner))}")
    if kind in (dict, Mapping):
        return {name: _converted(one, (*inner, None)[1], None, f"{key}.{name}") for name, one in value.items()}
    if kind in (tuple, list, Sequence):
        if isinstance(value, str):
            value = [part.strip() for part in value.strip("[]").split(",") if part.strip()]
        parts = value if isinstance(value, list | tuple) else [value]
        if kind is not tuple or len(inner) < 2 or inner[1] is ...:
            inner = (inner or (None,))[:1] * len(parts)
        if len(parts) != len(inner):
            raise ValueError(f"{len(inner)} values")
        values = (_converted(part, one, None, key) for part, one in zip(parts, inner, strict=True))
        return list(values) if kind is list else tuple(values)
    if kind in EXPECTED:
        return _scalar(value, kind)
    return Path(value) if kind is Path else _untyped(value)


def _scalar(value: Any, kind: type) -> Any:
    with contextlib.suppress(ValueError, TypeError, OverflowError, ConfigError):
        if kind is bool and (text := str(value).lower()) in ("true", "false", "yes", "no"):
            return text in ("true", "yes")
        if kind is str and isinstance(value, str | int | float | Path) and not isinstance(value, bool):
            return str(value)
        if kind is int and not isinstance(value, bool) and (isinstance(value, str) or int(value) == value):
            return int(value)
        if kind is float and not isinstance(value, bool):
            return number(value) if isinstance(value, str) else value if isinstance(value, float) else float(value)
    raise ValueError(EXPECTED[kind])


def _untyped(value: Any) -> Any:
    """Only the form in which `describe` writes a float that is no short decimal becomes a number."""
    if isinstance(value, list | tuple):
        return type(value)(map(_untyped, value))
    if isinstance(value, Mapping):
        return {key: _untyped(one) for key, one in value.items()}
    return number(value) if isinstance(value, str) and re.fullmatch(r"-?[\d.]+/[\d.]+", value) else value


def classes(kind: str) -> dict[str, type]:
    """The public dataclasses of a kind by their names in a configuration."""
    if kind not in HOMES:
        return {}
    room = importlib.import_module(HOMES[kind])
    public = (getattr(room, name) for name in room.__all__)
    dataclass_types = (cls for cls in public if isinstance(cls, type) and dataclasses.is_dataclass(cls))
    return {name_of(cls): cls for cls in dataclass_types if kind != "attack" or "__call__" in vars(cls)}


def find_class(name: str | None, kind: str, key: str) -> Any:
    """The class with a name: a public one of its kind, or file.py:Name. Raises ConfigError."""
    choices = {choice.lower(): cls for choice, cls in classes(kind).items()}
    plain = str(name).lower().replace("-", "_")
    if name is None and len(choices) == 1:
        return next(iter(choices.values()))
    if plain in choices:
        return choices[plain]
    if ":" in str(name):
        result = resolve(str(name), kind)
        if not callable(result):
            raise ConfigError(f"expected {name} to be a class, got {type(result).__name__}: name the class")
        return result
    listed = ", ".join(choices)
    raise ConfigError(
        f'expected {key} as one of {listed}, or file.py:Name, got "{shown(name)}"{nearest(plain, choices)}'
    )


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`: its keys win, at every depth; another name drops the keys of the first."""
    if not isinstance(above, Mapping):
        return above
    below = {"name": below} if isinstance(below, str) else dict(below) if isinstance(below, Mapping) else {}
    names = [str(part["name"]).lower().replace("-", "_") for part in (below, above) if part.get("name") is not None]
    if len(names) == 2 and names[0] != names[1]:
        below = {}
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def name_of(cls: type | types.FunctionType | types.BuiltinFunctionType) -> str:
    """The name of a class or function in a configuration.

    Its `config_name` or name in this package, else file.py:Name or module:Name.
    """
    if in_package(cls):
        return str(vars(cls).get("config_name", cls.__name__))
    if cls.__module__.startswith("ardor_user_"):  # a third-party file, imported under a unique name by `resolve`
        path, folder = Path(str(sys.modules[cls.__module__].__file__)), Path.cwd()
        return f"{path.relative_to(folder) if path.is_relative_to(folder) else path}:{cls.__qualname__}"
    return f"{cls.__module__}:{cls.__qualname__}"


def in_package(cls: type | types.FunctionType | types.BuiltinFunctionType) -> bool:
    """Whether a class or function is defined in this package."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "", places: tuple[str, str] = ("here", "there")
) -> list[str]:
    """The keys at which two configs differ, as "method.alpha: 5/6 here, 0.9 there"; `logits` by more than rounding.

    Names come first, and hashes, which follow from other keys as a rule, last.
    """
    result = []
    for key in sorted({*ours, *theirs}, key=lambda key: (key == "fingerprint", key != "name", str(key))):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            result += differences(a, b, f"{prefix}{key}.", places)
        elif a != b and not (key == "logits" and (RANDOM in (a, b) or _close(a, b))):
            result.append(f"{prefix}{key}: {_short(a)} {places[0]}, {_short(b)} {places[1]}")
    return result


RANDOM = "none: two identical calls differ"
"""In place of the logits of a net whose calls draw numbers: it differs from no logits, for two calls may be alike."""
TOLERANCE = 0.02
"""Of the logits in a net's identity: the largest difference, as a share of their range. Processors differ by 1e-6 of it
in float32, 1e-3 in TF32, 1e-2 in bfloat16; another function by more than all of it, as a rule."""


def _close(one: Any, other: Any) -> bool:
    """Whether two lists of an image's logits differ by rounding alone."""
    try:
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    except (ValueError, TypeError):
        return False
    scale = np.ptp(b, axis=-1).max() if b.size and b.ndim == 2 else 0.0
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= TOLERANCE * scale + 1e-5 * np.abs(b) + 1e-6))


def few(items: Sequence[str]) -> str:
    """The first four items, and the number of further ones."""
    return "; ".join(items[:4]) + (f"; and {len(items) - 4} more" if len(items) > 4 else "")


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def to_yaml(config: Mapping[str, Any]) -> str:
    """The text of a config file, keys in the order given."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120)


def plain(value: Any) -> str:
    """Hyperparameters that are set, in one line: "threat Linf (eps 8/255), steps 20"."""
    if isinstance(value, dict):
        inner = ", ".join(f"{k} {plain(v)}" for k, v in value.items() if k != "name" and v is not None)
        return f"{value['name']} ({inner})" if inner and "name" in value else str(value.get("name", inner))
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return as_text(value) if isinstance(value, float) else str(value)
