"""What the cells say: for each row and checkpoint of a table its figures over the seeds, beside the paper's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ardor.evaluation.comparison.significance import t_quantile
from ardor.evaluation.proportion import Z95, Proportion, mean_sd
from ardor.evaluation.report import Report
from ardor.evaluation.variance import GapPoint, pearson
from ardor.experiments.cells import report_of, report_path, state_of
from ardor.experiments.published import N, published_rows
from ardor.experiments.tables import EPS, Cell, EvaluationSpec, Table, TableSpec
from ardor.storage.config import number

WHOLE = {"autoattack": "autoattack", "apgd": "apgd", "square": "square"}
"""Suites that are one column: their worst case, under this name."""


@dataclass(frozen=True)
class Value:
    """One figure of one row. seeds: a proportion for each. paper: the published share, where there is one."""

    seeds: tuple[Proportion, ...]
    paper: float | None = None

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean_sd([p.value for p in self.seeds])[0]

    @property
    def sd(self) -> float:
        """Over the seeds; NaN for one."""
        return mean_sd([p.value for p in self.seeds])[1]

    @property
    def interval(self) -> tuple[float, float]:
        """95 %. One seed: Wilson's, of the choice of images alone. Several: of the images and of the seeds together."""
        if len(self.seeds) == 1:
            return self.seeds[0].interval
        half = self._half
        return max(0.0, self.mean - half), min(1.0, self.mean + half)

    @property
    def difference(self) -> tuple[float, float, float] | None:
        """Ours minus the paper's, with its 95 % interval; the paper's share has the error of its 10,000 images."""
        if self.paper is None:
            return None
        low, high = self.interval
        error = Z95 * math.sqrt(self.paper * (1 - self.paper) / N)
        value = self.mean - self.paper
        return value, value - math.hypot(self.mean - low, error), value + math.hypot(high - self.mean, error)

    @property
    def _half(self) -> float:
        spread = t_quantile(0.975, len(self.seeds) - 1) * self.sd / math.sqrt(len(self.seeds))
        low, high = Proportion(round(self.mean * self.seeds[0].n), self.seeds[0].n).interval
        return math.hypot(spread, (high - low) / 2)


@dataclass
class Row:
    """One line of a table. parts: what it is, as the table's head names it. seeds: those that are finished, of `of`."""

    parts: tuple[str, ...]
    checkpoint: str
    seeds: tuple[int, ...]
    of: int
    n: dict[str, int] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    reports: dict[str, list[Report]] = field(default_factory=dict)
    gaps: list[list[GapPoint]] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)


def rows_of(table: Table) -> list[Row]:
    """Every row with what is known of it so far, those without a single finished seed too."""
    ours = number(table.asked.eps) == number(EPS.get(table.asked.data, "0"))
    said = published_rows(table.asked.kind, table.asked.data) if ours else {}
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in table.shown:
        groups.setdefault(cell.row, []).append(cell)
    found = []
    for parts, cells in groups.items():
        for checkpoint in dict.fromkeys(judgement.checkpoint for judgement in cells[0].judged):
            paper = said.get((*parts, checkpoint), {}) if len(parts) == 2 else {}
            found.append(_row(table.asked, parts, checkpoint, cells, paper))
    return found


def _row(asked: TableSpec, parts: tuple[str, ...], checkpoint: str, cells: list[Cell], paper: dict[str, float]) -> Row:
    judged = [j for j in cells[0].judged if j.checkpoint == checkpoint]
    ours = [cell for cell in cells if state_of(asked, cell)[0] in ("trained", "done")]
    ready = [cell for cell in ours if all(report_path(asked, cell, j).is_file() for j in judged)]
    row = Row(parts, checkpoint, tuple(cell.seed for cell in ready), len(cells))
    for judgement in judged if ready else ():
        if judgement.suite == "gap":
            row.gaps = [_gaps(report_path(asked, cell, judgement)) for cell in ready]
            continue
        reports = [report for cell in ready if (report := report_of(asked, cell, judgement)) is not None]
        row.reports[judgement.suite] = reports
        row.marks |= {mark for report in reports for mark in report.data["marks"]}
        for name in _names(judgement, reports[0]):
            key = "worst_case" if judgement.suite in WHOLE else name
            figures = tuple(report.figures()[key] for report in reports)
            row.values[name] = Value(figures, paper[name] / 100 if name in paper else None)
            row.n[name] = reports[0].n
    return row


def _names(judgement: EvaluationSpec, report: Report) -> Iterable[str]:
    if judgement.suite in WHOLE:
        return [WHOLE[judgement.suite]]
    return [name for name in report.figures() if name != "worst_case"]


def _gaps(path: Path) -> list[GapPoint]:
    return [GapPoint(**point) for point in json.loads(path.read_text(encoding="utf-8"))["points"]]


def gap_of(row: Row, eps: str) -> dict[str, Any]:
    """A row's variance gap at the threat's radius, and r between gap and robust accuracy: mean and SD over seeds."""
    if not row.gaps:
        return {}
    radius = float(number(eps))
    at = [min(points, key=lambda p: abs(p.eps - radius)) for points in row.gaps]
    columns = {
        "variance": [points[0].variance for points in row.gaps],
        "gap": [p.gap for p in at],
        "signed, relative": [p.relative for p in at],
        "r": [pearson(points) for points in row.gaps],
    }
    return {name: mean_sd(values) for name, values in columns.items()}
