"""What the shell shows: progress while work goes on, and the result; moving on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ardor.train import Epoch

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One plain line of result on standard output."""
    out.print(text, markup=False)


def training(records: Iterable[Epoch], total: int, title: str) -> list[Epoch]:
    """Draw a run epoch by epoch, and hand its records back."""
    done = []
    with progress(title, total) as move:
        for record in records:
            done.append(record)
            err.print(str(record), markup=False)
            move(record.epoch, f"{100 * record.val_robust:.1f} % robust" if record.val_robust is not None else "")
    return done


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal: call the given function with how much is done and a word on it. Nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[word]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task(title, total=total, word="")
        yield lambda done, word: bars.update(task, completed=done, word=word)
