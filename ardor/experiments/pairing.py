"""Two rows of a table on the same images, over the seeds that both have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ardor.errors import ConfigError
from ardor.evaluation.comparison import Comparison, compare
from ardor.evaluation.comparison.wording import holm_verdicts
from ardor.evaluation.report import Report
from ardor.experiments.rows import Row
from ardor.experiments.tables import Table

SUITES = ("autoattack", "apgd", "square", "paper")
"""Those that rows are compared under, the strongest first."""


class Paired(NamedTuple):
    """Two rows: A and B of a comparison under a suite; without one, `refused` is the reason."""

    row: Row
    other: Row
    suite: str
    title: str
    comparison: Comparison | None
    refused: str = ""


def compared(table: Table, row: Row, other: Row) -> Paired | None:
    """Both rows under the strongest suite that both have; None where they share no seed."""
    common = {suite: _common(row, other, suite) for suite in SUITES}
    suite = next((suite for suite, (reports, _) in common.items() if reports), None)
    if suite is None:
        return None
    names = _name(table, row), _name(table, other)
    if row.checkpoint != other.checkpoint:
        names = f"{names[0]} ({row.checkpoint})", f"{names[1]} ({other.checkpoint})"
    title = f"A = {names[0]}; B = {names[1]}; under {suite}"
    try:
        return Paired(row, other, suite, title, compare(*common[suite], names))
    except ConfigError as error:  # the reports differ in more than they should
        return Paired(row, other, suite, title, None, str(error))


def verdicts(paired: Sequence[Paired]) -> Iterator[str]:
    """A sentence for each comparison, p corrected by Holm for their number; then those that are refused."""
    compared = {pair.title: pair.comparison for pair in paired if pair.comparison}
    yield from (f"{title}: {verdict}" for title, verdict in holm_verdicts(compared).items())
    yield from (f"{pair.title}: not compared: {pair.refused}" for pair in paired if pair.refused)


def _name(table: Table, row: Row) -> str:
    return " ".join(table.spec.row_labels(row.parts))


def _common(row: Row, other: Row, suite: str) -> tuple[list[Report], list[Report]]:
    """The reports of both rows for the seeds that both have."""
    a, b = (dict(zip(r.seeds, r.reports.get(suite, []), strict=False)) for r in (row, other))
    seeds = [seed for seed in a if seed in b]
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]
