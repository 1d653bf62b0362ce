"""The options that a sweep varies, and the values that they take: typed lists, ranges and distributions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ardor.errors import ConfigError
from ardor.experiments.sheet import text_of
from ardor.storage.config import as_text, number
from ardor.storage.imports import nearest
from ardor.training.job import KEYS

SEED = "recipe.seed"
"""The option over which a row is averaged."""
RANGE = re.compile(r"(-?\d+):(-?\d+)")
"""a:b, the whole numbers from a to before b, as in Python."""


def parse_axes(words: Iterable[str]) -> dict[str, list[str]]:
    """Options with their values from texts such as method.alpha=0,1/6,1/2 and recipe.seed=0:3. Raises ConfigError."""
    axes: dict[str, list[str]] = {}
    for key, text in _assignments(words, "--over", "method.alpha=0,1/2,1"):
        values = re.split(r",(?![^\[]*\])", text)  # but not in brackets
        if whole := RANGE.fullmatch(text):
            values = [str(value) for value in range(int(whole[1]), int(whole[2]))]
        axes[key] = values
    return axes


def require_axes(over: Mapping[str, Sequence[Any]]) -> dict[str, tuple[str, ...]]:
    """Options with their values as texts, each number in one form.

    Raises
    ------
    ConfigError
        For an option of another part than a run's configuration or of the images, and for an empty list or a value
        that is there twice.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for key, listed in over.items():
        _require_key(key)
        values = tuple(_in_one_form(text_of(value)) for value in listed)
        if not all(values) or not values:
            raise ConfigError(f"expected values of {key}, got none or an empty one: type --over {key}=A,B")
        if twice := [value for value in values if values.count(value) > 1]:
            raise ConfigError(f"expected each value of {key} once, got {twice[0]} twice: type it once")
        if key == SEED and not all(re.fullmatch(r"\d+", value) for value in values):
            raise ConfigError(f"expected whole numbers for {SEED}, got {', '.join(values)}: type --over {SEED}=0:3")
        axes[key] = values
    return axes


@dataclass(frozen=True)
class Suggestion:
    """The distribution of an option.

    Parameters
    ----------
    key : dotted.
    kind : float, log (the logarithm is uniform), int or choice.
    values : the lowest and the highest; of a choice all, as texts.
    """

    key: str
    kind: Literal["float", "log", "int", "choice"]
    values: tuple[Any, ...]


def parse_suggestions(words: Iterable[str]) -> tuple[Suggestion, ...]:
    """Distributions from texts: recipe.lr=log:0.01..0.3, method.alpha=0..1, recipe.epochs=int:5..20, student=A|B.

    Raises
    ------
    ConfigError
        For another form, an empty interval, and an option that is there twice.
    """
    example = "recipe.lr=log:0.01..0.3"
    suggestions = [_suggestion(key, text) for key, text in _assignments(words, "--suggest", example)]
    for suggestion in suggestions:
        _require_key(suggestion.key)
        if re.match(r"threat|recipe\.(val_|seed)|method\.attack\.threat", suggestion.key):
            raise ConfigError(
                f"expected options that leave the measurement alone, got {suggestion.key}: its trials would be "
                "compared by unlike figures; type --over with it instead"
            )
    return tuple(suggestions)


def _suggestion(key: str, text: str) -> Suggestion:
    kind, colon, interval = text.partition(":")
    if "|" in text or ".." not in text:
        choices = tuple(text.split("|"))
        if len(set(choices)) < 2 or not all(choices):
            raise ConfigError(f"expected two different choices at least, got {key}={text}: type --suggest {key}=A|B")
        return Suggestion(key, "choice", choices)
    if colon and kind not in ("log", "int"):
        raise ConfigError(f"expected log:LOW..HIGH or int:LOW..HIGH, got {key}={text}: correct it")
    low, high = (float(number(part)) for part in (interval if colon else text).split("..", 1))
    whole = kind != "int" or (low.is_integer() and high.is_integer())
    if not low < high or not whole or (kind == "log" and low <= 0):
        above = " above 0" if kind == "log" else ""
        numbers = "whole numbers" if kind == "int" else "numbers"
        raise ConfigError(f"expected {numbers}{above}, the lower first, got {key}={text}: correct it")
    values = (int(low), int(high)) if kind == "int" else (low, high)
    return Suggestion(key, kind if colon else "float", values)  # type: ignore[arg-type]


def _assignments(words: Iterable[str], option: str, example: str) -> list[tuple[str, str]]:
    """(key, text) of KEY=TEXT words. Raises ConfigError."""
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.removeprefix("--").replace("-", "_")
        if not equals or not text:
            raise ConfigError(f'expected an option with values, got "{word}": type {option} {example}')
        if key in pairs:
            raise ConfigError(f"expected {key} once, got it twice: type {option} {key} with all of its values")
        pairs[key] = text
    return list(pairs.items())


def _require_key(key: str) -> None:
    part, _, rest = key.partition(".")
    if part not in KEYS:
        raise ConfigError(f'expected an option of {", ".join(KEYS)}, got "{key}"{nearest(part, KEYS)}: correct it')
    if part == "data" and rest != "limit":
        raise ConfigError(
            f"expected one data set for all cells, got {key}, where figures on other images are not compared: make a "
            "sweep of each, or vary data.limit alone, which leaves the validation and test images as they are"
        )
    if part == "recipe" and not rest:
        raise ConfigError("expected an option of recipe, got recipe itself: type recipe.OPTION=A,B")


def _in_one_form(text: str) -> str:
    """A value as text: 0.50 and 1/2 are 0.5, so that a cell has one name."""
    if re.fullmatch(r"-?\d+", text):
        return str(int(text))
    try:
        return as_text(float(number(text)))
    except ConfigError:
        return text


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted options as a configuration; the name of a part comes before its options."""
    content: dict[str, Any] = {}
    for key, value in sorted(values.items()):
        *path, last = key.split(".") if "." in key else (key, "name")
        node = content
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return content


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last word, or the whole key where two have the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}
