"""How a command ends other than by its work: an error as one sentence in the command's words, and signals.

Nothing that takes long is imported before it is needed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
    from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

    from ardor.errors import ArdorError

    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ArdorError):
        place = f"to use {error.filename}" if error.filename else "the system to read and write"
        text = f"expected {place}, got {error.strerror}: check the name, the permissions and the free space"
    elif isinstance(error, UnusedCliTokensError):
        command = " ".join(("ardor", *(error.command_chain or ())))
        text = f"expected no other words, got {' '.join(error.unused_tokens or ())}: leave them out ({command} --help)"
    elif isinstance(error, MissingArgumentError) and error.argument and not error.argument.name.startswith("-"):
        from ardor.cli.words import positional

        command = " ".join(error.command_chain or ())
        words = " ".join(("ardor", command, *positional(command)))
        text = f"expected {error.argument.name}, got none: type {words} (ardor {command} --help)"
    elif not isinstance(error, ArdorError | CycloptsError):
        text = f"internal error, {type(error).__name__}: {text}: type the same with --debug for the traceback"
    return text
