"""What was asked for, as plain text: numbers such as 8/255, objects as mappings, and the config.yaml of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ardor.errors import ConfigError


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
        raise ConfigError(f"expected a YAML file, got {path}: {line}") from error
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
