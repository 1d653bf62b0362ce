"""The figures of a table with variance gaps: robust accuracy over the radius, and against the gap, with r."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from markupsafe import Markup

from ardor.experiments.rows import Row
from ardor.reporting import PageEntry
from ardor.storage.config import number


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
        entries = [PageEntry(row.parts[-1], "student", row.reports["paper"], gaps=row.gaps[0]) for row in group]
        styles = styles_of(entries)
        with calm():
            over = svg(radius(entries, styles, marked), f"radius{i}", f"Robust accuracy over the radius, {scenario}")
            trends = []
            for k, entry in enumerate(entries):
                label = f"{entry.name}: robust accuracy against variance gap, r = {correlation(entry.gaps)}"
                trends.append(svg(trend(entry, styles[entry.name], marked), f"trend{i}-{k}", label))
        yield scenario, over, trends
