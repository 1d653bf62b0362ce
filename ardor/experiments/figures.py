"""The figures of tables: variance gaps over the radius with r, and robust accuracy against size and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from markupsafe import Markup

from ardor.experiments.distillation import NO_LABELS, share_of, share_text
from ardor.experiments.rows import Row
from ardor.experiments.tables import Table
from ardor.reporting import PageEntry
from ardor.storage.config import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def name_of(parts: Sequence[str]) -> str:
    """A row within its scenario or student: rslad, sat, sat 20 %."""
    return parts[1] if parts[-1] in (NO_LABELS, share_text(1)) else " ".join(parts[1:])


def distillation_figure(table: Table, rows: Sequence[Row]) -> Figure | None:
    """Robust accuracy against labels, and of several students against their size; None before any row is finished."""
    from ardor.plot.style import styles_for
    from ardor.reporting.robustness import Point, labels_and_size

    suite, checkpoint = table.spec.scale.attack, rows[0].checkpoint
    points = []
    for row in rows:
        if row.checkpoint == checkpoint and row.values:
            (student, method, labels), reports = row.parts, row.reports[suite]
            number = 0 if labels == NO_LABELS else round(share_of(labels) * table.spec.count)
            points.append(Point(student, method, number, int(reports[0].model["parameters"]), row.values[suite]))
    if not points:
        return None
    return labels_and_size(
        points, styles_for(dict.fromkeys(point.method for point in points)), f"{suite}, {checkpoint} checkpoint"
    )


def gap_figures(rows: Sequence[Row], eps: str) -> Iterator[tuple[str, Markup, list[Markup]]]:
    """For each scenario its name, the students over the radius, and each student's trend; of the first seed."""
    with_gaps = [row for row in rows if row.gaps]
    if not with_gaps:
        return
    from ardor.plot.style import calm
    from ardor.reporting.figures import correlation, radius, trend  # matplotlib is slow to import
    from ardor.reporting.styles import styles_of
    from ardor.reporting.svg import svg

    marked = [float(number(eps))]
    for i, (scenario, group) in enumerate(groupby(with_gaps, key=lambda row: row.parts[0])):
        entries = [PageEntry(name_of(row.parts), "student", row.reports["paper"], gaps=row.gaps[0]) for row in group]
        styles = styles_of(entries)
        with calm():
            over = svg(radius(entries, styles, marked), f"radius{i}", f"Robust accuracy over the radius, {scenario}")
            trends = []
            for k, entry in enumerate(entries):
                label = f"{entry.name}: robust accuracy against variance gap, r = {correlation(entry.gaps)}"
                trends.append(svg(trend(entry, styles[entry.name], marked), f"trend{i}-{k}", label))
        yield scenario, over, trends
