"""TODO ardor.methods.find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ardor import methods
from ardor.errors import ConfigError
from ardor.storage.imports import nearest, resolve

METHODS: dict[str, Callable[..., Any]] = {
    kind.config_name: kind for kind in (getattr(methods, name) for name in methods.__all__)
}


def find_method(name: str) -> Callable[..., Any]:
    """The class that `--method` names. Raises ConfigError."""
    plain = name.lower().replace("-", "_")
    if plain in METHODS:
        return METHODS[plain]
    if ":" in name:
        found = resolve(name, "method")
        if not callable(found):
            raise ConfigError(f"expected {name} to be a class with `terms`, got {type(found).__name__}: name the class")
        return cast(Callable[..., Any], found)
    raise ConfigError(
        f'expected a method, got "{name}"{nearest(plain, METHODS)}: type one of {", ".join(METHODS)}, or file.py:Name'
    )
