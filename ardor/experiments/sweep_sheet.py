"""The figures of a sweep as CSV, Markdown and a page: validation accuracies, which choose, and those on test images."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ardor.attacks.suites import SUITES
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import Report
from ardor.experiments.cell import Cell, EvaluationSpec, Sweep
from ardor.experiments.cells import pending, report_path, state_of
from ardor.experiments.coordinator import Problem
from ardor.experiments.rows import Value
from ardor.experiments.sheet import train_command
from ardor.reporting.downloads import uri
from ardor.reporting.template import render
from ardor.storage.config import plain
from ardor.storage.files import write_text
from ardor.storage.markdown import code, inline
from ardor.storage.runs import Run, Validation
from ardor.training.job import recipe_of
from ardor.version import __version__

CLEAN, ROBUST = "validation clean", "validation robust"
CSV_HEAD = ("figure", "n", "seeds", "mean", "sd", "low95", "high95", "best", "values")


@dataclass(frozen=True)
class SweepRow:
    """The figures of the cells that differ by seed alone.

    Parameters
    ----------
    parts : values of the options that vary.
    seeds : those that are trained, of `of`.
    attacks : of validation, as texts.
    values : by the figure's name; each has a proportion for each seed that has it.
    """

    parts: tuple[str, ...]
    seeds: tuple[int, ...]
    of: int
    attacks: frozenset[str]
    values: Mapping[str, Value]

    @property
    def score(self) -> float:
        """What chooses: the mean robust validation accuracy, or the clean one where there is no attack."""
        value = self.values.get(ROBUST) or self.values.get(CLEAN)
        return value.value if value else math.nan


def validation_of(sweep: Sweep, cell: Cell) -> tuple[Validation, int] | None:
    """The metrics of a trained cell's best epoch, and the number of validation images; None before it is trained."""
    if state_of(sweep.spec, cell)[0] not in ("trained", "done"):
        return None
    record = Run(sweep.spec.run(cell.name)).record()
    size = recipe_of(cell.config).val_size or sweep.validation
    return None if record is None else (record, min(size, sweep.validation))


def figures_of(sweep: Sweep) -> list[SweepRow]:
    """Every row with its figures so far."""
    cells = sorted(sweep.cells, key=lambda cell: [c.row for c in sweep.cells].index(cell.row))
    return [_row(sweep, parts, list(group)) for parts, group in groupby(cells, key=lambda cell: cell.row)]


def _row(sweep: Sweep, parts: tuple[str, ...], cells: Sequence[Cell]) -> SweepRow:
    trained = [(cell, record) for cell in cells if (record := validation_of(sweep, cell)) is not None]
    shares: dict[str, list[Proportion]] = {}
    for cell, (validation, n) in trained:
        for name, share in ((CLEAN, validation.clean), (ROBUST, validation.robust)):
            if share is not None:
                shares.setdefault(name, []).append(Proportion(round(share * n), n))
        for suite, report in reports_of(sweep, cell):
            figures = report.figures()
            shares.setdefault("test clean", []).append(figures["clean"])
            shares.setdefault(f"test {suite}", []).append(figures["worst_case"])
    seeds = tuple(cell.seed for cell, _ in trained)
    attacks = frozenset(f"{plain(record.attack)} on {n} images" for _, (record, n) in trained)
    return SweepRow(parts, seeds, len(cells), attacks, {name: Value(tuple(each)) for name, each in shares.items()})


def reports_of(sweep: Sweep, cell: Cell) -> Iterator[tuple[str, Report]]:
    """The suites by which a cell's net was evaluated on all test images, each with its report."""
    for suite in SUITES:
        path = report_path(sweep.spec, cell, evaluation := EvaluationSpec(suite))
        one = Cell(cell.name, cell.row, cell.seed, cell.config, cell.needs, (evaluation,))
        if path.is_file() and not pending(sweep.spec, one):
            yield suite, Report.load(path)


def best_of(rows: Sequence[SweepRow]) -> SweepRow | None:
    """The row with the highest score of those with every seed; None where they were validated in unlike ways."""
    whole = [row for row in rows if len(row.seeds) == row.of and not math.isnan(row.score)]
    alike = (
        len(frozenset().union(*(row.attacks for row in whole))) == 1 and len({ROBUST in r.values for r in whole}) == 1
    )
    return max(whole, key=lambda row: row.score) if alike else None


def write_sweep(sweep: Sweep, command: str, problems: Sequence[Problem] = ()) -> list[Path]:
    """Write sweep.csv, sweep.md and sweep.html from what is finished so far. Raises RunError where that fails."""
    rows, folder = figures_of(sweep), sweep.spec.folder
    texts = {"csv": as_csv(sweep, rows), "md": as_markdown(sweep, rows, command, problems)}
    texts["html"] = as_html(sweep, rows, command, problems)
    return [write_text(folder / f"sweep.{ending}", text) for ending, text in texts.items()]


def as_csv(sweep: Sweep, rows: Sequence[SweepRow]) -> str:
    """A line for each figure of each row; shares of 1; `values` has one for each seed."""
    out, best = io.StringIO(), best_of(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*sweep.head, *CSV_HEAD])
    for row in rows:
        for name, value in row.values.items():
            numbers = [_share(x) for x in (value.value, value.sd, *value.interval)]
            each = " ".join(_share(p.value) for p in value.seeds)
            mark = "yes" if row is best else ""
            writer.writerow([*row.parts, name, value.seeds[0].n, len(value.seeds), *numbers, mark, each])
    return out.getvalue()


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5f}"


def as_markdown(sweep: Sweep, rows: Sequence[SweepRow], command: str, problems: Sequence[Problem] = ()) -> str:
    """The table, the best row first named, and what the figures do not show."""
    best = best_of(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    n = {name: next(row.values[name].seeds[0].n for row in rows if name in row.values) for name in names}
    head = [*sweep.head, "seeds", *(f"{name} (n = {n[name]:,})" for name in names)]
    lines = ["# Sweep", "", f"Made by {code(command)}; ardor {__version__}, torch {torch.__version__}.", ""]
    lines += ["Accuracy in %, ± SD over seeds, 95 % interval; validation at each net's best epoch.", ""]
    lines += [f"| {' | '.join(map(_cell, head))} |", "|" + ":--|" * len(sweep.head) + "--:|" * (len(names) + 1)]
    for row in rows:
        mark = " **best**" if row is best else ""
        texts = [*(_cell(_short(part)) for part in row.parts), f"{len(row.seeds)} of {row.of}{mark}"]
        lines += [f"| {' | '.join([*texts, *(_figure(row.values.get(name)) for name in names)])} |"]
    lines += ["", *(f"- {inline(note)}" for note in notes(sweep, rows)), ""]
    if problems:
        lines += ["## Cells that could not be made", ""]
        lines += [*(f"- {inline(f'{problem.cell.name}: {problem.reason}')}" for problem in problems), ""]
    return "\n".join(lines)


def as_html(sweep: Sweep, rows: Sequence[SweepRow], command: str, problems: Sequence[Problem] = ()) -> str:
    """The same as one self-contained page, with the commands of the cells."""
    best, names = best_of(rows), list(dict.fromkeys(name for row in rows for name in row.values))
    n = {name: next(row.values[name].seeds[0].n for row in rows if name in row.values) for name in names}
    head = [*((key, "") for key in (*sweep.head, "seeds")), *((name, f"n = {n[name]:,}") for name in names)]
    body = [
        [*((_short(part), "") for part in row.parts), (f"{len(row.seeds)} of {row.of}", "best" if row is best else "")]
        + [_field(row.values.get(name)) for name in names]
        for row in rows
    ]
    remarks = [("How this could be wrong", list(notes(sweep, rows)))]
    if problems:
        remarks.append(("Cells that could not be made", [f"{p.cell.name}: {p.reason}" for p in problems]))
    return render(
        "ardor.experiments",
        "sheet.html",
        title="Sweep",
        command=command,
        facts=[
            f"ardor {__version__}, torch {torch.__version__}",
            "Accuracy in %, ± SD over seeds, 95 % interval; validation at each net's best epoch",
        ],
        parts=len(sweep.head),
        blocks=[("Figures of each row", head, body)],
        figures=(),
        charts=(),
        remarks=remarks,
        commands={cell.name: train_command(cell, sweep.spec.gate) for cell in sweep.cells},
        file="sweep.csv",
        csv=uri("text/csv", as_csv(sweep, rows)),
    )


def _field(value: Value | None) -> tuple[str, str]:
    if value is None:
        return "–", ""
    low, high = value.interval
    return str(value), f"{100 * low:.1f} – {100 * high:.1f}"


def _cell(text: Any) -> str:
    return inline(str(text).replace("|", "/"))


def _short(part: str) -> str:
    """A value with at most four digits where Optuna gave it more."""
    return f"{float(part):.4g}" if re.fullmatch(r"-?\d*\.\d{6,}(e-?\d+)?", part) else part


def _figure(value: Value | None) -> str:
    if value is None:
        return "–"
    low, high = value.interval
    return f"{value} ({100 * low:.1f} – {100 * high:.1f})"


def notes(sweep: Sweep, rows: Sequence[SweepRow]) -> Iterator[str]:
    """The best row, and the limits of the evidence."""
    best, attacks = best_of(rows), sorted(frozenset().union(*(row.attacks for row in rows)))
    if best is not None:
        values = (
            ", ".join(f"{key} {value}" for key, value in zip(sweep.head, best.parts, strict=True)) or "the only row"
        )
        chosen = sum(len(row.seeds) == row.of for row in rows)
        yield (
            f"Best on the validation images, of {chosen} rows: {values}. Epoch and row were chosen on these images, so "
            "that its validation figures are too high; those on the test images are not."
        )
        low = (best.values.get(ROBUST) or best.values[CLEAN]).interval[0]
        if near := sum(row.score >= low for row in rows) - 1:
            yield f"Rows whose figure is inside the interval of the best, and which may be as good: {near}."
    if len(attacks) == 1:
        yield f"Robust on the validation images is under {attacks[0]}: no strong attack."
    elif attacks:
        yield f"The rows were validated in unlike ways, and none is called the best: {'; '.join(attacks)}."
    if len({len(row.seeds) for row in rows}) > 1:
        yield "Rows without all of their seeds are not compared."
    if all(row.of == 1 for row in rows):
        yield "One seed for each row: the intervals are of the images alone; training again may change the order."
    tested = {name for row in rows for name in row.values if name.startswith("test ")}
    if tested and any(tested - row.values.keys() for row in rows):
        yield "Only some rows were evaluated on the test images; these took no part in the choice."
