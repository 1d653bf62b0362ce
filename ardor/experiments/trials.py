"""Trials: cells whose options Optuna suggests from the validation accuracies of those before.

The study is in the coordinator alone and is rebuilt from the cells on disk: Optuna stores nothing. Each trial has a
sampler of its own, seeded by its number, so that a repetition suggests the same whatever was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ardor.errors import ConfigError
from ardor.experiments.axes import Suggestion, nested, short_names
from ardor.experiments.cell import Cell
from ardor.experiments.cells import State, note_of, read_note, state_of
from ardor.experiments.coordinator import Engine, InProcess, Problem, coordinating
from ardor.experiments.sweep import enter, sweep_of
from ardor.experiments.sweep_sheet import figures_of, write_sweep
from ardor.experiments.worker import ProgressCallback, require_named
from ardor.storage.config import as_text, merged
from ardor.storage.imports import require_package
from ardor.training.job import recipe_of


class Trials:
    """A study of options that Optuna suggests.

    Parameters
    ----------
    config, folder, options : as `grid` takes them.
    suggestions : distributions of the options.
    seed : of the sampler.

    Raises
    ------
    ConfigError
        Without the package, and for an option that does not exist or a distribution whose ends it refuses.
    """

    def __init__(
        self, config: Mapping[str, Any], suggestions: Sequence[Suggestion], folder: str | Path, seed: int = 0,
        **options: Any,
    ) -> None:  # fmt: skip
        self.optuna = require_package("optuna", "optuna", "--trials")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        if not suggestions:
            raise ConfigError("expected --suggest with --trials, got none: type --suggest recipe.lr=log:0.01..0.3")
        self.suggestions, self.seed = suggestions, seed
        self._parts = {key: {"name": part} if isinstance(part, str) else part or {} for key, part in config.items()}
        self._names = short_names([suggestion.key for suggestion in suggestions])
        self._distributions = {suggestion.key: self._distribution(suggestion) for suggestion in suggestions}
        self._study = self.optuna.create_study(direction="maximize")
        self._asked: dict[str, Any] = {}
        content = {"suggest": {s.key: [s.kind, *s.values] for s in suggestions}, "seed": seed}
        ends = [self._cell(i, ends) for i, ends in enumerate(self._ends())]
        checked = sweep_of(self._parts, ends, ("trial", *self._names.values()), content, folder, options)
        self.sweep = replace(checked, cells=())

    def _distribution(self, suggestion: Suggestion) -> Any:
        of, values = self.optuna.distributions, suggestion.values
        if suggestion.kind == "choice":
            return of.CategoricalDistribution(values)
        if suggestion.kind == "int":
            return of.IntDistribution(*values)
        return of.FloatDistribution(*values, log=suggestion.kind == "log")

    def _ends(self) -> list[dict[str, Any]]:
        """The first and the last value of each option and one between, and all choices: a refusal comes at once."""
        first = {suggestion.key: suggestion.values[0] for suggestion in self.suggestions}
        between = {s.key: (2 * s.values[0] + s.values[1]) / 3 for s in self.suggestions if s.kind in ("float", "log")}
        values = [(s.key, value) for s in self.suggestions for value in s.values]
        return [first | {key: value} for key, value in (*values, *between.items())]

    def _cell(self, number: int, values: Mapping[str, Any]) -> Cell:
        config = merged(self._parts, nested(values))
        texts = [as_text(value) if isinstance(value, float) else str(value) for value in values.values()]
        seed = recipe_of(config).seed
        return Cell(f"trial-{number:03}/s{seed}", (f"{number}", *texts), seed, config)

    def next(self, number: int) -> Cell:
        """The cell of a trial: as it is on disk, else newly suggested."""
        if (values := self._values_on_disk(number)) is not None:
            self._study.enqueue_trial(values)
        self._study.sampler = self.optuna.samplers.TPESampler(seed=self.seed + number, constant_liar=True)
        trial = self._study.ask(self._distributions)
        cell = self._cell(number, {suggestion.key: trial.params[suggestion.key] for suggestion in self.suggestions})
        self._asked[cell.name] = trial
        self.sweep = replace(self.sweep, cells=(*self.sweep.cells, cell))
        return cell

    def _values_on_disk(self, number: int) -> dict[str, Any] | None:
        """The values of a trial that was begun before."""
        path = note_of(self.sweep.spec, self._cell(number, self._ends()[0]))
        if not path.is_file():
            return None
        config, values = read_note(path)["made"]["config"], {}
        for key in self._distributions:
            part, _, rest = key.partition(".")
            value: Any = config[part]
            for word in (rest or "name").split("."):
                value = value[word]
            values[key] = value
        return values

    def tell(self, cell: Cell, done: bool) -> None:
        """Give the study the validation accuracy of a finished cell, or its failure."""
        (row,) = figures_of(replace(self.sweep, cells=(cell,)))
        trial = self._asked.pop(cell.name)
        if done and not math.isnan(row.score):
            self._study.tell(trial, row.score)
        else:
            self._study.tell(trial, state=self.optuna.trial.TrialState.FAIL)


def run_trials(
    trials: Trials,
    number: int,
    command: str,
    progress: ProgressCallback,
    finished: Callable[[Cell], Any] = lambda cell: None,
    engine: Engine | None = None,
) -> list[Problem]:
    """Make this many trials in all, those on disk among them; the parameters are those of `run_sweep`.

    Returns
    -------
    list of Problem
        The cells that could not be made.
    """
    enter(trials.sweep)
    engine, running, problems = engine or InProcess(), set[str](), list[Problem]()

    def settle(cell: Cell, state: State, reason: str) -> None:
        trials.tell(cell, state == "done")
        if state != "done":
            problems.append(Problem(cell, reason))

    with coordinating(trials.sweep.spec.folder):
        asked, first = 0, True
        while asked < number or running:
            while asked < number and len(running) < engine.slots:
                cell = trials.next(asked)
                asked += 1
                state, reason = state_of(trials.sweep.spec, cell)
                if state != "open":
                    settle(cell, state, reason)
                    continue
                if first:  # one for all: its teacher is examined before hours go into trials
                    require_named(replace(trials.sweep, cells=(cell,)), progress)
                    first = False
                engine.start(trials.sweep, cell, progress)
                running.add(cell.name)
            if running:
                cell, state, reason = engine.wait()
                running.remove(cell.name)
                settle(cell, state, reason)
                if state == "done":
                    write_sweep(trials.sweep, command)
                    finished(cell)
    return problems
