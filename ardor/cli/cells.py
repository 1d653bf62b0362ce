"""The options of commands that make cells, and their progress."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from ardor import experiments
from ardor.cli import display
from ardor.errors import ModelError
from ardor.evaluation.progress import Progress as AttackProgress
from ardor.evaluation.progress import duration
from ardor.experiments.cell import Cell, Cells, Setting
from ardor.experiments.cells import note_of, state_of
from ardor.experiments.coordinator import Engine, Problem
from ardor.experiments.worker import ProgressCallback
from ardor.training.epoch import EpochRecord


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CellWords:
    """Where cells are made, and which.

    Parameters
    ----------
    on
        ray: several cells at once, on this machine or on the cluster that runs; default one by one, in this process.
    gpus_per_cell
        GPUs of a cell on Ray, 0.5 for two cells on each; default 1 where there are any.
    cpus_per_cell
        CPUs of a cell on Ray.
    only
        Make these cells alone, beside processes that make others, as in a job array; --plan lists them.
    """

    on: Literal["ray"] | None = None
    gpus_per_cell: float | None = None
    cpus_per_cell: float = 1.0
    only: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None

    @contextmanager
    def engine(self) -> Iterator[Engine | None]:
        """The engine that is named. Raises ConfigError."""
        if self.on is None:
            yield None
            return
        from ardor.experiments.ray_engine import on_ray

        with on_ray(self.gpus_per_cell, self.cpus_per_cell) as engine:
            yield engine


DEFAULT = CellWords()


@contextmanager
def watching(
    title: str, total: int, done: Callable[[], int]
) -> Iterator[tuple[ProgressCallback, Callable[[Cell], None]]]:
    """Progress over cells: a function of each event, and one of each finished cell."""
    number = done()  # by the files of all cells: too slow for every event
    with display.progress(title, total) as move:

        def progress(cell: Cell, event: EpochRecord | AttackProgress | str) -> None:
            if isinstance(event, str):
                display.say(f"{cell.name}: {event}")
                return
            text = str(event) if isinstance(event, EpochRecord) else f"{event.attack} {event.done}/{event.todo}"
            move(number, f"{cell.name}: {text}")

        def finished(cell: Cell) -> None:
            nonlocal number
            number = done()
            move(number, "")
            display.say(f"{number}/{total}  {cell.name} finished")

        yield progress, finished


def show_plan(table: Cells, words: CellWords, best: bool = False) -> int:
    """Display the cost of the cells that are missing; with `best` the nets of one row alone are attacked."""
    with display.progress("plan", len(table.cells)) as move:
        count = itertools.count(1)
        costs = experiments.plan(table, lambda name: move(next(count), name))
    for cost in costs:
        train = duration(cost.train)
        display.say(f"{cost.cell.name:44} train {train:>8}  attacks at most {duration(cost.evaluate):>8}")
    rows: dict[tuple[str, ...], float] = {}
    for cost in costs:
        rows[cost.cell.row] = rows.get(cost.cell.row, 0.0) + cost.evaluate
    train = duration(sum(cost.train for cost in costs))
    attacks = duration(max(rows.values(), default=0.0) if best else sum(rows.values()))
    several = "" if words.on is None else f" (--on {words.on} makes several at once)"
    display.say(
        f"{len(costs)} of {len(table.cells)} nets to make, by one process on this machine{several}: train {train}, "
        f"attacks at most {attacks}{', of the nets of the best row' if best else ''}. The same command without --plan "
        "starts it."
    )
    return 0


def make_only(table: Cells, names: list[str], command: str) -> int:
    """Make the named cells. Raises ArdorError."""
    with watching("cells", len(names), lambda: 0) as (progress, _):
        experiments.make_only(table, names, progress)
    display.say(f"{', '.join(names)} finished. When all are: {command}")
    return 0


def require_made(problems: list[Problem], spec: Setting) -> None:
    """Raise ModelError for cells that could not be made."""
    if not problems:
        return
    first = problems[0]
    advice = "see the table"
    if state_of(spec, first.cell)[0] in ("foreign", "failed"):
        note = note_of(spec, first.cell)
        advice = f"type --out with a new folder, or move {note} and the run beside it away"
    raise ModelError(
        f"expected every net, got {len(problems)} that could not be made, first {first.cell.name} "
        f"({first.reason}): {advice}"
    )
