"""What the shell shows: progress while work goes on, and the result; moving on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ardor.evaluation.progress import Progress as Judged
from ardor.storage.runs import Run
from ardor.training.epoch import EpochRecord, StepProgress

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One plain line of result on standard output."""
    out.print(text, markup=False)


def training(records: Iterable[EpochRecord], total: int, title: str) -> list[EpochRecord]:
    """Draw a run epoch by epoch, and hand its records back. title: the run's folder."""
    done = []
    with watching(total, title) as tell:
        for record in records:
            done.append(record)
            tell(record)
    return done


@contextmanager
def watching(total: int, title: str, quiet: bool = False) -> Iterator[Callable[[EpochRecord | StepProgress], None]]:
    """A board on a terminal, and a plain line per epoch anywhere: call the given function with every Epoch and Moment.

    total: the run's epochs. title: its folder. quiet: nothing at all, for all but one of several processes.
    """
    board = Board(total, title)

    def tell(now: EpochRecord | StepProgress) -> None:
        board.take(now)
        if isinstance(now, EpochRecord) and not quiet:
            err.print(str(now), markup=False)

    if quiet or not err.file.isatty():
        yield tell
        return
    with Live(board, console=err, transient=True):
        yield tell


class Board:
    """What is known of a run while it trains, as a few lines that can be drawn at any time."""

    def __init__(self, total: int, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._title, self._clock = total, title, clock
        self._began, self._from, self._done = clock(), 0.0, 0.0
        self._known = False  # where this process began is known once it tells of something
        self._epoch, self._step, self._speed = 1, "", ""
        self._terms: Mapping[str, float] = {}
        self._looked: Mapping[str, Any] | None = None
        self._best: Mapping[str, Any] | None = None
        for line in Run(title).metrics():  # of a run that goes on
            self._epoch = min(line["epoch"] + 1, total)
            self._look(line)

    def take(self, now: EpochRecord | StepProgress) -> None:
        """Learn of a step or of a whole epoch."""
        if not self._known:
            self._known, self._from = True, now.epoch - 1
        self._terms = now.terms
        speed = getattr(now, "images_per_second", None)
        self._speed = self._speed if speed is None else f"{speed:.0f} images/s"
        if isinstance(now, StepProgress):
            self._done, self._epoch = now.epoch - 1 + now.step / now.steps, now.epoch
            self._step = f"step {now.step}/{now.steps}"
        else:
            self._done, self._epoch, self._step = now.epoch, min(now.epoch + 1, self._total), ""
            self._look(vars(now))

    def __rich__(self) -> Group:
        """The lines: how far, the loss, the validation."""
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._total, completed=self._done, width=20)
        after = [Text(word) for word in (self._step, self._left()) if word]
        head.add_row(Text(self._title), Text(f"epoch {self._epoch}/{self._total}"), bar, *after)
        lines = [Text("  ".join(line), overflow="ellipsis", no_wrap=True) for line in (self._loss(), self._val())]
        return Group(head, *(line for line in lines if line))

    def _look(self, record: Mapping[str, Any]) -> None:
        if record.get("val_clean") is None or record.get("val_robust") is None:
            return
        self._looked = record
        if record.get("best"):
            self._best = record

    def _left(self) -> str:
        """The time for the rest at the pace of this process, validation included."""
        made = self._done - self._from
        if made <= 0:
            return ""
        return f"{_duration((self._clock() - self._began) / made * (self._total - self._done))} left"

    def _loss(self) -> list[str]:
        if not self._terms:
            return []
        terms = [f"{name} {value:.4f}" for name, value in self._terms.items()]
        return [f"loss {sum(self._terms.values()):.4f}", *terms, *([self._speed] if self._speed else [])]

    def _val(self) -> list[str]:
        if self._looked is None:
            return []
        found = [f"val {_accuracies(self._looked)} at epoch {self._looked['epoch']}"]
        if self._looked.get("averaged_robust") is not None:
            found.append(f"averaged {_accuracies(self._looked, 'averaged')}")
        return found + ([f"best {_accuracies(self._best)} at epoch {self._best['epoch']}"] if self._best else [])


def _accuracies(record: Mapping[str, Any], of: str = "val") -> str:
    return f"{100 * record[f'{of}_clean']:.1f} clean {100 * record[f'{of}_robust']:.1f} robust"


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
def evaluation(quiet: bool = False) -> Iterator[Callable[[Judged], None]]:
    """A bar over the whole suite on a terminal, with a line for each attack that is done; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[word]}"))
    with Progress(*columns, console=err, transient=True, disable=quiet or not sys.stderr.isatty()) as bars:
        task = bars.add_task("", total=1, word="")
        last: Judged | None = None

        def tell(now: Judged) -> None:
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
