"""Terminal output: progress while a command runs, and its result; live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ardor.cli.terminal import Terminal
from ardor.errors import ConfigError
from ardor.evaluation.progress import Progress as EvaluationProgress
from ardor.evaluation.progress import duration
from ardor.storage.files import require_writable, write_text
from ardor.storage.runs import Run
from ardor.training.epoch import EpochRecord, StepProgress

out = Terminal(highlight=False, soft_wrap=True)
err = Terminal(stderr=True, highlight=False, soft_wrap=True)

INTERVAL = 60.0
"""Seconds from one line of progress to the next, where standard error is no terminal."""


def say(text: str) -> None:
    """One plain line of result on standard output."""
    out.print(text, markup=False)


def result(text: str, forms: Mapping[Path | None, str]) -> None:
    """A result as text, and each other form of it in the file that was typed for it, if any.

    The file `-` is standard output, instead of the text.
    """
    files = {path: content for path, content in forms.items() if path is not None}
    piped = files.pop(Path("-"), None)
    for path, content in files.items():
        write_text(path, content)
    if piped is not None:
        sys.stdout.write(f"{piped.rstrip()}\n")
    else:
        say("\n\n".join([text, *(f"Saved to {path}." for path in files)]))


def require_files(*paths: Path | None) -> None:
    """Refuse one file for two results, and those that cannot be written, before hours are spent. Raises ConfigError."""
    given = [path for path in paths if path is not None]
    for path in given:
        if given.count(path) > 1:
            raise ConfigError(f"expected a file for each form of the result, got {path} twice: type another for one")
        if path != Path("-"):
            require_writable(path)


def as_json(content: Any) -> str:
    """A result for a file of `--json`."""
    return f"{dumps(content, indent=1, allow_nan=False, default=str)}\n"


@contextmanager
def watching(total: int, title: str, quiet: bool = False) -> Iterator[Callable[[EpochRecord | StepProgress], None]]:
    """A live board on a terminal, and a plain line per epoch anywhere, for a run's records.

    Parameters
    ----------
    total
        Epochs of the run.
    title
        Folder of the run.
    quiet
        No output: for all but one of several processes.

    Yields
    ------
    Callable
        To be called with every EpochRecord and StepProgress.
    """
    board = Board(total, title)

    def show(event: EpochRecord | StepProgress) -> None:
        board.update(event)
        if isinstance(event, EpochRecord) and not quiet:
            err.print(str(event), markup=False)

    if quiet or not err.file.isatty():
        with _lines(lambda: f"{title}: {board.line()}", quiet):
            yield show
        return
    with Live(board, console=err, transient=True):
        yield show


class Board:
    """The state of a run while it trains, as up to three lines: progress, loss, validation."""

    def __init__(self, total: int, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._title, self._clock, self._started = total, title, clock, clock()
        self._first: float | None = None  # epochs before this process, known from its first event
        self._done, self._epoch, self._step, self._speed = 0.0, 1, "", ""
        self._terms: Mapping[str, float] = {}
        self._validated: Mapping[str, Any] | None = None
        self._best: Mapping[str, Any] | None = None
        for record in Run(title).metrics():  # of a resumed run
            self._epoch = min(record["epoch"] + 1, total)
            self._validate(record)

    def update(self, event: EpochRecord | StepProgress) -> None:
        """Take a step's or an epoch's figures."""
        if self._first is None:
            self._first = event.epoch - 1
            self._first += event.earlier / event.steps if isinstance(event, StepProgress) else 0
        self._terms = event.terms
        if isinstance(event, StepProgress):
            self._done, self._epoch = event.epoch - 1 + event.step / event.steps, event.epoch
            self._step, self._speed = f"step {event.step}/{event.steps}", f"{event.images_per_second:.0f} images/s"
        else:
            self._done, self._epoch, self._step = event.epoch, min(event.epoch + 1, self._total), ""
            self._validate(vars(event))

    def line(self) -> str:
        """Epoch, step, pace, remaining time and loss."""
        head = [f"epoch {self._epoch}/{self._total}", self._step, self._left(), *self._loss()]
        return "  ".join(filter(None, head))

    def __rich__(self) -> Group:
        """The lines that are not empty."""
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._total, completed=self._done, width=20)
        texts = [Text(text) for text in (self._step, self._left()) if text]
        head.add_row(Text(self._title), Text(f"epoch {self._epoch}/{self._total}"), bar, *texts)
        lines = [Text("  ".join(line), overflow="ellipsis", no_wrap=True) for line in (self._loss(), self._val())]
        return Group(head, *(line for line in lines if line))

    def _validate(self, record: Mapping[str, Any]) -> None:
        if record.get("val_clean") is not None and record.get("val_robust") is not None:
            self._validated = record
            self._best = record if record.get("best") else self._best

    def _left(self) -> str:
        """The remaining time at the pace of this process, validation included."""
        done = self._done - (self._first or 0)
        if done <= 0:
            return ""
        return f"{duration((self._clock() - self._started) / done * (self._total - self._done))} left"

    def _loss(self) -> list[str]:
        if not self._terms:
            return []
        terms = [f"{name} {value:.4f}" for name, value in self._terms.items()]
        return [f"loss {sum(self._terms.values()):.4f}", *terms, *filter(None, [self._speed])]

    def _val(self) -> list[str]:
        if (last := self._validated) is None:
            return []
        parts = [f"val {_accuracies(last)} at epoch {last['epoch']}"]
        parts += [f"averaged {_accuracies(last, 'averaged')}"] if last.get("averaged_robust") is not None else []
        return parts + ([f"best {_accuracies(self._best)} at epoch {self._best['epoch']}"] if self._best else [])


def _accuracies(record: Mapping[str, Any], of: str = "val") -> str:
    return f"{100 * record[f'{of}_clean']:.1f} clean {100 * record[f'{of}_robust']:.1f} robust"


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[float, str], None]]:
    """A bar on a terminal, elsewhere a line a minute. Yields a function of the number of finished parts and a text."""
    count = MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    with _bar(title, total, *count) as bar:
        yield lambda done, text: bar(completed=done, text=text)


@contextmanager
def evaluation(quiet: bool = False) -> Iterator[Callable[[EvaluationProgress], None]]:
    """A bar over the whole suite on a terminal, with a line for each finished attack; elsewhere a line a minute."""
    with _bar("evaluation", 1, TaskProgressColumn(), quiet=quiet) as bar:
        last: EvaluationProgress | None = None

        def show(now: EvaluationProgress) -> None:
            nonlocal last
            if last is not None and last.attack != now.attack and not quiet and sys.stderr.isatty():
                err.print(f"{last.attack}: {100 * last.robust:.2f} % robust", markup=False)
            last = now
            rounds = f" {now.round}/{now.rounds}" if now.rounds > 1 else ""
            left = "" if now.seconds is None else f", at most {duration(now.seconds)} left"
            text = f"{now.done}/{now.todo} images, {100 * now.robust:.2f} % robust so far{left}"
            bar(description=now.attack + rounds, completed=now.share, text=text)

        yield show


@contextmanager
def _bar(title: str, total: int, *columns: ProgressColumn, quiet: bool = False) -> Iterator[Callable[..., None]]:
    row = TextColumn("{task.description}", markup=False), BarColumn(), *columns
    row += (TextColumn("{task.fields[text]}", markup=False),)
    started = time.monotonic()
    with Progress(*row, console=err, transient=True, disable=quiet or not sys.stderr.isatty()) as bars:
        task = bars.add_task(title, total=total, text="")

        def line() -> str:
            now, spent = bars.tasks[0], duration(time.monotonic() - started)
            parts = [f"{now.description}: {now.percentage:.0f} %", now.fields["text"], f"{spent} so far"]
            return ", ".join(filter(None, parts))

        with _lines(line, quiet):
            yield lambda **now: bars.update(task, **now)


@contextmanager
def _lines(line: Callable[[], str], quiet: bool) -> Iterator[None]:
    """A line of progress every `INTERVAL` where standard error is no terminal, however long a part takes."""
    if quiet or err.file.isatty():
        yield
        return
    ended = threading.Event()

    def display() -> None:
        while not ended.wait(INTERVAL):
            err.print(line(), markup=False)

    thread = threading.Thread(target=display, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
