"""Run the cells of a folder on an engine, each after those that it needs.

A cell is a function that may be called again (`worker.make`) and its state is on disk, so an engine is no more than a
way to call it: in this process here, in many by Ray in ray_engine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ardor.errors import ConfigError, ModelError, RunError
from ardor.experiments.cell import Cell, Cells
from ardor.experiments.cells import State, state_of
from ardor.experiments.worker import ProgressCallback, make, require_named
from ardor.storage.imports import nearest
from ardor.storage.locks import holder, locked


@dataclass(frozen=True)
class Problem:
    """A cell that could not be made, since it is foreign, failed or needs such a one; and the reason."""

    cell: Cell
    reason: str


class Engine(Protocol):
    """Where cells are made."""

    @property
    def slots(self) -> int:
        """How many cells are made at once."""
        ...

    def start(self, table: Cells, cell: Cell, progress: ProgressCallback) -> None:
        """Begin with a cell."""
        ...

    def wait(self) -> tuple[Cell, State, str]:
        """The next finished cell of those that were started, as `make` returns it; events are passed on meanwhile."""
        ...


class InProcess:
    """The engine of one cell at a time, in this process."""

    slots = 1

    def start(self, table: Cells, cell: Cell, progress: ProgressCallback) -> None:
        """Keep the cell for `wait`."""
        self._started = table, cell, progress

    def wait(self) -> tuple[Cell, State, str]:
        """Make it."""
        return self._started[1], *make(*self._started)


@contextmanager
def coordinating(folder: Path) -> Iterator[None]:
    """Hold a folder as its only coordinator. Raises RunError, with the other process, where there is one."""
    lock = folder / ".cells.lock"
    with locked(lock, wait=False, required=False) as acquired:
        if not acquired:
            raise RunError(
                f"expected to make the cells of {folder} alone, got {holder(lock)}, which makes them: let it finish or "
                "stop it; several at once are of --on ray, or of --only"
            )
        yield


def work(
    table: Cells,
    progress: ProgressCallback,
    finished: Callable[[Cell], Any] = lambda cell: None,
    engine: Engine | None = None,
) -> list[Problem]:
    """Make every missing cell.

    Parameters
    ----------
    progress : called with the events of a cell.
    finished : called with each cell that was made.
    engine : default one cell at a time, in this process.

    Returns
    -------
    list of Problem
        The cells that could not be made, which are left as they are; the others do not need them.

    Raises
    ------
    RunError
        Where another process coordinates the folder.
    ArdorError
        For a named teacher or transfer source that is missing, does not fit or does not match its record.
    """
    with coordinating(table.spec.folder):
        require_named(table, progress)
        return _make_all(table, progress, finished, engine or InProcess())


def _make_all(
    table: Cells, progress: ProgressCallback, finished: Callable[[Cell], Any], engine: Engine
) -> list[Problem]:
    waiting, running = list(table.cells), set[str]()
    done, problems = set[str](), dict[str, Problem]()

    def settle(cell: Cell, state: State, reason: str) -> None:
        if state == "done":
            done.add(cell.name)
        else:
            problems[cell.name] = Problem(cell, reason)

    while waiting or running:
        for cell in [cell for cell in waiting if set(cell.needs) <= done | problems.keys()]:
            if len(running) >= engine.slots:
                break
            waiting.remove(cell)
            state, reason = state_of(table.spec, cell)
            barred = next((need for need in cell.needs if need in problems), None)
            if state not in ("open", "trained"):
                settle(cell, state, reason)
            elif barred:
                settle(cell, "failed", f"it needs {barred}")
            else:
                engine.start(table, cell, progress)
                running.add(cell.name)
        if running:
            cell, state, reason = engine.wait()
            running.remove(cell.name)
            settle(cell, state, reason)
            if state == "done":
                finished(cell)
    return list(problems.values())


def make_only(table: Cells, names: Sequence[str], progress: ProgressCallback) -> None:
    """Make the named cells, beside other processes that make others.

    Raises
    ------
    ConfigError
        For a name that no cell has.
    RunError
        Where another process makes the cell, or one that it needs is not finished.
    ModelError
        For a cell that cannot be made.
    """
    cells = {cell.name: cell for cell in table.cells}
    for name in names:
        if name not in cells:
            raise ConfigError(
                f'expected --only with a cell, got "{name}"{nearest(name, cells)}: it is one of {", ".join(cells)}'
            )
    for name in names:
        cell = cells[name]
        if missing := [need for need in cell.needs if state_of(table.spec, cells[need])[0] != "done"]:
            raise RunError(
                f"expected {', '.join(missing)} to be finished, which {name} needs, got "
                f"{state_of(table.spec, cells[missing[0]])[0]}: type --only {missing[0]} first"
            )
        state, reason = make(table, cell, progress, wait=False)
        if state == "open":
            raise RunError(f"expected to make {name} alone, got {reason}, which makes it: let it finish or stop it")
        if state != "done":
            raise ModelError(f"expected to make {name}, got it {state} ({reason}): see {table.spec.run(name)}")
