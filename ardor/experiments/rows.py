"""The figures of a table: for each row and checkpoint those over the seeds, with the paper's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypedDict

from ardor.evaluation.comparison.significance import t_quantile
from ardor.evaluation.proportion import Z95, Summary, mean_sd, wilson
from ardor.evaluation.report import Report
from ardor.evaluation.variance import GapPoint, pearson, read_gaps
from ardor.experiments.cell import Cell, EvaluationSpec
from ardor.experiments.cells import report_of, report_path, state_of
from ardor.experiments.distillation import KIND
from ardor.experiments.field import FIELD
from ardor.experiments.published import N, published_rows
from ardor.experiments.tables import EPS, Table, TableSpec
from ardor.storage.config import number
from ardor.storage.reading import checked, read_json

SINGLE = ("autoattack", "apgd", "square")
"""Suites that are one column, under their own name: the worst case over their attacks."""


WORST = "worst_class"
"""The lowest of the classes' accuracies under the suite `paper`."""

WITH_WORST_CLASS = (*FIELD, KIND)
"""The tables that have it, and as `paper` the images right under every attack of that suite."""


class _Passes(TypedDict):
    """passes.json."""

    F: float
    T: float


@dataclass(frozen=True)
class Value(Summary):
    """One figure of one row: an accuracy over the seeds, beside the paper's.

    Parameters
    ----------
    seeds : a proportion for each.
    paper : the published share, where there is one.
    """

    paper: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """95 %. One seed: Wilson's, of the choice of images alone. Several: of the images and of the seeds together."""
        if len(self.seeds) == 1:
            return self.seeds[0].interval
        spread = t_quantile(0.975, len(self.seeds) - 1) * self.sd / math.sqrt(len(self.seeds))
        n = self.seeds[0].n
        low, high = wilson(round(self.value * n), n)
        half = math.hypot(spread, (high - low) / 2)
        return max(0.0, self.value - half), min(1.0, self.value + half)

    @property
    def difference(self) -> tuple[float, float, float] | None:
        """Ours minus the paper's, with its 95 % interval; the paper's share has the error of its 10,000 images."""
        if self.paper is None:
            return None
        low, high = self.interval
        error = Z95 * math.sqrt(self.paper * (1 - self.paper) / N)
        difference = self.value - self.paper
        below, above = math.hypot(self.value - low, error), math.hypot(high - self.value, error)
        return difference, difference - below, difference + above


@dataclass
class Row:
    """One row of a table at one checkpoint.

    Parameters
    ----------
    parts : what identifies it, as the table's head names them.
    seeds : those that are finished, of `of`.
    n, values : number of test images and figure, by the figure's name.
    passes : of a training step, by F (of the student) and T (of the teacher).
    reports : by suite, one for each seed.
    gaps : the variance gap over radii, for each seed.
    marks : what the reports' data are marked by.
    """

    parts: tuple[str, ...]
    checkpoint: str
    seeds: tuple[int, ...]
    of: int
    n: dict[str, int] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    reports: dict[str, list[Report]] = field(default_factory=dict)
    gaps: list[list[GapPoint]] = field(default_factory=list)
    passes: dict[str, float] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)


def rows_of(table: Table) -> list[Row]:
    """Every row with its figures so far; a row without a finished seed has none."""
    spec = table.spec
    comparable = number(spec.eps) == number(EPS.get(spec.data, "0"))
    published = published_rows(spec.kind, spec.data) if comparable else {}
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in table.shown:
        groups.setdefault(cell.row, []).append(cell)
    return [
        _row(spec, parts, checkpoint, cells, published.get((*parts, checkpoint), {}))
        for parts, cells in groups.items()
        for checkpoint in dict.fromkeys(evaluation.checkpoint for evaluation in cells[0].evaluations)
    ]


def _row(spec: TableSpec, parts: tuple[str, ...], checkpoint: str, cells: list[Cell], paper: dict[str, float]) -> Row:
    evaluations = [evaluation for evaluation in cells[0].evaluations if evaluation.checkpoint == checkpoint]
    trained = [cell for cell in cells if state_of(spec, cell)[0] in ("trained", "done")]
    ready = [cell for cell in trained if all(report_path(spec, cell, e).is_file() for e in evaluations)]
    row = Row(parts, checkpoint, tuple(cell.seed for cell in ready), len(cells))
    row.passes = _passes(spec, ready[0]) if ready else {}
    for evaluation in evaluations if ready else ():
        suite = evaluation.suite
        if suite == "passes":
            continue
        if suite == "gap":
            row.gaps = [read_gaps(report_path(spec, cell, evaluation))[0] for cell in ready]
            continue
        reports = [report for cell in ready if (report := report_of(spec, cell, evaluation)) is not None]
        row.reports[suite] = reports
        row.marks |= {mark for report in reports for mark in report.data["marks"]}
        figures = [report.figures() for report in reports]
        for name in (suite,) if suite in SINGLE else [name for name in figures[0] if name != "worst_case"]:
            seeds = tuple(f["worst_case" if suite in SINGLE else name] for f in figures)
            row.values[name] = Value(seeds, paper[name] / 100 if name in paper else None)
            row.n[name] = reports[0].n
        if spec.kind in WITH_WORST_CLASS and suite == "paper":
            row.values["paper"], row.n["paper"] = Value(tuple(f["worst_case"] for f in figures)), reports[0].n
            seeds = tuple(min(report.per_class().values(), key=lambda p: p.value) for report in reports)
            row.values[WORST], row.n[WORST] = Value(seeds), seeds[0].n
    if spec.kind in WITH_WORST_CLASS:  # first what rows are compared by; the papers' tables have the papers' order
        first = [name for name in ("clean", *SINGLE, "paper") if name in row.n]
        names = [*first, *(name for name in row.n if name not in first)]
        row.n, row.values = {name: row.n[name] for name in names}, {name: row.values[name] for name in names}
    return row


def _passes(spec: TableSpec, cell: Cell) -> dict[str, float]:
    path = report_path(spec, cell, EvaluationSpec("passes"))
    return dict(checked(read_json(path), _Passes, path)) if path.is_file() else {}


def gap_of(row: Row, eps: str) -> dict[str, Any]:
    """A row's variance gap at the threat's radius, and r between gap and robust accuracy: mean and SD over seeds."""
    if not row.gaps:
        return {}
    radius = float(number(eps))
    nearest = [min(points, key=lambda p: abs(p.eps - radius)) for points in row.gaps]
    columns = {
        "variance": [points[0].variance for points in row.gaps],
        "gap": [p.gap for p in nearest],
        "signed, relative": [p.relative for p in nearest],
        "r": [pearson(points) for points in row.gaps],
    }
    return {name: mean_sd(values) for name, values in columns.items()}
