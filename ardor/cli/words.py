"""A command line's words: a command's own options, and the dotted ones, which belong to its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ardor.errors import ConfigError
from ardor.storage.imports import nearest

TRAINING = ("method", "recipe", "threat", "data", "student", "teacher", "averaging")
PARTS = {
    "train": TRAINING,
    "plan": TRAINING,
    "evaluate": ("threat", "data", "model"),
    "doctor": ("threat", "data", "model"),
    "gate": ("threat", "data", "teacher", "student"),
    "export": ("threat", "data", "model"),
    "deploy": ("threat", "data"),
}
"""The parts of the configuration that a command has dotted options of."""


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without dotted options, and these as a nested mapping: `--method.beta 6` is {"method": {"beta": "6"}}.

    An option without a value is True, one with several a list. Hyphens in the name of an option are underscores.
    """
    plain: list[str] = []
    dotted: dict[str, list[str]] = {}
    target = plain
    for word in words:
        if not word.startswith("--"):
            target.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if "." not in key:
            target = plain
            plain.append(f"--{key}{equals}{value}")
        else:
            values = dotted[key] = [value] if equals else []
            target = plain if equals else values
    overrides: dict[str, Any] = {}
    for key, values in sorted(dotted.items()):  # a part's name comes before its options
        *path, last = key.split(".")
        node = overrides
        for part in path:
            if not isinstance(node.setdefault(part, {}), dict):
                node[part] = {"name": node[part]}
            node = node[part]
        node[last] = values[0] if len(values) == 1 else values or True
    return plain, overrides


def require_parts(command: str, overrides: dict[str, Any]) -> None:
    """Refuse dotted options of what a command does not have. Raises ConfigError."""
    parts = PARTS.get(command, ())
    for key in overrides:
        if key not in parts:
            options = ", ".join(f"--{part}." for part in parts) or "no dotted options"
            raise ConfigError(
                f"expected {options} for ardor {command}, got --{key}.{next(iter(overrides[key]))}"
                f"{nearest(key, parts)}: leave it out or correct it"
            )
