"""What was asked for, as plain text: numbers such as 8/255, objects as mappings, and the config.yaml of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ardor.errors import ConfigError
from ardor.storage.imports import nearest, resolve


class Number(float):
    """A float that remembers how it was written, so that 8/255 is saved as 8/255."""

    text: str


def number(text: str | float | int) -> Number:
    """Read "8/255", "5/6", "1e-3" or "0.1". Raises ConfigError."""
    words = str(text).strip()
    try:
        top, _, bottom = words.partition("/")
        value = Number(float(top) / float(bottom) if bottom else float(words))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"expected a number such as 0.1 or 8/255, got {words!r}") from None
    if not math.isfinite(value):
        raise ConfigError(f"expected a finite number such as 0.1 or 8/255, got {words!r}")
    value.text = words
    return value


def as_text(value: float) -> str:
    """A number as a person writes it: as it was written, else n/255 or a small fraction where that is exact."""
    if isinstance(value, Number):
        return value.text
    plain = f"{value:g}"
    if float(plain) == value or value != value:
        return plain
    n = round(value * 255)
    if n / 255 == value:
        return f"{n}/255"
    small = Fraction(value).limit_denominator(1000)
    return f"{small.numerator}/{small.denominator}" if small.numerator / small.denominator == value else repr(value)


def describe(thing: Any) -> Any:
    """Anything that takes part in a run, as YAML can say it: dataclasses become mappings with their `name` first."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = [f for f in dataclasses.fields(thing) if f.init]
        return {"name": name_of(type(thing))} | {f.name: describe(getattr(thing, f.name)) for f in fields}
    if isinstance(thing, nn.Module):
        return describe(getattr(thing, "built_as", {"name": name_of(type(thing))}))
    if isinstance(thing, float):
        return as_text(thing) if "/" in as_text(thing) else float(thing)
    if isinstance(thing, Mapping):
        return {str(k): describe(v) for k, v in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if thing is None or isinstance(thing, bool | int | str):
        return thing
    if isinstance(thing, Path):
        return str(thing)
    # an object of a user's own: what it holds, not its repr, which may say where it lies in memory
    return {"name": name_of(type(thing))} | {k: describe(v) for k, v in vars(thing).items() if not k.endswith("_")}


def build(content: Any, kind: str, *, default: Any = None, key: str = "") -> Any:
    """The object that a config describes: the inverse of `describe`.

    Parameters
    ----------
    content : a name, or a mapping of `name` and the parameters of what it names.
    kind : "method", "attack", "threat", "averaging", "recipe", "net" or "data": where a plain name is looked up.
    default : the object whose values stand where `content` has none, if `content` has no name or its name.
    key : dotted, for messages: "method.attack".

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
    same = default is not None and str(name or name_of(type(default))).lower() == name_of(type(default)).lower()
    make: Any = type(default) if same else find_class(name, kind, key)
    default = default if same else None
    values = {k: v for k, v in content.items() if k != "name"}
    given = {} if default is None else {name: getattr(default, name) for name in parameters(make)}
    return make(**given | arguments(values, key, make, default=default))


def arguments(content: Mapping[str, Any], key: str, *makers: Callable[..., Any], default: Any = None) -> dict[str, Any]:
    """Keyword arguments from the values of a config, converted to the types of the parameters.

    Parameters
    ----------
    content : the values by the names of parameters.
    key : of `content` in the whole config, for messages.
    makers : the callable that gets the arguments, then those that it passes other keywords on to.
    default : an object whose attributes are the defaults.

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
            near = nearest(name, hints).replace('"', f"--{key}.", 1).replace('"', "")
            raise ConfigError(
                f"expected an option of {key}, got --{key}.{name}{near}: it takes {', '.join(hints) or 'none'}"
            )
        hint, preset = hints.get(name, (None, None))
        result[name] = _converted(value, hint, getattr(default, name, preset), f"{key}.{name}")
    return result


def parameters(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Name -> (type hint or None, default or None) of the parameters that a keyword can give."""
    try:
        hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except (NameError, TypeError):  # in a file of the user's; the defaults have types too
        hints = {}
    rows = inspect.signature(make).parameters.values()
    return {
        p.name: (hints.get(p.name), None if p.default is p.empty else p.default)
        for p in rows
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def _converted(value: Any, hint: Any, preset: Any, key: str) -> Any:
    """A value as text, YAML or Python has it, as the parameter's type wants it. Raises ConfigError."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value is None or (type(None) in options and isinstance(value, str) and value.lower() in ("none", "null", "")):
        return None if type(None) in options else preset
    if isinstance(value, Mapping) or (dataclasses.is_dataclass(preset) and not dataclasses.is_dataclass(value)):
        kind = "attack" if preset is None or hasattr(preset, "threat") else "threat"
        return build(value, kind, default=preset, key=key)
    if hint is None:
        options = (str if preset is None else type(preset),)
    errors = []
    for option in (o for o in options if o is not type(None)):
        try:
            return _as(value, option)
        except (ValueError, TypeError, ConfigError) as error:
            errors.append(str(error))
    raise ConfigError(f"expected {key} as {' or '.join(errors)}, got {value!r}: type --{key} with such a value")


def _as(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`. Raises ValueError with the name of what was expected."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        for choice in typing.get_args(hint):
            if str(value) == str(choice):
                return choice
        raise ValueError(f"one of {', '.join(map(str, typing.get_args(hint)))}")
    if origin in (tuple, list, Sequence):
        parts = yaml.safe_load(value) if isinstance(value, str) and value.startswith("[") else value
        parts = parts.split(",") if isinstance(parts, str) else parts
        inner = typing.get_args(hint)[0]
        return (list if origin is list else tuple)(
            _as(one, inner) for one in (parts if isinstance(parts, list | tuple) else [parts])
        )
    if hint is bool:
        if isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no"):
            return value if isinstance(value, bool) else str(value).lower() in ("true", "yes")
        raise ValueError("true or false")
    if hint is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError("a whole number")
        try:
            return int(value)
        except (ValueError, TypeError):
            raise ValueError("a whole number") from None
    if hint is float:
        if isinstance(value, bool):
            raise ValueError("a number such as 0.1 or 8/255")
        try:
            return number(value) if isinstance(value, str) else float(value)
        except (ConfigError, TypeError):
            raise ValueError("a number such as 0.1 or 8/255") from None
    if hint is Path:
        return Path(value)
    return str(value) if hint is str and isinstance(value, int | float) and not isinstance(value, bool) else value


HOMES = {
    "method": "ardor.methods",
    "attack": "ardor.attacks",
    "threat": "ardor.attacks.threat",
    "averaging": "ardor.training.averaging",
    "recipe": "ardor.training.recipe",
}
"""Where the public classes of a kind are, which its `__all__` names: imported when one is asked for."""
FUNCTIONS = {"net": ("ardor.models", "build", "builder"), "data": ("ardor.data", "load", "reader")}
"""Of what is no class: the room, the function that makes it, and the one that gives a name's own parameters."""


def classes(kind: str) -> dict[str, type]:
    """The public dataclasses of a kind by the name that a config has for them."""
    room = importlib.import_module(HOMES[kind])
    public = (getattr(room, name) for name in room.__all__)
    found = [one for one in public if isinstance(one, type) and dataclasses.is_dataclass(one)]
    return {name_of(one): one for one in found if kind != "attack" or "__call__" in vars(one)}


def find_class(name: str | None, kind: str, key: str) -> Any:
    """The class that a name in a config means: a public one of its kind, or file.py:Name. Raises ConfigError."""
    choices = classes(kind)
    if name is None and len(choices) == 1:
        return next(iter(choices.values()))
    plain = {choice.lower(): choice for choice in choices}
    word = str(name).lower().replace("-", "_")
    if word in plain:
        return choices[plain[word]]
    if ":" in str(name):
        result = resolve(str(name), kind)
        if not callable(result):
            raise ConfigError(f"expected {name} to be a class, got {type(result).__name__}: name the class")
        return result
    listed = ", ".join(map(str.lower, choices))
    raise ConfigError(f'expected {key} as one of {listed}, or file.py:Name, got "{name}"{nearest(word, plain)}')


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`: its keys win, at every depth; another name drops what belonged to the first."""
    if not isinstance(above, Mapping):
        return above
    below = {"name": below} if isinstance(below, str) else dict(below or {})
    names = [str(part["name"]).lower().replace("-", "_") for part in (below, above) if part.get("name") is not None]
    if len(names) == 2 and names[0] != names[1]:
        below = {}
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def name_of(cls: type) -> str:
    """A class in a config.yaml: in this package its `config_name` or its name, else file.py:Name or module:Name."""
    if in_package(cls):
        return str(vars(cls).get("config_name", cls.__name__))
    if cls.__module__.startswith("ardor_user_"):  # a file of the user's, imported under a name of our own
        path = Path(str(sys.modules[cls.__module__].__file__))
        here = Path.cwd()
        return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{cls.__qualname__}"
    return f"{cls.__module__}:{cls.__qualname__}"


def in_package(cls: type) -> bool:
    """Whether a class is defined in this package."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def code_of(cls: type) -> str | None:
    """A hash of the file that defines a user's class, so that an edited method is another method; None for ours."""
    if in_package(cls):
        return None
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file and Path(file).is_file() else None


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys at which two configs differ, as "method.alpha: 5/6 here, 0.9 there"."""
    found = []
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {_short(a)} here, {_short(b)} there")
    return found


def few(items: Sequence[str]) -> str:
    """The first four, and how many more."""
    return "; ".join(items[:4]) + (f"; and {len(items) - 4} more" if len(items) > 4 else "")


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe or config file. Raises ConfigError where it is missing or no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"expected a readable file, got {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"expected YAML in {path}, got a file that cannot be read ({line}): repair it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"expected `key: value` lines in {path}, got {type(content).__name__}")
    return content


def to_yaml(config: Mapping[str, Any]) -> str:
    """The text of a config file, keys in the order given."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120)


def plain(value: Any) -> str:
    """Hyperparameters as a person would say them: "threat Linf (eps 8/255), steps 20"."""
    if isinstance(value, dict):
        inner = ", ".join(f"{k} {plain(v)}" for k, v in value.items() if k != "name")
        return f"{value['name']} ({inner})" if "name" in value else inner
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return as_text(value) if isinstance(value, float) else str(value)
