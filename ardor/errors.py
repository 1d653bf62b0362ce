"""The errors that ardor raises: each message has what was expected, what was given and what to type.

ArdorError
├── ConfigError
├── DataError
├── ThreatError
├── ModelError
├── CheckpointError
├── RunError
├── ExportError
└── DivergedError
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OPTION = re.compile(r"(?<![\w/-])--([a-z_][\w-]*(?:\.\w+)*)(?![\w-]|\.[, ])")
"""An option in a text, as a shell takes it: texts are written for the shell, `--recipe.lr 0.05`."""
COMMAND = re.compile(r"\bardor [a-z]+ (?:(?!, or |:\s)[^;])*$")
"""A command in a text, up to where it ends; the colon of folder:PATH is no end."""
VALUES = re.compile(r"[= ]((?!(?:with|above|below|or|and|to|of|in|as|for|where|away|out|there)\b)[^\s,;:()`]+)")
"""The next value of an option: one word, or several numbers."""
FLAGS = ("force", "download", "trust_code")
"""Options that need no value."""


def shown(text: object, most: int = 80) -> str:
    """Text from a file for a message: without control characters, and cut."""
    plain = "".join(c if c.isprintable() else "?" for c in str(text)[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


class ArdorError(Exception):
    """Base class of all errors below."""

    def __str__(self) -> str:
        return spelled(super().__str__())


class ConfigError(ArdorError):
    """A name, key or value in a recipe or on the command line does not exist or does not fit."""


class DataError(ArdorError):
    """Images, labels, a split or an archive are of another shape, type, range or content than expected."""


class ThreatError(ArdorError):
    """A radius, norm or parameter of an attack is out of range."""


class ModelError(ArdorError):
    """A net does not fit the data, the teacher or the contract of a model (images in [0, 1] to logits)."""


class CheckpointError(ArdorError):
    """A file of weights is truncated, in another format, pickled, or of another net."""


class RunError(ArdorError):
    """A run folder cannot be used: not writable, full, or of another run."""


class ExportError(ArdorError):
    """A net cannot be exported, or the logits of the exported file differ from the net's."""


class DivergedError(ArdorError):
    """A loss, gradient, weight or statistic of a training is not finite. What is saved is of the last finite epoch."""


def rewritten(text: str, change: Callable[[str, list[str]], str], but: str = "") -> str:
    """A text with `change(name, values)` for each of its options; those behind `ardor COMMAND` or `but` stay."""
    result, end = "", 0
    for option in OPTION.finditer(text):
        before = text[: option.start()]
        if option.start() < end or re.search(COMMAND, before) or (but and before.endswith(but)):
            continue
        result += text[end : option.start()]
        values: list[str] = []
        end = option.end()
        while value := VALUES.match(text, end):
            if value[1].startswith("-") or (values and not re.match(r"[\d.]+$", value[1])):
                break
            values.append(value[1])
            end = value.end()
        result += change(option[1], values)
    return result + text[end:]


def as_arguments(text: str) -> str:
    """A text for Python: `type --student.width 16` is "pass width=16", and `--run` is "run="."""

    def argument(option: str, values: list[str]) -> str:
        name = (option.partition(".")[2] or option).replace("-", "_")
        return f"{name}={_literal(values) if values else 'True' if name in FLAGS else ''}"

    return re.sub(r"\btype (?=[\w.]+=)", "pass ", rewritten(text, argument))


def _literal(values: list[str]) -> str:
    if len(values) > 1:
        return f"[{', '.join(values)}]"
    if values[0] in ("true", "false"):
        return values[0].capitalize()
    return values[0] if re.match(r"[\d.-]|[A-Z]+$", values[0]) else f'"{values[0]}"'


_spelling: ContextVar[Callable[[str], str]] = ContextVar("_spelling", default=as_arguments)


def spelled(text: str) -> str:
    """A text with options in the words of the caller: arguments in Python, else as `spelling` sets it."""
    return _spelling.get()(text)


@contextmanager
def spelling(change: Callable[[str], str]) -> Iterator[None]:
    """Messages with `change` applied to their options: a shell command's words."""
    token = _spelling.set(change)
    try:
        yield
    finally:
        _spelling.reset(token)


_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|[ -/]*[0-~])")
"""Escape sequences of a terminal, whole: colours, the cursor's movements, titles, links."""

_UNPRINTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
"""Control characters but tab and line feed, C1, bidirectional controls, invisible ones, other line ends, and what XML
has no character for."""

WORD, LINE = 300, 4000
"""Characters of the longest word and line that are printed."""


def printable(text: str, word: int = WORD, line: int = LINE) -> str:
    """A text as a terminal may get it: without control characters, and with longer words and lines cut in the middle.

    Parameters
    ----------
    text : str
        A text with names from files, servers or users.
    word, line : int
        Characters of the longest word and line.
    """
    text = _UNPRINTED.sub("", _ESCAPES.sub("", text)).encode("utf-8", "replace").decode()
    if len(text) <= word:
        return text
    lines = (re.sub(rf"\S{{{word + 1},}}", lambda m: _cut(m[0], word), one) for one in text.split("\n"))
    return "\n".join(_cut(one, line) for one in lines)


def _cut(text: str, most: int) -> str:
    """The beginning and the end of a text, with its length between them; "" is cut nowhere."""
    if len(text) <= most:
        return text
    middle = f"… ({len(text):,} characters) …"
    half = (most - len(middle)) // 2
    return f"{text[:half]}{middle}{text[-half:]}"
