"""A sweep: cells of one recipe with options that vary, compared on the validation images.

FOLDER/sweep.yaml             the recipe and the options that vary: a folder belongs to one sweep
FOLDER/cells/NAME/sSEED       a run for each combination, named by its values; beside it as for a table: cells.py
FOLDER/sweep.csv, .md, .html  the figures
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ardor.errors import ConfigError, RunError
from ardor.experiments.axes import SEED, nested, require_axes, short_names
from ardor.experiments.cell import Cell, EvaluationSpec, Setting, Sweep
from ardor.experiments.cells import portable, state_of
from ardor.experiments.coordinator import Engine, Problem, work
from ardor.experiments.sweep_sheet import best_of, figures_of, write_sweep
from ardor.experiments.worker import ProgressCallback
from ardor.models.loading import net_for
from ardor.storage.config import build, differences, few, merged, read_yaml, to_yaml
from ardor.storage.files import shortened, write_text
from ardor.training.job import recipe_of
from ardor.training.recipe import find_device

NEW = "name a new folder (ardor sweep --out NEW)"
"""The advice where a folder has other content: the option of the command is `folder` in Python."""


def grid(config: Mapping[str, Any], over: Mapping[str, Sequence[Any]], folder: str | Path, **options: Any) -> Sweep:
    """The sweep of every combination of values.

    Parameters
    ----------
    config : of a run, as `Job.from_config` takes it.
    over : dotted option -> its values: {"method.alpha": ["0", "1/2"], "recipe.seed": [0, 1, 2]}.
    folder : of everything.
    options : other fields of `Setting`.

    Raises
    ------
    ConfigError
        For an option that does not exist or a value that it refuses, in any cell; and as `require_axes`.
    DataError, ModelError
        As the functions that make the objects.
    """
    axes = require_axes(over)
    parts = {key: {"name": part} if isinstance(part, str) else part or {} for key, part in config.items()}
    names = short_names([key for key in axes if key != SEED])
    seeds = axes.get(SEED) or (str(recipe_of(parts).seed),)
    cells = []
    for seed, *row in product(seeds, *(axes[key] for key in names)):  # the seed first: a whole table is finished early
        values = dict(zip(names, row, strict=True))
        name = ",".join(f"{names[key]}={_plain(value)}" for key, value in values.items()) or "sweep"
        changed = merged(parts, nested(values | ({SEED: int(seed)} if SEED in axes else {})))
        cells.append(Cell(f"{shortened(name, 200)}/s{seed}", tuple(row), int(seed), changed))
    if twice := [cell.name for i, cell in enumerate(cells) if cell.name in {c.name for c in cells[:i]}]:
        raise ConfigError(f"expected values with names that differ as folders, got two for {twice[0]}: rename one")
    return sweep_of(parts, cells, tuple(names.values()), {"over": sorted(axes)}, folder, options)


def sweep_of(
    parts: Mapping[str, Any], cells: Sequence[Cell], head: tuple[str, ...], content: Mapping[str, Any],
    folder: str | Path, options: Mapping[str, Any],
) -> Sweep:  # fmt: skip
    """The sweep of these cells, each of whose configs was built once: an error of the last would come after hours."""
    source = {key: value for key, value in parts.get("data", {}).items() if key != "limit"}
    if not source.get("name"):
        raise ConfigError("expected --data with a name, got none: type for example ardor sweep sat --data digits")
    splits = build(source, "data")
    if not len(splits[1]) or splits[1].hash == splits[2].hash:
        got = "the test images" if len(splits[1]) else "none"
        raise ConfigError(
            f"expected validation images to choose by, got {got}: type --data.protocol holdout --data.val 0.1"
        )
    students = set()
    for cell in cells:
        recipe = recipe_of(cell.config)  # with its method
        find_device(recipe.device)
        if cell.config.get("averaging"):
            build(cell.config["averaging"], "averaging")
        student = {"seed": recipe.seed} | cell.config.get("student", {})
        if (text := to_yaml(student | {"seed": 0})) not in students:
            net_for("student", student, splits[0], fresh=True)
            students.add(text)
    images = " ".join(split.hash for split in splits)
    setting = Setting(folder=Path(folder).resolve(), images=images, **options)
    content = {"config": portable(parts, setting.folder), **content}
    return Sweep(setting, tuple(cells), head, len(splits[1]), content)


def _plain(value: str) -> str:
    return re.sub(r"[^\w.+-]", "_", value)


def enter(sweep: Sweep) -> None:
    """Write the sweep.yaml of a new sweep. Raises RunError where the folder is of another one."""
    folder = sweep.spec.folder
    path = folder / "sweep.yaml"
    if path.is_file():
        if changes := differences(sweep.content, read_yaml(path)):
            raise RunError(f"expected the sweep that {folder} is of, got another ({few(changes)}): {NEW}")
    elif folder.is_dir() and any(entry.suffix not in (".lock", ".tmp") for entry in folder.iterdir()):
        raise RunError(f"expected an empty folder or a sweep, got {folder} with other files: {NEW}")
    else:
        write_text(path, to_yaml(sweep.content))


def run_sweep(
    sweep: Sweep,
    command: str,
    progress: ProgressCallback,
    finished: Callable[[Cell], Any] = lambda cell: None,
    engine: Engine | None = None,
    suite: str | None = None,
    every: bool = False,
) -> tuple[list[Path], list[Problem]]:
    """Train every cell that is missing, and write the table after each.

    Parameters
    ----------
    command : that makes the sweep.
    progress, finished, engine : as `work` takes them.
    suite : evaluate the best row's nets by it on the test images; the row is chosen on the validation images.
    every : evaluate all nets, not the best row's alone.

    Returns
    -------
    tuple of list of Path and list of Problem
        The files of the table, and the cells that could not be made.

    Raises
    ------
    RunError
        As `enter`, and where another process coordinates the folder.
    ArdorError
        As `work`.
    """
    enter(sweep)
    if every:
        sweep = with_suite(sweep, suite, every)

    def written(cell: Cell) -> None:
        write_sweep(sweep, command)
        finished(cell)

    problems = work(sweep, progress, written, engine)
    if suite and not every:
        problems += evaluate_best(sweep, suite, progress, written, engine)
    return write_sweep(sweep, command, problems), problems


def with_suite(sweep: Sweep, suite: str | None, every: bool) -> Sweep:
    """The sweep with the evaluations that `run_sweep` makes of its cells: of any row while the best is not known."""
    asked, rows = ((EvaluationSpec(suite),) if suite else ()), {cell.row for cell in sweep.cells}
    if not every and all(state_of(sweep.spec, cell)[0] != "open" for cell in sweep.cells):
        best = best_of(figures_of(sweep))
        rows = set() if best is None else {best.parts}
    cells = (replace(cell, evaluations=asked if cell.row in rows else ()) for cell in sweep.cells)
    return replace(sweep, cells=tuple(cells))


def evaluate_best(
    sweep: Sweep, suite: str, progress: ProgressCallback, finished: Callable[[Cell], Any], engine: Engine | None
) -> list[Problem]:
    """Evaluate the nets of the best row on the test images."""
    best = best_of(figures_of(sweep))
    chosen = [cell for cell in sweep.cells if best is not None and cell.row == best.parts]
    cells = tuple(replace(cell, evaluations=(EvaluationSpec(suite),)) for cell in chosen)
    return work(replace(sweep, cells=cells), progress, finished, engine)
