"""What the shell shows: progress while work goes on, and the result; moving on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ardor.progress import Progress as Moment
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


@contextmanager
def evaluation(quiet: bool = False) -> Iterator[Callable[[Moment], None]]:
    """A bar over the whole suite on a terminal, with a line for each attack that is done; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[word]}"))
    with Progress(*columns, console=err, transient=True, disable=quiet or not sys.stderr.isatty()) as bars:
        task = bars.add_task("", total=1, word="")
        last: Moment | None = None

        def tell(now: Moment) -> None:
            nonlocal last
            if last is not None and last.attack != now.attack and not bars.disable:
                bars.console.print(f"{last.attack}: {100 * last.robust:.2f} % robust", markup=False)
            last = now
            where = f" {now.round}/{now.rounds}" if now.rounds > 1 else ""
            left = "" if now.seconds is None else f", at most {_duration(now.seconds)} left"
            word = f"{now.done}/{now.todo} images, {100 * now.robust:.2f} % robust so far{left}"
            bars.update(task, description=now.attack + where, completed=now.share, word=word)

        yield tell


def _duration(seconds: float) -> str:
    """As a person says it: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
