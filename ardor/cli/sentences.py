"""How a command ends other than by its work: an error as one sentence in the command's words, and signals.

Nothing that takes long is imported before it is needed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts import CycloptsError

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""The signals that stop a command with a sentence, as far as the system has them."""


def in_words_of(command: str, function: Callable[..., int], *arguments: Any) -> int:
    """The result of a function whose messages advise options of a command."""
    from ardor.cli.terminal import plain_logs
    from ardor.cli.words import as_options
    from ardor.errors import spelling

    with plain_logs(), spelling(lambda text: as_options(text, command) if command else text):
        return function(*arguments)


@contextmanager
def signals() -> Iterator[list[int]]:
    """The first signal raises KeyboardInterrupt, and the same one again ends the process at once.

    Yields
    ------
    list of int
        The numbers of the signals so far.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set a handler
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # not one that nohup ignores
                before[number] = signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sentence(error: Exception) -> str:
    """An error in one line."""
    from cyclopts import CycloptsError

    from ardor.errors import ArdorError

    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ArdorError):
        place = f"to use {error.filename}" if error.filename else "the system to read and write"
        text = f"expected {place}, got {error.strerror}: check the name, the permissions and the free space"
    elif isinstance(error, CycloptsError):
        text = _of_words(error, text)
    elif not isinstance(error, ArdorError):
        text = f"internal error, {type(error).__name__}: {text}: type the same with --debug for the traceback"
    return text


def _of_words(error: CycloptsError, text: str) -> str:
    """What was expected, what came and what to type, where words do not fit a command; else the parser's own text."""
    from cyclopts.exceptions import CoercionError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError

    from ardor.cli.words import owner_of, positional
    from ardor.storage.imports import nearest

    command = " ".join(error.command_chain or ())
    ardor = " ".join(("ardor", *(error.command_chain or ())))
    if isinstance(error, UnusedCliTokensError):
        return f"expected no other words, got {' '.join(error.unused_tokens or ())}: leave them out ({ardor} --help)"
    if isinstance(error, MissingArgumentError) and error.argument:
        name = error.keyword or error.argument.name
        if name.startswith("-"):
            return f"expected a value for {name}, got none: type {name} VALUE ({ardor} --help)"
        words = " ".join((ardor, *positional(command)))
        return f"expected {name}, got none: type {words} ({ardor} --help)"
    if isinstance(error, UnknownOptionError):
        got = str(error.token.keyword or error.token.value).partition("=")[0]
        owner = owner_of(got.removeprefix("--")) if got.startswith("--") else None
        names = [name for argument in error.argument_collection if argument.parse for name in argument.names]
        near = f", an option of ardor {owner}" if owner else nearest(got, names)
        return f"expected an option of {ardor}, got {got}{near}: correct it, or leave it out ({ardor} --help-all)"
    if isinstance(error, CoercionError) and error.token and error.target_type is int:
        return f"expected a whole number for {error.token.keyword}, got {error.token.value}: correct it"
    return text
