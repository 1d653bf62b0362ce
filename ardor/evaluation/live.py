"""The line of progress that training and evaluation show on a terminal or in a notebook, and nowhere else."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from ardor.engine import distributed
from ardor.errors import printable

EVERY = 0.2
"""Seconds between two states of the line, at least."""

Event = TypeVar("Event")


class _Place(Protocol):
    def put(self, text: str) -> None: ...


class Line:
    """One line, overwritten by each event, and empty in the end."""

    def __init__(self, text: Callable[[Any], str], place: _Place) -> None:
        self._text, self._place, self._put_at, self._empty = text, place, -EVERY, True

    def __call__(self, event: Any) -> None:
        """Show the event, unless another one was shown just before."""
        if time.monotonic() - self._put_at >= EVERY:
            self._place.put(printable(self._text(event)))
            self._put_at, self._empty = time.monotonic(), False

    def clear(self) -> None:
        """Leave the place empty, for what the caller prints."""
        if not self._empty:
            self._place.put("")
            self._empty, self._put_at = True, -EVERY


def shown(
    progress: Callable[[Event], None] | bool | None, text: Callable[[Event], str]
) -> Callable[[Event], None] | None:
    """What receives the events: the caller's function, a line where one can be seen, or nothing.

    Parameters
    ----------
    progress : callable, bool or None
        True: a line on a terminal or in a notebook, of the first process. False or None: nothing.
    text : callable
        From an event to the line.
    """
    if callable(progress):
        return progress
    place = _place() if progress and distributed.rank() == 0 else None
    return None if place is None else Line(text, place)


def clear(show: Callable[[Any], None] | None) -> None:
    """Leave the line empty, where there is one."""
    if isinstance(show, Line):
        show.clear()


@contextmanager
def cleared(show: Callable[[Any], None] | None) -> Iterator[None]:
    """The line is empty at the end, also after an error."""
    try:
        yield
    finally:
        clear(show)


def _place() -> _Place | None:
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel"):  # IPython on a terminal has none
        return _Notebook()
    # a pager or a file at the end of standard output gets no line that is overwritten
    return _Terminal() if _is_terminal(sys.stderr) and _is_terminal(sys.stdout) else None


def _is_terminal(stream: Any) -> bool:
    with suppress(AttributeError, ValueError, OSError):  # no stream, or a closed one
        return bool(stream.isatty())
    return False


class _Terminal:
    _width = 0

    def put(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]
        with suppress(OSError, ValueError):  # the terminal is gone: that is no reason to stop
            sys.stderr.write(f"\r{text.ljust(self._width)}" + "\r" * (not text))
            sys.stderr.flush()
        self._width = len(text)


class _Notebook:
    _handle: Any = None

    def put(self, text: str) -> None:
        content = {"text/plain": text}
        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
