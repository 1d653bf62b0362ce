"""Terminal: where everything that the commands print passes, without control characters and with long names cut."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ardor.errors import printable


class Terminal(Console):
    """A console whose texts are those of `printable`; its own styles and cursor movements are kept."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints them: texts are cleaned first, whole sequences at a time, for rich takes out parts of them."""
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed, each with its text cleaned."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def plain_logs() -> Iterator[None]:
    """Log messages that no handler takes are printed by `logging.lastResort`, cleaned alike."""
    handler = logging.lastResort
    before = handler.formatter if handler else None
    if handler:
        handler.setFormatter(_Formatter())
    try:
        yield
    finally:
        if handler:
            handler.setFormatter(before)
