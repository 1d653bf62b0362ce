"""A command line's words: a command's own options, and the dotted ones, which belong to its configuration."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ardor.errors import ConfigError, rewritten
from ardor.storage.imports import nearest

TRAINING = ("method", "recipe", "threat", "data", "student", "teacher", "averaging")
PARTS = {
    "train": TRAINING,
    "plan": TRAINING,
    "evaluate": ("threat", "data", "model", "transfer_from", "recipe.device"),
    "doctor": ("threat", "data", "model", "recipe.device"),
    "gate": ("threat", "data", "teacher", "student", "recipe.device"),
    "teachers rank": ("threat", "data", "student", "recipe.device"),
    "export": ("threat", "data", "model"),
    "deploy": ("threat", "data"),
    "bench": ("threat", "data", "teacher", "student", "recipe", "method.attack"),
    "sweep": TRAINING,
    "data check": ("data",),
    "check": ("threat",),
}
"""The parts of the configuration that a command has dotted options of, and single ones."""


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without dotted options, and these as a nested mapping: `--method.beta 6` is {"method": {"beta": "6"}}.

    An option without a value is True, one with several a list. Hyphens in the name of an option are underscores.
    """
    plain: list[str] = []
    dotted: dict[str, list[str]] = {}
    target = plain
    for word in words:
        if word == "-" and target is plain and plain and plain[-1].startswith("--") and "=" not in plain[-1]:
            plain[-1] += "=-"  # standard output: the parser takes it for an option
            continue
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


RENAMED = {
    "eps": "threat.eps", "root": "data.root", "download": "data.download", "device": "recipe.device",
    "teacher_weights": "teacher.weights", "epochs": "recipe.epochs", "lr": "recipe.lr", "batch": "recipe.batch",
    "batch_size": "recipe.batch", "seed": "recipe.seed", "alpha": "method.alpha", "beta": "method.beta",
    "width": "student.width", "limit": "data.limit", "size": "data.size", "compile": "recipe.compile",
    "smoke": "variant smoke", "folder": "out", "out": "json",
}  # fmt: skip
"""Earlier and likely spellings of options, and the one that there is, with its value."""

NET_OF = {"gate": "teacher", "evaluate": "model", "doctor": "model", "export": "model"}
"""The net that a command measures or exports: a width or weights without the name of a net are those of it."""


def require_present(command: str, words: Sequence[str]) -> None:
    """Refuse an earlier spelling of an option that the command has. Raises ConfigError."""
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        net = NET_OF.get(command) if name in ("width", "weights") else None
        new = f"{net}.{name}" if net else RENAMED.get(name, "")
        option = new.partition(" ")[0]
        if word.startswith("--") and new and has_option(command, option) and not has_option(command, name):
            raise ConfigError(f"expected --{new}, got --{name}: type --{new}")


def require_parts(command: str, overrides: dict[str, Any]) -> None:
    """Refuse dotted options of what a command does not have. Raises ConfigError."""
    parts = PARTS.get(command, ())
    for key, typed in overrides.items():
        if other := [name for name in typed if key not in parts and f"{key}.{name}" not in parts]:
            options = ", ".join(f"--{part}" if "." in part else f"--{part}." for part in parts) or "no dotted options"
            near = nearest(key, [part for part in parts if part != f"{key}.device"])
            if key == command.partition(" ")[0] and has_option(command, other[0]):
                near = f" (did you mean --{other[0]}?)"  # --size of `ardor data prepare`
            raise ConfigError(
                f"expected {options} for ardor {command}, got --{key}.{other[0]}{near}: leave it out or correct it"
            )


NETS = ("student", "teacher", "model")


def as_options(text: str, command: str) -> str:
    """A text with its options in the words of a command; one of another command gets that command's name."""

    def option(name: str, values: list[str]) -> str:
        part, dot, rest = name.partition(".")
        if dot and part == command.partition(" ")[0] and has_option(command, rest):
            name, dot = rest, ""  # --data.size of `ardor data prepare` is --size
        if dot and part in NETS and part not in PARTS.get(command, ()):
            part = next((net for net in NETS if net in PARTS.get(command, ())), part)
        if dot and part in NETS:
            name = rest if rest in ("weights", "checkpoint") and has_option(command, rest) else f"{part}.{rest}"
        owner = command if has_option(command, name) else owner_of(name) or command
        typed = (
            f"--{name}={values[0]}" if values in (["true"], ["false"]) and not dot else " ".join([f"--{name}", *values])
        )
        return typed + ("" if owner == command else f" (of ardor {owner})")

    return rewritten(text, option, but="got ")


_ORDER = (
    "train", "plan", "evaluate", "gate", "export", "doctor", "deploy", "demo", "bench", "sweep", "push", "report",
    "compare", "check", "runs", "models", "data check", "data filter", "data prepare", "teachers rank",
)  # fmt: skip
"""The commands whose options the messages of others may name, first those that have the most of them."""


def owner_of(name: str) -> str | None:
    """The first command that has an option, or None."""
    return next((command for command in _ORDER if has_option(command, name)), None)


def has_option(command: str, name: str) -> bool:
    """Whether a command has an option, or for a dotted one the part of the configuration that it belongs to."""
    name = name.replace("-", "_")
    part, dot, _ = name.partition(".")
    if dot:
        return part in PARTS.get(command, ()) or f"{name}.".startswith(tuple(f"{p}." for p in PARTS.get(command, ())))
    parameters = inspect.signature(function_of(command), eval_str=True).parameters.values()
    groups = [p.annotation for p in parameters if dataclasses.is_dataclass(p.annotation)]
    own = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return name in own.union(*({f.name for f in dataclasses.fields(group)} for group in groups))


def positional(command: str) -> list[str]:
    """The words that a command needs without an option, by their names in its help."""
    parameters = inspect.signature(function_of(command)).parameters.values()
    return [p.name.upper() for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]


def function_of(command: str) -> Callable[..., int]:
    """The function of a command."""
    module, *_, word = (*command.split(), command.split()[-1])
    function: Callable[..., int] = getattr(importlib.import_module(f"ardor.cli.commands.{module}"), word)
    return function
