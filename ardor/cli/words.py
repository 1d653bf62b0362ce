"""A command line's words: a command's own options, and the dotted ones, which belong to its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without dotted options, and these as a nested mapping: `--method.beta 6` is {"method": {"beta": "6"}}.

    An option without a value is True, one with several a list. Hyphens in the name of an option are underscores.
    """
    plain: list[str] = []
    overrides: dict[str, Any] = {}
    target: list[str] | None = None
    for word in words:
        if not word.startswith("--"):
            (plain if target is None else target).append(word)
            continue
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if "." not in key:
            plain.append(f"--{key}{equals}{value}")
            target = None
            continue
        *path, last = key.split(".")
        node = overrides
        for part in path:
            node = node.setdefault(part, {})
        target = node[last] = [value] if equals else []
        if equals:
            target = None if value else target
    return plain, _plain(overrides)


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    """Lists of values as one value where there is one, True where there is none."""
    return {
        key: _plain(value) if isinstance(value, dict) else value[0] if len(value) == 1 else value or True
        for key, value in node.items()
    }
